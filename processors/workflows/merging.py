"""What a body does to a row: pure decisions, from which the order of deliveries drops out.

Of every key `raw` keeps the value with the newest `last_modified_time` that any body carried; the columns are a
projection of that. A body is therefore merged key by key: a key it lacks is left alone, an older value never
replaces a newer one, and in whatever order the bodies arrive the same values remain. Keys that belong to another
(`processors.zoho.keys`) do not outlive it. Where two bodies of one second give a column different values, nothing
decides between them but Zoho: the decision is then to fetch. Of keys that fill no column, the larger text remains,
unless Zoho was asked: of the second that its answer gives, the answer stands, and deliveries add what it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from processors import field_table
from processors.errors import ItemUnusable
from processors.store.products import Changes, Current, Product, differences
from processors.zoho import items, keys

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
_HALF_A_SECOND = timedelta(seconds=0.5)
DAY_IN_ANY_ZONE = timedelta(days=2)
"""A bare date is a day somewhere on Earth: times closer to it than this may be earlier or later."""

# Zoho's list and its single items are not known to lag behind its webhooks; if they do, then not for so long.
_LONGEST_LAG = timedelta(minutes=10)


def decide_change(current: Current, item_id: str, body: items.Body) -> Decision:
    """Decide what a webhook's body does."""
    row = current.product
    if row is None:
        if body.missing:
            return FetchNeeded(f"the body lacks {', '.join(body.missing)}")
        if current.absences:
            return FetchNeeded("the item was reported deleted before")
        return _written(None, item_id, body, modified_at=body.modified_at, was_at=None)
    if _brings_nothing_new(row, body):
        # It may know keys that no newer body carried.
        merged = replace(_merged(row, body, body.modified_at or _NEVER), deleted_at=row.deleted_at)
        return Settled("stale") if _is_same(merged, row) else Write("stale", merged, {})
    if row.deleted_at:
        return FetchNeeded("the item is tombstoned here")
    if body.missing:
        return FetchNeeded(f"the body lacks {', '.join(body.missing)}")
    if _order_is_unsure(row, body):
        if body.fields["last_modified_time"] == row.raw.get("last_modified_time") and body.content == row.content:
            return Settled("unchanged")
        return FetchNeeded("a last_modified_time is a bare date")
    conflicts = _conflicting_keys(row, body)
    if conflicts:
        return FetchNeeded(f"{', '.join(conflicts)} differ within one second")
    return _written(row, item_id, body, modified_at=body.modified_at, was_at=row.zoho_last_modified_at)


def decide_listed(current: Current, item_id: str, body: items.Body, asked_at: datetime) -> Decision:
    """Decide what an item of Zoho's list does; its page was read a moment before `asked_at`."""
    row = current.product
    if row and row.altered_at:
        return FetchNeeded("its row was altered here")
    if _is_beyond(current, body, asked_at):
        return FetchNeeded("its row is newer than what Zoho lists")
    return decide_change(current, item_id, body)


def _is_beyond(current: Current, body: items.Body, asked_at: datetime) -> bool:
    """Tell whether a row is newer than Zoho's own word without having any right to be.

    A webhook may overtake an answer, so a row that was written lately may be ahead of it. One that has rested for
    long, or whose time has not come yet, has a time that Zoho knows nothing of.
    """
    known_at = current.product.zoho_last_modified_at if current.product else None
    if known_at is None or body.modified_at is None or body.is_day_only or known_at <= body.modified_at:
        return False
    rests = current.written_at is not None and current.written_at < asked_at - _LONGEST_LAG
    return rests or known_at > asked_at + _LONGEST_LAG


@dataclass(frozen=True, slots=True)
class Answer:
    """What Zoho says of an item that it was asked for."""

    item_id: str
    body: items.Body | None
    """None: Zoho has no such item."""
    asked_at: datetime
    answered_at: datetime


def read_answer(item_id: str, fields: items.Fields | None, asked_at: datetime) -> Answer:
    """Read what Zoho has just answered.

    Raises:
        ItemUnusable: it cannot be read, or is about another item than the one that was asked for.
    """
    if fields is not None:
        _require_same_item(item_id, fields)
    body = None if fields is None else items.read_body({**fields, "item_id": item_id})
    return Answer(item_id, body, asked_at, datetime.now(UTC))


