"""A message wakes a worker at once, and Redis may come and go."""

from __future__ import annotations

import logging
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis
from dramatiq import Consumer
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed

from processors.messaging.broker import build_broker
from processors.messaging.consumer import BlockingConsumer, differences
from processors.messaging.messages import EVENTS_QUEUE, Publisher
from processors.runtime.local import LocalRedis

RunningWorker = Callable[..., AbstractContextManager[RedisBroker]]
PATIENCE = 10.0  # seconds until a test gives up; far more than anything here takes


class Inbox:
    """An actor's body that hands every list of ids to the test."""

    def __init__(self) -> None:
        self.received: queue.Queue[tuple[list[int], float]] = queue.Queue()

    def __call__(self, event_ids: list[int]) -> None:
        """Receive, with the time."""
        self.received.put((event_ids, time.monotonic()))

    def next(self) -> list[int]:
        """Wait for the next list."""
        return self.received.get(timeout=PATIENCE)[0]


def take(consumer: Consumer) -> Any:
    """Ask a consumer until it has a message."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        message = next(consumer)
        if message is not None:
            return message
    pytest.fail("no message came")


def unacknowledged(broker: RedisBroker) -> int:
    """How many messages Redis holds, waiting or taken."""
    held: int = broker.client.hlen(f"{broker.namespace}:{EVENTS_QUEUE}.msgs")
    return held


def failing(error: type[redis.RedisError]) -> Callable[..., Any]:
    """A call to Redis that fails."""

    def call(*_: object) -> None:
        raise error("away")

    return call


def test_dramatiqs_private_consumer_is_the_one_known_here() -> None:
    """When a new Dramatiq fails here, read its brokers/redis.py and worker.py before touching the expectation."""
    assert differences(_RedisConsumer) == []
    assert isinstance(RedisBroker.consumer_class, property)
    assert "_max_unpack_size_val" in vars(RedisBroker)


def test_a_changed_consumer_is_noticed() -> None:
    class Renamed(_RedisConsumer):
        def requeue(self, items: Any) -> None: ...

    class WithoutCache(_RedisConsumer):
        def __init__(self, broker: Any, queue_name: Any, prefetch: Any, timeout: Any) -> None:
            super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
            del self.message_cache

        outstanding_message_count = 0

    assert differences(Renamed) == ["requeue(self, messages)"]
    assert differences(WithoutCache) == ["message_cache = []"]


def test_a_message_reaches_an_idle_worker_long_before_it_would_poll(
    running_worker: RunningWorker, publisher: Publisher
) -> None:
    """Dramatiq's own consumer takes half a second on average."""
    inbox = Inbox()
    delays = []
    with running_worker(inbox):
        publisher.publish_events([0])
        inbox.next()
        for number in range(1, 6):
            time.sleep(0.2)  # idle is what is tested: long enough for a polling consumer to have fallen asleep
            published_at = time.monotonic()
            publisher.publish_events([number])
            _, received_at = inbox.received.get(timeout=PATIENCE)
            delays.append(received_at - published_at)
    assert statistics.median(delays) < 0.1


def test_messages_keep_their_order(broker: RedisBroker, publisher: Publisher) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=8, timeout=1000)
    for number in range(20):
        publisher.publish_events([number])
    for number in range(20):
        message = take(consumer)
        assert message.args == ([number],)
        consumer.ack(message)
    assert unacknowledged(broker) == 0


