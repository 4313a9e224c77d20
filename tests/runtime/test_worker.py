"""The worker process ends in order, whatever it is in the middle of."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Interrupt, Middleware
from dramatiq.threading import raise_thread_exception

from processors.messaging.broker import build_broker
from processors.messaging.messages import APPLY_EVENTS, EVENTS_QUEUE, FETCH_ITEMS, FETCHES_QUEUE, Publisher
from processors.runtime.local import LocalRedis
from processors.runtime.worker import WorkerThreadDied, run_worker

PROJECT = Path(__file__).parents[2]
PATIENCE = 15  # seconds until a test gives up


@pytest.fixture
def server() -> Iterator[LocalRedis]:
    """An empty Redis."""
    with LocalRedis() as server:
        yield server


@pytest.fixture
def broker(server: LocalRedis) -> Iterator[RedisBroker]:
    """A broker as every process builds it."""
    broker = build_broker(server.url, verify_tls=True)
    yield broker
    broker.close()


@pytest.fixture
def test_client(server: LocalRedis) -> Iterator[redis.Redis]:
    """What the test and the actors of `worker_process.py` talk through."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


class WorkerProcess:
    """The program beside this file, running."""

    def __init__(self, url: str, *, shutdown_limit_seconds: float = 10) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.worker_process", url, str(shutdown_limit_seconds)],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []

    def wait_until_it_says(self, words: str) -> None:
        """Read its log until these words come."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if words in line:
                return
        pytest.fail(f"it never said {words!r}, but: {''.join(self.log)}")

    def end(self) -> tuple[int, str]:
        """Wait for its end; return exit code and log."""
        _, rest = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, "".join(self.log) + rest


@contextlib.contextmanager
def worker_process(url: str, *, shutdown_limit_seconds: float = 10) -> Iterator[WorkerProcess]:
    """Run the worker; whatever the test did, it is gone afterwards."""
    worker = WorkerProcess(url, shutdown_limit_seconds=shutdown_limit_seconds)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.communicate()


@pytest.mark.parametrize(
    "further_signals",
    [[], [signal.SIGTERM, signal.SIGINT]],
    ids=["SIGTERM once", "again from a process manager and a keyboard"],
)
def test_running_actors_finish_and_nothing_is_lost(
    server: LocalRedis, broker: RedisBroker, test_client: redis.Redis, further_signals: list[signal.Signals]
) -> None:
    """Two actors run and a third message waits in the worker's memory when the process is told to end.

    The third may still be begun, if one of the two ends in the very moment of the signal.
    """
    publisher = Publisher(broker)
    with worker_process(server.url) as worker:
        for number in range(3):
            publisher.publish_events([number])
        assert test_client.blpop(["begun"], PATIENCE)
        assert test_client.blpop(["begun"], PATIENCE)
        worker.process.terminate()
        worker.wait_until_it_says("Shutting down")
        for further in further_signals:
            worker.process.send_signal(further)
        test_client.rpush("release:events", "one", "two", "three")
        exit_code, log = worker.end()
    assert (exit_code, "Traceback" in log) == (0, False), log
    done, waiting = test_client.llen("done"), publisher.queue_sizes()["events"]
    assert (done, waiting) in {(2, 1), (3, 0)}
    assert test_client.hlen(f"{broker.namespace}:events.msgs") == waiting


def test_an_actor_that_never_ends_is_abandoned_at_the_limit(
    server: LocalRedis, broker: RedisBroker, test_client: redis.Redis
) -> None:
    """Its message stays in Redis, where another worker finds it once this one's heartbeat is old."""
    with worker_process(server.url, shutdown_limit_seconds=3.5) as worker:
        Publisher(broker).publish_events([1])
        assert test_client.blpop(["begun"], PATIENCE)
        worker.process.terminate()
        exit_code, log = worker.end()
    assert (exit_code, "1 threads still work" in log) == (0, True), log
    assert test_client.hlen(f"{broker.namespace}:events.msgs") == 1