def _require_same_item(item_id: str, fields: items.Fields) -> None:
    """See that an answer is about the item that was asked for: for 007 it may be about 7, whose row is another.

    Raises:
        ItemUnusable: it is not.
    """
    told = fields.get("item_id")
    found = items.item_id_of(told) if told not in (None, "") else item_id
    if found != item_id or items.item_id_of(item_id) != item_id:
        message = f"Zoho was asked for item {item_id} and answered for item {str(told)[:40]!r}; nothing was changed"
        raise ItemUnusable(message)


def decide_answer(current: Current, answer: Answer, said: items.Body | None = None) -> Settled | Write:
    """Decide what Zoho's own answer does; `current` was read before Zoho was asked.

    `said` is the body of a delivery that waited for it. What the answer leaves out is taken from there, as it would be
    if the delivery came later.

    Raises:
        ItemUnusable: the answer has no name or no status.
    """
    if answer.body is None:
        return decide_absent(current, answer.answered_at)
    decided = decide_fetched(current, answer.item_id, answer.body, answer.asked_at)
    row = decided.product if isinstance(decided, Write) else current.product
    if row is None or row.zoho_last_modified_at is None or said is None or said.missing or said.modified_at is None:
        return decided
    if said.is_day_only or said.modified_at > row.zoho_last_modified_at:
        return decided
    merged = replace(_merged(row, said, said.modified_at), deleted_at=row.deleted_at)
    if merged.content != row.content or _is_same(merged, row):
        return decided
    return replace(decided, product=merged) if isinstance(decided, Write) else Write("unchanged", merged, {})


def decide_fetched(current: Current, item_id: str, body: items.Body, asked_at: datetime) -> Settled | Write:
    """Decide what Zoho's own answer does; `current` was read before Zoho was asked, so the answer is the newer word.

    Raises:
        ItemUnusable: the answer has no name or no status.
    """
    unusable = [key for key in body.missing if key in ("name", "status")]
    if unusable:
        message = f"Zoho's answer for item {item_id} lacks {' and '.join(unusable)}"
        raise ItemUnusable(message)
    row = current.product
    if row and (row.altered_at or _is_beyond(current, body, asked_at)):
        return _replaced(row, body)
    known_at = row.zoho_last_modified_at if row else None
    modified_at = body.modified_at
    if modified_at is None or (body.is_day_only and known_at is not None and known_at > modified_at):
        modified_at = known_at
    if row and known_at and modified_at and known_at > modified_at and _is_day_only(row):
        # Midnight in UTC was only a stand-in for the time that is known now.
        older_keys = {key: min(at, modified_at) for key, at in row.older_keys.items()}
        answered_at = row.answered_at and min(row.answered_at, modified_at)
        row = replace(row, zoho_last_modified_at=modified_at, older_keys=older_keys, answered_at=answered_at)
    return _written(row, item_id, body, modified_at=modified_at, was_at=known_at, is_answer=True)


def decide_absent(current: Current, now: datetime) -> Settled | Write:
    """Decide what Zoho's 404 does."""
    row = current.product
    if row is None:
        return Settled("gone")
    # What was altered here need not be right any more: the item is gone.
    row = replace(row, altered_at=None)
    return _confirmed(row) if row.deleted_at else _tombstone(row, now)


def decide_deleted(current: Current, received_at: datetime, *, is_replayed: bool = False) -> Decision:
    """Decide what a delivery at the deleted route does; sent again by a person, it may be long out of date."""
    row = current.product
    if row is None:
        return Settled("gone")
    if row.deleted_at:
        return _confirmed(row)
    if is_replayed:
        return FetchNeeded("a deletion was replayed")
    if current.absences:
        # It came back since. Such bodies carry no time: this may be the old deletion, delivered once more or late.
        return FetchNeeded("the item was reported deleted before")
    if row.zoho_last_modified_at and row.zoho_last_modified_at > received_at:
        return FetchNeeded("the item was modified after this deletion was reported")
    return _tombstone(row, received_at)


def _confirmed(row: Product) -> Write:
    # Nothing changes but the revision: an answer of Zoho's that is older than this word must not bring the item back.
    return Write("unchanged", row, {})


