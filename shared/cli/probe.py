"""Whether the service on this machine is well, for a container's health check."""

import http.client
import json

from shared.cli.terminal import Failure

SECONDS = 5


def ask(port: int, method: str) -> str:
    """The status that /health says. Raises Failure unless all is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, "/health")
        answer = connection.getresponse()
        status = str(json.load(answer).get("status"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failure(f"no answer on port {port} ({error})") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise Failure(status)
    return status
