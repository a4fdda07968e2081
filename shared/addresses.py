"""The addresses that requests come from, and the networks around them."""

import ipaddress
from typing import Any

from starlette.requests import Request


def address(request: Request[Any]) -> str:
    """The client's address as the server saw it through the trusted proxies; an IPv6 one by its /64,
    which is what one customer of a provider has."""
    host = _host(request)
    try:
        return _network(host)
    except ValueError:
        return host


def named_address(request: Request[Any]) -> str:
    """The address that the client itself has written into X-Forwarded-For, before those that trusted proxies added; its
    own where there is none. For clients whose word is trusted."""
    named = [part.strip() for line in request.headers.getlist("x-forwarded-for") for part in line.split(",")]
    own = _host(request)
    if own in named:
        named = named[: len(named) - 1 - named[::-1].index(own)]
    try:
        return _network(named[-1])
    except (ValueError, IndexError):
        return address(request)


def _host(request: Request[Any]) -> str:
    return request.client.host if request.client else ""


def _network(host: str) -> str:
    parsed = ipaddress.ip_address(host)
    if parsed.version == 6 and parsed.ipv4_mapped:  # an IPv4 client of a socket that listens on ::
        return str(parsed.ipv4_mapped)
    return host if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


WIDER = {4: (24, 16), 6: (56, 48)}  # what one site or one customer may have, at most


def wider_networks(narrowest: str) -> list[str]:
    """The networks around what `address` gives, the narrower first; none around what is no address."""
    try:
        network = ipaddress.ip_network(narrowest)
    except ValueError:
        return []
    return [str(network.supernet(new_prefix=bits)) for bits in WIDER[network.version] if bits < network.prefixlen]
