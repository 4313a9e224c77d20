"""The `products` table, and `product_changes` beside it: what a row holds and how two states of it differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from processors import field_table
from processors.field_table import Content
from processors.store.database import Row

Source = Literal["webhook", "full", "recent", "replay", "fetch", "release"]
Changes = dict[str, tuple[Any, Any]]

Cause = Literal[
    "first_load",
    "during_run",
    "delivery_late",
    "altered_here",
    "event_dead",
    "event_unfinished",
    "delivery_incomplete",
    "delivery_rejected",
    "stock_only",
    "no_delivery",
]
"""Why a sweep had to make a change; `schema.sql` says what each means."""

NOT_DRIFT: frozenset[Cause] = frozenset({"first_load", "during_run", "delivery_late"})
"""Causes for which nothing is to be blamed: no webhook could have made the change, or one was about to."""


# Of custom fields that only a list told of, and of an answer (processors/workflows/merging.py). Release 0.1.0 reads
# whole seconds alone.
_HALF_EARLIER = "~"
_ANSWERED = "="
_HALF_A_SECOND = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True)
class Product:
    """One row of `products`."""

    zoho_item_id: str
    content: Content
    zoho_last_modified_at: datetime | None
    deleted_at: datetime | None
    raw: Mapping[str, Any]
    older_keys: Mapping[str, datetime]
    """Mapped keys of `raw` whose value is older than `zoho_last_modified_at`, with the time of that value."""
    altered_at: datetime | None = None
    """When something other than the mirror wrote the row, and nothing of it is certain until Zoho confirms it."""
    is_listed: bool = False
    """All of `raw` comes from Zoho's list: no webhook and no single answer was merged into it yet."""
    answered_at: datetime | None = None
    """The newest time of an answer of Zoho's that was merged: of that second, deliveries only add to it."""


@dataclass(frozen=True, slots=True)
class Current:
    """What is known of an item before a decision, and the version that the decision may replace."""

    product: Product | None
    revision: int
    """Of the row; 0 where there is none."""
    absences: int
    """How many finished events said that the item is gone; 0 where that makes no difference."""
    written_at: datetime | None = None
    """When the mirror wrote the row last."""
    stored: Product | None = None
    """The row itself, where another version of the field table projected it: `product` is its projection by this one,
    and is written with whatever is decided (`processors.store.settlement`)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change that is applied: a row of `product_changes`."""

    source: Source
    changes: Changes
    zoho_modified_at: datetime | None = None
    """What Zoho gives as the time of the modification; unknown for a deletion."""
    event_id: int | None = None
    run_id: int | None = None
    cause: Cause | None = None
    wrong_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ItemChange:
    """One applied change, as its row in `product_changes` tells of it."""

    id: int
    item_id: str
    changed_at: datetime
    source: Source
    event_id: int | None
    run_id: int | None
    cause: Cause | None
    zoho_modified_at: datetime | None
    changes: Changes


def current_from_row(row: Row) -> Current:
    """Read the product columns of a row of `claim_events`, `read_current` or `find_unknown`.

    A row that another version of the field table projected is projected anew, from what Zoho said of it; unless
    something other than the mirror wrote it, and it waits for Zoho's word.
    """
    if row["revision"] is None:
        return Current(product=None, revision=0, absences=row["absences"])
    product = Product(
        zoho_item_id=row["zoho_item_id"],
        content=Content(**{column: row[column] for column in field_table.COLUMNS}),
        zoho_last_modified_at=row["zoho_last_modified_at"],
        deleted_at=row["deleted_at"],
        raw=row["raw"],
        **_read_times(row["older_keys"]),
        altered_at=row["altered_at"],
        is_listed=row["is_listed"],
    )
    current = Current(product, revision=row["revision"], absences=row["absences"], written_at=row["updated_at"])
    is_projected = (row["fields_version"], row["fields_revision"]) == (field_table.VERSION, row["revision"])
    if is_projected or product.altered_at is not None:
        return current
    projected = replace(product, content=field_table.project_anew(product.content, product.raw))
    return replace(current, product=projected, stored=product)


def written_times(product: Product) -> dict[str, int]:
    """Return what the column `older_keys` holds: whole seconds since 1970; a time half a second earlier has a mark."""
    times = {
        f"{_HALF_EARLIER}{key}" if at.microsecond else key: math.ceil(at.timestamp())
        for key, at in product.older_keys.items()
    }
    return times if product.answered_at is None else {**times, _ANSWERED: math.ceil(product.answered_at.timestamp())}


def _read_times(written: Mapping[str, int]) -> dict[str, Any]:
    times = {
        key.removeprefix(_HALF_EARLIER): datetime.fromtimestamp(seconds, UTC)
        - (_HALF_A_SECOND if key.startswith(_HALF_EARLIER) else timedelta())
        for key, seconds in written.items()
    }
    return {"answered_at": times.pop(_ANSWERED, None), "older_keys": times}


def differences(old: Product | None, new: Product) -> Changes:
    """Return old and new value of every column that differs, in the form `product_changes.changes` keeps.

    The modified time and the raw body follow from a change and are not listed themselves.
    """
    changes: Changes = {}
    for column in field_table.COLUMNS:
        before = getattr(old.content, column) if old else None
        after = getattr(new.content, column)
        if before != after:
            changes[column] = (_written(before), _written(after))
    deleted_before = old.deleted_at if old else None
    if deleted_before != new.deleted_at:
        changes["deleted_at"] = (_written(deleted_before), _written(new.deleted_at))
    return changes


def _written(value: object) -> object:
    match value:
        case Decimal():
            return format(value, "f")
        case datetime():
            return value.isoformat()
        case _:
            return value
