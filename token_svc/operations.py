"""The operation of each route, beside what shared/openapi.py adds to all."""

from typing import Annotated, Any

from shared import metrics_endpoint
from shared.openapi import IDEMPOTENCY_KEY, JSON, Operation, Parameter, Reply
from shared.pages import DEFAULT_LIMIT, MAX_LIMIT
from shared.schemas import Limits
from token_svc import models
from token_svc.data import MAX_WAIT_SECONDS, MERGE_PATCH
from token_svc.forms import FORM
from token_svc.models import ActiveAccessToken, ActiveRefreshToken, Inactive, OAuthProblem

TITLE = "token_svc"
DESCRIPTION = (
    "Users, OAuth 2 bearer tokens, and each user's own JSON. Another method on a known path is a 405 "
    "`method_not_allowed`, an unknown path a 404 `not_found`."
)

LIMIT = Parameter(
    "limit",
    "query",
    f"how many at most; {DEFAULT_LIMIT} when left out",
    Annotated[int, Limits(minimum=1, maximum=MAX_LIMIT)],
    {422: "invalid_request"},
)
CURSOR = Parameter("cursor", "query", "the `next_cursor` of the page before", str, {400: "invalid_cursor"})
SINCE = Parameter(
    "since",
    "query",
    "the `since` of a walk before: only what has been made, changed or deleted from there on",
    str,
    {400: "invalid_cursor", 410: "since_expired"},
)
WAIT = Parameter(
    "wait",
    "query",
    "beside `since`: seconds to wait for a change",
    Annotated[int, Limits(minimum=0, maximum=MAX_WAIT_SECONDS)],
    {422: "invalid_request"},
)
WHERE = Parameter(
    "where",
    "query",
    "a JSON object: only items whose data has all its members, objects likewise within. A page may be short, even "
    "empty, while there is a `next_cursor`",
    str,
    {422: "invalid_request"},
)
ITEM_ID = Parameter("item_id", "path", "the item's `id`", str, {404: "item_not_found"})
IF_MATCH = Parameter(
    "If-Match",
    "header",
    "the ETag that the item must still have",
    str,
    {400: "invalid_if_match", 412: "version_conflict"},
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", "header", "the ETags that need not be sent again", str, {400: "invalid_if_none_match"}
)
UNWANTED = Parameter(
    "If-None-Match",
    "header",
    "the ETags that the item must not have",
    str,
    {400: "invalid_if_none_match", 412: "version_conflict"},
)

