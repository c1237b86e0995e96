"""What every HTTP client of ours has to know about an address: whether it is this machine, and whom to trust there.

Called by the targets that talk to an API and by the `http` check.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
from typing import TypedDict
from urllib.parse import urlsplit

import httpx


class ClientOptions(TypedDict):
    """Arguments of an `httpx.Client`.

    Attributes:
        trust_env: Whether proxies and the like are taken from the environment.
        verify: How the other side proves who it is; False where it has nothing to prove.
    """

    trust_env: bool
    verify: ssl.SSLContext | bool


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_options(url: str) -> ClientOptions:
    """How to talk to an address.

    A proxy can never reach what listens on this machine, and plain HTTP to it meets no certificate.
    """
    parts = urlsplit(url)
    local = is_loopback(parts.hostname or "")
    plain = local and parts.scheme == "http"
    return ClientOptions(trust_env=not local, verify=False if plain else _certificates())


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The certificate authorities we trust: read once, since reading them costs more than a request (20 ms)."""
    return httpx.create_ssl_context()
