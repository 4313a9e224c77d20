"""The long-running processes `worker` and `clock`: what they open, what runs beside, and how they end."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from random import uniform

import dramatiq

from processors import logs, sentry
from processors.messaging.broker import broker_for
from processors.messaging.messages import EVENTS_QUEUE, FETCHES_QUEUE, RUNS_QUEUE, Publisher
from processors.runtime import clock, worker
from processors.runtime.signals import StopSignal
from processors.settings import Settings
from processors.store import database, timetable
from processors.store.database import AWAY, Pool
from processors.workflows import item_events, relay
from processors.workflows.alerting import EVERY, Alerting
from processors.workflows.item_events import Workshop
from processors.workflows.paging import Pace
from processors.workflows.reconciliation import Reconciler
from processors.zoho import limiter
from processors.zoho.client import ZohoClient

# A run of each kind may be under way.
THREADS = {EVENTS_QUEUE: 4, FETCHES_QUEUE: 2, RUNS_QUEUE: 2}
# One for each thread, one for whoever refreshes a token (he notes its call apart from the transaction that holds the
# lock), and one that the relays, the heartbeat, the alerts and the threads that read pages ahead take in turn. Together
# with web's seven and the clock's two that is one less than the smallest plans give.
_WORKER_CONNECTIONS = sum(THREADS.values()) + 2
_CLOCK_CONNECTIONS = 2
# What a platform gives is 30 s; this project promises 25.
_EXIT_WITHIN = timedelta(seconds=24)
# A worker's own relay hands over to itself, in its relay's thread; what takes longer is left to the clock's messages.
_FETCHES_AT_ONCE = 20

_log = logs.get(__name__)


def run_worker(settings: Settings) -> None:
    """Apply events until a signal comes; `settings` name a database and a Redis."""
    sentry.start(settings, process="worker")
    stop = StopSignal(exit_within=_EXIT_WITHIN)
    # Before the actors are imported: they attach themselves to the broker of the process.
    broker = broker_for(settings)
    dramatiq.set_broker(broker)
    from processors.runtime import actors  # noqa: PLC0415
    from processors.runtime.actors import Tools  # noqa: PLC0415

    with _pool(settings, size=_WORKER_CONNECTIONS, name="worker") as pool, ZohoClient(pool, settings) as zoho:
        name = timetable.process_name("worker")
        workshop = Workshop(pool, zoho, Publisher(broker), name, settings.zoho_organization_id)
        reconciler = build_reconciler(pool, zoho, settings, name, is_stopping=stop.is_set)
        actors.provide(Tools(workshop, reconciler))
        relays = [
            partial(relay.relay, pool, partial(item_events.apply_events, workshop), needs_fetch=False),
            partial(
                relay.relay,
                pool,
                partial(item_events.fetch_items, workshop),
                needs_fetch=True,
                most=_FETCHES_AT_ONCE,
            ),
        ]
        # A run takes minutes: handed over to its own thread, where Redis has no part in it.
        beside: list[Callable[[], object]] = [
            *(partial(run_relay, grace=relay.WORKER_GRACE) for run_relay in relays),
            partial(relay.relay_runs, pool, reconciler.work, grace=relay.WORKER_GRACE),
            Alerting(pool, settings).look_if_due,
        ]
        with _beating(pool, name, "worker"), repeating(beside, relay.WORKER_EVERY.total_seconds()):
            _log.info("process.started", worker=name)
            # What was imported stays: the garbage collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            worker.run_worker(broker, threads=THREADS, stop=stop)
        _log.info("process.stopped", worker=name)


def run_clock(settings: Settings) -> None:
    """Run the timetable until a signal comes; `settings` name a database and a Redis."""
    sentry.start(settings, process="clock")
    stop = StopSignal(exit_within=_EXIT_WITHIN)
    publisher = Publisher(broker_for(settings))
    with _pool(settings, size=_CLOCK_CONNECTIONS, name="clock") as pool:
        name = timetable.process_name("clock")
        # Beside: whoever is told of something may answer slowly, and the timetable must not wait for that.
        alerts = repeating([Alerting(pool, settings).look_if_due], EVERY.total_seconds())
        with _beating(pool, name, "clock"), alerts:
            _log.info("process.started", clock=name)
            clock.run(pool, clock.jobs(pool, publisher, settings), stop)
        _log.info("process.stopped", clock=name)


def build_reconciler(
    pool: Pool, zoho: ZohoClient, settings: Settings, name: str, *, is_stopping: Callable[[], bool]
) -> Reconciler:
    """Return what works on runs in this process, which is called `name`."""
    pace = Pace(
        calls_per_minute=limiter.for_sweeps(settings.zoho_requests_per_minute),
        calls_at_once=max(1, settings.zoho_concurrent_requests - 1),
    )
    return Reconciler(pool, zoho, name, pace, settings.delete_guard_percent, is_stopping)


@contextlib.contextmanager
def _pool(settings: Settings, *, size: int, name: str) -> Iterator[Pool]:
    pool = database.sync_pool(settings.database_url or "", size=size, name=name)
    pool.open(wait=False)
    try:
        yield pool
    finally:
        pool.close(timeout=2)


@contextlib.contextmanager
def _beating(pool: Pool, name: str, role: str) -> Iterator[None]:
    """Say every few seconds that this process is alive, and at the end that it left."""

    def beat() -> None:
        with pool.connection() as connection:
            timetable.beat(connection, name, role)

    with repeating([beat], timetable.BEAT_EVERY.total_seconds()):
        yield
    with contextlib.suppress(*AWAY), pool.connection(timeout=1) as connection:
        timetable.leave(connection, name)


@contextlib.contextmanager
def repeating(works: Sequence[Callable[[], object]], every_seconds: float) -> Iterator[None]:
    """Run each of `works` in a thread of its own, again and again until the block ends."""
    stop = threading.Event()

    def repeat(work: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                work()
            except AWAY as error:
                _log.debug("postgres.lost", error=str(error))
            except Exception:  # noqa: BLE001 - the next round may go better
                _log.exception("work.failed")
            # Jitter keeps many processes from doing it in step.
            stop.wait(every_seconds * uniform(0.8, 1.2))  # noqa: S311 - no secret depends on it

    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=3)
