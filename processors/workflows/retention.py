"""Trims what no window and no operator needs any more. Events are kept."""

from __future__ import annotations

from processors.store import api_calls, timetable
from processors.store.database import Pool


def trim(pool: Pool) -> None:
    """Remove old calls and processes that were killed long ago."""
    with pool.connection() as connection:
        api_calls.forget_old(connection)
        timetable.forget_silent_processes(connection)
