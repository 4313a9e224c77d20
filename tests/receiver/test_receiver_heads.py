"""Request heads without an end: nobody may fill the memory of web before the first check of a signature."""

from __future__ import annotations

import contextlib
import socket

import pytest

from receiver.protocol import MOST_HEAD_BYTES
from tests.receiver.serving import Web, head, item, signed

_CHUNK = b"x" * 16_384
_MORE_THAN_IS_TAKEN = 200 * MOST_HEAD_BYTES


@pytest.mark.parametrize(
    "beginning",
    [b"POST /", b"POST /webhooks/zoho/items HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"POST / HTTP/1.1\r\nX"],
    ids=["address", "header", "header name"],
)
def test_a_head_without_an_end_is_cut_off(web: Web, beginning: bytes) -> None:
    sent = 0
    with web.connect() as connection:
        connection.sendall(beginning)
        # What the kernel buffers on both sides is taken too; after that the connection is gone.
        with contextlib.suppress(ConnectionError):
            while sent < _MORE_THAN_IS_TAKEN:
                connection.sendall(_CHUNK)
                sent += len(_CHUNK)
    assert sent < _MORE_THAN_IS_TAKEN
    assert web.is_alive()


def test_a_long_but_reasonable_head_is_taken(web: Web) -> None:
    body = item()
    answer = web.client.post(
        "/webhooks/zoho/items", content=body, headers={**signed(body), "X-Long": "x" * (MOST_HEAD_BYTES // 2)}
    )
    assert answer.status_code == 200


def test_requests_of_one_connection_are_counted_each_by_itself(web: Web) -> None:
    with web.connect() as connection:
        for _ in range(5):
            connection.sendall(head("/health/live", method="GET", X_Long="x" * (MOST_HEAD_BYTES // 2)))
            assert connection.recv(16).startswith(b"HTTP/1.1 200")
            _read_the_rest(connection)


def test_a_large_body_that_comes_with_its_head_is_not_taken_for_one(web: Web) -> None:
    body = item(description="y" * 3 * MOST_HEAD_BYTES)
    assert web.deliver(body).status_code == 200


def _read_the_rest(connection: socket.socket) -> None:
    text = b""
    while not text.endswith(b'{"status":"ok"}'):
        text += connection.recv(4096)
