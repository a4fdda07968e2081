"""The settings of the POST-only service, beside those of both."""

import base64
import dataclasses
from typing import Any

from only_post_svc.registry import BUILTIN
from only_post_svc.webhooks import Receivers
from shared import cpus, settings
from shared.settings import Secret, boolean, choice, host_names, integer, names, setting

WHSEC = "whsec_"
WEBHOOK_SECRET_BYTES = range(24, 65)  # says Standard Webhooks


def webhook_secret_list(raw: str) -> tuple[Secret, ...]:
    return tuple(map(_webhook_secret, names(raw)))


def _webhook_secret(text: str) -> Secret:
    try:
        value = base64.b64decode(text.removeprefix(WHSEC), validate=True)
    except ValueError:
        value = b""
    if not text.startswith(WHSEC) or len(value) not in WEBHOOK_SECRET_BYTES:
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64, or a comma list of such")
    return Secret(value)


def webhook_host_list(raw: str) -> tuple[str, ...]:
    return tuple(name.strip("[]") for name in host_names(raw))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    port: int = setting(9003, integer(0, 65535))
    task_auth: str = setting("off", choice("off", "required"))
    is_task_auth_set: bool = False  # rather than left to its default
    allowed_hosts: tuple[str, ...] = setting((), host_names)  # beside this machine, where no token is asked for
    task_modules: tuple[str, ...] = setting((), names)
    shipped_tasks: bool = setting(True, boolean)  # off in production, where strangers may register and get a token
    worker_processes: int = setting(cpus.usable(), integer(0, 1024))
    task_concurrency: int = setting(16, integer(1, 1024))  # async def tasks at once in one child
    task_memory_bytes: int = setting(1024**3, integer(64 * 1024**2, 1024**5))  # of one child
    drain_seconds: int = setting(2, integer(0, 3600))  # that running code has after SIGTERM; foreman kills after 5
    lease_seconds: int = setting(30, integer(1, 3600))
    result_ttl: int = setting(7 * 86400, integer(1, 10 * 365 * 86400))  # seconds
    max_queued: int = setting(100_000, integer(1, 10**9))
    # None: 10,000 for people, no bound for machines.
    max_queued_per_caller: int | None = setting(None, integer(1, 10**9))
    # On one worker. None: half of its slots for people, no bound for machines.
    max_running_per_caller: int | None = setting(None, integer(1, 10**6))
    health_get: bool = setting(False, boolean)
    webhook_secret: tuple[Secret, ...] = setting((), webhook_secret_list)
    webhook_hosts: tuple[str, ...] = setting((), webhook_host_list)  # may be inside, and http://, in production too

    database_file = "only_post.db"

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = super().completed(given)
        given["is_task_auth_set"] = "task_auth" in given
        if given.get("app_env") == "production":
            given.setdefault("task_auth", "required")
            given.setdefault("shipped_tasks", False)
        return given

    @property
    def receivers(self) -> Receivers:
        return Receivers(frozenset(self.webhook_hosts), self.app_env == "production")

    @property
    def is_local_only(self) -> bool:
        """Whether only this machine is served: without tokens, the network is served only where TASK_AUTH=off is set
        explicitly."""
        return self.task_auth == "off" and not self.is_task_auth_set

    @property
    def modules(self) -> list[str]:
        """The modules that tasks are loaded from."""
        return [*([BUILTIN] if self.shipped_tasks else []), *self.task_modules]
