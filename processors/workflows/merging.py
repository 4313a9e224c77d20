"""What a body does to a row: pure decisions, from which the order of deliveries drops out.

Of every mapped key the row keeps the value with the newest `last_modified_time` that any body carried; the columns
are a projection of that. A body is therefore merged key by key: a key it lacks is left alone, an older value never
replaces a newer one, and in whatever order the bodies arrive the same values remain. Where two bodies of one second
say different things nothing decides between them but Zoho: the decision is then to fetch.

Keys that fill no column (`raw` keeps them too) follow the newest body that was applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from processors.errors import ItemUnusable
from processors.store.products import Changes, Current, Product, differences
from processors.zoho import items

Outcome = Literal["created", "updated", "unchanged", "stale", "tombstoned", "gone"]


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing to write."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Write:
    """The row becomes `product`."""

    outcome: Outcome
    product: Product
    changes: Changes


@dataclass(frozen=True, slots=True)
class FetchNeeded:
    """Only Zoho can tell; `reason` completes “fetched because …”."""

    reason: str


Decision = Settled | Write | FetchNeeded

_NEVER = datetime.min.replace(tzinfo=UTC)
_TWINS = ("_formatted", "_unformatted")


def decide_change(current: Current, item_id: str, body: items.Body) -> Decision:
    """Decide what a webhook's body does."""
    row = current.product
    if row is None:
        if body.missing:
            return FetchNeeded(f"the body lacks {', '.join(body.missing)}")
        if current.absences:
            return FetchNeeded("the item was reported deleted before")
        return _written(None, item_id, body, modified_at=body.modified_at)
    if _brings_nothing_new(row, body):
        return Settled("stale")
    if row.deleted_at:
        return FetchNeeded("the item is tombstoned here")
    if body.missing:
        return FetchNeeded(f"the body lacks {', '.join(body.missing)}")
    if body.is_day_only:
        if body.fields["last_modified_time"] == row.raw.get("last_modified_time") and body.content == row.content:
            return Settled("unchanged")
        return FetchNeeded("the body's last_modified_time is a bare date")
    conflicts = _conflicting_keys(row, body)
    if conflicts:
        return FetchNeeded(f"{', '.join(conflicts)} differ within one second")
    return _written(row, item_id, body, modified_at=body.modified_at)


def decide_fetched(current: Current, item_id: str, body: items.Body) -> Settled | Write:
    """Decide what Zoho's own answer does; `current` was read before Zoho was asked, so the answer is the newer word.

    Raises:
        ItemUnusable: the answer has no name or no status.
    """
    unusable = [key for key in body.missing if key in ("name", "status")]
    if unusable:
        message = f"Zoho's answer for item {item_id} lacks {' and '.join(unusable)}"
        raise ItemUnusable(message)
    row = current.product
    known_at = row.zoho_last_modified_at if row else None
    modified_at = body.modified_at
    if modified_at is None or (body.is_day_only and known_at is not None and known_at > modified_at):
        modified_at = known_at
    return _written(row, item_id, body, modified_at=modified_at)


def decide_absent(current: Current, now: datetime) -> Settled | Write:
    """Decide what Zoho's 404 does."""
    row = current.product
    if row is None:
        return Settled("gone")
    if row.deleted_at:
        return Settled("unchanged")
    return _tombstone(row, now)


def decide_deleted(current: Current, received_at: datetime) -> Decision:
    """Decide what a delivery at the deleted route does."""
    row = current.product
    if row is None:
        return Settled("gone")
    if row.deleted_at:
        return Settled("unchanged")
    if row.zoho_last_modified_at and row.zoho_last_modified_at > received_at:
        return FetchNeeded("the item was modified after this deletion was reported")
    return _tombstone(row, received_at)


def _tombstone(row: Product, at: datetime) -> Write:
    buried = replace(row, deleted_at=at)
    return Write("tombstoned", buried, differences(row, buried))


def _time_of(row: Product, key: str) -> datetime:
    """When the value was written in Zoho that the row has for a mapped key."""
    if key not in row.raw:
        return _NEVER
    return row.older_keys.get(key) or row.zoho_last_modified_at or _NEVER


def _brings_nothing_new(row: Product, body: items.Body) -> bool:
    said_at, known_at = body.modified_at, row.zoho_last_modified_at
    if said_at is None or known_at is None or body.is_day_only or said_at >= known_at:
        return False
    return all(said_at <= _time_of(row, key) for key in items.COLUMNS if key in body.fields)


def _conflicting_keys(row: Product, body: items.Body) -> list[str]:
    """The mapped keys for which row and body give different values with the same time."""
    return [
        key
        for key, columns in items.COLUMNS.items()
        if key in body.fields
        and _time_of(row, key) == body.modified_at
        and any(getattr(row.content, column) != getattr(body.content, column) for column in columns)
    ]


def _written(row: Product | None, item_id: str, body: items.Body, *, modified_at: datetime | None) -> Settled | Write:
    """Merge `body`, whose equal times are no conflict any more, into the row."""
    if row is None:
        product = Product(item_id, body.content, modified_at, None, body.fields, {})
        return Write("created", product, differences(None, product))
    product = _merged(row, body, modified_at or _NEVER)
    changes = differences(row, product)
    if changes or product.zoho_last_modified_at != row.zoho_last_modified_at:
        return Write("updated", product, changes)
    if len(product.raw) > len(row.raw) or product.older_keys != row.older_keys:
        # The same content in a richer body: kept, but no change of the product.
        return Write("unchanged", product, {})
    return Settled("unchanged")


def _merged(row: Product, body: items.Body, said_at: datetime) -> Product:
    known_at = row.zoho_last_modified_at or _NEVER
    newest = max(known_at, said_at)
    # An unmapped key has no time of its own: it follows the row's.
    taken = {
        key: value
        for key, value in body.fields.items()
        if said_at >= (_time_of(row, key) if key in items.COLUMNS else known_at) or key not in row.raw
    }
    kept = {key: value for key, value in row.raw.items() if not _is_outdated_twin(key, taken)}
    raw = {**kept, **taken}
    times = {key: said_at if key in taken else _time_of(row, key) for key in items.COLUMNS if key in raw}
    return Product(
        zoho_item_id=row.zoho_item_id,
        content=items.content_of(_without_former_stock(raw, times)),
        zoho_last_modified_at=None if newest == _NEVER else newest,
        deleted_at=None,
        raw=raw,
        older_keys={key: at for key, at in times.items() if at < newest},
    )


def _is_outdated_twin(key: str, taken: Mapping[str, Any]) -> bool:
    """`rate_formatted` belongs to the `rate` beside it: without it in the newer body it shows the old price."""
    return key not in taken and any(key.endswith(twin) and key.removesuffix(twin) in taken for twin in _TWINS)


def _without_former_stock(raw: Mapping[str, Any], times: Mapping[str, datetime]) -> Mapping[str, Any]:
    """Leave out a stock figure from the time before Zoho stopped tracking the item; bodies then lack the key."""
    if raw.get("track_inventory") in (False, "false") and "stock_on_hand" in raw:
        if times["stock_on_hand"] < times["track_inventory"]:
            return {key: value for key, value in raw.items() if key != "stock_on_hand"}
    return raw
