"""Machine clients of a token service, made by its operator's command."""

import json
from typing import Any

import requests

from tests.commands import Done, command
from tests.processes import TokenService
from tests.token_svc.users import fresh_name


class Machine:
    """A client with its secret; a call of it is a request with its bearer token."""

    def __init__(self, service: TokenService, scope: str = "data tasks", name: str = "") -> None:
        self.service = service
        self.name = name or fresh_name("machine")
        made = done_json(operate(service, "create", self.name, "--scope", scope, "--json"))
        self.id: str = made["client_id"]
        self.secret: str = made["client_secret"]

    @property
    def credentials(self) -> tuple[str, str]:
        return self.id, self.secret

    def token(self, **fields: str) -> requests.Response:
        """As RFC 6749 §4.4.2 has it."""
        body = {"grant_type": "client_credentials", **fields}
        return self.service.request("POST", "/token", data=body, auth=self.credentials)

    def access_token(self, **fields: str) -> str:
        answer = self.token(**fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token()}"}

    def introspect(self, token: str) -> requests.Response:
        return self.service.request("POST", "/introspect", data={"token": token}, auth=self.credentials)

    def operate(self, action: str, *arguments: str) -> Any:
        return done_json(operate(self.service, action, self.name, *arguments, "--json"))


def operate(service: TokenService, *arguments: str) -> Done:
    """`python -m token_svc clients …` on the database of `service`."""
    return command(service.log.parent, "token_svc", "clients", *arguments, **service.env)


def done_json(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
