"""What the inbox knows of changes that a sweep had to make: evidence for their causes, and reports over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from processors.store.database import Connection, only_row
from processors.store.inbox import Kind
from processors.store.products import Cause, Changes
from processors.store.queries import Queries

_queries = Queries("drift.sql")


@dataclass(frozen=True, slots=True)
class Question:
    """Which deliveries an item's change could have come by."""

    item_id: str
    kind: Kind
    since: datetime | None
    until: datetime | None
    """The last hour in which a refused delivery may have been this one; None: now."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of them."""

    has_dead_event: bool
    has_unfinished_event: bool
    has_processed_event: bool
    has_rejections: bool
    """Something was refused at that route in that time; of whom is not known."""
    has_history: bool
    """The mirror has had the item before."""


@dataclass(frozen=True, slots=True)
class DriftCount:
    """How many changes a run made for one cause."""

    cause: Cause
    count: int
    wrong_since: datetime | None
    """The longest that one of them had been wrong."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One change that a run made."""

    id: int
    item_id: str
    name: str | None
    changed_at: datetime
    changes: Changes
    cause: Cause
    wrong_since: datetime | None
    zoho_modified_at: datetime | None
    age: timedelta | None
    """How long the row was wrong; of a tombstone, at most."""


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What a run knows of the webhooks' health."""

    any_came: bool | None
    """Since the run before it began; None: it is the first."""
    any_undelivered: bool


def evidence(connection: Connection, questions: Sequence[Question]) -> dict[str, Evidence]:
    """Return what is known of each item's deliveries."""
    if not questions:
        return {}
    rows = connection.execute(
        _queries.evidence,
        {
            "item_id": [question.item_id for question in questions],
            "kind": [question.kind for question in questions],
            "since": [question.since for question in questions],
            "until": [question.until for question in questions],
        },
    )
    return {row.pop("item_id"): Evidence(**row) for row in rows}


def excuse_late_deliveries(connection: Connection) -> int:
    """Take back the charge of having been lost from deliveries that came after all; return how many."""
    return connection.execute(_queries.excuse_late_deliveries).rowcount


def deliveries(connection: Connection, run_id: int) -> Deliveries:
    """Tell whether anything was delivered since the run before, and whether this one missed anything."""
    return Deliveries(**only_row(connection.execute(_queries.deliveries_since_run_before, {"run_id": run_id})))


def by_cause(connection: Connection, run_id: int) -> list[DriftCount]:
    """Return a run's changes by their cause, the most frequent first."""
    return [DriftCount(**row) for row in connection.execute(_queries.drift_by_cause, {"run_id": run_id})]


def repairs(connection: Connection, run_id: int, *, most: int) -> list[Repair]:
    """Return the changes that a run made, drift first; what was loaded for the first time is not among them."""
    return [Repair(**row) for row in connection.execute(_queries.repairs, {"run_id": run_id, "most": most})]
