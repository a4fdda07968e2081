"""The operator's commands over tasks, and the author's: on a service that runs, and by their exit statuses."""

import json
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from only_post_svc.__main__ import parser
from tests.commands import Done, command, environment, on_a_terminal, said
from tests.databases import ON_A_FILE
from tests.processes import TASKS, Service, eventually
from tests.tokens import SECRET, bearer

NOBODY = "01a2065b-d97d-72cc-a1c6-dd67974b0f2a"
ACTIONS = [
    *([], ["serve"], ["worker"], ["tasks"], ["types"], ["run"], ["openapi"]),
    *(["metrics"], ["doctor"], ["backup"], ["restore"], ["copy"]),
    *(["webhooks", action] for action in ("list", "retry", "secret")),
    *(["schedules", action] for action in ("list", "add", "remove", "run")),
    *(["tasks", action] for action in ("list", "show", "cancel", "retry", "submit", "watch", "prune")),
]


def operate(service: Service, *arguments: str, **env: str) -> Done:
    return command(service.log.parent, "only_post_svc", *arguments, **{**service.env, **env})


def answer(service: Service, *arguments: str) -> Any:
    done = operate(service, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def items(service: Service, *arguments: str) -> list[str]:
    return [one["task_id"] for one in answer(service, "tasks", "list", *arguments)["items"]]


@pytest.mark.parametrize("arguments", ACTIONS, ids=" ".join)
def test_every_command_helps(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*arguments, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m only_post_svc")


def test_to_ask_for_help_makes_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "only_post_svc", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["tasks"],
        ["tasks", "show"],
        ["tasks", "show", "\udcff"],
        ["tasks", "list", "--status", "done"],
        ["tasks", "list", "--limit", "0"],
        ["tasks", "prune", "--older-than", "-1"],
        ["run", "only_post_svc.builtin", "echo", "{"],
        ["run", "only_post_svc.builtin", "echo", '{"a": 1, "a": 2}'],
        ["backup"],
        ["copy"],
    ],
    ids=ascii,
)
def test_bad_usage_is_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert (said.out, "usage:" in said.err) == ("", True)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["tasks", "list"], ["types"], ["run", "only_post_svc.builtin", "echo"], ["openapi"]),
        *(["metrics"], ["probe"], ["backup", "b"], ["restore", "b"], ["copy", "sqlite:///c"]),
    ],
    ids=" ".join,
)
def test_bad_settings_are_3(tmp_path: Path, arguments: list[str]) -> None:
    assert said(command(tmp_path, "only_post_svc", *arguments, PORT="hunter2"), 3).startswith("PORT: ")


def test_a_database_that_can_not_be_opened_is_3(tmp_path: Path) -> None:
    (tmp_path / "home.db").write_text("no database " * 1000)
    done = command(tmp_path, "only_post_svc", "tasks", "list", DATABASE_URL="sqlite:///home.db")
    assert said(done, 3).startswith("DATABASE_URL: ")


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["tasks", *action]
            for action in (["list"], ["show", NOBODY], ["cancel", NOBODY], ["retry", NOBODY], ["prune"])
        ),
        ["copy", "sqlite:///copy.db"],
    ],
    ids=" ".join,
)
def test_in_another_directory_no_database_is_made(tmp_path: Path, arguments: list[str]) -> None:
    assert "no database" in said(command(tmp_path, "only_post_svc", *arguments), 1)
    assert not list(tmp_path.glob("**/*.db"))


def test_a_submit_that_makes_a_database_says_where(tmp_path: Path) -> None:
    done = command(tmp_path, "only_post_svc", "tasks", "submit", "echo", "--json")
    assert said(done, 0) == f"made a new database at {tmp_path}/var/only_post.db"
    assert json.loads(done.stdout)["status"] == "queued"
    again = command(tmp_path, "only_post_svc", "tasks", "submit", "echo")
    assert (again.returncode, again.stderr) == (0, "")


