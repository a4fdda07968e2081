"""Accounts on the wire: users and machine clients."""

from dataclasses import dataclass, field
from typing import Any, Literal

from shared import times
from shared.bodies import Shape
from shared.openapi import Id, Time, left_out
from token_svc.accounts import AccountRow
from token_svc.models.tokens import Tokens


@dataclass(frozen=True)
class RegisterRequest:
    username: str
    password: str = field(repr=False)
    email: str


@dataclass(frozen=True)
class ChangeRequest:
    current_password: str = field(repr=False)
    email: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PasswordRequest:
    current_password: str = field(repr=False)


@dataclass(frozen=True)
class ForgotRequest:
    email: str


@dataclass(frozen=True)
class ResetRequest:
    token: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True)
class VerifyRequest:
    token: str = field(repr=False)


REGISTER_REQUEST = Shape(RegisterRequest)
CHANGE_REQUEST = Shape(ChangeRequest)
PASSWORD_REQUEST = Shape(PasswordRequest)
FORGOT_REQUEST = Shape(ForgotRequest)
RESET_REQUEST = Shape(ResetRequest)
VERIFY_REQUEST = Shape(VerifyRequest)


@dataclass(frozen=True)
class Account:
    id: Id
    username: str
    email: str
    created_at: Time


@dataclass(frozen=True)
class Me(Account):
    email_verified: bool


@dataclass(frozen=True)
class Changed(Me):
    """The account as it is now; after a change of the password with a new pair of tokens, since the old ones have
    ended."""

    access_token: str = left_out()
    token_type: Literal["Bearer"] = left_out()
    expires_in: int = left_out()
    refresh_token: str = left_out()
    scope: str = left_out()


@dataclass(frozen=True)
class Registered(Tokens):
    user: Account


@dataclass(frozen=True)
class Verified:
    email: str
    email_verified: Literal[True]


@dataclass(frozen=True)
class Accepted:
    """Empty. A mail is sent if a user has the address."""


@dataclass(frozen=True)
class Machine:
    """A machine client, as its own token sees it."""

    id: Id
    name: str
    scope: str
    created_at: Time


def account_json(account: AccountRow) -> dict[str, Any]:
    return {
        "id": account.id,
        "username": account.username,
        "email": account.email,
        "created_at": times.to_text(account.created_at),
    }


def machine_json(client: AccountRow) -> dict[str, Any]:
    return {
        "id": client.id,
        "name": client.username,
        "scope": client.scope,
        "created_at": times.to_text(client.created_at),
    }


def holder_json(account: AccountRow) -> dict[str, Any]:
    """What an account sees of itself."""
    if account.is_client:
        return machine_json(account)
    return account_json(account) | {"email_verified": bool(account.email_verified)}


def stored_json(account: AccountRow) -> dict[str, Any]:
    """What is stored about an account, its secrets apart: for its export, and for the operator."""
    return holder_json(account) | {"scope": account.scope, "is_disabled": bool(account.is_disabled)}
