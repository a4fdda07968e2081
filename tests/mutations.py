"""Promises that are broken on purpose, a line each, and the tests of which one has to fail then.

`python -m tests.mutations` tries all of them in a copy of the repository, which takes minutes and is no part of
`make test`; `python -m tests.mutations lease` tries those with that word.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

SECONDS = 180


class Mutation(NamedTuple):
    promise: str
    file: str
    line: str  # a part of the file that is there once
    broken: str
    tests: str
    word: str = ""  # in the names of the tests


QUEUE, SHARES = "only_post_svc/queue.py", "only_post_svc/shares.py"
COORDINATOR = "only_post_svc/worker/coordinator.py"
OF_QUEUE, OF_RUNS = "tests/only_post_svc/test_queue.py", "tests/only_post_svc/test_ordinary.py"
ACCOUNT_LOCK, OF_RACES = "accounts.lock(tx, ", "tests/token_svc/test_races.py"
FENCE = " WHERE id = :id AND lease = :lease"

MUTATIONS = [
    Mutation(
        "a unit that does not find what it expects commits nothing",
        "shared/database/postgres/dialect.py",
        "(count(*) = :expected)",
        "(count(*) >= 0 OR :expected = 0)",
        "tests/shared/test_database.py",
        "expects",
    ),
    Mutation(
        "a unit's hint goes out before the next unit begins",
        "shared/database/postgres/lanes.py",
        "resolve(ended, self._publish)",
        "self._loop.call_soon(resolve, ended, self._publish)",
        "tests/shared/test_database.py",
        "before_the_next_unit",
    ),
    Mutation(
        "a unit that is last waits for no later group",
        "shared/database/jobs.py",
        "        while self._last:\n",
        "        while self._last and not self._jobs:\n",
        "tests/shared/test_database.py",
        "is_last_runs",
    ),
    Mutation(
        "units that come in together share a transaction",
        "shared/database/jobs.py",
        "QUIET_TURNS = 2",
        "QUIET_TURNS = 0",
        "tests/shared/test_database.py",
        "follow_each_other_at_once",
    ),
    Mutation(
        "a submit is claimed in its own transaction",
        "only_post_svc/handlers/submit.py",
        'state["expect_task"]()',
        "pass",
        "tests/only_post_svc/test_worker.py",
        "claimed_by_the_transaction",
    ),
    Mutation(
        "ends that a unit never began with are stored",
        "only_post_svc/worker/runs.py",
        "            for run, ending in take():\n                self._in",
        "            for run, ending in take() if take.cache_info().hits else ():\n                self._in",
        "tests/only_post_svc/test_runs.py",
        "does_not_take",
    ),
    Mutation(
        "the times of a task follow each other",
        "only_post_svc/queue.py",
        "BETWEEN 0 AND 1000",
        "BETWEEN 1 AND 0",
        "tests/only_post_svc/test_queue.py",
        "follow_each_other",
    ),
    Mutation(
        "nothing is kept of a unit that has run",
        "shared/database/postgres/greenlets.py",
        "del work, arguments",
        "pass",
        "tests/shared/test_database.py",
        "refused_unit",
    ),
    Mutation(
        "a commit is on the disk",
        "shared/database/sqlite.py",
        "synchronous = FULL",
        "synchronous = NORMAL",
        "tests/shared/test_database.py",
        "durable",
    ),
    Mutation(
        "a run without its lease reports nothing",
        QUEUE,
        f"progress = :progress{FENCE}",
        "progress = :progress WHERE id = :id",
        OF_QUEUE,
        "lost_its_lease",
    ),
    Mutation(
        "a run without its lease renews none",
        QUEUE,
        "AND lease IN {leases} RETURNING lease",
        "RETURNING lease",
        OF_QUEUE,
        "lost_its_lease",
    ),
    Mutation(
        "a run without its lease ends nothing",
        QUEUE,
        "error = NULL, lease = NULL, lease_until = NULL\nWHERE id IN {{ids}} AND lease IN {{leases}}",
        "error = NULL, lease = NULL, lease_until = NULL\nWHERE id IN {{ids}}",
        OF_QUEUE,
        "lost_its_lease",
    ),
    Mutation(
        "a cancelled run keeps its permits until its code has stopped",
        QUEUE,
        "    if held is not None and held[1]:\n",
        "    if held is None:\n",
        "tests/only_post_svc/test_gates.py",
        "keeps_its_permits",
    ),
    Mutation(
        "a run elsewhere that passes its deadline has timed out",
        QUEUE,
        "if is_late and run.lease.startswith(ELSEWHERE):",
        "if is_late and not run.lease.startswith(ELSEWHERE):",
        "tests/only_post_svc/test_elsewhere.py",
        "beyond_the_deadline",
    ),
    Mutation(
        "only the byte-exact token that was issued is accepted",
        "shared/keys.py",
        "return is_lower and",
        "return",
        "tests/shared/test_auth.py",
    ),
    Mutation(
        "a copy into another database takes all tables",
        "shared/cli/copying.py",
        'MADE_ANEW = {"migration", "exported", "probe"}',
        'MADE_ANEW = {"migration", "exported", "probe", "item"}',
        "tests/shared/test_copying.py",
    ),
    Mutation(
        "an attempt is counted when it begins",
        SHARES,
        "attempt = attempt + 1",
        "attempt = attempt",
        OF_QUEUE,
        "counts_the_attempt",
    ),
    Mutation(
        "a lease that is over is over at once",
        QUEUE,
        "AND lease_until <= :now ORDER",
        "AND lease_until <= :now - 60000 ORDER",
        OF_QUEUE,
        "lease_that_is_over",
    ),
    Mutation(
        "what is queued is found without a hint",
        "only_post_svc/worker/upkeep.py",
        "if seen.has_queued:",
        "if False:",
        "tests/only_post_svc/test_worker.py",
        "no_hint",
    ),
    Mutation(
        "a task that ends in the drain has succeeded",
        COORDINATOR,
        "self._settle(self._settings.drain_seconds)",
        "self._settle(0)",
        OF_RUNS,
        "drain",
    ),
    Mutation(
        "a run that is stopped has a second",
        COORDINATOR,
        "GRACE_SECONDS = 1.0",
        "GRACE_SECONDS = 0.1",
        OF_RUNS,
        "second_to_clean_up",
    ),
    Mutation(
        "the process that answers goes first",
        "only_post_svc/worker/runner.py",
        "    os.nice(NICENESS)",
        "    os.nice(0)",
        "tests/only_post_svc/test_runner.py",
        "gives_way",
    ),
    Mutation(
        "a copy and a restore wait for a writing service",
        "shared/cli/backup.py",
        "fcntl.flock(lock, fcntl.LOCK_EX)",
        "pass",
        "tests/shared/test_backup.py",
        "waits_for",
    ),
    Mutation(
        "a write holds what lets it in",
        "token_svc/sessions.py",
        f"{ACCOUNT_LOCK}claims.sub)\n    sql, values",
        "accounts.by_id(tx, claims.sub)\n    sql, values",
        OF_RACES,
        "wait_for_each_other",
    ),
    Mutation(
        "a revocation waits for writes",
        "token_svc/handlers/oauth.py",
        f"{ACCOUNT_LOCK}session.account_id)",
        "accounts.by_id(tx, session.account_id)",
        OF_RACES,
        "wait_for_each_other",
    ),
    Mutation(
        "a session that ended in the middle of a rotation is over",
        "token_svc/sessions.py",
        "token)  # it may have been used or ended meanwhile",
        "token) or found",
        OF_RACES,
        "middle_of_a_rotation",
    ),
    Mutation(
        "a disabled user gets no pair",
        "token_svc/sessions.py",
        "account is None or account.is_disabled",
        "account is None",
        OF_RACES,
        "disabled",
    ),
    Mutation(
        "a token of another issuer is none",
        "shared/auth.py",
        "if claims.iss != self._issuer:",
        "if False:",
        "tests/shared/test_auth.py",
        "issuer",
    ),
    Mutation(
        "a token that has expired is none",
        "shared/auth.py",
        "if now >= claims.exp:",
        "if now > claims.exp + 1:",
        "tests/shared/test_auth.py",
    ),
    Mutation(
        "a task is its caller's alone",
        "only_post_svc/lookup.py",
        "task.id = :id AND coalesce(task.caller, '') = :caller",
        "task.id = :id",
        OF_QUEUE,
        "its_own_caller",
    ),
    Mutation(
        "an idempotency key stands for one body",
        "shared/idempotency.py",
        "if found.fingerprint != key.fingerprint:",
        "if False:",
        "tests/shared/test_idempotency.py",
    ),
    Mutation(
        "a secret has 32 bytes",
        "shared/settings.py",
        "MIN_SECRET_BYTES = 32",
        "MIN_SECRET_BYTES = 31",
        "tests/shared/test_settings.py",
    ),
    Mutation(
        "nothing is read ahead of unread answers",
        "shared/http/protocol.py",
        "return not (self.pipeline or self.unfed or self.is_over)",
        "return not self.is_over",
        "tests/shared/test_http_bounds.py",
        "sent_ahead",
    ),
    Mutation(
        "bodies on their way are bounded together",
        "shared/bodies.py",
        "while self._total > self._most_bytes and",
        "while False and",
        "tests/shared/test_http_bounds.py",
        "come_to_an_end",
    ),
    Mutation(
        "a wrong clock commits nothing",
        "shared/database/postgres/clock.py",
        "<= {MAX_WRONG_MS})",
        "<= 1000000000)",
        "tests/shared/test_postgres.py",
        "wrong_idea",
    ),
    Mutation(
        "plans are made anew",
        "shared/database/postgres/wire.py",
        "if now - self._planned_at > PLANS_SECONDS:",
        "if not self._planned_at:",
        "tests/shared/test_postgres.py",
        "not_kept_for_long",
    ),
    Mutation(
        "nothing but POST",
        "shared/post_only.py",
        'return bool(scope["method"] == "POST")',
        "return True",
        "tests/only_post_svc/test_hostile_http.py",
        "405",
    ),
    Mutation(
        "a hand that is free again finds what a claim has left",
        SHARES,
        " or _is_any_full(lanes, chosen)",
        "",
        "tests/only_post_svc/test_shares.py",
    ),
    Mutation(
        "a task is new to its caller alone",
        "only_post_svc/waiters.py",
        "whose == caller and ",
        "",
        "tests/only_post_svc/test_waiters.py",
        "new_task",
    ),
    Mutation(
        "who waits where a task ends need not look",
        "only_post_svc/worker/runs.py",
        "if not task.has_webhook",
        "if task.has_webhook",
        "tests/only_post_svc/test_waiters.py",
        "without_a_look",
    ),
    Mutation(
        "a thread that is done finds the next password",
        "token_svc/turns.py",
        "AHEAD = 1",
        "AHEAD = 0",
        "tests/token_svc/test_turns.py",
        "finds_the_next",
    ),
    Mutation(
        "nesting ends at 64",
        "shared/strict_json.py",
        "MAX_DEPTH = 64",
        "MAX_DEPTH = 65",
        "tests/shared/test_bodies.py",
    ),
]


def main(*words: str) -> int:
    chosen = [mutation for mutation in MUTATIONS if all(word in mutation.promise for word in words)]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "var", "__pycache__"))
        missed = [mutation.promise for mutation in chosen if not is_noticed(mutation, copy)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} were noticed")
    return 1 if missed else 0


def is_noticed(mutation: Mutation, copy: Path) -> bool:
    file = copy / mutation.file
    whole = file.read_text()
    if whole.count(mutation.line) != 1:
        return told("OUT OF DATE, its line is not there once", mutation)
    if status(mutation, copy) != 0:
        return told("its tests FAIL WITHOUT IT", mutation)
    file.write_text(whole.replace(mutation.line, mutation.broken))
    try:
        noticed = status(mutation, copy) == 1
    finally:
        file.write_text(whole)
    return told("noticed" if noticed else "NOT NOTICED", mutation, is_well=noticed)


def told(what: str, mutation: Mutation, *, is_well: bool = False) -> bool:
    print(f"{what}: {mutation.promise}", flush=True)
    return is_well


def status(mutation: Mutation, copy: Path) -> int:
    """pytest's: 0 when all succeed, 1 when one fails, 5 when there is none of that name."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        mutation.tests,
        "-k",
        mutation.word,
    ]
    done = subprocess.run(command, cwd=copy, capture_output=True, timeout=SECONDS)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
