"""The `events` table: record, claim, settle, fail, hand over again.

An event is worked on under a lease: `claimable_at` lies in the future while a worker has it, and `attempts`, counted
up by each claim, fences that worker's writes. A worker that was frozen past its lease finds its number outdated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from processors.errors import MustWait
from processors.store.database import AsyncConnection, Connection, Row, encode_json
from processors.store.products import CONTENT_COLUMNS, Changes, Current, Product, Source, current_from_row
from processors.store.queries import Queries

Kind = Literal["changed", "deleted"]

DUPLICATE_WINDOW = timedelta(minutes=10)
"""How long after its event succeeded the same body still counts as a copy."""

# Keys of pg_advisory_xact_lock; any numbers that no other program of this database uses.
# A row that is created and an item that is found gone without a row lock nothing in common: this lock is what they
# share. Many rows may be created at once; an absence is noted alone.
_ABSENCE_LOCK = 7_267_002

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
    body: bytes
    content_type: str
    query_string: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one event came to; without an outcome it goes on as one that needs a fetch, for `reason`."""

    event: Event
    outcome: str | None
    reason: str | None = None
    warnings: Sequence[str] = ()


@dataclass(slots=True)
class ItemDecision:
    """All that is to be written for one item, against the version it was decided upon."""

    item_id: str
    current: Current
    product: Product | None = None
    """The row to write; None leaves the row as it is."""
    changes: list[tuple[Source, int, Changes]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


async def record(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> list[Recorded]:
    """Commit deliveries to the inbox, in one statement where none is a copy; answers come in the same order.

    Raises:
        psycopg.Error: nothing is known to be recorded; recording the same deliveries again is safe.
    """
    wanted = {delivery.fingerprint: delivery for delivery in deliveries}
    found: dict[bytes, Row] = {}
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
        found |= {fingerprint: row for fingerprint, row in standing.items() if fingerprint not in found}
    answers = []
    for delivery in deliveries:
        row = found[delivery.fingerprint]
        is_first = delivery.fingerprint in fresh
        fresh.discard(delivery.fingerprint)
        answers.append(Recorded(event_id=row["id"], state=row["state"] if is_first else "duplicate"))
    return answers


async def _insert(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> dict[bytes, Row]:
    parameters = {
        "kind": [delivery.kind for delivery in deliveries],
        "item_id": [delivery.item_id for delivery in deliveries],
        "is_dated": [delivery.is_dated for delivery in deliveries],
        "error_class": ["BodyUnreadable" if delivery.unreadable else None for delivery in deliveries],
        "error": [delivery.unreadable for delivery in deliveries],
        "body": [delivery.body for delivery in deliveries],
        "content_type": [delivery.content_type for delivery in deliveries],
        "query_string": [delivery.query_string for delivery in deliveries],
        "fingerprint": [delivery.fingerprint for delivery in deliveries],
    }
    return await _by_fingerprint(connection, _queries.record_events, parameters)


async def _revive(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> dict[bytes, Row]:
    parameters = {
        "fingerprint": [delivery.fingerprint for delivery in deliveries],
        "item_id": [delivery.item_id for delivery in deliveries],
        "content_type": [delivery.content_type for delivery in deliveries],
        "query_string": [delivery.query_string for delivery in deliveries],
    }
    return await _by_fingerprint(connection, _queries.revive_dead_events, parameters)


async def _by_fingerprint(connection: AsyncConnection, statement: str, parameters: Row) -> dict[bytes, Row]:
    cursor = await connection.execute(statement, parameters)
    return {bytes(row["fingerprint"]): row for row in await cursor.fetchall()}


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
    return [(_event(row), current_from_row(row)) for row in cursor.fetchall()]


def _event(row: Row) -> Event:
    return Event(
        id=row["id"],
        kind=row["kind"],
        item_id=row["item_id"],
        received_at=row["received_at"],
        attempt=row["attempts"],
        failures=row["failures"],
        body=bytes(row["body"]),
        content_type=row["content_type"],
        query_string=bytes(row["query_string"]),
    )


def find_fetch_siblings(connection: Connection, event_id: int) -> list[int]:
    """Return the unfinished events of the same item that need a fetch, this one included."""
    return [row["id"] for row in connection.execute(_queries.find_fetch_siblings, {"event_id": event_id})]


def read_current(connection: Connection, item_ids: Iterable[str]) -> dict[str, Current]:
    """Return what is known of each item now."""
    cursor = connection.execute(_queries.read_current, {"item_ids": list(item_ids)})
    return {row["item_id"]: current_from_row(row) for row in cursor.fetchall()}


def settle(connection: Connection, decisions: Sequence[ItemDecision]) -> set[int]:
    """Write decisions, each item wholly or not at all, and return the ids of the events that were settled.

    An event that is missing from the answer has to be decided anew, on what is known then.

    Raises:
        psycopg.DataError: a value does not fit its column; nothing was written.
    """
    products = [decision.product for decision in decisions]
    verdicts = [(decision.item_id, verdict) for decision in decisions for verdict in decision.verdicts]
    changes = [(decision.item_id, *change) for decision in decisions for change in decision.changes]
    parameters: Row = {
        "item_id": [decision.item_id for decision in decisions],
        "revision": [decision.current.revision for decision in decisions],
        "absences": [decision.current.absences for decision in decisions],
        "writes": [product is not None for product in products],
        "zoho_last_modified_at": [product and product.zoho_last_modified_at for product in products],
        "deleted_at": [product and product.deleted_at for product in products],
        "raw": [product and encode_json(product.raw).decode() for product in products],
        "older_keys": [product and _written_times(product) for product in products],
        "event_id": [verdict.event.id for _, verdict in verdicts],
        "attempt": [verdict.event.attempt for _, verdict in verdicts],
        "event_item_id": [item_id for item_id, _ in verdicts],
        "outcome": [verdict.outcome for _, verdict in verdicts],
        "reason": [verdict.reason for _, verdict in verdicts],
        "warnings": [encode_json(list(verdict.warnings)).decode() for _, verdict in verdicts],
        "change_item_id": [item_id for item_id, _, _, _ in changes],
        "change_source": [source for _, source, _, _ in changes],
        "change_event_id": [event_id for _, _, event_id, _ in changes],
        "change_changes": [encode_json(change).decode() for _, _, _, change in changes],
    }
    for column in CONTENT_COLUMNS:
        parameters[column] = [product and getattr(product.content, column) for product in products]
    lock = _absence_lock(decisions)
    if lock is None:
        cursor = connection.execute(_queries.settle, parameters)
    else:
        # One round trip: the lock comes first so that the statement after it sees what its holders committed.
        with connection.pipeline(), connection.transaction():
            connection.execute(lock, (_ABSENCE_LOCK,))
            cursor = connection.execute(_queries.settle, parameters)
    return {row["id"] for row in cursor.fetchall()}


def _absence_lock(decisions: Sequence[ItemDecision]) -> str | None:
    without_row = [decision for decision in decisions if decision.current.revision == 0]
    if any(decision.product is None for decision in without_row):
        return "SELECT pg_advisory_xact_lock(%s)"
    return "SELECT pg_advisory_xact_lock_shared(%s)" if without_row else None


def _written_times(product: Product) -> str:
    return encode_json({key: int(at.timestamp()) for key, at in product.older_keys.items()}).decode()


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
            "error": str(error) or type(error).__name__,
        },
    ).fetchone()
    return row and row["state"]


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
