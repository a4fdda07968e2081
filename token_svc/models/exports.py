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


@dataclass(frozen=True)
class ExportedEvent:
    event: str
    address: str
    at: Time


@dataclass(frozen=True)
class ExportedAttempts:
    """Logins, or registrations, as they are counted for an address."""

    kind: str
    address: str
    failures: int
    at: Time


@dataclass(frozen=True)
class Export:
    """Everything that is stored about a user; `tasks` and `schedules` where the POST-only service has the same
    database."""

    user: ExportedAccount | ExportedMachine
    sessions: list[ExportedSession]
    events: list[ExportedEvent]
    attempts: list[ExportedAttempts]
    items: list[Item]
    schedules: list[dict[str, Any]] = left_out()
    tasks: list[dict[str, Any]] = left_out()
