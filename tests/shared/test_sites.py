"""Pages of other sites: refused where no token is asked for, and let in where an operator names them."""

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.only_post_svc import wire
from tests.only_post_svc.answers import problem
from tests.processes import Process, Service, TokenService, eventually, free_port

APP = "http://app.example.com:8080"
EXPOSED = "ETag, Location, Retry-After, WWW-Authenticate, X-Request-ID, Idempotency-Replayed"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def pages() -> Iterator["Pages"]:
    pages = Pages()
    yield pages
    pages.shutdown()
    pages.server_close()


class Pages(http.server.ThreadingHTTPServer):
    """A site of its own, with one page that calls a service and writes what it got into its title."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.html = b""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Page(http.server.BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.html)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[Service]:
    env = {"CORS_ORIGINS": f"{APP},{pages.origin}", "ALLOWED_HOSTS": "tasks.example.com", "WORKER_PROCESSES": "1"}
    service = Service(tmp_path_factory.mktemp("tasks"), env)
    yield service
    service.kill()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[TokenService]:
    env = {"CORS_ORIGINS": f"{APP},{pages.origin}", "MAX_BODY_BYTES": "2048"}
    service = TokenService(tmp_path_factory.mktemp("tokens"), env)
    yield service
    service.kill()


OTHERS: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": f"{APP}.evil.example"},
    {"Origin": "http://[::1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:3000"},
    {"Host": "evil.example"},
    {"Host": "evil.example:9003"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "192.168.1.1"},
    {"Host": "localhost", "Origin": "https://evil.example"},
]
OURS: list[dict[str, str]] = [
    {},
    {"Host": "localhost"},
    {"Host": "LOCALHOST:9003"},
    {"Host": "127.0.0.2:1"},
    {"Host": "[::1]:9003"},
    {"Host": "tasks.example.com"},
    {"Host": "Tasks.Example.com:443", "Origin": "https://tasks.example.com", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    {"Origin": APP, "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", OTHERS, ids=str)
def test_what_a_page_of_another_site_sends_is_refused(tasks: Service, headers: dict[str, str]) -> None:
    before = tasks.post("/api/tasks").json()["items"]
    problem(tasks.post("/api/task", {"type": "echo"}, headers=headers), 403, "cross_site")
    assert tasks.post("/api/tasks").json()["items"] == before


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_what_this_machine_and_named_hosts_send_is_taken(tasks: Service, headers: dict[str, str]) -> None:
    assert tasks.post("/api/task", {"type": "echo"}, headers=headers).status_code == 202


def test_another_method_is_refused_before_that(tasks: Service) -> None:
    problem(tasks.request("GET", "/api/task", headers={"Origin": "https://evil.example"}), 405, "method_not_allowed")


def test_who_asks_for_tokens_asks_no_browser(tokens: TokenService) -> None:
    for headers in OTHERS:
        assert tokens.get("/health", headers=headers).status_code == 200


# CORS


def assert_may_read(answer: requests.Response) -> None:
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert answer.headers["Access-Control-Expose-Headers"] == EXPOSED
    assert answer.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers


TASK_CALLS = [
    ("POST", "/api/types", {}, 200),
    ("POST", "/nowhere", {}, 404),
    ("GET", "/api/types", {}, 405),
    ("POST", "/api/types", {"data": b"{"}, 400),
    ("POST", "/api/types", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    ("POST", "/api/task", {"json": {}}, 422),
    ("POST", "/api/types", {"data": b" " * (1024 * 1024 + 1)}, 413),
    ("POST", "/api/types", {"headers": {"Host": "evil.example"}}, 403),
]
TOKEN_CALLS = [
    ("GET", "/health", {}, 200),
    ("GET", "/me", {}, 401),
    ("GET", "/token", {}, 405),
    ("POST", "/token", {"data": b"{"}, 400),
    ("POST", "/register", {"data": b" " * 4096}, 413),
]


@pytest.mark.parametrize(
    ("name", "method", "path", "options", "status"),
    [("tasks", *call) for call in TASK_CALLS] + [("tokens", *call) for call in TOKEN_CALLS],
)
def test_a_named_origin_may_read_every_answer(
    request: pytest.FixtureRequest, name: str, method: str, path: str, options: dict[str, object], status: int
) -> None:
    service = request.getfixturevalue(name)
    headers = {"Origin": APP, **options.get("headers", {})}  # type: ignore[dict-item]
    answer = service.request(method, path, **{**options, "headers": headers})
    assert answer.status_code == status
    assert_may_read(answer)


BELOW_THE_APPLICATION = {
    "a method of its own": (b"BREW /health HTTP/1.1\r\n", b"\r\n", 405),
    "a line of no header": (b"POST / HTTP/1.1\r\n", b"nonsense\r\n\r\n", 400),
    "a line of no header before": (b"POST / HTTP/1.1\r\nnonsense\r\n", b"\r\n", 400),
    "headers too large": (b"POST / HTTP/1.1\r\n", b"X-A: " + b"a" * 70_000, 431),
}


@pytest.mark.parametrize("name", ["tasks", "tokens"])
@pytest.mark.parametrize("what", BELOW_THE_APPLICATION)
def test_what_the_server_refuses_by_itself_has_them_too(request: pytest.FixtureRequest, name: str, what: str) -> None:
    line, rest, status = BELOW_THE_APPLICATION[what]
    headers = b"Origin: %s\r\nX-Request-ID: 12345-abc\r\nHost: localhost\r\nConnection: close\r\n"
    for origin, may_read in ((APP, True), ("https://evil.example", False)):
        sent = line + headers % origin.encode() + rest
        (answer,) = wire.talk(request.getfixturevalue(name), sent)
        assert (answer.status, answer.headers["x-request-id"]) == (status, "12345-abc")
        assert answer.headers["vary"] == "Origin"
        assert answer.headers.get("access-control-allow-origin") == (APP if may_read else None)
        assert answer.headers.get("access-control-expose-headers") == (EXPOSED if may_read else None)


def test_what_the_service_did_not_foresee_may_be_read_too(tmp_path: Path) -> None:
    program = "from tests.shared.test_sites import serve_failing; import sys; serve_failing(int(sys.argv[1]))"
    port = free_port()
    process = Process(tmp_path, "-c", program, str(port))
    try:
        eventually(lambda: "server.listening" in process.log.read_text(), 30)
        answer = requests.get(f"http://127.0.0.1:{port}/", headers={"Origin": APP}, timeout=20)
    finally:
        process.kill()
    assert answer.status_code == 500
    assert_may_read(answer)


def serve_failing(port: int) -> None:
    from starlette.types import Receive, Scope, Send

    from shared import logs
    from shared.errors import ExceptionHandler
    from shared.http import server
    from shared.middleware.cors import CORS
    from token_svc.settings import Settings

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return await send({"type": "lifespan.shutdown.complete"})
        raise ValueError

    logs.configure("info", "logfmt")
    server.serve(CORS(ExceptionHandler(fail), [APP], ["GET"]), Settings.from_env({}), port=port)


@pytest.mark.parametrize("name", ["tasks", "tokens"])
@pytest.mark.parametrize("path", ["/api/task", "/data", "/nowhere"])
def test_preflights_of_a_named_origin_are_answered(request: pytest.FixtureRequest, name: str, path: str) -> None:
    service = request.getfixturevalue(name)
    answer = requests.options(f"{service.url}{path}", headers={"Origin": APP, **PREFLIGHT}, timeout=9)
    assert (answer.status_code, answer.content) == (204, b"")
    assert_may_read(answer)
    methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert methods == (["POST"] if name == "tasks" else ["GET", "POST", "PUT", "PATCH", "DELETE"])
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "if-match"} <= set(allowed)
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize("name", ["tasks", "tokens"])
def test_another_origin_may_read_nothing(request: pytest.FixtureRequest, name: str) -> None:
    service = request.getfixturevalue(name)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": f"{APP}/"}, {}):
        answer = requests.options(f"{service.url}/api/task", headers={**headers, **PREFLIGHT}, timeout=9)
        assert answer.status_code in (404, 405)
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"  # a cache may not give one origin's answer to another


def test_an_options_that_is_no_preflight_is_a_405(tasks: Service) -> None:
    answer = tasks.request("OPTIONS", "/api/task", headers={"Origin": APP})
    problem(answer, 405, "method_not_allowed")
    assert_may_read(answer)


# A browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--dump-dom", "--virtual-time-budget=20000"),
]
SCRIPT = """<!doctype html><title>waiting</title><p id=out></p><script>
const say = text => { document.getElementById("out").textContent = text; };
(async () => {
  const said = [];
  for (const [url, options] of %s) {
    try {
      const answer = await fetch(url, options);
      said.push([answer.status, answer.headers.get("X-Request-ID") !== null]);
    } catch (error) { said.push([error.name]); }
  }
  say("said:" + JSON.stringify(said) + ":end");
})();
</script>"""


def fetched(pages: Pages, directory: Path, calls: list[object], host: str = "127.0.0.1") -> list[list[object]]:
    """What fetch() gives a page for each call: its status and whether the request id may be read, or the error."""
    assert CHROMIUM is not None
    pages.html = (SCRIPT % json.dumps(calls)).encode()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={directory / 'profile'}"]
    url = f"http://{host}:{pages.server_port}/"
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120, check=False)
    assert "said:" in done.stdout, done.stdout + done.stderr
    found: list[list[object]] = json.loads(done.stdout.partition("said:")[2].partition(":end")[0])
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(pages: Pages, tasks: Service, tokens: TokenService, tmp_path: Path) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "from-a-page"}
    call = {"method": "POST", "headers": headers, "body": json.dumps({"type": "echo"})}
    calls: list[object] = [
        [f"{tasks.url}/api/task", call],
        [f"{tasks.url}/nowhere", call],
        [f"{tasks.url}/api/task", {**call, "method": "PUT"}],
        [f"{tokens.url}/me", {"headers": {"Authorization": "Bearer x"}}],
    ]
    assert fetched(pages, tmp_path / "named", calls) == [[202, True], [404, True], ["TypeError"], [401, True]]
    before = tasks.post("/api/tasks").json()["items"]
    simple = [[f"{tasks.url}/api/task", {"method": "POST", "body": json.dumps({"type": "echo"}), "mode": "no-cors"}]]
    fetched(pages, tmp_path / "other", [*calls, *simple], host="other.localhost")
    assert tasks.post("/api/tasks").json()["items"] == before
