"""Who comes in: programs with a token, so many at once, with a body that ends; and what every answer carries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from anyio import to_thread
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from processors.store.api_tokens import Bearer
from processors.store.audit import Requester
from processors.store.database import AWAY, NOT_MIGRATED, Pool
from processors.workflows import tokens
from receiver import bodies
from receiver.api import problems

# Each takes a thread, and most a connection of a pool of few.
_MOST_AT_ONCE = 12
_PATIENCE_SECONDS = 2.0
_MOST_BODY_BYTES = 1024 * 1024
CONNECTION_WAIT: Final = timedelta(seconds=2)

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="zoho-mirror"'}
_NO_TOKEN = "Send a token that is valid: Authorization: Bearer zm_…; an operator makes one: token create NAME"  # noqa: S105


class Door:
    """Lets requests with a valid token in, and knows whose it is; everything else at any address is answered 401."""

    def __init__(self, app: ASGIApp, *, pool: Pool) -> None:
        """Take the application behind the door."""
        self._app = app
        self._pool = pool
        self._room = asyncio.Semaphore(_MOST_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, or in its place."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        send = _with_headers(send, is_head=is_head)
        token = _token(Headers(scope=scope))
        if not tokens.has_the_form(token):
            await _unknown()(scope, receive, send)
            return
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            text = "Too many requests are being answered at this moment; try again."
            await problems.try_again(text, kind="busy", wait=timedelta(seconds=1))(scope, receive, send)
            return
        try:
            await self._let_in(token, scope, receive, send)
        finally:
            self._room.release()

    async def _let_in(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            bearer = await to_thread.run_sync(lambda: tokens.verify(self._pool, token, within=CONNECTION_WAIT))
        except (*AWAY, *NOT_MIGRATED) as error:
            answer = await problems.of_database(None, error)
            await answer(scope, receive, send)
            return
        if bearer is None:
            await _unknown()(scope, receive, send)
            return
        scope = {
            **scope,
            "method": "GET" if scope["method"] == "HEAD" else scope["method"],
            "state": {**scope.get("state", {}), "bearer": bearer},
        }
        await self._app(scope, bodies.bounded(receive, most_bytes=_MOST_BODY_BYTES), send)


def _token(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def _unknown() -> Response:
    return problems.answer(HTTPStatus.UNAUTHORIZED, _NO_TOKEN, headers=_CHALLENGE)


def _with_headers(send: Send, *, is_head: bool) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Cache-Control"] = "no-store"
            headers["X-Content-Type-Options"] = "nosniff"
        elif is_head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return with_headers


class Route(APIRoute):
    """A route that changes something only for those who may, and takes JSON only; both before a body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            bearer: Bearer = request.state.bearer
            if request.method != "GET" and bearer.scope != "write":
                text = f"The token of {bearer.name} only reads; this needs one with the scope write."
                raise HTTPException(HTTPStatus.FORBIDDEN, text)
            content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if self.body_field is not None and content_type != "application/json":
                raise HTTPException(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON, with Content-Type: application/json."
                )
            return await handle(request)

        return checked


def requester(request: Request) -> Requester:
    """Return who asks, for the record."""
    bearer: Bearer = request.state.bearer
    return Requester("api", bearer.name, request.client.host if request.client else None)
