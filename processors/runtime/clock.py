"""The clock process: a timetable. Two clocks at once share the slots between them and double nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from processors import logs
from processors.messaging.messages import Publisher
from processors.runtime.signals import Stop
from processors.settings import Settings
from processors.store import timetable
from processors.store.database import AWAY, Connection, Pool
from processors.store.timetable import Cron
from processors.workflows import operations, projecting, relay, replaying, retention

_LOOK_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0

_log = logs.get(__name__)


def _nothing() -> None:
    """Leave nothing to do for after the transaction."""


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the timetable. `run` must be safe to run again, or not at all: a clock may die right before it."""

    name: str
    every: timedelta | Cron
    run: Callable[[], object] = _nothing
    open: Callable[[Connection], object] | None = None
    """Done in the transaction that takes the slot: a clock that dies does both or neither."""


def jobs(pool: Pool, publisher: Publisher, settings: Settings) -> list[Job]:
    """Return the timetable."""
    grace = relay.CLOCK_GRACE
    return [
        Job(
            "relay-events",
            relay.CLOCK_EVERY,
            partial(relay.relay, pool, publisher.publish_events, needs_fetch=False, grace=grace),
        ),
        Job(
            "relay-fetches",
            relay.CLOCK_EVERY,
            partial(relay.relay, pool, publisher.publish_fetches, needs_fetch=True, grace=grace),
        ),
        Job(
            "reconcile-full",
            Cron(settings.reconcile_full_cron, settings.timezone),
            open=partial(operations.open_scheduled_run, kind="full"),
        ),
        Job(
            "reconcile-recent",
            Cron(settings.reconcile_recent_cron, settings.timezone),
            open=partial(operations.open_scheduled_run, kind="recent"),
        ),
        Job("reconcile-again", timedelta(seconds=5), open=operations.open_overdue_run),
        Job(
            "relay-runs",
            relay.CLOCK_EVERY,
            partial(relay.relay_runs, pool, publisher.publish_run, grace=relay.CLOCK_RUN_GRACE),
        ),
        Job(replaying.JOB, replaying.EVERY, partial(replaying.send_due, pool, publisher.publish_events)),
        Job("project-products", projecting.EVERY, partial(projecting.project_rows, pool)),
        Job("trim", timedelta(minutes=10), partial(retention.trim, pool)),
    ]


def run(pool: Pool, timetable_jobs: list[Job], stop: Stop) -> None:
    """Run each job in each of its slots that no other clock took, until `stop` is set.

    With Postgres away it goes on trying, with one warning at the beginning and one line at the end of the outage.
    """
    failures = 0
    while not stop.is_set():
        try:
            for job in timetable_jobs:
                _run_if_due(pool, job)
        except AWAY as error:
            if failures == 0:
                _log.warning("postgres.lost", error=str(error))
            failures += 1
        else:
            if failures:
                _log.info("postgres.found_again")
            failures = 0
        stop.wait(min(_LOOK_SECONDS * 2 ** min(failures, 10), _LONGEST_PAUSE_SECONDS))


def _run_if_due(pool: Pool, job: Job) -> None:
    try:
        with pool.connection() as connection, connection.transaction():
            slot = timetable.take_slot(connection, job.name, job.every)
            if slot is None:
                return
            if job.open:
                job.open(connection)
        job.run()
    except AWAY:
        raise
    except Exception:  # noqa: BLE001 - any
        # One job's fault must not stop the others; its next slot comes.
        _log.exception("job.failed", job=job.name)
