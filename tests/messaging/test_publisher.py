"""Work is sent by name, and a Redis that is away is never waited for twice."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dramatiq.brokers.redis import RedisBroker

from processors.errors import PublishFailed
from processors.messaging import messages
from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from processors.runtime.local import LocalRedis

TIME_OUT_SECONDS = 0.5  # instead of the client's own, for tests that sit it out


@pytest.fixture
def short_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be asked for before the broker."""
    monkeypatch.setattr("processors.messaging.redis.SOCKET_TIMEOUT_SECONDS", TIME_OUT_SECONDS)


def take(broker: RedisBroker, queue: str) -> Any:
    """The first message of a queue."""
    return next(broker.consume(queue, prefetch=1, timeout=1000))


@pytest.mark.parametrize(
    ("publish", "queue", "actor"),
    [
        (Publisher.publish_events, "events", "apply_events"),
        (Publisher.publish_fetches, "fetches", "fetch_items"),
    ],
)
def test_one_message_carries_all_ids(
    broker: RedisBroker, publisher: Publisher, publish: Callable[..., None], queue: str, actor: str
) -> None:
    publish(publisher, (3, 1, 2))
    message = take(broker, queue)
    assert (message.actor_name, message.args, message.kwargs) == (actor, ([3, 1, 2],), {})
    assert publisher.queue_sizes() == {"events": 0, "fetches": 0, "runs": 0}


def test_no_ids_make_no_message(publisher: Publisher) -> None:
    publisher.publish_events([])
    publisher.publish_fetches([])
    assert publisher.queue_sizes() == {"events": 0, "fetches": 0, "runs": 0}


def test_sizes_count_what_no_worker_has_taken(broker: RedisBroker, publisher: Publisher) -> None:
    for number in range(3):
        publisher.publish_events([number])
    publisher.publish_fetches([1])
    take(broker, "events")
    assert publisher.queue_sizes() == {"events": 2, "fetches": 1, "runs": 0}


def test_a_redis_that_is_away_fails_the_publisher_at_once(publisher: Publisher, server: LocalRedis) -> None:
    server.stop()
    began = time.monotonic()
    with pytest.raises(PublishFailed):
        publisher.publish_events([1])
    with pytest.raises(PublishFailed):
        publisher.queue_sizes()
    assert time.monotonic() - began < 1


@pytest.mark.usefixtures("short_time_out")
def test_many_callers_share_one_wait_for_a_hung_redis(publisher: Publisher, server: LocalRedis) -> None:
    with hung(server):
        with pytest.raises(PublishFailed):
            publisher.publish_events([1])
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(PublishFailed):
                publisher.publish_events([1])
        assert time.monotonic() - began < TIME_OUT_SECONDS


@pytest.mark.usefixtures("short_time_out")
def test_first_callers_do_not_queue_up_behind_each_other(server: LocalRedis) -> None:
    """A new process publishes for the first time while Redis hangs: all wait, but at the same time."""
    publisher = Publisher(build_broker(server.url, verify_tls=True))
    callers = 8
    together = threading.Barrier(callers)

    def publish(number: int) -> bool:
        together.wait()
        try:
            publisher.publish_events([number])
        except PublishFailed:
            return False
        return True

    with hung(server), ThreadPoolExecutor(callers) as threads:
        began = time.monotonic()
        assert not any(threads.map(publish, range(callers)))
        assert time.monotonic() - began < TIME_OUT_SECONDS * callers / 2


def test_while_one_caller_tries_again_the_others_are_turned_away(
    broker: RedisBroker, publisher: Publisher, server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_REST_SECONDS", 0.0)
    server.stop()
    with pytest.raises(PublishFailed):
        publisher.publish_events([1])
    trying, answered = threading.Event(), threading.Event()

    def slow_enqueue(_: object) -> None:
        trying.set()
        assert answered.wait(10)

    monkeypatch.setattr(broker, "enqueue", slow_enqueue)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(publisher.publish_events, [1])
        assert trying.wait(10)
        with pytest.raises(PublishFailed, match="left alone"):
            publisher.publish_events([2])
        answered.set()
        first.result()
    publisher.publish_events([3])


def test_publishing_resumes_when_redis_is_back(
    publisher: Publisher, server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_REST_SECONDS", 0.05)
    server.stop()
    with pytest.raises(PublishFailed):
        publisher.publish_events([1])
    server.start()
    time.sleep(0.06)  # the rest that was set above
    publisher.publish_events([1])
    publisher.publish_events([2])
    assert publisher.queue_sizes()["events"] == 2


def test_a_full_redis_fails_the_publisher(broker: RedisBroker, publisher: Publisher) -> None:
    broker.client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(PublishFailed, match="maxmemory"):
            publisher.publish_events([1])
    finally:
        broker.client.config_set("maxmemory", "0")


@contextlib.contextmanager
def hung(server: LocalRedis) -> Iterator[None]:
    """Keep Redis from answering, with its port open."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)
