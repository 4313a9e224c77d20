"""A worker as its own process, with actors that do what the test tells them through Redis.

    python -m tests.runtime.worker_process REDIS_URL SHUTDOWN_LIMIT_SECONDS

Each actor pushes its queue's name to the list `begun`, waits for something in `release:QUEUE`, then pushes to `done`.
"""

from __future__ import annotations

import logging
import sys
from datetime import timedelta

import dramatiq
import redis

from processors.messaging.broker import build_broker
from processors.messaging.messages import APPLY_EVENTS, EVENTS_QUEUE, FETCH_ITEMS, FETCHES_QUEUE
from processors.runtime.signals import StopSignal
from processors.runtime.worker import run_worker


def main(url: str, shutdown_limit_seconds: str) -> None:
    """Work until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    broker = build_broker(url, verify_tls=True)
    test = redis.Redis.from_url(url, socket_timeout=None)

    def work(queue: str) -> None:
        test.rpush("begun", queue)
        test.blpop([f"release:{queue}"])
        test.rpush("done", queue)

    def apply_events(_: list[int]) -> None:
        work(EVENTS_QUEUE)

    def fetch_items(_: list[int]) -> None:
        work(FETCHES_QUEUE)

    dramatiq.actor(actor_name=APPLY_EVENTS, queue_name=EVENTS_QUEUE, broker=broker)(apply_events)
    dramatiq.actor(actor_name=FETCH_ITEMS, queue_name=FETCHES_QUEUE, broker=broker)(fetch_items)
    limit = timedelta(seconds=float(shutdown_limit_seconds))
    run_worker(broker, threads={EVENTS_QUEUE: 2, FETCHES_QUEUE: 1}, stop=StopSignal(), shutdown_limit=limit)


if __name__ == "__main__":
    main(*sys.argv[1:])
