"""Headers that are added to every answer of an application."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = Sequence[tuple[bytes, bytes]]


class AddedHeaders:
    """Stands around an application; `headers` tells for each request what to add to what the answer has."""

    def __init__(self, app: ASGIApp, headers: Callable[[Scope], Headers]) -> None:
        """Call `headers` before the application is called, in the same context."""
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        headers = self._headers(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [*message["headers"]]
                names = {name.lower() for name, _ in told}
                message = {**message, "headers": [*told, *(each for each in headers if each[0] not in names)]}
            await send(message)

        await self._app(scope, receive, with_headers)
