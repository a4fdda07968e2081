"""One event a line, as logfmt or JSON."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from shared import logs
from shared.middleware import request_id
from shared.middleware.access_log import AccessLog
from shared.settings import Secret

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Lines]]:
    """`written = lines("logfmt")` configures; `written()` is what has come out since."""
    root, level = logging.root.handlers[:], logging.root.level

    def configure(style: str, level: str = "info") -> Lines:
        output = io.StringIO()
        monkeypatch.setattr("sys.stdout", output)
        logs.configure(level, style)

        def written() -> list[str]:
            logging.root.handlers[0].flush()  # within the event loop lines wait for each other
            return output.getvalue().splitlines()

        return written

    yield configure
    logging.root.handlers[:] = root
    logging.root.setLevel(level)


log = logging.getLogger("tests.logs")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_logfmt_line_has_its_time_level_event_and_fields(lines: Any) -> None:
    written = lines("logfmt")
    log.info("task.claimed", extra={"count": 3, "type": "text.stats"})
    assert re.fullmatch(rf"ts={TIME} at=info event=task\.claimed count=3 type=text\.stats", written()[0])


def test_a_json_line_has_the_same(lines: Any) -> None:
    written = lines("json")
    log.warning("task.claimed", extra={"count": 3, "type": "text.stats"})
    fields = json.loads(written()[0])
    assert re.fullmatch(TIME, fields.pop("ts"))
    assert fields == {"at": "warning", "event": "task.claimed", "count": 3, "type": "text.stats"}


NASTY = [
    "a b",
    'say "no"',
    "x=y",
    "",
    "two\nlines",
    "\r\nts=forged at=info",
    "back\\slash",
    "\x1b[31m",
    "\u2028",
    "\x85",
    "é",
]


@pytest.mark.parametrize("value", NASTY, ids=ascii)
@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_no_value_breaks_its_line_or_forges_another(lines: Any, style: str, value: str) -> None:
    written = lines(style)
    log.info("event", extra={"value": value, "after": 1})
    assert len(written()) == 1
    shown = json.loads(written()[0]) if style == "json" else parsed(written()[0])
    assert shown["value"] == value
    assert str(shown["after"]) == "1"


PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def parsed(line: str) -> dict[str, str]:
    """What a logfmt parser reads."""
    assert "".join(match.group(0) for match in PAIR.finditer(line)) == line
    return {name: json.loads(text) if text[:1] == '"' else text for name, text in PAIR.findall(line)}


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_message_with_line_feeds_stays_on_one_line(lines: Any, style: str) -> None:
    written = lines(style)
    log.info("one\ntwo %s", "three\r\n")
    assert len(written()) == 1


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_traceback_is_one_field_of_one_line(lines: Any, style: str) -> None:
    written = lines(style)
    try:
        raise ValueError("the\nreason")
    except ValueError:
        log.exception("request.failed")
    assert len(written()) == 1
    shown = json.loads(written()[0]) if style == "json" else parsed(written()[0])
    assert shown["traceback"].startswith("Traceback (most recent call last):\n")
    assert shown["traceback"].endswith("ValueError: the\nreason")


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_long_traceback_keeps_its_end_within_what_a_log_router_takes(lines: Any, style: str) -> None:
    written = lines(style)
    try:
        raise ValueError(" ".join(["x" * 50_000, "the", "reason"]))
    except ValueError:
        log.exception("request.failed")
    assert len(written()[0]) < 10_000
    assert "the reason" in written()[0]


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_long_value_is_cut_to_what_a_log_router_takes(lines: Any, style: str) -> None:
    written = lines(style)
    log.info("event", extra={"value": "x" * 50_000})
    assert len(written()[0]) < 10_000


def test_a_line_within_a_request_carries_its_id(lines: Any) -> None:
    written = lines("logfmt")
    token = request_id.current.set("id-of-request")
    try:
        log.info("event")
    finally:
        request_id.current.reset(token)
    log.info("event")
    assert ["request_id=id-of-request" in line for line in written()] == [True, False]


def test_lines_below_the_level_are_left_out(lines: Any) -> None:
    written = lines("logfmt", "warning")
    log.info("quiet")
    log.warning("loud")
    assert [parsed(line)["event"] for line in written()] == ["loud"]


def test_the_servers_own_lines_have_the_same_form(lines: Any) -> None:
    written = lines("logfmt")
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 1)
    logging.getLogger("uvicorn.access").info("GET /?token=hunter2")
    assert [parsed(line)["event"] for line in written()] == ["Started server process [1]"]


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_secret_that_is_logged_does_not_show(lines: Any, style: str) -> None:
    written = lines(style)
    log.info("event %r %s", Secret(b"hunter2"), Secret(b"hunter2"), extra={"key": Secret(b"hunter2")})
    assert "hunter2" not in written()[0]


def test_the_access_log_has_one_line_without_query_token_or_body(lines: Any) -> None:
    written = lines("logfmt")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"hunter2"})

    async def ignore(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.request", "body": b"hunter2"}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/hunter2",
        "query_string": b"token=hunter2",
        "headers": [(b"authorization", b"Bearer hunter2")],
        "client": ("192.0.2.1", 1),
    }
    asyncio.run(AccessLog(app)(scope, receive, ignore))
    (line,) = written()
    assert "hunter2" not in line
    shown = parsed(line)
    assert (shown["event"], shown["method"], shown["status"], shown["bytes"]) == ("request", "POST", "202", "7")
    assert float(shown["ms"]) >= 0


def test_the_access_log_notes_a_request_that_raised_as_a_500(lines: Any) -> None:
    written = lines("logfmt")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    async def nothing(*_: Any) -> Any:
        pass

    with pytest.raises(ValueError, match=r"^$"):
        asyncio.run(AccessLog(app)({"type": "http", "method": "POST", "client": None}, nothing, nothing))
    assert parsed(written()[0])["status"] == "500"