REGISTER = Operation(
    name="register",
    summary="Make a user, who is logged in at once",
    body={JSON: models.REGISTER},
    answers={201: Reply("the user is made", models.Registered)},
    codes={401: "invalid_client", 403: "registration_closed", 409: "email_taken username_taken"},
)
TOKEN = Operation(
    name="get_token",
    summary="Log in by password, go on with a refresh token, or get a machine client's token",
    body={JSON: models.TOKEN_JSON, FORM: models.TOKEN_FORM},
    answers={200: Reply("a new pair of tokens, or a machine's one", models.Tokens | models.MachineToken)},
    codes={
        400: "invalid_grant invalid_request invalid_scope unsupported_grant_type",
        401: "invalid_client invalid_grant",
        403: "email_not_verified",
    },
    problem=OAuthProblem,
)
REVOKE = Operation(
    name="revoke_token",
    summary="End the session of a token of either kind",
    body={JSON: models.TOKEN_ONLY, FORM: models.TOKEN_ONLY_FORM},
    answers={200: Reply("the session has ended, or the token is unknown", models.Revoked)},
    codes={400: "invalid_request"},
    problem=OAuthProblem,
)
INTROSPECT = Operation(
    name="introspect_token",
    summary="Ask what a token is good for",
    body={JSON: models.TOKEN_ONLY, FORM: models.TOKEN_ONLY_FORM},
    scope="introspect",
    answers={200: Reply("what it is good for", Inactive | ActiveAccessToken | ActiveRefreshToken)},
    codes={400: "invalid_request", 401: "invalid_client"},
    problem=OAuthProblem,
)
FORGOT_PASSWORD = Operation(
    name="forgot_password",
    summary="Ask for a mail to choose a new password",
    body={JSON: models.FORGOT},
    answers={202: Reply("the same for a known and an unknown address", models.Accepted)},
    codes={401: "invalid_client", 403: "mail_not_configured"},
)
RESET_PASSWORD = Operation(
    name="reset_password",
    summary="Choose a new password with the token of a mail, which ends all sessions",
    body={JSON: models.RESET},
    answers={200: Reply("a new pair of tokens", models.Tokens)},
    codes={400: "invalid_token", 401: "invalid_client", 403: "mail_not_configured"},
)
VERIFY_EMAIL = Operation(
    name="verify_email",
    summary="Verify an address with the token of a mail",
    body={JSON: models.VERIFY},
    answers={200: Reply("the address is verified", models.Verified)},
    codes={400: "invalid_token", 401: "invalid_client", 403: "mail_not_configured"},
)
SHOW_ME = Operation(
    name="show_me",
    summary="Fetch one's own account",
    scope="",
    answers={200: Reply("the account", models.Me | models.Machine)},
)
CHANGE_ME = Operation(
    name="change_me",
    summary="Change one's email, or one's password, which ends all other sessions",
    body={JSON: models.CHANGE},
    scope="",
    answers={200: Reply("the account as it is now", models.Changed)},
    codes={403: "not_a_user wrong_password", 409: "email_taken"},
)
DELETE_ME = Operation(
    name="delete_me",
    summary="Delete one's account, with all that is stored",
    body={JSON: models.PASSWORD},
    scope="",
    answers={204: Reply("it is gone")},
    codes={403: "not_a_user wrong_password"},
)
EXPORT_ME = Operation(
    name="export_me",
    summary="Fetch everything that is stored about oneself",
    scope="",
    answers={200: Reply("everything", models.Export)},
)
LIST_ITEMS = Operation(
    name="list_items",
    summary="List one's items, oldest first, or what has changed",
    parameters=(LIMIT, CURSOR, SINCE, WAIT, WHERE),
    scope="data",
    answers={200: Reply("a page", models.ItemPage)},
)
CREATE_ITEM = Operation(
    name="create_item",
    summary="Store an item",
    body={JSON: models.CREATE},
    parameters=(IDEMPOTENCY_KEY,),
    scope="data",
    answers={201: Reply("the item is stored", models.Item, ("ETag", "Location", "Idempotency-Replayed"))},
    codes={409: "quota_exceeded"},
)
READ_ITEM = Operation(
    name="read_item",
    summary="Fetch an item",
    parameters=(ITEM_ID, IF_NONE_MATCH),
    scope="data",
    answers={200: Reply("the item", models.Item, ("ETag",)), 304: Reply("it is as it was", None, ("ETag",))},
)
REPLACE_ITEM = Operation(
    name="replace_item",
    summary="Replace an item's data",
    body={JSON: models.ITEM},
    parameters=(ITEM_ID, IF_MATCH, UNWANTED),
    scope="data",
    answers={200: Reply("the item as it is now", models.Item, ("ETag",))},
    codes={409: "quota_exceeded"},
)
MERGE_ITEM = Operation(
    name="merge_item",
    summary="Merge into an item's data (RFC 7396)",
    body={MERGE_PATCH: models.PATCH, JSON: models.PATCH},
    parameters=(ITEM_ID, IF_MATCH, UNWANTED),
    scope="data",
    answers={200: Reply("the item as it is now", models.Item, ("ETag",))},
    codes={409: "quota_exceeded"},
)
DELETE_ITEM = Operation(
    name="delete_item",
    summary="Delete an item",
    parameters=(ITEM_ID, IF_MATCH, UNWANTED),
    scope="data",
    answers={204: Reply("it is gone")},
)
HEALTH = Operation(
    name="health",
    summary="See whether the database answers",
    overload={},
    answers={200: Reply("it answers", models.Health), 503: Reply("it is silent", models.Health, ("Retry-After",))},
)
METRICS = metrics_endpoint.OPERATION
METADATA = Operation(
    name="server_metadata",
    summary="Find the OAuth endpoints",
    overload={},
    answers={200: Reply("where they are", models.ServerMetadata)},
)
JWKS = Operation(
    name="public_keys",
    summary="Fetch the keys that tokens are checked with",
    overload={},
    answers={200: Reply("the public ones", models.PublicKeys)},
)
OPENAPI = Operation(
    name="openapi",
    summary="Fetch this document",
    overload={},
    answers={200: Reply("OpenAPI 3.1", dict[str, Any])},
)
