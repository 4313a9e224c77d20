"""Trims what no window and no operator needs any more: finished events, their bodies first. Never a dead one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from processors import logs
from processors.store import api_calls, audit, retention, shapes, timetable
from processors.store.database import Connection, Pool

BODIES_KEPT = timedelta(days=30)
"""A finished event can be replayed, and its body read, for so long."""

EVENTS_KEPT = timedelta(days=180)
"""An item's timeline goes back so far. What says that an item is gone is kept for good: changes are judged by it."""

FAILED_SIGN_INS_KEPT = timedelta(days=90)
"""The audit log is kept for good, but for what strangers write into it."""

# In one statement; what is left after so many rounds waits for the next slot: nothing else has to wait for long.
_MOST = 5_000
_MOST_ROUNDS = 20

_log = logs.get(__name__)


def trim(pool: Pool) -> None:
    """Remove old calls, processes that were killed long ago, and what of the inbox nobody needs any more."""
    with pool.connection() as connection:
        api_calls.forget_old(connection)
        timetable.forget_silent_processes(connection)
        shapes.trim(connection)
        audit.forget_failed_sign_ins(connection, older_than=FAILED_SIGN_INS_KEPT)
        audit.forget_unknown_names(connection)
        bodies = _repeated(retention.trim_bodies, connection, BODIES_KEPT)
        events = _repeated(retention.trim_events, connection, EVENTS_KEPT)
    if bodies or events:
        _log.info("events.trimmed", bodies=bodies, events=events)


def _repeated(trim_some: Callable[..., int], connection: Connection, older_than: timedelta) -> int:
    """Trim portion by portion until little is left, or the slot has done its share."""
    total = 0
    for _round in range(_MOST_ROUNDS):
        count = trim_some(connection, older_than=older_than, most=_MOST)
        total += count
        if count < _MOST:
            break
    return total
