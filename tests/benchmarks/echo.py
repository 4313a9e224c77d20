"""Answers any request at once: shows what the load generator can do. `python -m tests.benchmarks.echo PORT`."""

from __future__ import annotations

import asyncio
import sys

from tests.benchmarks import bodies

_REQUEST_SIZE = len(bodies.request(bodies.body(0, 0)))
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._size = 0

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        if data.startswith(b"GET"):
            self._transport.write(_ANSWER)
        elif self._size >= _REQUEST_SIZE:
            self._size -= _REQUEST_SIZE
            self._transport.write(_ANSWER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
