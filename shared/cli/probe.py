"""Whether the service on this machine is well, for a container's health check."""

import http.client
import json
import ssl

from shared.cli.terminal import Failure

SECONDS = 5


def ask(port: int, method: str, *, has_tls: bool) -> str:
    """The status that /health says. Raises Failure unless all is well."""
    connection = _over_tls(port) if has_tls else http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
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


def _over_tls(port: int) -> http.client.HTTPConnection:
    """The certificate is not checked: it is of the service's public name, and this asks 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=context)
