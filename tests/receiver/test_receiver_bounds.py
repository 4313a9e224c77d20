"""What a web process holds is bounded: beyond it senders are told to come back, and signed deliveries are served."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from receiver import app, intake, rejections, webhooks
from tests.receiver.conftest import Serve
from tests.receiver.serving import ITEMS, JSON, Rows, Web, eventually, head, id_of, item, read_answer, signed

BOUND = 400_000
ROOMY = 2_000
"""So much fits beside a large one."""


def padded(name: str, size: int) -> bytes:
    """Return a delivery of so many bytes."""
    return item(name, description="x" * (size - len(item(name, description=""))))


LARGE = padded("large", BOUND - ROOMY)
PROBE = padded("probe", 40_000)

UNSIGNED = {"Content-Type": JSON}
FORGED = {"Content-Type": JSON, "X-Zoho-Webhook-Signature": "0" * 64}


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhooks._MOST_BYTES_AT_ONCE < 512 * 1024 * 1024 / 4, "of a small dyno's memory, a part"
    monkeypatch.setattr(webhooks, "_MOST_BYTES_AT_ONCE", BOUND)


@contextlib.contextmanager
def under_way(web: Web, request: bytes) -> Iterator[socket.socket]:
    """Send a part of a request that leaves no room but for small ones, and keep it unfinished."""
    for _ in range(100):
        with web.connect() as connection:
            connection.sendall(request)
            while not (is_answered := select.select([connection], [], [], 0.01)[0]):
                if web.deliver(PROBE).status_code == 503:
                    yield connection
                    return
            # A probe that had come in between left no room for this one.
            assert is_answered
            assert read_answer(connection)[0] == 503
    pytest.fail("the room was never taken")


UNFINISHED = head(Content_Length=str(len(LARGE)), **signed(LARGE)) + LARGE[:-1]


def assert_told_to_come_back(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "again" in answer.json()["error"]


# Bodies on their way in


def test_what_does_not_fit_is_told_to_come_back_while_what_fits_is_served(
    serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejections, "_EVERY_SECONDS", 3_600.0)
    web = serve()
    with under_way(web, UNFINISHED) as first:
        answer = web.deliver(LARGE)
        assert_told_to_come_back(answer)
        assert answer.headers["Connection"] == "close"
        assert web.deliver(item("small")).status_code == 200
        first.sendall(LARGE[-1:])
        assert read_answer(first)[0] == 200
    assert web.deliver(padded("later", BOUND)).status_code == 200
    web.stop()
    named = {id_of(name) for name in ("small", "large", "later")}
    assert {event["item_id"] for event in rows.events()} - {id_of("probe")} == named
    assert rows.rejections().keys() == {("changed", "busy")}
    assert rows.rejections()["changed", "busy"] >= 2  # the probe, and the large one


def test_one_that_is_too_large_for_all_room_is_refused_and_its_sender_sees_why(web: Web, rows: Rows) -> None:
    for _ in range(5):
        assert_told_to_come_back(web.deliver(padded("huge", BOUND + 1)))
    assert web.deliver(LARGE).status_code == 200
    assert [event["item_id"] for event in rows.events()] == [id_of("large")]


def forged(web: Web) -> None:
    assert web.client.post(ITEMS, content=LARGE, headers=FORGED).status_code == 401


def unsigned(web: Web) -> None:
    assert web.client.post(ITEMS, content=LARGE, headers=UNSIGNED).status_code == 401


def of_another_type(web: Web) -> None:
    headers = signed(b"other", content_type="text/html")
    assert web.client.post(ITEMS, content=LARGE, headers=headers).status_code == 415


def accepted(web: Web) -> None:
    assert web.deliver(LARGE).status_code == 200


def unreadable(web: Web) -> None:
    assert web.deliver(b"x" * 300_000).status_code == 200


def broken_off(web: Web) -> None:
    with under_way(web, UNFINISHED):
        pass


def too_slow(web: Web) -> None:
    with web.connect() as connection:
        connection.sendall(UNFINISHED)
        assert read_answer(connection)[0] == 408


def turned_away(web: Web) -> None:
    """Refused for want of room with a part of it read: the room of that part."""
    assert_told_to_come_back(web.deliver(padded("huge", BOUND + 1)))


@pytest.mark.parametrize(
    "happens",
    [forged, unsigned, of_another_type, accepted, unreadable, broken_off, turned_away],
    ids=lambda happens: str(happens.__name__),
)
def test_the_room_is_given_back_whatever_happens(web: Web, happens: Callable[[Web], None]) -> None:
    assert_room_is_given_back(web, happens)


def test_the_room_of_a_body_that_comes_too_slowly_is_given_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_BODY_SECONDS", 0.1)
    assert_room_is_given_back(serve(), too_slow)


def assert_room_is_given_back(web: Web, happens: Callable[[Web], None]) -> None:
    whole = padded("whole", BOUND)
    for _ in range(2):
        happens(web)
        # All of it is there again: with one byte less this would not fit.
        eventually(lambda: web.deliver(whole).status_code == 200, within_seconds=5)


def test_the_room_of_what_turned_out_too_large_is_given_back(serve: Serve) -> None:
    web = serve(WEBHOOK_MAX_BYTES="300000")
    for _ in range(3):
        with web.connect() as connection:
            connection.sendall(head(Transfer_Encoding="chunked", **signed(b"")) + b"50000\r\n" + b"x" * 0x50000)
            assert read_answer(connection)[0] == 413
        assert web.deliver(padded("1", 300_000)).status_code == 200


def test_many_large_ones_at_once_are_served_or_told_to_come_back_and_all_in_the_end(web: Web, rows: Rows) -> None:
    def deliver_stubbornly(number: int) -> int:
        body, tries = padded(str(number), 100_000), 1
        while (answer := web.deliver(body)).status_code == 503:
            assert_told_to_come_back(answer)
            tries += 1
            time.sleep(0.02)
        assert answer.status_code == 200
        return tries

    with ThreadPoolExecutor(20) as senders:
        list(senders.map(deliver_stubbornly, range(60)))
    assert {event["item_id"] for event in rows.events()} == {id_of(str(number)) for number in range(60)}


# Deliveries that wait for Postgres


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
def test_without_postgres_many_deliveries_are_all_told_to_come_back_quickly(
    serve: Serve, silent_address: str, is_silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_POOL_TIMEOUT_SECONDS", 0.5)
    web = serve(DATABASE_URL=f"postgresql://mirror@{silent_address if is_silent else '127.0.0.1:1'}/none")
    started = time.monotonic()
    with ThreadPoolExecutor(50) as senders:
        answers = list(senders.map(web.deliver, [item(str(number)) for number in range(300)]))
    for answer in answers:
        assert_told_to_come_back(answer)
    assert time.monotonic() - started < 4
    assert web.client.get("/health/live").status_code == 200


def test_a_hanging_postgres_leaves_no_more_waiting_than_there_is_capacity_for(
    serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is recorded when Postgres goes on; what is beyond it was answered at once."""
    assert intake._CAPACITY <= 2_000
    monkeypatch.setattr(intake, "_CAPACITY", 5)
    monkeypatch.setattr(intake, "_BATCH", 1)
    web = serve()
    assert web.deliver(item("before")).status_code == 200
    with psycopg.connect(rows.url) as connection, ThreadPoolExecutor(40) as senders:
        connection.execute("LOCK TABLE events")
        started = time.monotonic()
        sent = [senders.submit(web.deliver, item(str(number))) for number in range(40)]
        eventually(lambda: sum(each.done() for each in sent) == 40 - 6, within_seconds=3)
        for each in sent:
            if each.done():
                assert_told_to_come_back(each.result())
        assert time.monotonic() - started < intake._COMMIT_SECONDS
        connection.rollback()
        acknowledged = [answer.json() for each in sent if (answer := each.result()).status_code == 200]
    assert len(acknowledged) == 6
    assert {answer["event_id"] for answer in acknowledged} < {event["id"] for event in rows.events()}
    assert len(rows.events()) == 7
    assert web.deliver(item("after")).status_code == 200