def test_the_newest_tasks_are_listed_first_by_status_type_and_limit(service: Service) -> None:
    ended = service.run("text.stats", {"text": "a"})["task_id"]
    failed = service.run("fail")["task_id"]
    later = service.submit("text.stats", {"text": "b"}, delay=3590)["task_id"]
    assert items(service, "--limit", "3") == [later, failed, ended]
    assert items(service, "--type", "text.stats", "--limit", "2") == [later, ended]
    assert items(service, "--status", "queued", "--limit", "1") == [later]
    assert items(service, "--status", "failed", "--limit", "1") == [failed]
    assert items(service, "--status", "succeeded", "--type", "text.stats", "--limit", "1") == [ended]
    assert items(service, "--type", "no such type") == []
    lines = operate(service, "tasks", "list", "--limit", "2").stdout.splitlines()
    assert lines[0].split()[:4] == ["TASK", "CALLER", "TYPE", "STATUS"]
    assert lines[1].split()[:4] == [later, "-", "text.stats", "scheduled"]
    assert re.search(r"\(in (59 min|1 h)\)", lines[1])
    assert lines[2].split()[:4] == [failed, "-", "fail", "failed"]
    assert lines[2].endswith("Fail: never") and "s ago)" in lines[2]
    assert items(service, "--status", "scheduled", "--limit", "1") == [later]
    service.post("/api/cancel", {"task_id": later})


@ON_A_FILE
def test_a_task_is_found_by_the_beginning_of_its_id_where_that_is_unique(service: Service) -> None:
    task_id = service.run("echo")["task_id"]
    assert answer(service, "tasks", "show", task_id[:35])["task_id"] == task_id
    service.run("echo")
    several = said(operate(service, "tasks", "show", task_id[:3]), 1)
    assert several == f"{task_id[:3]} is the beginning of more than one task's id"


@ON_A_FILE
def test_the_failed_attempts_of_a_task_are_shown_by_the_beginning_of_its_id_too(service: Service) -> None:
    task_id = service.run("fail")["task_id"]
    shown = answer(service, "tasks", "show", task_id[:35])
    assert [failed["attempt"] for failed in shown["failures"]] == [1]
    assert "attempt 1 failed at" in operate(service, "tasks", "show", task_id[:35]).stdout


@ON_A_FILE
def test_all_that_is_wrong_with_a_schedule_is_told(service: Service) -> None:
    done = operate(service, "schedules", "add", "x", "text.stats", '{"top": "0"}', "--every", "60")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["/payload/text: required", "/payload/top: must be an integer"],
    )


@ON_A_FILE
def test_a_task_is_submitted_by_name_and_value_and_watched(service: Service) -> None:
    submitted = operate(service, "tasks", "submit", "text.stats", "text=to be", "top=0").stdout.strip()
    assert service.ended(submitted)["result"]["words"] == 2
    assert f"{submitted}  text.stats  succeeded" in operate(service, "tasks", "watch").stdout
    refused = operate(service, "tasks", "submit", "text.stats", "top=much")
    assert (refused.returncode, refused.stderr.splitlines()) == (
        1,
        ["/payload/text: required", "/payload/top: must be an integer"],
    )


@ON_A_FILE
def test_a_status_is_coloured_on_a_terminal_and_never_with_no_color(service: Service) -> None:
    service.run("echo")
    arguments = ("only_post_svc", "tasks", "list", "--limit", "1")
    _, shown = on_a_terminal(service.log.parent, *arguments, answers=[], **service.env)
    assert "\x1b[32msucceeded\x1b[0m" in shown
    _, shown = on_a_terminal(service.log.parent, *arguments, answers=[], NO_COLOR="1", **service.env)
    assert "succeeded" in shown and "\x1b" not in shown


