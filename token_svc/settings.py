"""What the token service is told, on top of what both services are."""

import dataclasses
from typing import Any

from shared import settings
from shared.settings import SettingsError, choice, integer, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    port: int = setting(9004, integer(0, 65535))
    access_token_seconds: int = setting(1800, integer(1, 24 * 3600))
    password_min_length: int = setting(8, integer(8, 128))
    max_items_per_user: int = setting(10_000, integer(1, 10**9))
    registration: str = setting("open", choice("open", "closed"))

    database_file = "token.db"

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        if {"jwks", "jwks_file"} & set(given) and not {"signing_key", "signing_key_file"} & set(given):
            raise SettingsError("SIGNING_KEY_FILE: required beside a JWKS, whose keys can only verify")
        return super().completed(given)
