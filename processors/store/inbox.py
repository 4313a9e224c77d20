"""The `events` table: record, claim, fail, hand over again.

An event is worked on under a lease: `claimable_at` lies in the future while a worker has it, and `attempts`, counted
up by each claim, fences that worker's writes. A worker that was frozen past its lease finds its number outdated.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from psycopg.rows import tuple_row

from processors import redaction
from processors.errors import MustWait
from processors.store.database import AsyncConnection, Connection, Row
from processors.store.products import Current, current_from_row
from processors.store.queries import Queries

Kind = Literal["changed", "deleted"]

DUPLICATE_WINDOW = timedelta(minutes=10)
"""How long after its event succeeded the same body still counts as a copy."""

# A path of this machine says nothing to whoever reads it on another.
_ROOT = f"{Path(__file__).parents[2]}/"

_queries = Queries("inbox.sql")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request from Zoho, verified, on its way into the inbox."""

    kind: Kind
    item_id: str | None
    body: bytes
    content_type: str
    query_string: bytes
    fingerprint: bytes
    is_dated: bool = True
    """The body says when the item was modified; without that, two changes may have the same body."""
    unreadable: str | None = None
    """Why no item was found in the body; the event is then dead from the start."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a delivery."""

    event_id: int
    state: str
    """`recorded`, `dead` (unreadable) or `duplicate`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One claimed event."""

    id: int
    kind: Kind
    item_id: str
    received_at: datetime
    attempt: int
    failures: int
    replay_id: int | None
    """The replay that sent it, if it was one."""
    body: bytes
    content_type: str
    query_string: bytes