@ON_A_FILE
def test_a_reader_that_has_seen_enough_is_no_failure(service: Service) -> None:
    for _ in range(100):
        service.submit("echo")
    with subprocess.Popen(
        [sys.executable, "-m", "only_post_svc", "tasks", "list", "--limit", "100000"],
        cwd=service.log.parent,
        env=environment(service.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_task_is_shown_with_its_payload_and_its_result(service: Service) -> None:
    task = service.run("echo", {"number": 9007199254740993, "text": "ü\x1b[2J"})
    shown = answer(service, "tasks", "show", task["task_id"])
    assert shown == {**task, "caller": "", "payload": {"number": 9007199254740993, "text": "ü\x1b[2J"}}
    text = operate(service, "tasks", "show", task["task_id"]).stdout
    members = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert (members["task_id"], members["status"], members["attempt"]) == (task["task_id"], "succeeded", "1 of 3")
    assert "9007199254740993" in members["payload"] and "9007199254740993" in members["result"]
    assert "\x1b" not in text


def test_all_callers_are_seen_and_told_apart(start_service: Callable[..., Service]) -> None:
    service = start_service(TASK_AUTH="required", SECRET_KEY=SECRET)
    ids = {}
    for caller in (str(uuid.uuid4()), str(uuid.uuid4())):
        sent = service.post("/api/task", {"type": "echo", "delay": 60}, headers=bearer(sub=caller))
        ids[caller] = sent.json()["task_id"]
    first, second = ids
    assert items(service) == [ids[second], ids[first]]
    assert items(service, "--caller", first) == [ids[first]]
    assert items(service, "--caller", first, "--status", "queued", "--type", "echo") == [ids[first]]
    assert items(service, "--caller", "") == []
    assert answer(service, "tasks", "cancel", ids[first])["caller"] == first
    asked = service.post("/api/result", {"task_id": ids[first]}, headers=bearer(sub=first))
    assert asked.json()["status"] == "cancelled"
    assert answer(service, "tasks", "show", ids[second])["status"] == "queued"


@ON_A_FILE
@pytest.mark.parametrize("action", ["show", "cancel", "retry"])
@pytest.mark.parametrize("task_id", [NOBODY, "x' OR 1=1 --"])
def test_a_task_that_is_not_there_is_1(service: Service, action: str, task_id: str) -> None:
    assert said(operate(service, "tasks", action, task_id), 1) == f"there is no task {task_id}"


def test_a_running_task_is_stopped_at_once(service: Service, tmp_path: Path) -> None:
    task = service.submit("note.cancelled", {"path": str(tmp_path / "notes")})["task_id"]
    eventually(lambda: service.result(task)["status"] == "running")
    assert answer(service, "tasks", "cancel", task)["status"] == "cancelled"
    eventually(lambda: (tmp_path / "notes").exists() and (tmp_path / "notes").read_text() == "cancelled\n")
    assert answer(service, "tasks", "cancel", task)["status"] == "cancelled"  # again, and still fine


@ON_A_FILE
def test_what_has_ended_can_not_be_cancelled(service: Service) -> None:
    task = service.run("echo")["task_id"]
    assert "succeeded already" in said(operate(service, "tasks", "cancel", task), 1)


def test_a_failed_task_runs_again(service: Service) -> None:
    task = service.run("fail")["task_id"]
    assert answer(service, "tasks", "retry", task)["status"] == "queued"
    assert service.ended(task)["status"] == "failed"


@ON_A_FILE
def test_only_what_failed_or_was_cancelled_is_tried_again(service: Service) -> None:
    succeeded = service.run("echo")["task_id"]
    waiting = service.submit("echo", delay=60)["task_id"]
    assert "is succeeded" in said(operate(service, "tasks", "retry", succeeded), 1)
    assert "is queued" in said(operate(service, "tasks", "retry", waiting), 1)
    assert operate(service, "tasks", "cancel", waiting).returncode == 0
    assert operate(service, "tasks", "retry", waiting).returncode == 0
    assert service.ended(waiting)["status"] == "succeeded"


def ended_before_now(service: Service, count: int) -> list[str]:
    """Tasks that ended more than a second ago."""
    sent = service.post("/api/batch", {"tasks": [{"type": "echo"}] * count}).json()["items"]
    tasks = [service.ended(one["task_id"])["task_id"] for one in sent]
    ended_at = time.monotonic()
    eventually(lambda: time.monotonic() - ended_at > 1.1)
    return tasks


def cancelled_before_now(service: Service, count: int) -> None:
    """Tasks that ended more than a second ago, and never ran."""
    assert service.post("/api/batch", {"tasks": [{"type": "echo", "delay": 60}] * count}).status_code == 202
    while service.post("/api/cancel", {"filter": {}}).json()["has_more"]:
        pass
    ended_at = time.monotonic()
    eventually(lambda: time.monotonic() - ended_at > 1.1)


def test_old_tasks_are_pruned_and_no_others(start_service: Callable[..., Service]) -> None:
    service = start_service()
    old, waiting = ended_before_now(service, 3), service.submit("echo", delay=60)["task_id"]
    assert answer(service, "tasks", "prune") == {"pruned": 0}  # RESULT_TTL is a week
    assert answer(service, "tasks", "prune", "--older-than", "3600") == {"pruned": 0}
    assert operate(service, "tasks", "prune", "--older-than", "1").stdout == "3 tasks deleted\n"
    assert items(service) == [waiting]
    assert service.post("/api/result", {"task_id": old[0]}).status_code == 404


@ON_A_FILE
def test_more_than_a_transaction_takes_is_pruned_behind_a_bar(start_service: Callable[..., Service]) -> None:
    service = start_service()
    cancelled_before_now(service, 701)
    arguments = ("only_post_svc", "tasks", "prune", "--older-than", "1")
    status, shown = on_a_terminal(service.log.parent, *arguments, answers=(), **service.env)
    assert status == 0
    assert "pruning [" in shown
    assert shown.endswith("\r\x1b[K701 tasks deleted\r\n")


@ON_A_FILE
def test_types_are_what_the_service_says(service: Service) -> None:
    listed = operate(service, "types", "--json")
    assert json.loads(listed.stdout) == service.post("/api/types").json()
    text = operate(service, "types").stdout.splitlines()
    assert text[0].split() == ["TYPE", "CODE", "TIMEOUT", "TRIES", "DESCRIPTION"]
    assert "note.async async def 30 3 The same as an `async def`." in [" ".join(line.split()) for line in text]


def test_types_that_can_not_be_loaded_are_named(tmp_path: Path) -> None:
    assert said(command(tmp_path, "only_post_svc", "types", TASK_MODULES="nowhere"), 3).startswith("TASK_MODULES: ")


def run(directory: Path, *arguments: str, **options: str) -> Done:
    return command(directory, "only_post_svc", "run", TASKS, *arguments, **options)


def test_a_task_is_run_here_and_now_and_its_result_is_all_on_stdout(tmp_path: Path) -> None:
    done = run(tmp_path, "shapes", '{"count": 3.0, "points": [{"x": 1}]}', "--attempt", "2")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (result["count"], result["count_type"], result["points"], result["attempt"]) == (3, "int", ["Point"], 2)
    assert run(tmp_path, "echo", "-", stdin='{"n": 9007199254740993}').stdout == '{"n":9007199254740993}\n'
    assert run(tmp_path, "asyncio.run").stdout == '"inner"\n'


def test_a_module_of_the_authors_is_found_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "import os\nfrom only_post_svc import task\nprint('loaded')\n"
        "@task('loud')\ndef loud(name: str) -> str:\n"
        "    print('hello', name)\n    os.system('echo from a shell')\n    return name\n"
    )
    done = command(tmp_path, "only_post_svc", "run", "jobs", "loud", '{"name": "ann"}')
    assert (done.returncode, done.stdout) == (0, '"ann"\n')
    assert set(done.stderr.splitlines()) == {"loaded", "hello ann", "from a shell"}


def test_an_async_task_has_its_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    done = run(tmp_path, "note.async", json.dumps({"path": str(path)}))
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert len(path.read_text().splitlines()) == 2


def test_progress_is_told_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    payload = json.dumps({"path": str(tmp_path / "there")})
    done = run(tmp_path, "progress", payload)
    assert (done.stdout, done.stderr) == ('"done"\n', "50% half\n100% done\n")
    status, shown = on_a_terminal(tmp_path, "only_post_svc", "run", TASKS, "progress", payload)
    assert status == 0
    assert "running [" in shown and "50%" in shown and "half" not in shown


def test_every_fault_of_a_payload_is_pointed_at(tmp_path: Path) -> None:
    done = run(tmp_path, "shapes", '{"nmae": "x", "points": [{"x": 1}, {"x": "1"}]}')
    assert (done.returncode, done.stdout) == (1, "")
    assert set(done.stderr.splitlines()) == {
        "/payload/count: required",
        "/payload/nmae: unknown",
        "/payload/points/1/x: must be an integer",
    }
    assert said(run(tmp_path, "shapes", "[]"), 1) == "/payload: must be an object"


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["raise", '{"message": "oh"}'], "task_error: ValueError: oh"),
        (["fail"], "task_error: Fail: never"),
        (["retry", '{"until": 3, "after": 60}'], "task_error: Retry: not yet (to be tried again in 60 s)"),
        (["sleep", '{"seconds": 60}', "--timeout", "1"], "timeout: after 1 s"),
        (["note", '{"path": "notes", "seconds": 60}', "--timeout", "1"], "timeout: after 1 s"),
        (["no.such"], "there is no task no.such; there are "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_fails_is_1_and_says_how(tmp_path: Path, arguments: list[str], last: str) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(last)
    assert ("Traceback" in done.stderr) == (arguments[0] == "raise")  # the author's own, to look at


def test_a_result_that_the_service_would_refuse_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "from only_post_svc import task\n@task('set')\ndef a_set() -> object:\n    return {1}\n"
        "@task('large')\ndef large() -> str:\n    return 'x' * 2000\n"
    )
    assert said(command(tmp_path, "only_post_svc", "run", "jobs", "set"), 1).startswith("invalid_result: ")
    large = command(tmp_path, "only_post_svc", "run", "jobs", "large", MAX_BODY_BYTES="1024")
    assert said(large, 1).startswith("result_too_large: ")


