"""Users of the token service, each with a name that nobody else has."""

import uuid
from typing import Any

import requests

from tests.commands import Done, command
from tests.processes import TokenService

PASSWORD = "correct horse battery staple"


def fresh_name(prefix: str = "user") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def form_of(**changes: Any) -> dict[str, Any]:
    """The body of a good registration; a change to None leaves a member out."""
    name = changes.get("username") or fresh_name()
    good = {"username": name, "password": PASSWORD, "email": f"{uuid.uuid4().hex}@example.org"}
    return {member: value for member, value in {**good, **changes}.items() if value is not None}


class User(requests.Session):
    """A registered user: a requests.Session that knows the service's address and sends the bearer token."""

    def __init__(self, service: TokenService, **changes: Any) -> None:
        super().__init__()
        self.service = service
        self.hooks["response"].append(service.check)
        body = form_of(**changes)
        self.password: str = body["password"]
        answer = service.post("/register", body)
        assert answer.status_code == 201, answer.text
        self.profile: dict[str, Any] = answer.json()["user"] | {"email_verified": False}
        self.username: str = self.profile["username"]
        self.take(answer.json())

    def take(self, pair: dict[str, Any]) -> None:
        """Goes on with this pair of tokens."""
        self.pair = pair
        self.headers["Authorization"] = f"Bearer {pair['access_token']}"

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        return super().request(method, f"{self.service.url}{url!s}", *args, **{"timeout": 60, **options})

    @property
    def refresh_token(self) -> str:
        return str(self.pair["refresh_token"])

    def login(self, **changes: Any) -> requests.Response:
        return self.service.post("/token", {"username": self.username, "password": self.password, **changes})

    @staticmethod
    def login_as(service: TokenService, username: str, password: str = PASSWORD) -> requests.Response:
        return service.post("/token", {"username": username, "password": password})

    def add(self, data: Any, **headers: str) -> Any:
        """An item with `data`, as the service describes it."""
        answer = self.post("/data", json={"data": data}, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()


def refresh(service: TokenService, token: str, **more: Any) -> requests.Response:
    return service.post("/token", {"grant_type": "refresh_token", "refresh_token": token, **more})


def operate(service: TokenService, *arguments: str) -> Done:
    """`python -m token_svc users …` on the database of `service`."""
    return command(service.log.parent, "token_svc", "users", *arguments, **service.env)
