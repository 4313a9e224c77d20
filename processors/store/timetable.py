"""The `jobs` and `processes` tables: which slot of a job was taken, and which processes are alive."""

from __future__ import annotations

import os
import secrets
import socket
from datetime import datetime, timedelta

from processors.store.database import AsyncConnection, Connection
from processors.store.queries import Queries

BEAT_EVERY = timedelta(seconds=5)
SILENT_AFTER = timedelta(seconds=20)
"""A process that has not been heard of for so long is taken for dead."""

_queries = Queries("timetable.sql")


def process_name(role: str) -> str:
    """Return a name for this process that no other has, here or on another machine, now or later."""
    return f"{role}:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def take_slot(connection: Connection, job: str, every: timedelta) -> datetime | None:
    """Return the job's newest slot if it was nobody's yet, else None; in a transaction, it is taken with its commit."""
    parameters = {"name": job, "every_seconds": every.total_seconds()}
    row = connection.execute(_queries.take_slot, parameters).fetchone()
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


def alive(connection: Connection) -> dict[str, int]:
    """Return how many processes of each role are alive."""
    rows = connection.execute(_queries.alive, {"within": SILENT_AFTER})
    return {row["role"]: row["count"] for row in rows}
