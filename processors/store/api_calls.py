"""The `api_calls` and `api_gate` tables: every call to Zoho's API is admitted here, whichever process makes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

Purpose = Literal["item", "sweep"]

LONGEST_CALL = timedelta(seconds=60)
"""A call that was not finished after this long belongs to a process that died."""

_queries = Queries("api_calls.sql")


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls one purpose may see used, by all purposes together, before it has to wait."""

    per_minute: int
    per_day: int
    concurrent: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Either an admitted call, or how long to wait and why."""

    call_id: int | None
    cause: str | None
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the quota's windows hold now."""

    minute: int
    day: int
    closed_for: timedelta
    closed_because: str | None


def admit(connection: Connection, purpose: Purpose, limits: Limits, run_id: int | None = None) -> Admission:
    """Start a call if the gate, the minute, the day and the concurrency let it, in one round trip."""
    # What is sent in one pipeline is one transaction, without BEGIN and COMMIT.
    with connection.pipeline():
        connection.execute(_queries.stand_in_line)
        cursor = connection.execute(
            _queries.admit,
            {
                "purpose": purpose,
                "run_id": run_id,
                "per_minute": limits.per_minute,
                "per_day": limits.per_day,
                "concurrent": limits.concurrent,
                "longest": LONGEST_CALL,
            },
        )
    row = only_row(cursor)
    return Admission(call_id=row["id"], cause=row["cause"], retry_after=row["retry_after"])


def finish(connection: Connection, call_id: int, *, status: int | None, code: int | None, good: bool) -> None:
    """Note the answer of a call; a good one closes the account of former strikes."""
    connection.execute(_queries.finish, {"id": call_id, "status": status, "code": code, "good": good})


def close_gate(
    connection: Connection,
    call_id: int,
    reason: str,
    *,
    wait: timedelta,
    longest_wait: timedelta,
    told: timedelta | None,
    until_midnight: bool,
) -> timedelta:
    """Let no process call for a while because of this call's answer, and return for how long.

    `told` is a Retry-After.
    """
    with connection.transaction():
        connection.execute(_queries.stand_in_line)
        cursor = connection.execute(
            _queries.close_gate,
            {
                "call_id": call_id,
                "reason": reason,
                "wait": wait,
                "longest_wait": longest_wait,
                "told": told,
                "until_midnight": until_midnight,
            },
        )
    closed_for: timedelta = only_row(cursor)["closed_for"]
    return closed_for


def usage(connection: Connection) -> Usage:
    """Return the use of the minute and the day, and the state of the gate."""
    return Usage(**only_row(connection.execute(_queries.usage)))


def forget_old(connection: Connection) -> None:
    """Remove calls that no window holds any more."""
    connection.execute(_queries.forget_old_calls)
