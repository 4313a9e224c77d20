"""uvicorn's HTTP parser with a limit on the head of a request."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024


class BoundedHeadProtocol(HttpToolsProtocol):
    """Closes a connection whose request line and headers do not end.

    The fast parser sets no limit of its own: without this one, an address of 100 MB would be kept in memory, from
    anybody. Routers of platforms have a limit; whoever runs web without one has this.
    """

    _is_in_head = True
    _head_bytes = 0

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
