"""What every request passes before it is answered: log, authorisation, quotas, faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulator.faults import Fault
from simulator.limits import Refusal
from simulator.request_log import LoggedRequest
from simulator.responses import refused
from simulator.tokens import FULL_ACCESS
from simulator.zoho import Zoho

API_PREFIX: Final = "/inventory/v1/"
CONTROL_PREFIX: Final = "/simulator/"
ORGANIZATION_HEADER: Final = "X-com-zoho-inventory-organizationid"

_TOKEN_SCHEME: Final = "Zoho-oauthtoken "  # noqa: S105 -- a word of the protocol
_OPERATIONS: Final = {"POST": "CREATE", "PUT": "UPDATE", "DELETE": "DELETE"}
_ITEM_PATHS: Final = (f"{API_PREFIX}items", f"{API_PREFIX}itemdetails")
_NOT_AUTHORIZED: Final = Refusal(401, 57, "You are not authorized to perform this operation")
_BAD_TOKEN: Final = Refusal(401, 14, "Invalid value passed for authtoken.")


class Gate:
    """ASGI middleware around all of Zoho's own routes; the simulator's controls stay outside."""

    def __init__(self, app: ASGIApp, zoho: Zoho) -> None:
        self._app = app
        self._zoho = zoho

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, logged no later than its answer begins."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX):
            await self._app(scope, receive, send)
            return
        arrived_at, started, is_logged = self._zoho.clock(), time.perf_counter(), False

        def log(status: int | None) -> None:
            nonlocal is_logged
            if not is_logged:
                is_logged = True
                duration_ms = (time.perf_counter() - started) * 1000
                query = scope["query_string"].decode("ascii", "replace")
                self._zoho.requests.add(
                    LoggedRequest(arrived_at, scope["method"], scope["path"], query, status, duration_ms),
                )

        async def send_logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                log(message["status"])
            await send(message)

        try:
            await self._admit(scope, receive, send_logged)
        finally:
            log(None)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(API_PREFIX):
            await self._answer(scope, receive, send)
            return
        refusal = self._authorization_refusal(Request(scope))
        if refusal is not None:
            await refused(refusal)(scope, receive, send)
            return
        limits = self._zoho.limits
        refusal = limits.enter()
        if refusal is not None:
            wait = limits.retry_after_seconds
            headers = {} if wait is None else {"Retry-After": str(wait)}
            await refused(refusal, headers=headers)(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        finally:
            limits.leave()

    def _authorization_refusal(self, request: Request) -> Refusal | None:
        header = request.headers.get("Authorization", "")
        if not header.startswith(_TOKEN_SCHEME):
            return _NOT_AUTHORIZED
        scopes = self._zoho.tokens.scopes_of(header.removeprefix(_TOKEN_SCHEME))
        if scopes is None:
            return _BAD_TOKEN
        path = request.url.path
        area = "items" if path.startswith(_ITEM_PATHS) else "settings"
        needed = _OPERATIONS.get(request.method, "READ")
        if scopes.isdisjoint({FULL_ACCESS, f"ZohoInventory.{area}.ALL", f"ZohoInventory.{area}.{needed}"}):
            return _NOT_AUTHORIZED
        in_header = request.headers.get(ORGANIZATION_HEADER)
        organization_id = request.query_params.get("organization_id", in_header)
        # Listing organisations is how a client learns the id, so only that call goes without one.
        is_missing_by_right = organization_id is None and path == f"{API_PREFIX}organizations"
        reachable = self._zoho.organizations if area == "settings" else (self._zoho.organization,)
        if is_missing_by_right or organization_id in {each.organization_id for each in reachable}:
            return None
        return _NOT_AUTHORIZED

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        faults = self._zoho.faults.strike(request.method, request.url.path, request.query_params)
        scope.setdefault("state", {})["faults"] = faults
        await asyncio.sleep(sum(fault.latency_seconds for fault in faults))
        if any(fault.drop_connection for fault in faults):
            await _drop_connection(send)
        if any(fault.truncate for fault in faults):
            send = _halving(send)
        app = next((_response_of(fault) for fault in faults if fault.status is not None), self._app)
        await app(scope, receive, send)


def zoho_of(request: Request) -> Zoho:
    """Return what the application serves."""
    zoho: Zoho = request.app.state.zoho
    return zoho


def faults_of(request: Request) -> Sequence[Fault]:
    """Return the faults that befell this request, for handlers to obey."""
    faults: Sequence[Fault] = request.state.faults
    return faults


def _response_of(fault: Fault) -> Response:
    status = fault.status or 500
    if fault.body is not None:
        return Response(fault.body, status, dict(fault.headers))
    return refused(Refusal(status, fault.code, fault.message), headers=fault.headers)


async def _drop_connection(send: Send) -> None:
    # A body is announced and never comes. The server closes the connection on any exception; this
    # class is what a client on a real socket sees, so one that calls the app directly sees it too.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"4096")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    raise httpx.RemoteProtocolError("the simulator dropped the connection")


def _halving(send: Send) -> Send:
    """Pass on the first half of a one-part body, with a length that says it is all of it."""
    start: Message = {}

    async def send_half(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        half = message["body"][: len(message["body"]) // 2]
        headers = [(key, value) for key, value in start["headers"] if key != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(half))]})
        await send({**message, "body": half})

    return send_half
