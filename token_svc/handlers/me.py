"""A user's own account: register, read, change, delete, export; and the mails about it."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared import bodies, exports
from shared.addresses import address
from shared.database import Database, Transaction
from shared.errors import Forbidden
from shared.openapi import JSON, Operation, Reply
from shared.pages import MAX_LIMIT
from shared.rate_limits import AtOnce
from shared.responses import json_response
from shared.strict_json import encode
from token_svc import accounts, attempts, emails, events, items, names, sessions
from token_svc.accounts import AccountRow
from token_svc.credentials import counted_address
from token_svc.models.accounts import (
    CHANGE_REQUEST,
    FORGOT_REQUEST,
    PASSWORD_REQUEST,
    REGISTER_REQUEST,
    RESET_REQUEST,
    VERIFY_REQUEST,
    Accepted,
    Changed,
    Machine,
    Me,
    Registered,
    Verified,
    account_json,
    holder_json,
    stored_json,
)
from token_svc.models.exports import Export
from token_svc.models.items import item_json
from token_svc.models.tokens import Tokens, pair_json
from token_svc.state import Holder, State, holder_of, language_of

EXPORT_BYTES = 128 * 1024  # in memory at once, or one item that is larger

REGISTER = Operation(
    name="register",
    summary="Make a user, who is logged in at once",
    body={JSON: REGISTER_REQUEST},
    answers={201: Reply("the user is made", Registered)},
    codes={401: "invalid_client", 403: "registration_closed", 409: "email_taken username_taken"},
)


async def register(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    body = await bodies.read_json(request)
    pair = await request.state["grants"].register(body, user_address, language_of(request))
    user = account_json(pair.account)
    return json_response(pair_json(request.state["issuer"], pair) | {"user": user}, 201)


SHOW_ME = Operation(
    name="show_me",
    summary="Fetch one's own account",
    scope="",
    answers={200: Reply("the account", Me | Machine)},
)


async def show(request: Request[State]) -> Response:
    account, _ = await holder_of(request)
    return json_response(holder_json(account))


CHANGE_ME = Operation(
    name="change_me",
    summary="Change one's email, or one's password, which ends all other sessions",
    body={JSON: CHANGE_REQUEST},
    scope="",
    answers={200: Reply("the account as it is now", Changed)},
    codes={403: "not_a_user wrong_password", 409: "email_taken"},
)


async def change(request: Request[State]) -> Response:
    account, claims = await _user_of(request)
    grants = request.state["grants"]
    body = await bodies.read_json(request)
    wanted = CHANGE_REQUEST.parse(body, lambda sent: grants.faults(sent, account.username, account.email))
    await grants.confirm(account, wanted.current_password, address(request))
    changed, pair = await grants.change(
        account, claims, wanted.email, wanted.password, address(request), language_of(request)
    )
    tokens = pair_json(request.state["issuer"], pair) if pair else {}
    return json_response(holder_json(changed) | tokens)


DELETE_ME = Operation(
    name="delete_me",
    summary="Delete one's account, with all that is stored",
    body={JSON: PASSWORD_REQUEST},
    scope="",
    answers={204: Reply("it is gone")},
    codes={403: "not_a_user wrong_password"},
)


async def delete(request: Request[State]) -> Response:
    account, claims = await _user_of(request)
    wanted = PASSWORD_REQUEST.parse(await bodies.read_json(request))
    await request.state["grants"].confirm(account, wanted.current_password, address(request))

    def unit(tx: Transaction) -> None:
        current = sessions.hold(tx, claims)
        accounts.delete(tx, current.id)
        attempts.forget(tx, names.fold(current.username))

    try:
        await request.state["database"].write(unit)
    finally:
        request.state["left"].set()  # also where a commit's answer got lost
    events.announce("deleted", account.id, address(request))
    return Response(status_code=204)


async def _user_of(request: Request[State]) -> Holder:
    holder = await holder_of(request)
    if holder.account.is_client:
        raise Forbidden("not_a_user", "a machine client is its operator's to change")
    return holder


FORGOT_PASSWORD = Operation(
    name="forgot_password",
    summary="Ask for a mail to choose a new password",
    body={JSON: FORGOT_REQUEST},
    answers={202: Reply("the same for a known and an unknown address", Accepted)},
    codes={401: "invalid_client", 403: "mail_not_configured"},
)


async def forgot_password(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = FORGOT_REQUEST.parse(await bodies.read_json(request))
    await request.state["recovery"].forgot(wanted.email, language_of(request), user_address)
    return json_response({}, 202)


RESET_PASSWORD = Operation(
    name="reset_password",
    summary="Choose a new password with the token of a mail, which ends all sessions",
    body={JSON: RESET_REQUEST},
    answers={200: Reply("a new pair of tokens", Tokens)},
    codes={400: "invalid_token", 401: "invalid_client", 403: "mail_not_configured"},
)


async def reset_password(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = RESET_REQUEST.parse(await bodies.read_json(request), request.state["grants"].faults)
    pair = await request.state["recovery"].reset(wanted.token, wanted.password, user_address)
    return json_response(pair_json(request.state["issuer"], pair))


VERIFY_EMAIL = Operation(
    name="verify_email",
    summary="Verify an address with the token of a mail",
    body={JSON: VERIFY_REQUEST},
    answers={200: Reply("the address is verified", Verified)},
    codes={400: "invalid_token", 401: "invalid_client", 403: "mail_not_configured"},
)


async def verify_email(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = VERIFY_REQUEST.parse(await bodies.read_json(request))
    account = await request.state["recovery"].verify(wanted.token, user_address)
    return json_response({"email": account.email, "email_verified": True})


EXPORT_ME = Operation(
    name="export_me",
    summary="Fetch everything that is stored about oneself",
    scope="",
    answers={200: Reply("everything", Export)},
)


async def export(request: Request[State]) -> Response:
    account, _ = await holder_of(request)

    def unit(tx: Transaction) -> str:
        head = {
            "user": stored_json(account),
            "sessions": sessions.of(tx, account.id),
            "events": events.of(tx, account.id),
            "attempts": [] if account.is_client else _attempts(tx, account),
        }
        return encode(head)[:-1] + ',"items":['  # which follow one by one

    head = await request.state["database"].query(unit)
    return ExportResponse(_export(request.state["database"], account.id, head), request.state["exports"], account.id)


def _attempts(tx: Transaction, user: AccountRow) -> list[dict[str, Any]]:
    return attempts.of(tx, names.fold(user.username), emails.key(user.email))


class ExportResponse(StreamingResponse):
    """Streams an export, of which a user may have only some at once: a client may read as slowly as it likes."""

    def __init__(self, content: AsyncIterator[bytes], places: AtOnce, owner: str) -> None:
        super().__init__(content, media_type="application/json")
        self.places = places
        self.owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.places.place(self.owner):
            await super().__call__(scope, receive, send)


async def _export(database: Database, owner: str, head: str) -> AsyncIterator[bytes]:
    """The export, item by item: all of them need not fit into memory."""
    yield head.encode()
    after: str | None = ""
    separator = ""
    while after is not None:
        page = partial(items.page, owner=owner, after=after, limit=MAX_LIMIT, most_bytes=EXPORT_BYTES)
        found, after = await database.query(page)
        for item in found:
            yield f"{separator}{item_json(item)}".encode()
            separator = ","
    yield b"]"
    async for piece in exports.members(database, owner):
        yield piece.encode()
    yield b"}"
