"""The export on the wire: everything that is stored about a user."""

from dataclasses import dataclass
from typing import Any

from shared.openapi import Id, Time, left_out
from token_svc.models.accounts import Machine, Me
from token_svc.models.items import Item


@dataclass(frozen=True)
class ExportedAccount(Me):
    scope: str
    is_disabled: bool


@dataclass(frozen=True)
class ExportedMachine(Machine):
    is_disabled: bool


@dataclass(frozen=True)
class ExportedSession:
    id: Id
    scope: str
    created_at: Time
    expires_at: Time
    refreshed_at: Time | None


@dataclass(frozen=True)
class ExportedEvent:
    event: str
    address: str
    at: Time


@dataclass(frozen=True)
class ExportedAttempts:
    """Logins as they are counted for an address; and mails, whose `address` is the SHA-256 of the email."""

    kind: str
    address: str
    failures: int
    at: Time


@dataclass(frozen=True)
class ExportedAnswer:
    """What is kept for an idempotency key."""

    route: str
    key: str
    status: int
    body: Any
    headers: dict[str, str] | None
    expires_at: Time


@dataclass(frozen=True)
class ExportedDeletion:
    id: Id
    deleted_at: Time


@dataclass(frozen=True)
class ExportedMail:
    """A mail that waits to be sent."""

    kind: str
    email: str
    language: str
    attempts: int
    created_at: Time
    due_at: Time


@dataclass(frozen=True)
class ExportedMailToken:
    """A token that was mailed, and has not expired: when, and not which."""

    kind: str
    email: str
    expires_at: Time


@dataclass(frozen=True)
class ExportedSecret:
    """A machine client's secret: when it was made and last used, and not which."""

    created_at: Time
    used_at: Time | None


@dataclass(frozen=True)
class Export:
    """Everything that is stored about a user but passwords, secrets and tokens; `schedules`, `tasks` and
    `task_failures` where the POST-only service has the same database."""

    user: ExportedAccount | ExportedMachine
    sessions: list[ExportedSession]
    events: list[ExportedEvent]
    attempts: list[ExportedAttempts]
    items: list[Item]
    client_secrets: list[ExportedSecret]
    deleted_items: list[ExportedDeletion]
    kept_answers: list[ExportedAnswer]
    mail_tokens: list[ExportedMailToken]
    mails: list[ExportedMail]
    schedules: list[dict[str, Any]] = left_out()
    task_failures: list[dict[str, Any]] = left_out()
    tasks: list[dict[str, Any]] = left_out()
