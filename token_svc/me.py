"""The handlers of a user's own account: register, read, change, delete, export."""

from collections.abc import AsyncIterator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared import bodies, exports
from shared.database import Database, Transaction
from shared.errors import Forbidden
from shared.pages import MAX_LIMIT
from shared.rate_limits import AtOnce, address
from token_svc import accounts, attempts, events, items, models, names, sessions
from token_svc.credentials import counted_address
from token_svc.state import Holder, State, holder_of, json_response, language_of

EXPORT_BYTES = 128 * 1024  # in memory at once, or one item that is larger


async def register(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = models.REGISTER.parse(await bodies.read_json(request))
    pair = await request.state["grants"].register(wanted, user_address, language_of(request))
    user = models.account_json(pair.account)
    return json_response(models.pair_json(request.state["issuer"], pair) | {"user": user}, 201)


async def show(request: Request[State]) -> Response:
    account, _ = await holder_of(request)
    return json_response(models.holder_json(account))


async def change(request: Request[State]) -> Response:
    account, caller = await _user_of(request)
    wanted = models.CHANGE.parse(await bodies.read_json(request))
    grants = request.state["grants"]
    await grants.confirm(account, wanted.current_password, address(request))
    changed, pair = await grants.change(
        account, caller.claims, wanted.email, wanted.password, address(request), language_of(request)
    )
    tokens = models.pair_json(request.state["issuer"], pair) if pair else {}
    return json_response(models.holder_json(changed) | tokens)


async def delete(request: Request[State]) -> Response:
    account, caller = await _user_of(request)
    wanted = models.PASSWORD.parse(await bodies.read_json(request))
    await request.state["grants"].confirm(account, wanted.current_password, address(request))

    def unit(tx: Transaction) -> None:
        current = sessions.hold(tx, caller.claims)
        accounts.delete(tx, current.id)
        attempts.forget(tx, names.fold(current.username))

    await request.state["database"].write(unit)
    request.state["left"].set()
    events.announce("deleted", account.id, address(request))
    return Response(status_code=204)


async def forgot_password(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = models.FORGOT.parse(await bodies.read_json(request))
    await request.state["recovery"].forgot(wanted.email, language_of(request), user_address)
    return json_response({}, 202)


async def reset_password(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = models.RESET.parse(await bodies.read_json(request))
    pair = await request.state["recovery"].reset(wanted.token, wanted.password, user_address)
    return json_response(models.pair_json(request.state["issuer"], pair))


async def verify_email(request: Request[State]) -> Response:
    user_address = await counted_address(request)
    wanted = models.VERIFY.parse(await bodies.read_json(request))
    account = await request.state["recovery"].verify(wanted.token, user_address)
    return json_response({"email": account.email, "email_verified": True})


async def _user_of(request: Request[State]) -> Holder:
    holder = await holder_of(request)
    if holder.account.is_client:
        raise Forbidden("not_a_user", "a machine client is its operator's to change")
    return holder


async def export(request: Request[State]) -> Response:
    account, _ = await holder_of(request)

    def unit(tx: Transaction) -> str:
        known = attempts.of(tx, names.fold(account.username))
        return models.export_head(account, sessions.of(tx, account.id), events.of(tx, account.id), known)

    head = await request.state["database"].query(unit)
    return ExportResponse(_export(request.state["database"], account.id, head), request.state["exports"], account.id)


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
            yield f"{separator}{models.item_json(item)}".encode()
            separator = ","
    yield b"]"
    async for piece in exports.members(database, owner):  # of the service that shares the database
        yield piece.encode()
    yield b"}"
