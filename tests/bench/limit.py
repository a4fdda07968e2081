"""The limit: bare Starlette routes that parse and answer JSON of the same size, check a token where ours do,
and store nothing."""

import json
import sys

import uvicorn
from jose import jwk, jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.tokens import AUDIENCE, ISSUER, SECRET

KEY = jwk.construct(SECRET.encode(), "HS256")
ID = "01a2060b-fc63-7e1b-ac6b-6cdab22c577a"
TIME = "2026-11-23T01:36:18.530Z"
TASK = {
    "task_id": ID,
    "type": "echo",
    "status": "queued",
    "result": None,
    "error": None,
    "progress": None,
    "attempt": 0,
    "max_attempts": 3,
    "priority": 0,
    "created_at": TIME,
    "run_at": TIME,
    "started_at": None,
    "finished_at": None,
}
ITEM = {"id": ID, "data": {"colour": "red", "sizes": [1, 2, 3]}, "version": 1, "created_at": TIME, "updated_at": TIME}


def answer(value: object) -> Response:
    return Response(json.dumps(value), media_type="application/json")


def check(request: Request) -> None:
    token = request.headers["authorization"].partition(" ")[2]
    jwt.decode(token, KEY, algorithms=["HS256"], audience=AUDIENCE, issuer=ISSUER)


async def task(request: Request) -> Response:
    return answer(TASK | {"result": json.loads(await request.body())["payload"]})


async def items(request: Request) -> Response:
    check(request)
    return answer({"items": [ITEM] * 50, "next_cursor": None})


async def create(request: Request) -> Response:
    check(request)
    return answer(ITEM | {"data": json.loads(await request.body())["data"]})


app = Starlette(
    routes=[
        Route("/api/task", task, methods=["POST"]),
        Route("/data", items),
        Route("/create", create, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning", server_header=False)