def test_fetches_never_hold_up_events(server: LocalRedis, broker: RedisBroker, test_client: redis.Redis) -> None:
    publisher = Publisher(broker)
    with worker_process(server.url) as worker:
        for number in range(5):
            publisher.publish_fetches([number])
        assert test_client.blpop(["begun"], PATIENCE) == ("begun", "fetches")
        test_client.rpush("release:events", "at once")
        publisher.publish_events([9])
        assert test_client.blpop(["done"], PATIENCE) == ("done", "events")
        assert test_client.lrange("begun", 0, -1) == ["events"], "more than one fetch was begun by one fetch thread"
        worker.process.kill()


def test_a_worker_waits_for_a_redis_that_is_away_at_its_start(server: LocalRedis, broker: RedisBroker) -> None:
    server.stop()
    with worker_process(server.url) as worker:
        worker.wait_until_it_says("Redis is away")
        server.start()
        worker.wait_until_it_says("Redis is back")
        with redis.Redis.from_url(server.url) as client:
            Publisher(broker).publish_events([1])
            assert client.blpop(["begun"], PATIENCE)
            client.rpush("release:events", "at once")
            assert client.blpop(["done"], PATIENCE)
        worker.process.terminate()
        assert worker.end()[0] == 0


def test_a_worker_stops_in_order_while_redis_is_away(server: LocalRedis) -> None:
    with worker_process(server.url) as worker:
        worker.wait_until_it_says("worker started")
        server.stop()
        worker.wait_until_it_says("Redis is away")
        worker.process.terminate()
        exit_code, log = worker.end()
    assert (exit_code, "worker stopped" in log, "Traceback" in log) == (0, True, False), log


def declare_actors(broker: RedisBroker, actor: Callable[[list[int]], None]) -> None:
    """Declare both actors with the same body."""
    dramatiq.actor(actor_name=APPLY_EVENTS, queue_name=EVENTS_QUEUE, broker=broker)(actor)
    dramatiq.actor(actor_name=FETCH_ITEMS, queue_name=FETCHES_QUEUE, broker=broker)(actor)


def test_a_worker_without_actors_says_what_is_missing(broker: RedisBroker) -> None:
    with pytest.raises(RuntimeError, match="events, fetches: import the actors first"):
        run_worker(broker, threads={EVENTS_QUEUE: 1, FETCHES_QUEUE: 1}, stop=threading.Event())


def test_middleware_learns_of_the_process_before_it_learns_of_work(broker: RedisBroker) -> None:
    """Resources that actors share are opened in `after_process_boot`."""
    seen: list[str] = []

    class Resources(Middleware):
        def after_process_boot(self, _broker: dramatiq.Broker) -> None:
            seen.append("process")

        def before_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
            seen.append("worker")

    declare_actors(broker, lambda _: None)
    broker.add_middleware(Resources())
    stop = threading.Event()
    stop.set()
    run_worker(broker, threads={EVENTS_QUEUE: 1, FETCHES_QUEUE: 1}, stop=stop)
    assert seen == ["process", "worker", "worker"]


# The interrupted thread dies with a traceback, as it would in a worker; pytest reports that as a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_lost_a_thread_ends(broker: RedisBroker) -> None:
    """A time limit that strikes between two actors takes the thread with it."""
    booted: list[int] = []

    class Threads(Middleware):
        def after_worker_thread_boot(self, _broker: dramatiq.Broker, thread: threading.Thread) -> None:
            assert thread.ident is not None
            booted.append(thread.ident)
            if len(booted) == 1:
                raise_thread_exception(thread.ident, Interrupt)  # type: ignore[no-untyped-call]

    declare_actors(broker, lambda _: None)
    broker.add_middleware(Threads())
    with pytest.raises(WorkerThreadDied):
        run_worker(broker, threads={EVENTS_QUEUE: 2, FETCHES_QUEUE: 1}, stop=threading.Event())
