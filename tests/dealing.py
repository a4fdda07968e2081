"""Which tests `make test` gives to which of its processes, and in which order."""

from xdist.scheduler import LoadScopeScheduling

# What shares no service and waits more than it computes: first, and test by test.
WAITING = (
    *("tests/chaos/test_disk", "tests/chaos/test_hosts", "tests/chaos/test_interleaving", "tests/chaos/test_ledger"),
    *("tests/chaos/test_pgbouncer", "tests/chaos/test_restarts", "tests/chaos/test_standby", "tests/chaos/test_zombie"),
    *("tests/shared/test_postgres.py", "tests/test_managers"),
)
WAITING_BY_FILE = ("tests/chaos/", "tests/only_post_svc/test_elsewhere", "tests/token_svc/test_mailer")


def is_waiting(nodeid: str) -> bool:
    return nodeid.startswith(WAITING + WAITING_BY_FILE)


class Dealing(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """A process gets the tests of a file on one engine at once. pytest puts all that run on SQLite before all on
    PostgreSQL: so a service that several files share is started once a process and engine, not once a file."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(WAITING):
            return nodeid
        file, _, test = nodeid.partition("::")
        return next((f"{file} {engine}" for engine in ("sqlite", "postgres") if engine in test), file)