def _tombstone(row: Product, at: datetime) -> Write:
    buried = replace(row, deleted_at=at)
    return Write("tombstoned", buried, differences(row, buried))


def _time_of(row: Product, key: str) -> datetime:
    """When the value was written in Zoho that the row has for a key."""
    if key not in row.raw:
        return _NEVER
    return row.older_keys.get(key) or row.zoho_last_modified_at or _NEVER


def _brings_nothing_new(row: Product, body: items.Body) -> bool:
    said_at, known_at = body.modified_at, row.zoho_last_modified_at
    if said_at is None or known_at is None or said_at >= known_at:
        return False
    if _order_is_unsure(row, body) or _conflicting_keys(row, body):
        return False
    return all(said_at <= _time_of(row, key) for key in field_table.MAPPED if key in body.fields)


def _is_day_only(row: Product) -> bool:
    return items.is_bare_date(row.raw.get("last_modified_time"))


def _order_is_unsure(row: Product, body: items.Body) -> bool:
    """Tell whether a bare date, on either side, leaves open which of two values of a key is the newer one."""
    said_at = body.modified_at
    if said_at is None or not (body.is_day_only or _is_day_only(row)):
        return False
    times = [_time_of(row, key) for key in field_table.MAPPED if key in body.fields and key in row.raw]
    return any(abs(said_at - at) < DAY_IN_ANY_ZONE for at in times)


def _conflicting_keys(row: Product, body: items.Body) -> list[str]:
    """Return the mapped keys for which row and body give different values with the same time."""
    same_time = [key for key in field_table.MAPPED if key in body.fields and _time_of(row, key) == body.modified_at]
    return [
        key
        for key in same_time
        if any(getattr(row.content, column) != getattr(body.content, column) for column in field_table.MAPPED[key])
    ]


def _written(
    row: Product | None,
    item_id: str,
    body: items.Body,
    *,
    modified_at: datetime | None,
    was_at: datetime | None,
    is_answer: bool = False,
) -> Settled | Write:
    """Merge `body`, whose equal times are no conflict any more, into the row; `was_at` is the time stored there."""
    if row is None:
        said = _said(body, modified_at or _NEVER)
        older_keys = {key: at for key, at in said.items() if modified_at is not None and at < modified_at}
        product = Product(
            item_id,
            body.content,
            modified_at,
            None,
            body.fields,
            older_keys,
            is_listed=body.is_listed,
            answered_at=modified_at if is_answer else None,
        )
        return Write("created", product, differences(None, product))
    product = _merged(row, body, modified_at or _NEVER, is_answer=is_answer)
    changes = differences(row, product)
    if changes or product.zoho_last_modified_at != was_at:
        return Write("updated", product, changes)
    # The same content in a richer body: kept, but no change of the product.
    return Settled("unchanged") if _is_same(product, row) else Write("unchanged", product, {})


def _is_same(product: Product, row: Product) -> bool:
    return (product.raw, product.older_keys, product.answered_at) == (row.raw, row.older_keys, row.answered_at)


def _replaced(row: Product, body: items.Body) -> Write:
    """Let Zoho's word stand whatever the row says of its own time; a key that it lacks is left alone even here."""
    void = {key for key in row.raw if any(owner in body.fields for owner in keys.owners(key))}
    kept = {key: value for key, value in row.raw.items() if key not in void and (not row.is_listed or _is_shared(key))}
    raw = {**kept, **body.fields}
    modified_at = body.modified_at or row.zoho_last_modified_at
    product = Product(row.zoho_item_id, items.content_of(raw), modified_at, None, raw, {})
    changes = differences(row, product)
    was_at, known_at = row.zoho_last_modified_at, product.zoho_last_modified_at
    if was_at != known_at:
        # Here the time does not follow from a change: it may be all that was wrong.
        changes["zoho_last_modified_at"] = (was_at and was_at.isoformat(), known_at and known_at.isoformat())
    return Write("updated" if changes or row.altered_at else "unchanged", product, changes)


