"""Hands work over again: recorded but never queued, message lost, lease lapsed, or next try come.

It runs in every clock, which publishes, and, more patiently, in every worker, which hands over to itself: so neither a
flushed or absent Redis nor an absent clock keeps an event waiting for more than seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from processors import logs
from processors.errors import PublishFailed
from processors.store import inbox, runs
from processors.store.database import Pool

CLOCK_EVERY = timedelta(seconds=2)
WORKER_EVERY = timedelta(seconds=5)

# How long an event may be overdue before the relay steps in: its own message is usually on the way.
CLOCK_GRACE = timedelta(seconds=2)
WORKER_GRACE = timedelta(seconds=5)
# Of a run it was said from when on it may be taken up; only the worker's relay gives the clock's message some time.
CLOCK_RUN_GRACE = timedelta()

# A message handed over is believed to be in Redis for so long.
_PATIENCE = timedelta(seconds=10)
_MOST = 4_000
_IDS_PER_MESSAGE = 200

_log = logs.get(__name__)


def relay(
    pool: Pool,
    hand_over: Callable[[Sequence[int]], None],
    *,
    needs_fetch: bool,
    grace: timedelta,
    most: int = _MOST,
) -> int:
    """Hand over the events that are overdue by `grace`, in portions, and return how many.

    `needs_fetch` chooses between those that only a call to Zoho can settle and all others. Any number of relays may
    run at once.

    Raises:
        psycopg.OperationalError: Postgres is away; what was not handed over is due again soon.
    """
    with pool.connection() as connection:
        due = inbox.take_due(connection, needs_fetch=needs_fetch, grace=grace, patience=_PATIENCE, most=most)
    handed_over = 0
    try:
        for start in range(0, len(due), _IDS_PER_MESSAGE):
            portion = due[start : start + _IDS_PER_MESSAGE]
            hand_over(portion)
            handed_over += len(portion)
    except PublishFailed as error:
        _log.warning("events.not_relayed", count=len(due) - handed_over, needs_fetch=needs_fetch, error=str(error))
        with pool.connection() as connection:
            inbox.give_back(connection, due[handed_over:])
    if handed_over:
        _log.info("events.relayed", count=handed_over, needs_fetch=needs_fetch)
    return handed_over


def relay_runs(pool: Pool, hand_over: Callable[[int], None], *, grace: timedelta) -> int:
    """Hand over the reconciliation runs that nobody has worked on for `grace`, and return how many.

    Raises:
        psycopg.OperationalError: Postgres is away; they are due again soon.
    """
    with pool.connection() as connection:
        due = runs.take_due(connection, grace=grace, patience=_PATIENCE)
    for position, run_id in enumerate(due):
        try:
            hand_over(run_id)
        except PublishFailed as error:
            _log.warning("runs.not_relayed", run_ids=due[position:], error=str(error))
            with pool.connection() as connection:
                runs.give_back(connection, due[position:])
            return position
    return len(due)
