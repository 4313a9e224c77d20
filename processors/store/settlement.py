"""Writes decisions on items: the row, its history and the verdicts on its events, together or not at all.

A decision names the revision of the row that it was made upon. Where the row has moved on since, nothing of that item
is written, and the caller decides anew on what is known then: so nobody has to hold a lock while he decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from processors import field_table
from processors.store.database import Connection, Row, encode_json
from processors.store.inbox import Event
from processors.store.products import Change, Current, Product, current_from_row, differences, written_times
from processors.store.queries import Queries

# A key of pg_advisory_xact_lock; any number that no other program of this database uses.
# A row that is created and an item that is found gone without a row lock nothing in common: this lock is what they
# share. Many rows may be created at once; an absence is noted alone. The statement takes it itself: no transaction is
# open between two round trips, so that a worker that is frozen or cut off holds nothing.
_ABSENCE_LOCK = 7_267_002

_queries = Queries("settlement.sql")


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
    changes: list[Change] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    digest: bytes | None = None
    """Of what Zoho's list says, where the row is to say the same."""

    @property
    def written(self) -> Product | None:
        """The row to write: as decided, or the projection of a row that another version of the fields projected."""
        return self.product or (self.current.product if self.current.stored else None)

    def all_changes(self) -> Iterator[Change]:
        """Yield what changes: first by the other version of the fields, then by what was decided."""
        if self.current.stored and self.current.product:
            changes = differences(self.current.stored, self.current.product)
            if changes:
                yield Change("release", changes, self.current.product.zoho_last_modified_at)
        yield from self.changes


def read_current(connection: Connection, item_ids: Iterable[str]) -> dict[str, Current]:
    """Return what is known of each item now."""
    cursor = connection.execute(_queries.read_current, {"item_ids": list(item_ids)})
    return {row["item_id"]: current_from_row(row) for row in cursor.fetchall()}


def settle(connection: Connection, decisions: Sequence[ItemDecision]) -> set[str]:
    """Write decisions, each item wholly or not at all, and return the ids of the items that were settled.

    An item that is missing from the answer has to be decided anew, on what is known then.

    Raises:
        psycopg.DataError: a value does not fit its column; nothing was written.
    """
    products = [decision.written for decision in decisions]
    verdicts = [(decision.item_id, verdict) for decision in decisions for verdict in decision.verdicts]
    changes = [(decision.item_id, change) for decision in decisions for change in decision.all_changes()]
    parameters: Row = {
        "item_id": [decision.item_id for decision in decisions],
        "revision": [decision.current.revision for decision in decisions],
        "absences": [decision.current.absences for decision in decisions],
        "writes": [product is not None for product in products],
        "zoho_last_modified_at": [product and product.zoho_last_modified_at for product in products],
        "deleted_at": [product and product.deleted_at for product in products],
        "altered_at": [product and product.altered_at for product in products],
        "is_listed": [product is not None and product.is_listed for product in products],
        "raw": [product and encode_json(product.raw).decode() for product in products],
        "older_keys": [product and encode_json(written_times(product)).decode() for product in products],
        "digest": [decision.digest for decision in decisions],
        "event_id": [verdict.event.id for _, verdict in verdicts],
        "attempt": [verdict.event.attempt for _, verdict in verdicts],
        "event_item_id": [item_id for item_id, _ in verdicts],
        "outcome": [verdict.outcome for _, verdict in verdicts],
        "reason": [verdict.reason for _, verdict in verdicts],
        "warnings": [encode_json(list(verdict.warnings)).decode() for _, verdict in verdicts],
        "change_item_id": [item_id for item_id, _ in changes],
        "change_source": [change.source for _, change in changes],
        "change_event_id": [change.event_id for _, change in changes],
        "change_run_id": [change.run_id for _, change in changes],
        "change_changes": [encode_json(change.changes).decode() for _, change in changes],
        "change_modified_at": [change.zoho_modified_at for _, change in changes],
        "change_cause": [change.cause for _, change in changes],
        "change_wrong_since": [change.wrong_since for _, change in changes],
    }
    for column in field_table.COLUMNS:
        parameters[column] = [product and getattr(product.content, column) for product in products]
    parameters["fields_version"] = field_table.VERSION
    parameters["lock_key"], parameters["lock"] = _ABSENCE_LOCK, _absence_lock(decisions)
    return {row["item_id"] for row in connection.execute(_queries.settle, parameters)}


def _absence_lock(decisions: Sequence[ItemDecision]) -> Literal["none", "shared", "exclusive"]:
    without_row = [decision for decision in decisions if decision.current.revision == 0]
    if any(decision.product is None for decision in without_row):
        return "exclusive"
    return "shared" if without_row else "none"