def _merged(row: Product, body: items.Body, said_at: datetime, *, is_answer: bool = False) -> Product:
    """Keep of each key the newest value, whichever side has it; of equal times an answer's."""
    newest = max(row.zoho_last_modified_at or _NEVER, said_at)
    answered_at = max(row.answered_at or _NEVER, said_at) if is_answer else row.answered_at
    is_answered = not is_answer and said_at == answered_at
    is_of_one_kind = row.is_listed == body.is_listed
    raw = {key: row.raw[key] for key in row.raw if is_of_one_kind or not row.is_listed or _is_shared(key)}
    times = dict.fromkeys(raw, row.zoho_last_modified_at or _NEVER) | {
        key: at for key, at in row.older_keys.items() if key in raw
    }
    if is_answer:
        same_time = [key for key in raw if times[key] == said_at and key not in body.fields]
        for key in same_time:
            # What goes with a value that Zoho does not confirm.
            if any(owner in body.fields and row.raw.get(owner) != body.fields[owner] for owner in keys.owners(key)):
                del raw[key]
    for key, at in _said(body, said_at).items():
        if not (is_of_one_kind or row.is_listed or _is_shared(key)):
            continue
        value = body.fields[key]
        if key not in raw or at > times[key]:
            is_taken = not is_answered or _is_confirmed(key, body, raw, times, said_at)
        else:
            is_taken = at == times[key] and (is_answer or (not is_answered and _outweighs(value, raw[key])))
        if is_taken:
            raw[key], times[key] = value, at
    older = [key for key in raw if times[key] < newest]
    void = [key for key in older if any(times.get(owner, _NEVER) > times[key] for owner in keys.owners(key))]
    for key in void:
        del raw[key]
    return Product(
        zoho_item_id=row.zoho_item_id,
        content=items.content_of(raw),
        zoho_last_modified_at=None if newest == _NEVER else newest,
        deleted_at=None,
        raw=raw,
        older_keys={key: times[key] for key in older if key in raw},
        altered_at=row.altered_at,
        is_listed=row.is_listed and body.is_listed,
        answered_at=answered_at,
    )


def _is_confirmed(
    key: str, body: items.Body, raw: Mapping[str, Any], times: Mapping[str, datetime], at: datetime
) -> bool:
    """Tell whether a key of a body goes with values that Zoho's answer of the same second gives as well."""
    known = [owner for owner in keys.owners(key) if owner in raw and times[owner] >= at]
    return all(owner in body.fields and body.fields[owner] == raw[owner] for owner in known)


def _said(body: items.Body, said_at: datetime) -> dict[str, datetime]:
    """Return the time of each of a body's keys.

    What a list says of custom fields, in one of their spellings, gives way to what names all of them in that second.
    """
    if not body.is_listed or said_at == _NEVER:
        return dict.fromkeys(body.fields, said_at)
    listed_at = said_at - _HALF_A_SECOND
    return {key: listed_at if key.startswith(keys.CUSTOM_PREFIX) else said_at for key in body.fields}


def _is_shared(key: str) -> bool:
    """Tell whether lists and other bodies mean the same by a key.

    Only that counts between them: a list is read time and again, and what is peculiar to it must neither cost a write
    nor depend on which came first.
    """
    return key in field_table.MAPPED or key in ("item_id", "last_modified_time") or key.startswith(keys.CUSTOM_PREFIX)


def _outweighs(value: object, other: object) -> bool:
    """Decide between two values of one second that say no different thing of a column: always for the same one.

    For the one that says more, so that all spellings of a fact are decided alike.
    """
    return value != other and _weight(value) > _weight(other)


def _weight(value: object) -> tuple[int, int, str]:
    """Nothing is less than text, which is less than a number or a structure; of two of a kind, the longer is more."""
    text = _canonical(value)
    kind = 0 if value in (None, "") else 1 if isinstance(value, str) else 2
    return kind, len(text), text


def _canonical(value: object) -> str:
    """Write a value in one way, be it from a body or from `jsonb`, which sorts keys and writes numbers out."""
    match value:
        case dict():
            return "{" + ",".join(f"{key!r}:{_canonical(value[key])}" for key in sorted(value)) + "}"
        case list():
            return "[" + ",".join(map(_canonical, value)) + "]"
        case Decimal():
            return format(value, "f")
        case _:
            return repr(value)
