"""Why a sweep had to make a change: pure judgement on what is known of the item's deliveries.

What Zoho sent and lost on the way leaves no trace here, so a cause is the likeliest that the evidence allows, never a
certainty; `schema.sql` lists the causes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from processors import field_table
from processors.store.drift import Evidence, Question
from processors.store.products import Cause, Change, Changes, Current, Product
from processors.store.runs import Run

# Zoho's clock and ours may differ by so much.
_SKEW = timedelta(minutes=1)
# A delivery belongs to a change for so long; refusals are counted by the hour.
_REFUSED_WITHIN = timedelta(hours=1)

IN_WORDS: Final[Mapping[Cause, str]] = {
    "first_load": "loaded for the first time",
    "during_run": "changed in Zoho during the run",
    "delivery_late": "its delivery came after the run",
    "altered_here": "altered here, by something other than the mirror",
    "event_dead": "delivered, but its event is dead",
    "event_unfinished": "delivered, not worked on yet",
    "delivery_incomplete": "delivered without these fields",
    "delivery_rejected": "deliveries were rejected at that time",
    "stock_only": "stock moved, which Zoho does not report",
    "no_delivery": "no delivery was seen",
}
"""The causes, as people read them."""


@dataclass(frozen=True, slots=True)
class Miss:
    """A change that a run makes to one item."""

    item_id: str
    current: Current
    product: Product
    changes: Changes
    digest: bytes | None = None
    """Of what the list says, where the product is to say the same."""

    @property
    def is_deletion(self) -> bool:
        """The row becomes a tombstone."""
        return self.product.deleted_at is not None

    @property
    def is_altered(self) -> bool:
        """Something other than the mirror wrote the row."""
        return self.current.product is not None and self.current.product.altered_at is not None

    @property
    def modified_at(self) -> datetime | None:
        """When Zoho says that it happened; a deletion carries no time."""
        return None if self.is_deletion else self.product.zoho_last_modified_at


def question(run: Run, miss: Miss) -> Question | None:
    """Return what has to be known of the deliveries to judge, or None where they do not matter."""
    if _cause_without_evidence(run, miss):
        return None
    if miss.is_deletion or miss.modified_at is None:
        return Question(miss.item_id, "deleted" if miss.is_deletion else "changed", run.known_since, None)
    return Question(miss.item_id, "changed", miss.modified_at - _SKEW, miss.modified_at + _REFUSED_WITHIN)


def change(run: Run, miss: Miss, evidence: Evidence | None) -> Change:
    """Return the change with its cause."""
    made = Change(run.kind, miss.changes, miss.modified_at, run_id=run.id)
    known = _cause_without_evidence(run, miss)
    if known == "first_load":
        return replace(made, cause=known)
    if known == "altered_here":
        assert miss.current.product is not None, "only a row can have been altered"
        return replace(made, cause=known, wrong_since=miss.current.product.altered_at)
    cause = known or _judge(miss, evidence)
    # When an item was deleted, or its row removed, is not known: the last complete run still had it.
    is_undated = miss.is_deletion or cause == "altered_here"
    return replace(made, cause=cause, wrong_since=run.known_since if is_undated else miss.modified_at)


def _cause_without_evidence(run: Run, miss: Miss) -> Cause | None:
    if miss.is_altered:
        return "altered_here"
    if miss.current.product is None and run.known_since is None:
        return "first_load"
    if miss.modified_at is not None and miss.modified_at >= run.started_at:
        return "during_run"
    return None


def _judge(miss: Miss, evidence: Evidence | None) -> Cause:
    if evidence is None:
        return "no_delivery"
    if miss.current.product is None and evidence.has_history:
        # The mirror removes no row.
        return "altered_here"
    if evidence.has_dead_event:
        return "event_dead"
    if evidence.has_unfinished_event:
        return "event_unfinished"
    if miss.changes and miss.changes.keys() <= field_table.STOCK_COLUMNS:
        return "stock_only"
    if evidence.has_processed_event and not miss.is_deletion:
        return "delivery_incomplete"
    return "delivery_rejected" if evidence.has_rejections else "no_delivery"
