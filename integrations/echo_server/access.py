"""Who may ask: whoever has the key, where one is set, under the names that the server is known by."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from echo_server.failures import Refusal, answer_to

# No secrets: a load balancer and a browser that has no key yet must see them.
OPEN = frozenset({"/", "/page.css", "/page.js", "/health"})
LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Access:
    """Refuses requests without the key, and requests for a host that this server is not.

    The second is for servers without a key: a foreign page in the user's browser can have a name of its own resolved to
    127.0.0.1, and would read the user's folder as its own; the host that it asks for gives it away.
    """

    def __init__(self, app: ASGIApp, key: str | None, hosts: Collection[str] | None) -> None:
        """Stand before ``app``; ``key`` None: no key is asked for; ``hosts`` None: any name will do."""
        self._app = app
        self._key = None if key is None else _digest(key.strip().encode())
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 401 or 403."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            return await answer_to(refusal)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = dict(scope["headers"])
        host = _without_port(headers.get(b"host", b"").decode("latin-1")).lower()
        if self._hosts is not None and host not in self._hosts:
            way_out = f"echo-server --allowed-host {host}, or create_app(hosts=…)"
            return Refusal(403, f"this server is not known as {host!r}; make it known: {way_out}")
        if self._key is None or scope["path"] in OPEN:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(_digest(given.strip()), self._key):
            return None
        rule = "the key must come as the header Authorization: Bearer KEY, and be this server's"
        return Refusal(401, rule, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _digest(key: bytes) -> bytes:
    """A hash of fixed length: comparing it tells nothing of the key's."""
    return hashlib.sha256(key).digest()