def test_those_that_wait_for_a_hanging_postgres_are_told_to_come_back_before_zoho_gives_up(
    serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_CAPACITY", 30)
    monkeypatch.setattr(intake, "_COMMIT_SECONDS", 0.7)
    web = serve()
    assert web.deliver(item("before")).status_code == 200
    with psycopg.connect(rows.url) as connection, ThreadPoolExecutor(100) as senders:
        connection.execute("LOCK TABLE events")
        started = time.monotonic()
        answers = list(senders.map(web.deliver, [item(str(number)) for number in range(200)]))
        assert time.monotonic() - started < 3
        connection.rollback()
    for answer in answers:
        assert_told_to_come_back(answer)
    eventually(lambda: web.deliver(item("after")).status_code == 200)


# Floods


@contextlib.contextmanager
def flood(web: Web, body: bytes, headers: dict[str, str], *, senders: int = 6) -> Iterator[list[int]]:
    """Send as much as it takes, in threads, for as long as the block lasts; give the statuses."""
    is_over, statuses, failures = threading.Event(), list[int](), list[Exception]()

    def send() -> None:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{web.port}", timeout=20, trust_env=False) as client:
                while not is_over.is_set():
                    statuses.append(client.post(ITEMS, content=body, headers=headers).status_code)
        except Exception as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(senders)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(statuses) >= senders)
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)
    assert failures == []


@pytest.mark.parametrize("headers", [UNSIGNED, FORGED], ids=["unsigned", "forged"])
def test_every_signed_delivery_gets_through_a_flood_of_unsigned_ones(
    web: Web, rows: Rows, headers: dict[str, str]
) -> None:
    with flood(web, item(), headers) as statuses:
        before = len(statuses)
        longest = 0.0
        for number in range(60):
            started = time.monotonic()
            answer = web.deliver(item(str(number)))
            longest = max(longest, time.monotonic() - started)
            assert answer.status_code == 200
        assert len(statuses) > before + 30, "that was no flood"
    assert set(statuses) == {401}
    assert longest < 2
    assert len(rows.events()) == 60


def test_a_flood_of_large_forged_bodies_starves_no_signed_delivery(
    web: Web, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    body = b"x=" + b"%41" * 100_000
    headers = FORGED | {"Content-Type": "application/x-www-form-urlencoded"}
    with flood(web, body, headers) as statuses:
        for number in range(30):
            started = time.monotonic()
            assert web.deliver(item(str(number))).status_code == 200
            assert time.monotonic() - started < 2
    assert set(statuses) <= {401, 429, 503}
    assert len(rows.events()) == 30


def test_forged_bodies_that_never_end_starve_no_signed_delivery(web: Web) -> None:
    """Zoho may not send it again: it must not wait until the time for those bodies is over, which begins anew."""
    assert webhooks._BODY_SECONDS > 5
    with contextlib.ExitStack() as stack:
        for size in (50_000, 4_000, 100):
            for _ in range(20):
                connection = stack.enter_context(web.connect())
                connection.sendall(head(Content_Length="60000", **FORGED) + b"x" * size)
        eventually(lambda: web.deliver(item("probe")).status_code == 200, within_seconds=5)
        assert {web.deliver(item(str(number))).status_code for number in range(10)} == {200}