def test_being_woken_takes_nothing_and_changes_no_order(
    broker: RedisBroker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that come while a consumer sleeps wake it; then it fetches them like any others."""
    consumer = broker.consume(EVENTS_QUEUE, prefetch=8, timeout=1000)

    def fetch_nothing(*_: object) -> list[bytes]:
        publisher.publish_events([1])
        publisher.publish_events([2])
        return []

    with monkeypatch.context() as too_early:
        too_early.setattr(broker, "do_fetch", fetch_nothing)
        assert next(consumer) is None
    assert publisher.queue_sizes()[EVENTS_QUEUE] == 2
    assert [take(consumer).args, take(consumer).args] == [([1],), ([2],)]


def test_a_full_consumer_goes_on_as_soon_as_a_message_is_settled(broker: RedisBroker, publisher: Publisher) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=1, timeout=60_000)
    publisher.publish_events([1])
    publisher.publish_events([2])
    first = take(consumer)
    seconds: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=lambda: seconds.put(take(consumer)), daemon=True).start()
    with pytest.raises(queue.Empty):
        seconds.get(timeout=0.2)
    consumer.ack(first)
    assert seconds.get(timeout=PATIENCE).args == ([2],)


def test_a_consumer_survives_a_restart_of_redis(broker: RedisBroker, publisher: Publisher, server: LocalRedis) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=1000)
    publisher.publish_events([1])
    lost = take(consumer)
    server.restart(immediate=True)
    publisher.publish_events([2])
    assert take(consumer).args == ([2],)
    consumer.ack(lost)
    assert unacknowledged(broker) == 1


def test_a_consumer_survives_a_flush_of_redis(broker: RedisBroker, publisher: Publisher) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=1000)
    publisher.publish_events([1])
    lost = take(consumer)
    broker.client.flushall()
    broker.client.script_flush()
    publisher.publish_events([2])
    assert take(consumer).args == ([2],)
    consumer.ack(lost)
    assert unacknowledged(broker) == 1


def test_an_id_whose_message_was_flushed_is_passed_over(broker: RedisBroker, publisher: Publisher) -> None:
    broker.client.rpush(f"{broker.namespace}:{EVENTS_QUEUE}", "an id without a message")
    publisher.publish_events([7])
    assert take(broker.consume(EVENTS_QUEUE, prefetch=4, timeout=1000)).args == ([7],)


def test_a_worker_survives_an_outage_and_logs_it_once(
    running_worker: RunningWorker, publisher: Publisher, server: LocalRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """Four consumers notice it, each several times."""
    caplog.set_level(logging.INFO)
    inbox = Inbox()
    with running_worker(inbox):
        publisher.publish_events([1])
        inbox.next()
        server.kill()
        time.sleep(1.0)  # the length of the outage, in which each consumer tries several times
        server.start()
        publisher.publish_events([2])
        inbox.next()
    complaints = [record for record in caplog.records if record.levelno > logging.INFO]
    assert [record.name for record in complaints] == ["processors.messaging.consumer"]
    assert sum("Redis is back" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("error", [redis.ConnectionError, redis.TimeoutError])
@pytest.mark.parametrize("verdict", ["ack", "nack"])
def test_a_verdict_that_met_an_outage_is_delivered_after_it(
    broker: RedisBroker,
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    error: type[redis.RedisError],
) -> None:
    """Dramatiq's own consumer holds the thread for the one error, and drops the verdict for the other."""
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=100)
    publisher.publish_events([1])
    message = take(consumer)
    with monkeypatch.context() as outage:
        outage.setattr(broker, f"do_{verdict}", failing(error))
        getattr(consumer, verdict)(message)
        assert next(consumer) is None
    assert unacknowledged(broker) == 1
    publisher.publish_events([2])
    assert take(consumer).args == ([2],)
    assert unacknowledged(broker) == 1


@pytest.mark.parametrize("error", [redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError])
def test_an_outage_is_no_message_and_no_error(
    broker: RedisBroker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, error: type[redis.RedisError]
) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=100)
    publisher.publish_events([1])
    with monkeypatch.context() as outage:
        outage.setattr(broker, "do_fetch", failing(error))
        assert next(consumer) is None
    assert take(consumer).args == ([1],)


def test_giving_messages_back_in_an_outage_raises_what_dramatiq_expects(
    broker: RedisBroker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=100)
    publisher.publish_events([1])
    message = take(consumer)
    monkeypatch.setattr(broker, "do_requeue", failing(redis.ConnectionError))
    with pytest.raises(ConnectionClosed):
        consumer.requeue([message])


def test_without_blmove_the_worker_polls(
    broker: RedisBroker, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=1000)
    broker.client.acl_setuser("default", enabled=True, commands=["-blmove"])
    try:
        assert next(consumer) is None
        assert next(consumer) is None
        publisher.publish_events([1])
        assert take(consumer).args == ([1],)
    finally:
        broker.client.acl_setuser("default", enabled=True, commands=["+blmove"])
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_with_an_unknown_dramatiq_the_broker_keeps_its_consumer(
    server: LocalRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "processors.messaging.consumer", None)
    broker = build_broker(server.url, verify_tls=True)
    consumer = broker.consume(EVENTS_QUEUE, prefetch=4, timeout=1000)
    Publisher(broker).publish_events([1])
    assert type(consumer) is _RedisConsumer
    assert not isinstance(consumer, BlockingConsumer)
    assert take(consumer).args == ([1],)
    assert "poll Redis" in caplog.text
