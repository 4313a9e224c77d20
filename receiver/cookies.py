"""Cookies, bounded before anything parses them."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MOST_COOKIE_BYTES = 16 * 1024
_TOO_MANY = f"Cookies here have at most {MOST_COOKIE_BYTES // 1024} KiB; delete those of this site, and try again.\n"


class BoundedCookies:
    """Keeps cookies from the application that it must not parse.

    Python before 3.11.10 and 3.12.6 undoes the backslashes of a quoted cookie in quadratic time (CVE-2024-7592): 60 KB
    of them took 13 s. No cookie of this program has one, and none may by RFC 6265: such a cookie is left out, and those
    beside it stay, since other programs of the same host may set what they like.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Take the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, or 431."""
        cookies = [value for name, value in scope.get("headers", ()) if name == b"cookie"]
        if sum(map(len, cookies)) > MOST_COOKIE_BYTES:
            await PlainTextResponse(_TOO_MANY, 431)(scope, receive, send)
            return
        if any(b"\\" in value for value in cookies):
            headers = [(name, _plain(value) if name == b"cookie" else value) for name, value in scope["headers"]]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def _plain(cookies: bytes) -> bytes:
    return b";".join(each for each in cookies.split(b";") if b"\\" not in each)
