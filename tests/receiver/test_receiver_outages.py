"""Postgres or Redis is away, late or back: no delivery is acknowledged that is not committed, and none waits long."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from processors.messaging.broker import build_broker
from processors.messaging.messages import EVENTS_QUEUE, Publisher
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.store import schema
from receiver import app, intake, rejections
from tests.receiver.conftest import Serve
from tests.receiver.serving import Rows, Web, eventually, id_of, item, settings


@pytest.fixture(scope="module")
def _mortal_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("mortal")) as server:
        schema.migrate(server.create_database("mirror"))
        yield server


@pytest.fixture
def mortal_postgres(_mortal_postgres: LocalPostgres) -> LocalPostgres:
    """A server that a test may stop, kill or freeze."""
    _mortal_postgres.start()
    Rows(_mortal_postgres.database_url("mirror"))("TRUNCATE events, rejections")
    return _mortal_postgres


@pytest.fixture
def mortal_web(mortal_postgres: LocalPostgres, redis_url: str) -> Iterator[Web]:
    with Web(settings(mortal_postgres.database_url("mirror"), redis_url)) as web:
        assert web.deliver(item("before")).status_code == 200
        yield web


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def _frozen(server: LocalPostgres) -> Iterator[None]:
    """Stop its processes where they are, as a machine that hangs would."""
    assert server.pid
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    pids = [server.pid, *map(int, children.read_text().split())]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _assert_told_to_come_back(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "again" in answer.json()["error"]


def test_without_postgres_a_delivery_is_told_to_come_back_quickly(
    mortal_postgres: LocalPostgres, mortal_web: Web
) -> None:
    mortal_postgres.stop()

    started = time.monotonic()
    with ThreadPoolExecutor(20) as senders:
        answers = list(senders.map(mortal_web.deliver, [item(str(number)) for number in range(20)]))

    for answer in answers:
        _assert_told_to_come_back(answer)
    assert time.monotonic() - started < 3


def test_after_the_first_failure_deliveries_are_turned_away_at_once(
    mortal_postgres: LocalPostgres, mortal_web: Web
) -> None:
    mortal_postgres.kill()
    _assert_told_to_come_back(mortal_web.deliver(item()))

    started = time.monotonic()
    for _ in range(10):
        _assert_told_to_come_back(mortal_web.deliver(item()))
    assert time.monotonic() - started < 0.5


def test_deliveries_are_taken_again_when_postgres_is_back_without_a_restart_of_web(
    mortal_postgres: LocalPostgres, mortal_web: Web
) -> None:
    mortal_postgres.stop()
    _assert_told_to_come_back(mortal_web.deliver(item("77")))
    mortal_postgres.start()

    answer = eventually(lambda: [a for a in [mortal_web.deliver(item("77"))] if a.status_code == 200])[0]

    assert answer.json()["state"] == "recorded"
    rows = Rows(mortal_postgres.database_url("mirror"))
    assert [event["item_id"] for event in rows.events()] == [id_of("before"), "77"]


def test_a_restart_of_postgres_between_two_deliveries_costs_none(
    mortal_postgres: LocalPostgres, mortal_web: Web
) -> None:
    mortal_postgres.restart(immediate=True)

    assert mortal_web.deliver(item("after")).status_code == 200


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert intake._COMMIT_SECONDS < 5, "Zoho may give up after about 5 s"
    monkeypatch.setattr(intake, "_COMMIT_SECONDS", 1.0)


@pytest.mark.usefixtures("_impatient")
def test_a_postgres_that_hangs_keeps_nobody_waiting(mortal_postgres: LocalPostgres, mortal_web: Web) -> None:
    with _frozen(mortal_postgres):
        started = time.monotonic()
        with ThreadPoolExecutor(10) as senders:
            answers = list(senders.map(mortal_web.deliver, [item(str(number)) for number in range(10)]))
        waited = time.monotonic() - started
    for answer in answers:
        _assert_told_to_come_back(answer)
    assert waited < 2

    eventually(lambda: mortal_web.deliver(item("after")).status_code == 200)


@pytest.mark.usefixtures("_impatient")
def test_a_locked_inbox_keeps_nobody_waiting_and_nothing_is_lost(
    mortal_postgres: LocalPostgres, mortal_web: Web
) -> None:
    url = mortal_postgres.database_url("mirror")
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE events")
        started = time.monotonic()
        _assert_told_to_come_back(mortal_web.deliver(item("77")))
        assert time.monotonic() - started < 2

    eventually(lambda: mortal_web.deliver(item("77")).status_code == 200)
    assert [event["item_id"] for event in Rows(url).events()] == [id_of("before"), "77"]


def test_web_starts_without_postgres_and_without_the_schema(
    redis_url: str, mortal_postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release may migrate while web starts: nothing of it may stay broken afterwards."""
    monkeypatch.setattr(rejections, "_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(app, "BEAT_EVERY", timedelta(seconds=0.1))
    monkeypatch.setattr(app, "_POOL_TIMEOUT_SECONDS", 0.5)
    mortal_postgres.start()
    mortal_postgres.drop_database("late")
    mortal_postgres.stop()
    with Web(settings(mortal_postgres.database_url("late"), redis_url)) as web:
        _assert_told_to_come_back(web.deliver(item()))
        assert web.client.post("/webhooks/zoho/items", content=item()).status_code == 401
        mortal_postgres.start()
        url = mortal_postgres.create_database("late")
        eventually(lambda: web.client.get("/health/ready").json()["parts"]["postgres"] == "ok")
        _assert_told_to_come_back(web.deliver(item()))
        assert web.client.get("/health/ready").json()["parts"]["schema"] != "ok"
        assert web.client.get("/metrics").status_code == 503
        failures = "SELECT xact_rollback FROM pg_stat_database WHERE datname = 'late'"
        before = Rows(url)(failures)[0]["xact_rollback"]
        # The counts and the heartbeat meet the missing tables.
        eventually(lambda: Rows(url)(failures)[0]["xact_rollback"] > before + 3)
        schema.migrate(url)

        eventually(lambda: web.deliver(item()).status_code == 200)
        rows = Rows(url)
        eventually(lambda: rows.rejections() == {("changed", "signature_absent"): 1})
        eventually(lambda: rows("SELECT name FROM processes WHERE role = 'web'"))


def test_stopping_while_postgres_is_away_is_quiet_and_quick(mortal_postgres: LocalPostgres, mortal_web: Web) -> None:
    mortal_web.client.post("/webhooks/zoho/items", content=item())
    mortal_postgres.stop()

    started = time.monotonic()
    mortal_web.stop()

    assert time.monotonic() - started < 10


def test_a_delivery_is_published_and_its_row_says_so(web: Web, rows: Rows, publisher: Publisher) -> None:
    assert web.deliver(item()).status_code == 200

    event = eventually(lambda: [event for event in rows.events() if event["state"] == "queued"])[0]
    assert event["queued_at"] is not None
    assert publisher.queue_sizes()[EVENTS_QUEUE] == 1


def test_duplicates_and_dead_events_are_not_published(web: Web, rows: Rows, publisher: Publisher) -> None:
    web.deliver(b"nonsense")
    for _ in range(3):
        web.deliver(item())
    eventually(lambda: [event["state"] for event in rows.events()] == ["dead", "queued"])

    assert publisher.queue_sizes()[EVENTS_QUEUE] == 1


def test_deliveries_of_one_instant_may_share_a_message_but_each_row_is_queued(
    web: Web, rows: Rows, publisher: Publisher
) -> None:
    with ThreadPoolExecutor(50) as senders:
        answers = list(senders.map(web.deliver, [item(str(number)) for number in range(300)]))

    assert {answer.status_code for answer in answers} == {200}
    eventually(lambda: {event["state"] for event in rows.events()} == {"queued"})
    assert 1 <= publisher.queue_sizes()[EVENTS_QUEUE] <= 300


def test_without_redis_deliveries_are_taken_quickly_and_stay_recorded(rows: Rows, serve: Serve) -> None:
    web = serve(REDIS_URL=f"redis://127.0.0.1:{_unused_port()}/0")

    started = time.monotonic()
    answers = [web.deliver(item(str(number))) for number in range(20)]

    assert {answer.status_code for answer in answers} == {200}
    assert time.monotonic() - started < 2
    web.stop()
    assert {event["state"] for event in rows.events()} == {"recorded"}
    assert {event["queued_at"] for event in rows.events()} == {None}


def test_a_redis_that_hangs_keeps_nobody_waiting(rows: Rows, serve: Serve, silent_address: str) -> None:
    web = serve(REDIS_URL=f"redis://{silent_address}/0")

    started = time.monotonic()
    answers = [web.deliver(item(str(number))) for number in range(20)]

    assert {answer.status_code for answer in answers} == {200}
    assert time.monotonic() - started < 1
    web.stop()
    assert time.monotonic() - started < 8
    assert {event["state"] for event in rows.events()} == {"recorded"}


def test_deliveries_are_published_again_when_redis_is_back(rows: Rows, serve: Serve, tmp_path: Path) -> None:
    with LocalRedis(tmp_path) as server:
        web = serve(REDIS_URL=server.url)
        server.stop()
        assert web.deliver(item("1")).status_code == 200
        server.start()
        numbers = iter(range(2, 1_000))

        def is_one_queued() -> bool:
            assert web.deliver(item(str(next(numbers)))).status_code == 200
            time.sleep(0.05)
            return bool(rows("SELECT id FROM events WHERE state = 'queued'"))

        eventually(is_one_queued)
        assert rows("SELECT state FROM events WHERE item_id = '1'") == [{"state": "recorded"}]
        with contextlib.closing(build_broker(server.url, verify_tls=True)) as broker:
            assert Publisher(broker).queue_sizes()[EVENTS_QUEUE] >= 1
        web.stop()


def test_one_row_that_postgres_refuses_fails_none_of_its_neighbours(
    mortal_postgres: LocalPostgres, redis_url: str
) -> None:
    url = mortal_postgres.create_database("strict", "mirror")
    rows = Rows(url)
    rows(f"ALTER TABLE events ADD CHECK (item_id <> '{id_of('poison')}')")
    with Web(settings(url, redis_url)) as web:
        web.deliver(item("first"))
        # While the table is locked the deliveries gather to a batch.
        with psycopg.connect(url) as connection, ThreadPoolExecutor(30) as senders:
            connection.execute("LOCK TABLE events")
            names = [f"good-{n}" if n != 13 else "poison" for n in range(30)]
            sent = {name: senders.submit(web.deliver, item(name)) for name in names}
            rows.wait_for_a_lock()
            connection.rollback()
            answers = {name: future.result() for name, future in sent.items()}
        assert {name for name, answer in answers.items() if answer.status_code != 200} == {"poison"}
        _assert_told_to_come_back(answers["poison"])
        assert len(rows.events()) == 30
    mortal_postgres.drop_database("strict")
