"""Calls the simulated Zoho without a port, for tests of a single rule."""

from __future__ import annotations

import asyncio

import httpx

from simulator.server import create_app
from simulator.zoho import Zoho


def client(zoho: Zoho, *, base_url: str = "http://zoho.test") -> httpx.Client:
    """Give a client whose every request is answered by `zoho` in this thread. Close it after use.

    A dropped connection raises `httpx.RemoteProtocolError`, as it does on a real port.
    """
    return httpx.Client(transport=_InProcessTransport(zoho), base_url=base_url)


class _InProcessTransport(httpx.BaseTransport):
    def __init__(self, zoho: Zoho) -> None:
        self._app = httpx.ASGITransport(create_app(zoho))
        self._loop = asyncio.Runner()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._loop.run(self._handle(request))

    def close(self) -> None:
        self._loop.close()

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        response = await self._app.handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())
