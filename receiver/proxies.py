"""Who asks, and by which scheme, where proxies stand in front."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from processors import senders


def client_address(connection: HTTPConnection, trusted_proxies: int) -> str | None:
    """Return the address of who sent the request, for all that asks for it; None: it has none, as on a Unix socket.

    That is as many steps back along X-Forwarded-For as there are proxies to trust. Where no address stands there, it is
    the next one on the way here, which a proxy nearer by wrote, or the socket's: never a text that a sender made up.
    """
    lines = connection.headers.getlist("x-forwarded-for") if trusted_proxies else []
    hops = [hop for line in lines for hop in line.split(",")]
    believed = hops[-trusted_proxies:] if len(hops) >= trusted_proxies else []
    for text in (*believed, connection.client.host if connection.client else ""):
        if address := senders.address_of(text):
            return str(address)
    return None


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
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            address = client_address(connection, self._trusted_proxies)
            scope = {**scope, "client": (address, 0) if address else None}
            if self._trusted_proxies:
                schemes = ",".join(connection.headers.getlist("x-forwarded-proto")).split(",")
                told = schemes[-self._trusted_proxies :][0].strip().lower()
                scope["scheme"] = told if told in ("http", "https") else scope["scheme"]
        await self._app(scope, receive, send)
