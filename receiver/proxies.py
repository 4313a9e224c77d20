"""Who asks, and by which scheme, where proxies stand in front."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send


def client_address(connection: HTTPConnection, trusted_proxies: int) -> str:
    """Return who sent the request: as many steps back along X-Forwarded-For as there are proxies to trust."""
    peer = connection.client.host if connection.client else "unknown"
    hops = [hop.strip() for line in connection.headers.getlist("x-forwarded-for") for hop in line.split(",")]
    if trusted_proxies == 0 or len(hops) < trusted_proxies:
        return peer
    return hops[-trusted_proxies]


class BehindProxies:
    """Gives an application the sender's own address and scheme, so that what it makes of them is right.

    Nothing is believed where no proxy is trusted: anybody may send such headers.
    """

    def __init__(self, app: ASGIApp, *, trusted_proxies: int) -> None:
        """Take how many proxies add to the headers before a request arrives here."""
        self._app = app
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] == "http" and self._trusted_proxies:
            connection = HTTPConnection(scope)
            schemes = ",".join(connection.headers.getlist("x-forwarded-proto")).split(",")
            told = schemes[-self._trusted_proxies :][0].strip().lower()
            scope = {
                **scope,
                "client": (client_address(connection, self._trusted_proxies), 0),
                "scheme": told if told in ("http", "https") else scope["scheme"],
            }
        await self._app(scope, receive, send)
