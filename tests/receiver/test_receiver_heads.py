"""What a peer holds before the application sees a request has a size, a time and a number, whatever it sends."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from starlette.types import Receive, Scope, Send

from receiver import protocol
from receiver.protocol import MOST_HEAD_BYTES, MOST_HEADERS, MOST_QUEUED
from tests.receiver.conftest import Serve
from tests.receiver.serving import ITEMS, Rows, Web, eventually, head, item, read_all, read_answer, signed

_CHUNK = b"x" * 16_384
_MORE_THAN_IS_TAKEN = 200 * MOST_HEAD_BYTES
_LIVE = head("/health/live", method="GET")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# Size


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


_TOO_LONG = head(X_Long="x" * 120_000, Content_Length="0")
_TOO_MANY = b"GET /health/live HTTP/1.1\r\n" + b"A: b\r\n" * (MOST_HEADERS + 1) + b"\r\n"


@pytest.mark.parametrize("piece", [1 << 20, 30_000, 1_400], ids=["whole", "in large pieces", "in packets"])
@pytest.mark.parametrize("sent", [_TOO_LONG, _TOO_MANY], ids=["too long", "too many headers"])
def test_a_head_out_of_bounds_is_told_so_however_it_arrives(web: Web, sent: bytes, piece: int) -> None:
    answer = web.exchange(*(sent[at : at + piece] for at in range(0, len(sent), piece)))
    assert status(answer) == 431
    assert b"too long" in answer


def test_a_long_but_reasonable_head_is_taken(web: Web) -> None:
    body = item()
    headers = {**signed(body), "X-Long": "x" * (MOST_HEAD_BYTES - 2_000)}
    assert web.client.post(ITEMS, content=body, headers=headers).status_code == 200
    headers = {**signed(body), **{f"X-{number}": "x" for number in range(MOST_HEADERS - 20)}}
    assert web.client.post(ITEMS, content=body, headers=headers).status_code == 200


def test_requests_of_one_connection_are_counted_each_by_itself(web: Web) -> None:
    with web.connect() as connection:
        for _ in range(5):
            connection.sendall(head("/health/live", method="GET", X_Long="x" * (MOST_HEAD_BYTES // 2)))
            assert read_answer(connection)[0] == 200


def test_a_large_body_that_comes_with_its_head_is_not_taken_for_one(web: Web) -> None:
    body = item(description="y" * 3 * MOST_HEAD_BYTES)
    assert web.deliver(body).status_code == 200
    # In chunks of one byte, five of them are framing; blank lines are where a head might end.
    for body in (item(description="z" * MOST_HEAD_BYTES), b'{"item":' + b"\n\r\n" * 30_000 + item()[8:]):
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        with web.connect() as connection:
            connection.sendall(head(Transfer_Encoding="chunked", **signed(body)) + chunks + b"0\r\n\r\n")
            assert read_answer(connection)[0] == 200


@pytest.mark.parametrize(
    "end",
    [
        b"0\r\n" + b"X-Trailer: " + b"x" * 120_000,
        b"0\r\n" + b"A: b\r\n" * (MOST_HEADERS + 2),
        b"2;" + b"x" * 120_000,
    ],
    ids=["a long trailer", "many trailers", "a long extension of a chunk"],
)
def test_what_follows_the_head_beside_the_body_is_bounded(web: Web, rows: Rows, end: bytes) -> None:
    body = item()
    request = head(Transfer_Encoding="chunked", **signed(body)) + b"%x\r\n%b\r\n" % (len(body), body)
    assert status(web.exchange(request + end)) == 431
    assert rows.events() == []
    assert web.is_alive()


def test_trailers_are_no_headers_of_the_request(web: Web, rows: Rows) -> None:
    body = item()
    trailers = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    request = head(Transfer_Encoding="chunked", Content_Type="application/json")
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    with web.connect() as connection:
        connection.sendall(request)
        connection.sendall(chunk + b"0\r\n" + trailers.encode() + b"\r\n")
        assert read_answer(connection)[0] == 401
    assert rows.events() == []


# Time


@pytest.fixture
def impatient(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.5)
    return serve()


def nothing(_connection: socket.socket) -> None:
    pass


def half_a_head(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost:")


def half_a_head_after_a_request(connection: socket.socket) -> None:
    connection.sendall(_LIVE)
    read_answer(connection)
    half_a_head(connection)


def blank_lines_after_a_request(connection: socket.socket) -> None:
    connection.sendall(_LIVE)
    read_answer(connection)
    connection.sendall(b"\r\n")


@pytest.mark.parametrize(
    ("begin", "drip", "told"),
    [
        (nothing, b"", b""),
        (half_a_head, b"", b" 408 "),
        (half_a_head, b"x", b" 408 "),
        (half_a_head_after_a_request, b"", b" 408 "),
        (half_a_head_after_a_request, b"x", b" 408 "),
        (blank_lines_after_a_request, b"\r\n", b""),
    ],
)
def test_a_head_that_does_not_end_in_time_ends_the_connection(
    impatient: Web, begin: Callable[[socket.socket], None], drip: bytes, told: bytes
) -> None:
    with impatient.connect() as connection:
        begin(connection)
        connection.settimeout(0.05)
        answer, until = b"", time.monotonic() + 5
        while time.monotonic() < until:
            try:
                received = connection.recv(4096)
            except TimeoutError:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(drip)
                continue
            except ConnectionError:
                break
            if not received:
                break
            answer += received
        assert time.monotonic() < until, "it stayed"
    assert told in answer


def test_a_body_without_an_end_does_not_keep_a_connection_that_was_answered(impatient: Web) -> None:
    with impatient.connect() as connection:
        connection.sendall(head("/health/live", Transfer_Encoding="chunked"))
        assert read_answer(connection)[0] == 405
        with pytest.raises(ConnectionError):  # noqa: PT012 - it is closed at some of these
            for _ in range(100):
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.05)


def test_an_idle_connection_is_kept_for_the_next_request(impatient: Web) -> None:
    with impatient.connect() as connection:
        for _ in range(2):
            connection.sendall(_LIVE)
            assert read_answer(connection)[0] == 200
            time.sleep(0.5)


async def _large_answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1_000):
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
    await send({"type": "http.response.body"})


def test_a_peer_that_does_not_read_its_answer_keeps_nothing(impatient: Web) -> None:
    impatient._server.config.loaded_app = _large_answer
    state = impatient._server.server_state
    with impatient.connect() as connection:
        connection.sendall(_LIVE)
        eventually(lambda: state.tasks)
        eventually(lambda: not state.tasks and not state.connections, within_seconds=5)
    assert len(impatient.client.get("/").content) == 1_000 * len(_CHUNK), "who reads gets all of it"


# Number


@contextlib.contextmanager
def opened(web: Web, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(web.connect()) for _ in range(count)]
        for connection in connections:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
        yield connections


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST / HT", head(Content_Length="100", **signed(b"")) + b"x"],
    ids=["silent", "half a head", "half a body"],
)
def test_where_there_are_too_many_the_longest_unfinished_give_way_to_deliveries(
    serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 20)
    web = serve()
    with opened(web, 15, sent) as first, opened(web, 30, sent):
        for connection in first:
            assert read_all(connection) == b""
        for number in range(30):
            with web.connect() as connection:
                body = item(str(number))
                connection.sendall(head(Content_Length=str(len(body)), **signed(body)) + body)
                assert read_answer(connection)[0] == 200
        assert web.client.get("/health/ready").status_code == 200
        assert len(web._server.server_state.connections) <= 21
    assert len(rows.events()) == 30


def test_requests_under_way_do_not_give_way(serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 10)
    web = serve()
    assert web.deliver(item("before")).status_code == 200
    with psycopg.connect(rows.url) as lock, contextlib.ExitStack() as stack:
        lock.execute("LOCK TABLE events")
        waiting = [stack.enter_context(web.connect()) for _ in range(8)]
        for number, connection in enumerate(waiting):
            body = item(str(number))
            connection.sendall(head(Content_Length=str(len(body)), **signed(body)) + body)
        rows.wait_for_a_lock()
        with opened(web, 30):
            lock.rollback()
            assert [read_answer(connection)[0] for connection in waiting] == [200] * 8


def test_unfinished_heads_together_take_no_more_than_so_many_bytes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MOST_HELD_BYTES", 500_000)
    web = serve()
    with opened(web, 20, b"GET /" + b"x" * 50_000) as connections:
        connections[0].settimeout(5)
        assert read_all(connections[0]) == b""
        eventually(lambda: len(web._server.server_state.connections) <= 11)
        assert web.is_alive()


def test_pipelined_requests_wait_unparsed_and_are_all_answered(serve: Serve, rows: Rows) -> None:
    web = serve()
    assert web.deliver(item("before")).status_code == 200
    bodies = [item(str(number)) for number in range(500)]
    requests = [head(Content_Length=str(len(body)), **signed(body)) + body for body in bodies]
    (connections,) = [web._server.server_state.connections]
    with psycopg.connect(rows.url) as lock, web.connect() as connection:
        lock.execute("LOCK TABLE events")
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sent = connection.send(b"".join(requests))
        rows.wait_for_a_lock()
        queued = max(len(each.pipeline) for each in connections)  # type: ignore[union-attr]
        assert 0 < queued < 10
        lock.rollback()
        connection.setblocking(True)
        connection.settimeout(20)
        connection.sendall(b"".join(requests)[sent:] + head("/health/live", method="GET", Connection="close"))
        assert read_all(connection).count(b"HTTP/1.1 200 ") == 501
    assert len(rows.events()) == 501


def test_more_tiny_requests_at_once_than_are_queued_end_the_connection_after_those_before(web: Web) -> None:
    answer = web.exchange(b"GET /\r\n\r\n" * 1_000)
    assert 1 <= answer.count(b"HTTP/1.1 404 ") <= MOST_QUEUED + 1
    assert web.is_alive()


# Descriptors


def test_web_has_as_many_descriptors_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        protocol.raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
