"""OAuth 2: tokens, revocation and introspection. Requests are forms, as RFC 6749 has them, or JSON with the same
members."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from shared import auth, bodies, strict_json
from shared.addresses import address
from shared.auth import BadToken, Claims
from shared.bodies import Shape
from shared.database import Transaction
from shared.errors import BadRequest, Forbidden, Invalid, Problem
from shared.middleware.single_headers import single_header
from shared.openapi import JSON, Operation, Reply
from shared.rate_limits import count
from shared.responses import json_response
from shared.schemas import Fault
from shared.strict_json import NotJSON
from token_svc import accounts, credentials, events, scopes, sessions
from token_svc.accounts import AccountRow
from token_svc.clients import CHALLENGE, InvalidClient
from token_svc.grants import InvalidGrant
from token_svc.models.tokens import (
    TOKEN_FORM,
    TOKEN_JSON,
    TOKEN_ONLY_FORM,
    TOKEN_ONLY_REQUEST,
    TOKEN_REQUEST,
    ActiveAccessToken,
    ActiveRefreshToken,
    Inactive,
    MachineToken,
    OAuthProblem,
    Revoked,
    TokenOnlyRequest,
    TokenRequest,
    Tokens,
    machine_token_json,
    pair_json,
)
from token_svc.sessions import Pair
from token_svc.state import State, holder_of, language_of

# With the members that each needs.
GRANT_TYPES = {"password": ("username", "password"), "refresh_token": ("refresh_token",), "client_credentials": ()}
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 20

TOKEN = Operation(
    name="get_token",
    summary="Log in by password, go on with a refresh token, or get a machine client's token",
    body={JSON: TOKEN_JSON, FORM: TOKEN_FORM},
    answers={200: Reply("a new pair of tokens, or a machine's one", Tokens | MachineToken)},
    codes={
        400: "invalid_grant invalid_request invalid_scope unsupported_grant_type",
        401: "invalid_client invalid_grant",
        403: "email_not_verified",
    },
    problem=OAuthProblem,
)


async def token(request: Request[State]) -> Response:
    is_form = _is_form(request)
    body = await _read(request, set(TOKEN_REQUEST.schema["properties"]))
    if not is_form:
        body = _known(body, TOKEN_REQUEST)
        body.setdefault("grant_type", "password")
    try:
        with _faults_of(request):
            return json_response(await _grant(request, body))
    except InvalidGrant as problem:
        if is_form:
            raise
        raise Problem(problem.code, problem.detail, status=401, headers=auth.CHALLENGE) from None


async def _grant(request: Request[State], body: dict[str, Any]) -> dict[str, Any]:
    grant_type = body.get("grant_type")
    if isinstance(grant_type, str) and grant_type not in GRANT_TYPES:
        raise BadRequest("unsupported_grant_type", f"grant_type must be one of {', '.join(GRANT_TYPES)}")
    wanted = TOKEN_REQUEST.parse(body, _missing)
    client = await credentials.counted_client(request, credentials.of_request(request, body))
    if wanted.grant_type == "client_credentials":
        if client is None:
            raise InvalidClient
        return machine_token_json(request.state["issuer"], client, scopes.granted(client.scope, wanted.scope))
    pair = await _pair(request, wanted, client)
    return pair_json(request.state["issuer"], pair)


async def _pair(request: Request[State], wanted: TokenRequest, client: AccountRow | None) -> Pair:
    grants = request.state["grants"]
    user_address = credentials.user_address(request, client)
    if wanted.grant_type == "refresh_token":
        return await grants.by_refresh_token(wanted.refresh_token or "", wanted.scope, user_address)
    username, password = wanted.username or "", wanted.password or ""
    return await grants.by_password(username, password, wanted.scope, user_address, language_of(request))


def _missing(body: Mapping[str, Any]) -> list[Fault]:
    grant_type = body.get("grant_type")
    needed = GRANT_TYPES.get(grant_type, ()) if isinstance(grant_type, str) else ("grant_type",)
    return [Fault(f"/{name}", "required") for name in needed if body.get(name) is None]


def _is_form(request: Request[Any]) -> bool:
    sent = single_header(request.scope, b"content-type") or ""
    return sent.partition(";")[0].strip().lower() == FORM


async def _read(request: Request[Any], known: set[str]) -> dict[str, Any]:
    """The members of a form or of a JSON object. Of a form unknown fields and those without a value are ignored
    (RFC 6749 §3.2); a field that is sent twice is a 400."""
    if not _is_form(request):
        return await bodies.read_json(request)
    bodies.check_media_type(request, FORM)
    try:
        text = (await bodies.read(request)).decode()
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        # Raises for what strings of JSON may not have, such as NUL.
        strict_json.decode(strict_json.encode(dict(fields)).encode())
    except (ValueError, NotJSON):
        raise BadRequest("invalid_request", "not a form") from None
    if len(dict(fields)) != len(fields):
        raise BadRequest("invalid_request", "a field was sent twice")
    return {name: value for name, value in fields if name in known and value}


def _known(body: dict[str, Any], shape: Shape[Any]) -> dict[str, Any]:
    """The members that the shape has: unknown ones are ignored, as in a form."""
    return {name: value for name, value in body.items() if name in shape.schema["properties"]}


@contextmanager
def _faults_of(request: Request[Any]) -> Iterator[None]:
    """A form without what it needs is a 400 (RFC 6749 §5.2), JSON a 422 like everywhere."""
    try:
        yield
    except Invalid as problem:
        if not _is_form(request):
            raise
        raise Problem(problem.code, problem.detail, status=400, errors=problem.errors) from None


REVOKE = Operation(
    name="revoke_token",
    summary="End the session of a token of either kind",
    body={JSON: TOKEN_ONLY_REQUEST, FORM: TOKEN_ONLY_FORM},
    answers={200: Reply("the session has ended, or the token is unknown", Revoked)},
    codes={400: "invalid_request"},
    problem=OAuthProblem,
)


async def revoke(request: Request[State]) -> Response:
    """RFC 7009: a token of either kind ends its session; an unknown one is answered with 200 (§2.2)."""
    count(request)
    wanted = await _token_of(request)
    claims = _claims_of(request, wanted.token)

    def unit(tx: Transaction) -> tuple[str, str] | None:
        if ended := _end(tx, wanted.token, claims):
            events.record(tx, *ended, address(request))
        return ended

    if ended := await request.state["database"].write(unit):
        account_id, kind = ended
        events.announce(kind, account_id, address(request))
    return json_response({})


def _end(tx: Transaction, token: str, claims: Claims | None) -> tuple[str, str] | None:
    """The account whose session or token has ended, and what the audit trail calls that."""
    session = sessions.by_refresh_token(tx, token) or (sessions.by_claims(tx, claims) if claims else None)
    if session:
        accounts.lock(tx, session.account_id)  # waits for the writes that have checked its token
        sessions.end(tx, session.id)
        return session.account_id, "session_ended"
    machine = sessions.revoke_machine_token(tx, claims) if claims else None
    return (machine.id, "token_revoked") if machine else None


INTROSPECT = Operation(
    name="introspect_token",
    summary="Ask what a token is good for",
    body={JSON: TOKEN_ONLY_REQUEST, FORM: TOKEN_ONLY_FORM},
    scope="introspect",
    answers={200: Reply("what it is good for", Inactive | ActiveAccessToken | ActiveRefreshToken)},
    codes={400: "invalid_request", 401: "invalid_client"},
    problem=OAuthProblem,
)


async def introspect(request: Request[State]) -> Response:
    """RFC 7662."""
    await _check_introspector(request)
    wanted = await _token_of(request)
    claims = _claims_of(request, wanted.token)

    def unit(tx: Transaction) -> dict[str, Any]:
        return _described(tx, claims) if claims else _described_refresh(tx, wanted.token)

    return json_response(await request.state["database"].read(unit))


async def _check_introspector(request: Request[State]) -> None:
    given = credentials.of_header(request)
    if given is None:
        await holder_of(request, "introspect")
    elif "introspect" not in (await credentials.client_of(request, given)).scopes:
        challenge = f'{CHALLENGE}, error="insufficient_scope", scope="introspect"'
        raise Forbidden(
            "insufficient_scope", "the client lacks the scope introspect", headers={"WWW-Authenticate": challenge}
        )


async def _token_of(request: Request[State]) -> TokenOnlyRequest:
    body = await _read(request, set(TOKEN_ONLY_REQUEST.schema["properties"]))
    with _faults_of(request):
        return TOKEN_ONLY_REQUEST.parse(body)


def _claims_of(request: Request[State], token: str) -> Claims | None:
    """The claims of an access token, None when it is none."""
    try:
        return request.state["token_door"].check(token)
    except BadToken:
        return None


def _described(tx: Transaction, claims: Claims) -> dict[str, Any]:
    account = sessions.holder(tx, claims)
    if account is None:
        return {"active": False}
    name = {} if account.is_client else {"username": account.username}
    return {"active": True, "token_type": "Bearer", **name, **claims.members()}


def _described_refresh(tx: Transaction, refresh_token: str) -> dict[str, Any]:
    session = sessions.by_refresh_token(tx, refresh_token, is_usable=True)
    account = accounts.by_id(tx, session.account_id) if session else None
    if session is None or account is None or account.is_disabled:
        return {"active": False}
    about = {"scope": session.scope, "sub": account.id, "username": account.username}
    return {"active": True, "token_type": "refresh_token", **about}
