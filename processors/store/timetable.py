"""The `jobs` and `processes` tables: which slot of a job was taken, and which processes are alive."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from processors.store.database import AsyncConnection, Connection, only_row
from processors.store.queries import Queries

BEAT_EVERY = timedelta(seconds=5)
SILENT_AFTER = timedelta(seconds=20)
"""A process that has not been heard of for so long is taken for dead."""

_queries = Queries("timetable.sql")


@dataclass(frozen=True, slots=True)
class Cron:
    """Slots by a cron expression of five fields, in a time zone."""

    expression: str
    zone: ZoneInfo

    def latest(self, now: datetime) -> datetime:
        """Return the newest slot that is not after `now`."""
        # Backwards, the iteration begins before the time it is given.
        # Added in UTC: in the hour that comes twice, a local time forgets which of the two it is in.
        just_after = now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        return next(CronSim(self.expression, just_after.astimezone(self.zone), reverse=True))


def process_name(role: str) -> str:
    """Return a name for this process that no other has, here or on another machine, now or later."""
    return f"{role}:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def take_slot(connection: Connection, job: str, every: timedelta | Cron) -> datetime | None:
    """Return the job's newest slot if it was nobody's yet, else None; in a transaction, it is taken with its commit."""
    if isinstance(every, Cron):
        now = only_row(connection.execute(_queries.tell_time))["now"]
        cursor = connection.execute(_queries.take_this_slot, {"name": job, "slot": every.latest(now)})
    else:
        cursor = connection.execute(_queries.take_slot, {"name": job, "every_seconds": every.total_seconds()})
    row = cursor.fetchone()
    return row and row["slot"]


def beat(connection: Connection, name: str, role: str) -> None:
    """Note that a process is alive."""
    connection.execute(_queries.beat, {"name": name, "role": role})


async def beat_async(connection: AsyncConnection, name: str, role: str) -> None:
    """Note that a process is alive."""
    await connection.execute(_queries.beat, {"name": name, "role": role})


async def leave_async(connection: AsyncConnection, name: str) -> None:
    """Note that a process ended in order."""
    await connection.execute(_queries.leave, {"name": name})


def leave(connection: Connection, name: str) -> None:
    """Note that a process ended in order."""
    connection.execute(_queries.leave, {"name": name})


def forget_silent_processes(connection: Connection) -> None:
    """Remove processes that were killed long ago."""
    connection.execute(_queries.forget_silent_processes)


@dataclass(frozen=True, slots=True)
class Alive:
    """The processes of one role."""

    count: int
    beat_at: datetime
    """The last sign of life of the one that gave it first."""


def alive(connection: Connection) -> dict[str, Alive]:
    """Return the processes that are alive, by role."""
    rows = connection.execute(_queries.alive, {"within": SILENT_AFTER})
    return {row.pop("role"): Alive(**row) for row in rows}
