"""uvicorn's HTTP parser with a limit on the head of a request, and one write for an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024


class BoundedHeadProtocol(HttpToolsProtocol):
    """Closes a connection whose request line and headers do not end.

    The fast parser sets no limit of its own: without this one, an address of 100 MB would be kept in memory, from
    anybody. Routers of platforms have a limit; whoever runs web without one has this.
    """

    _is_in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to write through `JoinedWrites`."""
        super().connection_made(JoinedWrites(transport))

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then see whether the head is still not over."""
        super().data_received(data)
        if not self._is_in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's address and headers are too long.")

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: what follows is the body, whose reader has a limit of its own."""
        self._is_in_head = False
        super().on_headers_complete()


class JoinedWrites(asyncio.Transport):
    """A transport that sends two writes which follow one another at once, a head and its body, by one system call.

    uvicorn sends them by one each, and a system call is the dearest part of a small answer. A write is held until the
    next one, or until the event loop has a turn: no longer, and never more than one of them.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Take the transport to write to."""
        super().__init__()
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Hold the data, or send it with what is held."""
        if self._held:
            joined, self._held = b"".join((self._held, data)), b""
            self._transport.write(joined)
        elif data:
            self._held = bytes(data)
            self._call_soon(self._send_held)

    def _send_held(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        """Send what is held, then close."""
        self._send_held()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it is closed or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as asyncio has it
        """Return what is known of the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self._transport.set_protocol(protocol)
