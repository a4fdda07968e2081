"""A Python client of the token service.

ann = Tokens("http://localhost:9004").login("ann", password)
item = ann.data.create({"colour": "red"})
tasks = Tasks("http://localhost:9003", auth=ann.auth)       # of only_post_svc.client
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.client import Bearer, ClientCredentials, ClientError, NotReached, Service, ServiceError, new_key

__all__ = [
    "Bearer",
    "Changes",
    "ClientCredentials",
    "ClientError",
    "Data",
    "Item",
    "NotReached",
    "ServiceError",
    "Tokens",
    "User",
]

MAX_WAIT_SECONDS = 25  # that the service holds one request


class Tokens:
    """The service at `url`; options are those of shared.client.Service. Every method raises ServiceError and
    NotReached."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options
        self._service = Service(url, **options)

    def register(self, username: str, password: str, email: str) -> "User":
        """A new user, who is logged in."""
        return self._user("/register", {"username": username, "password": password, "email": email})

    def login(self, username: str, password: str, scope: str | None = None) -> "User":
        body = {"username": username, "password": password, **({"scope": scope} if scope else {})}
        return self._user("/token", body)

    def forgot_password(self, email: str) -> None:
        """A mail goes out where the address is known. The answer does not tell."""
        self._service.call("POST", "/password/forgot", {"email": email})

    def reset_password(self, token: str, password: str) -> "User":
        """`token` is the mail's."""
        return self._user("/password/reset", {"token": token, "password": password})

    def verify_email(self, token: str) -> None:
        self._service.call("POST", "/email/verify", {"token": token})

    def _user(self, path: str, body: Mapping[str, Any]) -> "User":
        return User(self._url, self._service.fetch("POST", path, body), **self._options)


class User:
    """One who is logged in: `auth` sends the access token with any request, and renews it in time. `refresh_token` is
    the newest one, to go on with later: User.resume(url, refresh_token)."""

    def __init__(self, url: str, pair: Mapping[str, Any], **options: Any) -> None:
        self.refresh_token = str(pair["refresh_token"])
        self._plain = Service(url, **options)
        self.auth = Bearer(self._refresh, pair if "access_token" in pair else None)
        self._service = Service(url, self.auth, **options)
        self.data = Data(self._service)

    @classmethod
    def resume(cls, url: str, refresh_token: str, **options: Any) -> "User":
        return cls(url, {"refresh_token": refresh_token}, **options)

    def _refresh(self) -> Mapping[str, Any]:
        body = {"grant_type": "refresh_token", "refresh_token": self.refresh_token}
        pair = self._plain.fetch("POST", "/token", body)
        self.refresh_token = pair["refresh_token"]
        return pair

    def me(self) -> dict[str, Any]:
        return self._service.fetch("GET", "/me")

    def export(self) -> dict[str, Any]:
        """Everything that is stored about the user."""
        return self._service.fetch("GET", "/me/export")

    def logout(self) -> None:
        self._plain.call("POST", "/revoke", {"token": self.refresh_token})

    def delete(self, password: str) -> None:
        """The account, with all that is stored."""
        self._service.call("DELETE", "/me", {"current_password": password})


@dataclass(frozen=True)
class Item:
    """`data` is any JSON. Times are RFC 3339 texts."""

    id: str
    data: Any
    version: int
    created_at: str
    updated_at: str

    @property
    def etag(self) -> str:
        return f'"{self.version}"'


@dataclass(frozen=True)
class Changes:
    """What has changed since a mark: items as they are now, the ids of deleted ones, and the next mark."""

    items: list[Item]
    deleted: list[str]
    since: str


class Data:
    """A user's own items. What is given as an Item is written only if it is still as it was: else ServiceError with
    status 412. What is given as an id is written in any case."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def create(self, data: Any) -> Item:
        return _item(self._service.fetch("POST", "/data", {"data": data}, headers=new_key()))

    def get(self, item: Item | str) -> Item:
        return _item(self._service.fetch("GET", _path(item)))

    def replace(self, item: Item | str, data: Any) -> Item:
        return _item(self._service.fetch("PUT", _path(item), {"data": data}, headers=_match(item)))

    def merge(self, item: Item | str, patch: Any) -> Item:
        """RFC 7396."""
        return _item(self._service.fetch("PATCH", _path(item), {"data": patch}, headers=_match(item)))

    def delete(self, item: Item | str) -> None:
        self._service.call("DELETE", _path(item), headers=_match(item))

    def list(self, where: Any = None) -> Iterator[Item]:
        """Oldest first; `where` keeps those whose data contains it. Pages are fetched one by one."""
        query = {} if where is None else {"where": json.dumps(where)}
        for page in self._pages(query):
            yield from map(_item, page["items"])

    def changes(self, since: str | None = None, wait: int = 0) -> Changes:
        """What has changed since the mark, or all there is without one. `wait` seconds for a change: 25 are waited at
        most."""
        held = max(0, min(int(wait), MAX_WAIT_SECONDS))  # the service takes whole seconds alone
        first = {} if since is None else {"since": since, "wait": str(held)}
        entries: dict[str, Any] = {}
        mark = since or ""
        for page in self._pages(first, held):
            mark = page["since"]
            entries |= {entry["id"]: entry for entry in page["items"]}
        deleted = [item_id for item_id, entry in entries.items() if entry.get("deleted")]
        return Changes([_item(one) for one in entries.values() if not one.get("deleted")], deleted, mark)

    def _pages(self, query: Mapping[str, str], wait: float = 0) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            asked = {**query, "limit": "200", **({"cursor": cursor} if cursor else {})}
            page = self._service.fetch("GET", "/data", query=asked, wait=wait)
            yield page
            cursor = page["next_cursor"]


def _item(answer: Mapping[str, Any]) -> Item:
    return Item(**{name: answer[name] for name in Item.__dataclass_fields__})


def _path(item: Item | str) -> str:
    return f"/data/{item.id if isinstance(item, Item) else item}"


def _match(item: Item | str) -> dict[str, str]:
    return {"If-Match": item.etag} if isinstance(item, Item) else {}
