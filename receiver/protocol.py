"""uvicorn's fast HTTP parser, with a size, a time and a number for all that a peer holds before a request is complete.

The parser itself has no limits, and neither has uvicorn with it: a head or a trailer without an end is kept, and so is
a connection that never says anything. Everything that is bounded here is bounded whoever sends it; what a whole request
may cost is for the application.
"""

from __future__ import annotations

import asyncio
import resource
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from processors import logs

MOST_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers; of trailers; of the extensions of one chunk."""
MOST_HEADERS = 256
"""Of a head, and of a trailer."""
HEAD_SECONDS = 15.0
"""For a head to be complete, from the connection or from its first byte; as long as a body may take."""
READ_SECONDS = 60.0
"""For a peer to read on, where an answer waits for that."""
MOST_CONNECTIONS = 3_000
"""Of one process: more than deliveries wait for their commit (receiver.intake), few enough for a small dyno."""
MOST_HELD_BYTES = 32 * 1024 * 1024
"""Of all unfinished requests together that the application did not take yet."""
MOST_QUEUED = 64
"""Requests that a connection sent before the one ahead of them was answered."""

# Descriptors that connections leave to the rest: pools, files, logs. In each turn of the event loop asyncio accepts as
# many connections as the backlog holds (128, Procfile), and it takes four turns until one can be closed for another.
_RESERVED_DESCRIPTORS = 640
_MOST_DESCRIPTORS = 65_536
# Data is parsed in pieces that end with a head, so that what follows a whole request can wait unparsed. Most deliveries
# are one piece.
_LEAST_PIECE = 1024
_MOST_PIECE = 16 * 1024
_END_OF_HEAD = b"\n\r\n"
# Closed with more on its way, a connection is reset, and the peer may never see why: a little of that is thrown away.
_PARTING_SECONDS = 1.0
_PARTING_BYTES = 1024 * 1024

_TOO_LARGE = "The request's address, headers or trailers are too long."
_TOO_SLOW = "The request did not arrive in time."

_log = logs.get(__name__)


class _Excess(Exception):
    """Raised where the parser calls: nothing else stops it in the middle of what it was given."""


class _Peers:
    """The connections of one server that owe it something: the rest of a request, or the reading of an answer.

    They stand in the order in which they began to. Where there is no room, the first gives way: a delivery, or a health
    check, is complete within moments of its beginning.
    """

    def __init__(self) -> None:
        self._held: dict[BoundedProtocol, int] = {}
        self._bytes = 0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most_descriptors = soft - min(_RESERVED_DESCRIPTORS, soft // 2)

    def owes(self, peer: BoundedProtocol, held: int) -> None:
        """Remember that it does, with so many bytes held for it; since when stays as it is."""
        self._bytes += held - self._held.get(peer, 0)
        self._held[peer] = held
        while self._bytes > MOST_HELD_BYTES:
            self.drop_longest("bytes")

    def settled(self, peer: BoundedProtocol) -> None:
        """Remember that it owes nothing now."""
        if held := self._held.pop(peer, 0):
            self._bytes -= held

    def drop_longest(self, reason: str) -> None:
        """Close the connection that has owed for longest."""
        peer = next(iter(self._held))
        self.settled(peer)
        peer.transport.abort()
        _log.warning("connection.dropped", reason=reason)


_peers_of: WeakKeyDictionary[ServerState, _Peers] = WeakKeyDictionary()


class _Flow(FlowControl):
    """Reads no further while something that was read waits to be parsed, also where the application asks for more."""

    is_full = False

    def resume_reading(self) -> None:
        if not self.is_full:
            super().resume_reading()


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    # Where the kernel allows less than it says, what there is will do.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    - Size: bytes that finish neither a head, nor a piece of a body, nor a request are counted; too many end it.
    - Time: while the application is at work on nothing, a peer that began a head has `HEAD_SECONDS` to end it. (An idle
      connection has uvicorn's `--timeout-keep-alive`; a body has the time that its reader gives it.)
    - Number: `_Peers` knows all connections that owe something, and closes the oldest of them where there are too many.
    - What comes while a request waits in the queue stays unparsed, and no more of it is read.
    """

    flow: _Flow

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as uvicorn has it
        """Take what uvicorn gives."""
        super().__init__(*args, **kwargs)
        if self.server_state not in _peers_of:
            _peers_of[self.server_state] = _Peers()
        self._peers = _peers_of[self.server_state]
        self._unfinished_bytes = 0
        self._unparsed = b""
        self._is_parting = False
        self._parting_bytes = _PARTING_BYTES
        self._head_deadline: asyncio.TimerHandle | None = None
        self._read_deadline: asyncio.TimerHandle | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Find a place for the connection, and write through `JoinedWrites`."""
        super().connection_made(JoinedWrites(transport))
        self.flow = _Flow(self.transport)
        self._await_head()
        self._peers.owes(self, 0)
        # The kernel gives the lowest descriptor that is free: what this one has tells how many are in use.
        descriptor = transport.get_extra_info("socket").fileno()
        if len(self.connections) > MOST_CONNECTIONS:
            self._peers.drop_longest("connections")
        elif descriptor >= self._peers.most_descriptors:
            self._peers.drop_longest("descriptors")

    def data_received(self, data: bytes) -> None:
        """Parse the data, or as much of it as there is a place for."""
        if self._is_parting:
            self._parting_bytes -= len(data)
            if self._parting_bytes < 0:
                self.transport.abort()
            return
        is_one_piece = len(data) <= _MOST_PIECE and data.find(_END_OF_HEAD, _LEAST_PIECE) < 0
        if is_one_piece and not (self._unfinished_bytes or self.pipeline or self._unparsed):
            self._feed(data)
        else:
            self._parse(self._unparsed + data)
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            self._peers.settled(self)
        else:
            self._account()
            # Also after blank lines, and after a piece of a body that nothing waits for any more.
            if cycle is None or cycle.response_complete:
                self._await_head()

    def pause_writing(self) -> None:
        """Give the peer some time to read what was sent."""
        super().pause_writing()
        self._account()
        self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._read_deadline:
            self._read_deadline.cancel()
            self._read_deadline = None
        self._account()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._peers.settled(self)
        self._unparsed = b""
        for timer in (self._head_deadline, self._read_deadline):
            if timer:
                timer.cancel()

    # What the parser calls

    def on_headers_complete(self) -> None:
        """Let the application have the request, unless it is out of bounds."""
        if self._has_too_much() or len(self.pipeline) >= MOST_QUEUED:
            raise _Excess
        super().on_headers_complete()
        # What the parser finds after the body are trailers: they are nobody's, least of all the request's headers.
        self.headers = []
        self._unfinished_bytes = 0
        self._peers.settled(self)
        if self._head_deadline:
            self._head_deadline.cancel()
            self._head_deadline = None

    def on_body(self, body: bytes) -> None:
        """Let the application have a piece of the body: its reader has limits of its own."""
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._unfinished_bytes = 0
        super().on_message_complete()

    # What uvicorn calls

    def on_response_complete(self) -> None:
        """Begin with the next request, or wait for it."""
        super().on_response_complete()
        if self.parser is None:
            return
        if self.transport.is_closing():
            # It is closed when the answer is read.
            if not self._read_deadline:
                self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)
            return
        if self.pipeline:
            return
        if self._unparsed:
            self._parse(self._unparsed)
            self._account()
        else:
            self._peers.owes(self, self._unfinished_bytes)
        if self._unfinished_bytes:
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        """Close at once, also where the peer never read the last answer."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """End the connection: what came is no request, or out of bounds."""
        self._end(*((431, _TOO_LARGE) if self._has_too_much() else (400, msg)))

    # What these have in common

    def _parse(self, data: bytes) -> None:
        start, was_full = 0, self.flow.is_full
        while start < len(data) and not (self.pipeline or self._is_parting or self.transport.is_closing()):
            # Near the limit it is counted to the byte where the head ends.
            least = _LEAST_PIECE if self._unfinished_bytes < MOST_HEAD_BYTES // 2 else 0
            end = data.find(_END_OF_HEAD, start + least, start + _MOST_PIECE)
            end = min(start + _MOST_PIECE, len(data)) if end < 0 else end + len(_END_OF_HEAD)
            self._feed(data[start:end])
            start = end
        self._unparsed = b"" if self._is_parting else data[start:]
        self.flow.is_full = bool(self._unparsed)
        if self._unparsed:
            self.flow.pause_reading()
        elif was_full:
            self.flow.resume_reading()

    def _feed(self, piece: bytes) -> None:
        self._unfinished_bytes += len(piece)
        super().data_received(piece)
        if self._has_too_much():
            self.send_400_response(_TOO_LARGE)

    def _has_too_much(self) -> bool:
        return self._unfinished_bytes > MOST_HEAD_BYTES or len(self.headers or ()) > MOST_HEADERS

    def _account(self) -> None:
        """Note whether this peer owes something now, and what is held for it."""
        if self.parser is None:
            # The application still answers what came before the connection was lost: nothing is remembered of it.
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused:
            body = len(cycle.body) if cycle is not None else 0
            self._peers.owes(self, self._unfinished_bytes + len(self._unparsed) + body)
        else:
            self._peers.settled(self)

    def _await_head(self) -> None:
        if not self._head_deadline:
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._unfinished_bytes:
            self._end(408, _TOO_SLOW)
        else:
            self.transport.abort()

    def _end(self, status: int, text: str) -> None:
        """End the connection after what is under way, and say why where that can be said."""
        if self._is_parting:
            return
        self._is_parting, self._unparsed = True, b""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                # Whole requests that came before are answered.
                cycle.keep_alive = False
                return
            if self.pipeline or cycle.response_started:
                self.transport.close()
                return
            # This very request is wrong, at its end: the application need not wait for the rest.
            cycle.disconnected = True
            cycle.message_event.set()
        headers = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + headers % len(text) + text.encode())
        self.transport.write_eof()
        self.loop.call_later(_PARTING_SECONDS, self.transport.abort)


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

    def write_eof(self) -> None:
        """Send what is held, and say that there is no more."""
        self._send_held()
        self._transport.write_eof()

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
