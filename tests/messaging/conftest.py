"""One embedded Redis for these tests, empty before each, and a worker that runs inside the test."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from processors.messaging.broker import build_broker
from processors.messaging.messages import APPLY_EVENTS, EVENTS_QUEUE, FETCH_ITEMS, FETCHES_QUEUE, Publisher
from processors.runtime.local import LocalRedis
from processors.runtime.worker import run_worker


@pytest.fixture(scope="package")
def redis_server() -> Iterator[LocalRedis]:
    """A Redis that a test may stop, kill or restart; the next test finds it running."""
    with LocalRedis() as server:
        yield server


@pytest.fixture
def server(redis_server: LocalRedis) -> LocalRedis:
    """The same Redis, running and empty."""
    redis_server.start()
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def broker(server: LocalRedis) -> Iterator[RedisBroker]:
    """A broker as every process builds it."""
    broker = build_broker(server.url, verify_tls=True)
    yield broker
    broker.close()


@pytest.fixture
def publisher(broker: RedisBroker) -> Publisher:
    """What the web process sends with."""
    return Publisher(broker)


@pytest.fixture
def running_worker(server: LocalRedis) -> Callable[..., contextlib.AbstractContextManager[RedisBroker]]:
    """Start a worker in a thread of the test, with a function of the test as the actor for events."""

    @contextlib.contextmanager
    def run(apply_events: Callable[[list[int]], None], *, threads: int = 1) -> Iterator[RedisBroker]:
        broker = build_broker(server.url, verify_tls=True)

        def fetch_items(event_ids: list[int]) -> None:
            logging.getLogger(__name__).debug("fetch %s", event_ids)

        dramatiq.actor(actor_name=APPLY_EVENTS, queue_name=EVENTS_QUEUE, broker=broker)(apply_events)
        dramatiq.actor(actor_name=FETCH_ITEMS, queue_name=FETCHES_QUEUE, broker=broker)(fetch_items)
        stop = threading.Event()
        worker = threading.Thread(
            target=run_worker,
            args=(broker,),
            kwargs={"threads": {EVENTS_QUEUE: threads, FETCHES_QUEUE: 1}, "stop": stop},
        )
        worker.start()
        try:
            yield broker
        finally:
            stop.set()
            worker.join()

    return run