def test_a_module_that_can_not_be_loaded_is_named(tmp_path: Path) -> None:
    done = command(tmp_path, "only_post_svc", "run", "nowhere", "echo")
    assert said(done, 1).startswith("nowhere can't be imported")


def is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_a_task_whose_code_is_elsewhere_is_not_run_here(tmp_path: Path) -> None:
    done = command(tmp_path, "only_post_svc", "run", "tests.elsewhere_tasks", "thumbs.make", '{"url": "a"}')
    assert "runs elsewhere" in said(done, 1)


def test_an_interrupted_run_is_130_and_quiet(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    payload = json.dumps({"path": str(path), "seconds": 60})
    with subprocess.Popen(
        [sys.executable, "-m", "only_post_svc", "run", TASKS, "note", payload],
        cwd=tmp_path,
        env=environment({}),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever started the tests may ignore it
    ) as process:
        assert process.stderr is not None
        eventually(lambda: path.exists() or process.poll() is not None)
        eventually(lambda: is_asleep(process.pid))  # Python notices what comes on the way into a sleep after it only
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130


@ON_A_FILE
def test_a_copy_made_and_put_back_beside_a_running_service(start_service: Callable[..., Service]) -> None:
    service = start_service()
    kept = service.run("echo", {"n": 1})
    waiting = service.submit("echo", {"n": 2}, delay=60)["task_id"]
    done = operate(service, "backup", "copy.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert "intact" in done.stdout
    lost = service.run("echo", {"n": 3})["task_id"]
    assert "--force" in said(operate(service, "restore", "copy.db"), 1)
    assert service.result(lost)["status"] == "succeeded"
    assert operate(service, "restore", "copy.db", "--force").returncode == 0
    assert service.result(kept["task_id"]) == kept
    assert service.result(waiting)["status"] == "queued"
    assert service.post("/api/result", {"task_id": lost}).status_code == 404
    assert service.run("echo", {"n": 4})["result"] == {"n": 4}
    assert service.post("/health").json()["status"] == "ok"


@ON_A_FILE
def test_a_run_that_a_restore_took_back_ends_nothing(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service()
    assert operate(service, "backup", "copy.db").returncode == 0
    gate = tmp_path / "gate"
    task = service.submit("progress", {"path": str(gate)})["task_id"]
    eventually(lambda: service.result(task)["status"] == "running")
    assert operate(service, "restore", "copy.db", "--force").returncode == 0
    gate.touch()
    assert service.run("echo", {"n": 1})["status"] == "succeeded"
    assert service.post("/api/result", {"task_id": task}).status_code == 404


@ON_A_FILE
def test_a_copy_shows_how_far_it_is(start_service: Callable[..., Service]) -> None:
    service = start_service()
    for _ in range(6):
        service.run("echo", {"text": "x" * 900_000})
    status, shown = on_a_terminal(service.log.parent, "only_post_svc", "backup", "copy.db")
    assert status == 0
    assert "copying [" in shown
    status, shown = on_a_terminal(service.log.parent, "only_post_svc", "restore", "copy.db", "--force")
    assert status == 0
    assert "restoring [" in shown
