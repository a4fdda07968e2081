"""The routes."""

from shared.routing import Path
from token_svc.handlers import data, lists, me, oauth, service


def routes() -> list[Path]:
    return [
        Path("/data", GET=(lists.list_all, lists.LIST_ITEMS), POST=(data.create, data.CREATE_ITEM)),
        Path(
            "/data/{item_id}",
            GET=(data.read, data.READ_ITEM),
            PUT=(data.replace, data.REPLACE_ITEM),
            PATCH=(data.merge, data.MERGE_ITEM),
            DELETE=(data.delete, data.DELETE_ITEM),
        ),
        Path("/register", POST=(me.register, me.REGISTER)),
        Path("/token", POST=(oauth.token, oauth.TOKEN)),
        Path("/revoke", POST=(oauth.revoke, oauth.REVOKE)),
        Path("/introspect", POST=(oauth.introspect, oauth.INTROSPECT)),
        Path(
            "/me",
            GET=(me.show, me.SHOW_ME),
            PATCH=(me.change, me.CHANGE_ME),
            DELETE=(me.delete, me.DELETE_ME),
        ),
        Path("/password/forgot", POST=(me.forgot_password, me.FORGOT_PASSWORD)),
        Path("/password/reset", POST=(me.reset_password, me.RESET_PASSWORD)),
        Path("/email/verify", POST=(me.verify_email, me.VERIFY_EMAIL)),
        Path("/me/export", GET=(me.export, me.EXPORT_ME)),
        Path("/health", GET=(service.health, service.HEALTH)),
        Path("/metrics", GET=(service.show_metrics, service.METRICS)),
        Path("/openapi.json", GET=(service.show_document, service.OPENAPI)),
        Path("/.well-known/oauth-authorization-server", GET=(oauth.metadata, oauth.METADATA)),
        Path("/.well-known/jwks.json", GET=(oauth.jwks, oauth.JWKS)),
    ]
