"""Dramatiq in this very process, without the master process of its command line.

Heroku sends SIGTERM to every process of a dyno, and Dramatiq's master passes its own on, so that its children get two
and take the second as an order to drop their work. One process has no such trouble, and needs half the memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta

import dramatiq

from processors.runtime.signals import Stop

logger = logging.getLogger(__name__)

# The platform kills 30 s after its SIGTERM, and this project promises 25 s; pools and logs need the rest.
SHUTDOWN_LIMIT = timedelta(seconds=20)
# Of that, what Dramatiq's own once-a-second looks at its flags may take after the last actor ended.
_CONSUMERS_LIMIT = timedelta(seconds=2)
_WATCH_SECONDS = 0.25


class WorkerThreadDied(RuntimeError):
    """A thread of the worker ended by itself; the process should end too, and be started again."""


def run_worker(
    broker: dramatiq.Broker,
    *,
    threads: Mapping[str, int],
    stop: Stop,
    shutdown_limit: timedelta = SHUTDOWN_LIMIT,
) -> None:
    """Work until `stop` says so; then let running actors finish, and return.

    Import the actors first. `threads` says how many work on each queue; those of one queue never wait for those of
    another. Actors that are still running after `shutdown_limit` are abandoned: their messages are delivered again, to
    another worker after 15 s. Redis may be away at any time, also at the start. Call it once per broker.

    Raises:
        WorkerThreadDied: after an orderly stop.
    """
    undeclared = threads.keys() - broker.get_declared_queues()
    if undeclared:
        raise RuntimeError(f"no actor is declared for {', '.join(sorted(undeclared))}: import the actors first")
    broker.emit_after("process_boot")  # Dramatiq's command line would do it; it starts TimeLimit
    workers = [dramatiq.Worker(broker, queues={queue}, worker_threads=count) for queue, count in threads.items()]
    with _several_workers_expected(broker):
        for worker in workers:
            worker.start()
    logger.info("worker started: threads %s", ", ".join(f"{queue} {count}" for queue, count in threads.items()))
    dead: list[str] = []
    while not dead and not stop.wait(_WATCH_SECONDS):
        dead = _dead_threads(workers)
    _stop(workers, shutdown_limit)
    broker.close()
    if dead:
        raise WorkerThreadDied(", ".join(dead))


def _dead_threads(workers: list[dramatiq.Worker]) -> list[str]:
    # An actor's time limit can strike just after the actor ended, and then takes the thread with it (Dramatiq issue
    # 445). Unnoticed, the worker would go on with fewer threads, and in the end with none.
    threads = (thread for worker in workers for thread in (*worker.workers, *worker.consumers.values()))
    return [thread.name for thread in threads if not thread.is_alive()]


def _stop(workers: list[dramatiq.Worker], limit: timedelta) -> None:
    deadline = time.monotonic() + limit.total_seconds()
    actors_ms = int(max(limit - _CONSUMERS_LIMIT, timedelta()).total_seconds() * 1000)
    # Both at once, each in a thread that may be left behind: `Worker.stop` applies its time-out to actors and consumers
    # in turn, and talks to Redis after that.
    stopping = [threading.Thread(target=worker.stop, args=(actors_ms,), daemon=True) for worker in workers]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join(max(0.0, deadline - time.monotonic()))
    working = sum(thread.is_alive() for worker in workers for thread in worker.workers)
    if working:
        logger.warning("%d threads still work after %.0f s, abandoning them", working, limit.total_seconds())
    else:
        logger.info("worker stopped")


@contextlib.contextmanager
def _several_workers_expected(broker: dramatiq.Broker) -> Iterator[None]:
    """Keep the broker from warning that another worker on it "may have unexpected results".

    What they share is harmless: the worker's id in Redis, whose heartbeat both send, and the middleware.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return "middleware of the same type twice" not in record.getMessage()

    broker.logger.addFilter(is_news)
    try:
        yield
    finally:
        broker.logger.removeFilter(is_news)