async def record(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> list[Recorded]:
    """Commit deliveries to the inbox, in one statement where none is a copy; answers come in the same order.

    Raises:
        psycopg.Error: nothing is known to be recorded; recording the same deliveries again is safe.
    """
    wanted = {delivery.fingerprint: delivery for delivery in deliveries}
    found: dict[bytes, Recorded] = {}
    fresh: set[bytes] = set()
    # A copy's first event may be finished, released or trimmed between two statements: then the next round inserts.
    for _round in range(5):
        left = [delivery for fingerprint, delivery in wanted.items() if fingerprint not in found]
        if not left:
            break
        inserted = await _insert(connection, left)
        found |= inserted
        fresh |= inserted.keys()
        copies = [delivery for delivery in left if delivery.fingerprint not in found]
        if not copies:
            break
        revived = await _revive(connection, [delivery for delivery in copies if delivery.unreadable is None])
        found |= revived
        fresh |= revived.keys()
        fingerprints = {"fingerprints": [delivery.fingerprint for delivery in copies]}
        await connection.execute(_queries.release_fingerprints, {**fingerprints, "duplicate_window": DUPLICATE_WINDOW})
        standing = await _by_fingerprint(connection, _queries.find_fingerprints, fingerprints)
        found |= {fingerprint: event for fingerprint, event in standing.items() if fingerprint not in found}
    answers = []
    for delivery in deliveries:
        event = found[delivery.fingerprint]
        answers.append(event if delivery.fingerprint in fresh else replace(event, state="duplicate"))
        fresh.discard(delivery.fingerprint)
    return answers


async def _insert(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> dict[bytes, Recorded]:
    parameters = {
        "kind": [delivery.kind for delivery in deliveries],
        "item_id": [delivery.item_id for delivery in deliveries],
        "is_dated": [delivery.is_dated for delivery in deliveries],
        "error": [delivery.unreadable for delivery in deliveries],
        "body": [delivery.body for delivery in deliveries],
        "content_type": [delivery.content_type for delivery in deliveries],
        "query_string": [delivery.query_string for delivery in deliveries],
        "fingerprint": [delivery.fingerprint for delivery in deliveries],
    }
    return await _by_fingerprint(connection, _queries.record_events, parameters)


async def _revive(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> dict[bytes, Recorded]:
    parameters = {
        "fingerprint": [delivery.fingerprint for delivery in deliveries],
        "item_id": [delivery.item_id for delivery in deliveries],
        "is_dated": [delivery.is_dated for delivery in deliveries],
        "body": [delivery.body for delivery in deliveries],
        "content_type": [delivery.content_type for delivery in deliveries],
        "query_string": [delivery.query_string for delivery in deliveries],
    }
    return await _by_fingerprint(connection, _queries.revive_dead_events, parameters)


async def _by_fingerprint(connection: AsyncConnection, statement: str, parameters: Row) -> dict[bytes, Recorded]:
    # Rows as tuples: dicts of them would be a fortieth of what a delivery costs.
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(statement, parameters)
    return {bytes(fingerprint): Recorded(event_id, state) for event_id, fingerprint, state in await cursor.fetchall()}


async def mark_queued(connection: AsyncConnection, event_ids: Sequence[int]) -> None:
    """Note that Redis has these ids."""
    await connection.execute(_queries.mark_queued, {"event_ids": list(event_ids)})


def claim(
    connection: Connection,
    event_ids: Sequence[int],
    *,
    worker: str,
    lease: timedelta,
    needs_fetch: bool = False,
    suspects: bool = False,
    most: int | None = None,
    others: int = 0,
) -> list[tuple[Event, Current]]:
    """Take those of `event_ids` that may be taken now, at most `most`, and up to `others` more that wait.

    Committed when it returns, so that a worker that dies is found out by its lapsed lease.
    """
    cursor = connection.execute(
        _queries.claim_events,
        {
            "event_ids": list(event_ids),
            "worker": worker,
            "lease": lease,
            "needs_fetch": needs_fetch,
            "suspects": suspects,
            "most": most,
            "others": others,
        },
    )
    return [(event_from_row(row), current_from_row(row)) for row in cursor.fetchall()]


def event_from_row(row: Row) -> Event:
    """Return the event that a row holds; one whose body could not be read has the item id ""."""
    return Event(
        id=row["id"],
        kind=row["kind"],
        item_id=row["item_id"] or "",
        received_at=row["received_at"],
        attempt=row["attempts"],
        failures=row["failures"],
        replay_id=row["replay_id"],
        body=bytes(row["body"]),
        content_type=row["content_type"],
        query_string=bytes(row["query_string"]),
    )


def renew_leases(connection: Connection, events: Sequence[Event], lease: timedelta) -> bool:
    """Keep claimed events for another lease; False: none of them is ours any more."""
    parameters = {
        "event_id": [event.id for event in events],
        "attempt": [event.attempt for event in events],
        "lease": lease,
    }
    return connection.execute(_queries.renew_leases, parameters).rowcount > 0


def hand_back(connection: Connection, events: Sequence[Event], *, wait: timedelta) -> int:
    """Let go of claimed events, to be taken again after `wait`; no failure is counted. Return how many were ours."""
    parameters = {
        "event_id": [event.id for event in events],
        "attempt": [event.attempt for event in events],
        "wait": wait,
    }
    return connection.execute(_queries.hand_back, parameters).rowcount


def find_fetch_siblings(connection: Connection, event_id: int) -> list[int]:
    """Return the unfinished events of the same item that need a fetch, this one included."""
    return [row["id"] for row in connection.execute(_queries.find_fetch_siblings, {"event_id": event_id})]


def fail(
    connection: Connection, event: Event, error: BaseException, *, retry_in: timedelta | None, counts: bool
) -> str | None:
    """Put an event off for `retry_in`, or give it up where that is None; return its new state.

    `counts` tells whether this was a failure or only a wait. None is returned when the lease was lost meanwhile.
    """
    row = connection.execute(
        _queries.fail_event,
        {
            "event_id": event.id,
            "attempt": event.attempt,
            "retry_in": retry_in,
            "counts": int(counts),
            "error_class": type(error).__name__,
            "error": redaction.redact(str(error)) or type(error).__name__,
            "error_at": _last_line(error),
        },
    ).fetchone()
    return row and row["state"]


def _last_line(error: BaseException) -> str | None:
    """Return where an error was raised: the traceback's last line, without the source."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    return f"{frames[-1].filename.removeprefix(_ROOT)}, line {frames[-1].lineno}, in {frames[-1].name}"


def put_off(connection: Connection, event_ids: Sequence[int], reason: MustWait) -> int:
    """Let unclaimed events that need a fetch wait for `reason`, and return how many did."""
    cursor = connection.execute(
        _queries.put_off,
        {
            "event_ids": list(event_ids),
            "wait": reason.retry_after,
            "error_class": type(reason).__name__,
            "error": str(reason),
        },
    )
    return cursor.rowcount


def hurry_fetches(connection: Connection, error_classes: Sequence[str]) -> None:
    """Let events that wait for what these errors say be taken now: it is over."""
    connection.execute(_queries.hurry_fetches, {"error_classes": list(error_classes)})


def take_due(
    connection: Connection, *, needs_fetch: bool, grace: timedelta, patience: timedelta, most: int
) -> list[int]:
    """Mark as queued, and return, what is overdue by `grace` and was not handed over within `patience`."""
    rows = connection.execute(
        _queries.take_due, {"needs_fetch": needs_fetch, "grace": grace, "patience": patience, "most": most}
    ).fetchall()
    return sorted(row["id"] for row in rows)


def give_back(connection: Connection, event_ids: Sequence[int]) -> None:
    """Undo `take_due`."""
    connection.execute(_queries.give_back, {"event_ids": list(event_ids)})
