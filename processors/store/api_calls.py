"""The `api_calls` and `api_gate` tables: every call to Zoho's API is admitted here, whichever process makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

Purpose = Literal["item", "sweep"]

Verdict = Literal["good", "gone", "refused", "unusable", "installation", "quota", "unauthorised"]
"""What an answer says; `processors.zoho.answers` tells which is which."""

Cause = Literal["quota", "installation", "unusable"]
"""Why the breaker is open."""

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
    closed_by: Cause | None
    """Why the breaker is open, if it is that."""
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the quota's windows hold now."""

    minute: int
    day: int
    closed_for: timedelta
    closed_because: str | None


@dataclass(frozen=True, slots=True)
class Breaker:
    """The breaker while it is open, or waits for the one call that finds out whether the cause is over."""

    cause: Cause
    reason: str
    since: datetime
    age: timedelta
    closed_for: timedelta
    organization_id: str | None
    """Of the connection that Zoho refuses."""
    organizations: str | None
    """Which ones that connection reaches, in words."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What other calls say of a refusal."""

    is_its_own: bool
    """The same was refused before, and Zoho gave something else since."""
    is_second: bool
    """Something was refused before, and nothing was given since."""
    is_of_others: bool
    """And that was something else."""


def admit(
    connection: Connection,
    purpose: Purpose,
    limits: Limits,
    run_id: int | None = None,
    *,
    by: str | None = None,
    is_persons: bool = False,
) -> Admission:
    """Start a call if the gate, the minute, the day and the concurrency let it, in one round trip.

    `by` names the connection whose token it goes by; `is_persons`: somebody wants to know now, unless it is the quota.
    """
    cursor = connection.execute(
        _queries.admit,
        {
            "purpose": purpose,
            "run_id": run_id,
            "per_minute": limits.per_minute,
            "per_day": limits.per_day,
            "concurrent": limits.concurrent,
            "longest": LONGEST_CALL,
            "connection": by,
            "is_persons": is_persons,
        },
    )
    row = only_row(cursor)
    return Admission(row["id"], row["cause"], row["closed_by"], row["retry_after"])


def finish(
    connection: Connection,
    call_id: int,
    *,
    status: int | None,
    code: int | None,
    verdict: Verdict | None = None,
    about: Sequence[str] | None = None,
    opens: Sequence[Cause] = (),
) -> bool:
    """Note the answer of a call; tell whether it ends what the breaker is open for, which must be one of `opens`."""
    cursor = connection.execute(
        _queries.finish,
        {
            "id": call_id,
            "status": status,
            "code": code,
            "verdict": verdict,
            "about": None if about is None else list(about),
            "opens": list(opens),
        },
    )
    return cursor.rowcount > 0


@dataclass(frozen=True, slots=True)
class Closing:
    """Why the breaker opens, and for how long."""

    cause: Cause
    reason: str
    wait: timedelta
    """What the first strike costs; each further one costs twice as much, at most `longest_wait`."""
    longest_wait: timedelta
    told: timedelta | None = None
    """A Retry-After."""
    until_midnight: bool = False
    connection: str | None = None
    """The connection that was refused, where another one may not be."""
    organization_id: str | None = None


def close_gate(connection: Connection, call_id: int, closing: Closing) -> timedelta:
    """Let no process call for a while because of this call's answer, and return for how long."""
    with connection.transaction():
        connection.execute(_queries.lock_gate)
        cursor = connection.execute(_queries.close_gate, {"call_id": call_id, **asdict(closing)})
    closed_for: timedelta = only_row(cursor)["closed_for"]
    return closed_for


def claim_organizations(connection: Connection) -> bool:
    """Tell whether it is this process that should ask which organisations the refused connection reaches."""
    return connection.execute(_queries.claim_organizations).fetchone() is not None


def keep_organizations(connection: Connection, organizations: str) -> None:
    """Keep the answer until the breaker closes again."""
    connection.execute(_queries.keep_organizations, {"organizations": organizations})


def unusable_in_a_row(connection: Connection, *, most: int) -> int:
    """Return how many of the latest answers, at most so many, could not be read; less than `most`: not all of them."""
    count: int = only_row(connection.execute(_queries.unusable_in_a_row, {"most": most}))["count"]
    return count


def standing(connection: Connection, call_id: int, about: Sequence[str]) -> Standing:
    """Return what other calls say of this call's refusal."""
    return Standing(**only_row(connection.execute(_queries.standing, {"call_id": call_id, "about": list(about)})))


def live_item(connection: Connection, *, besides: Sequence[str]) -> str | None:
    """Return an item of the mirror that Zoho did not refuse lately; None: there is none."""
    row = connection.execute(_queries.live_item, {"about": list(besides)}).fetchone()
    return row and str(row["zoho_item_id"])


def breaker(connection: Connection) -> Breaker | None:
    """Return the breaker if it is open."""
    row = connection.execute(_queries.breaker).fetchone()
    return Breaker(**row) if row else None


def usage(connection: Connection) -> Usage:
    """Return the use of the minute and the day, and the state of the gate."""
    return Usage(**only_row(connection.execute(_queries.usage)))


def forget_old(connection: Connection) -> None:
    """Remove calls that no window holds any more."""
    connection.execute(_queries.forget_old_calls)
