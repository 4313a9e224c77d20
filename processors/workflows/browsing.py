"""Lists and pages of everything: products, events, changes and runs, found, counted and paged; and the charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

from processors.errors import BodyUnreadable
from processors.field_table import Content
from processors.store import audit
from processors.store.database import Connection, Row
from processors.store.event_filter import EventFilter
from processors.store.products import NOT_DRIFT, Changes, ItemChange, Source
from processors.store.queries import Queries, containing
from processors.store.runs import Run, RunKind, RunState, run_from_row
from processors.workflows.drift import IN_WORDS
from processors.workflows.insights import EventSummary
from processors.zoho import items, payloads

ProductState = Literal["live", "active", "inactive", "deleted"]
ProductSort = Literal["id", "name", "sku", "price", "stock", "modified", "updated"]

_queries = Queries("browsing.sql")


def _rows(connection: Connection, statement: LiteralString, parameters: Row) -> list[Row]:
    """Run a statement that is planned for these very parameters: a plan for any would read whole tables."""
    rows: list[Row] = connection.execute(statement, parameters, prepare=False).fetchall()
    return rows


# Products


@dataclass(frozen=True, slots=True)
class ProductQuery:
    """Which products are wanted; what is None or False does not matter."""

    text: str | None = None
    """An item id, a SKU, or a part of a name or a SKU in whatever case."""
    state: ProductState | None = None
    is_out_of_stock: bool = False
    """Live, with a stock that Zoho tracks, and none of it left."""
    changed_since: datetime | None = None
    category_id: str | None = None

    def parameters(self) -> Row:
        """Return what the statements are given."""
        return {**asdict(self), "pattern": containing(self.text)}


@dataclass(frozen=True, slots=True)
class ProductRow(Content):
    """One row of a list of products."""

    zoho_item_id: str
    zoho_last_modified_at: datetime | None
    deleted_at: datetime | None
    altered_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ProductDetail(ProductRow):
    """One product, with all that Zoho said of it."""

    raw: dict[str, Any]
    revision: int


@dataclass(frozen=True, slots=True)
class Category:
    """A category of live products."""

    id: str
    name: str | None
    products: int


def find_products(
    connection: Connection,
    query: ProductQuery,
    *,
    sort: ProductSort = "id",
    descending: bool = False,
    after: str | None = None,
    skip: int = 0,
    most: int,
) -> list[ProductRow]:
    """Return products that match. `after`, an item id, goes on from there, in the order of ids.

    A search for a part of a name reads the whole table; so does another order than that of the ids.
    """
    asked = {**query.parameters(), "skip": skip, "most": most}
    if sort == "id" and not descending:
        rows = _rows(connection, _queries.products_by_id, {**asked, "after": after})
    elif sort == "id":
        rows = _rows(connection, _queries.products_by_id_backwards, asked)
    else:
        rows = _rows(connection, _queries.products_sorted, {**asked, "sort": sort, "descending": descending})
    return [ProductRow(**row) for row in rows]


def count_products(connection: Connection, query: ProductQuery, *, at_most: int) -> int:
    """Return how many products match, counting no further than `at_most`."""
    return _count(connection, _queries.count_products_meant, {**query.parameters(), "at_most": at_most})


def _count(connection: Connection, statement: LiteralString, parameters: Row) -> int:
    (row,) = _rows(connection, statement, parameters)
    return int(row["count"])


def product(connection: Connection, item_id: str) -> ProductDetail | None:
    """Return one product; None: there is no row of that id."""
    row = connection.execute(_queries.product, {"item_id": item_id}).fetchone()
    return row and ProductDetail(**row)


def categories(connection: Connection, *, most: int = 200) -> list[Category]:
    """Return the categories of live products, by name."""
    return [Category(**row) for row in connection.execute(_queries.categories, {"most": most})]


# Events, changes and runs


def find_events(
    connection: Connection, chosen: EventFilter, *, before: int | None = None, skip: int = 0, most: int
) -> list[EventSummary]:
    """Return events that match, the newest first; `before`, an id, goes on from there."""
    asked = {**chosen.parameters(), "before": before, "skip": skip, "most": most}
    return [EventSummary(**row) for row in _rows(connection, _queries.find_events, asked)]


def count_events(connection: Connection, chosen: EventFilter, *, at_most: int) -> int:
    """Return how many events match, counting no further than `at_most`."""
    return _count(connection, _queries.count_events_meant, {**chosen.parameters(), "at_most": at_most})


def find_changes(
    connection: Connection, *, item_id: str | None = None, before: int | None = None, most: int
) -> list[ItemChange]:
    """Return applied changes, the newest first; `before`, an id, goes on from there."""
    asked = {"item_id": item_id, "before": before, "most": most}
    return [ItemChange(**row) for row in _rows(connection, _queries.find_changes, asked)]


def find_runs(
    connection: Connection,
    *,
    kind: RunKind | None = None,
    state: RunState | None = None,
    before: int | None = None,
    skip: int = 0,
    most: int,
) -> list[Run]:
    """Return runs, the newest first; `before`, an id, goes on from there."""
    asked = {"kind": kind, "state": state, "before": before, "skip": skip, "most": most}
    return [run_from_row(row) for row in _rows(connection, _queries.find_runs, asked)]


def count_runs(
    connection: Connection, *, kind: RunKind | None = None, state: RunState | None = None, at_most: int
) -> int:
    """Return how many runs there are, counting no further than `at_most`."""
    return _count(connection, _queries.count_runs_meant, {"kind": kind, "state": state, "at_most": at_most})


# The timeline of one item

What = Literal["delivery", "attempt", "change", "skip", "fetch"]


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened about an item."""

    at: datetime
    what: What
    title: str
    detail: str
    event_id: int | None
    run_id: int | None
    requester: str | None
    changes: Changes


_SOURCES: dict[Source, str] = {
    "webhook": "Changed by a webhook",
    "full": "Changed by a full run",
    "recent": "Changed by a recent run",
    "replay": "Changed by a replay",
    "fetch": "Changed by a fetch",
    "release": "Projected anew by a release",
}


def timeline(connection: Connection, item_id: str, *, most: int) -> list[TimelineEntry]:
    """Return what happened about an item, the newest first: deliveries, attempts, changes, skips, fetches.

    It says of each delivery that changed nothing why it did not.
    """
    events = _rows(connection, _queries.events_of, {"item_id": item_id, "most": most})
    attempts = _rows(connection, _queries.attempts_at, {"event_ids": [event["id"] for event in events]})
    last_ends: dict[int, datetime] = {}
    for attempt in attempts:
        last_ends[attempt["event_id"]] = max(
            attempt["ended_at"], last_ends.get(attempt["event_id"], attempt["ended_at"])
        )
    now = product(connection, item_id)
    entries = [
        *(entry for event in events for entry in _of_event(event, now, last_ends.get(event["id"]))),
        *(_of_attempt(attempt) for attempt in attempts),
        *(_of_change(change) for change in find_changes(connection, item_id=item_id, most=most)),
        *(_of_fetch(entry) for entry in audit.fetches_of(connection, item_id, most=most)),
    ]
    # Of one moment, what follows from another stands above it.
    return sorted(entries, key=lambda entry: (entry.at, _RANKS[entry.what]), reverse=True)[:most]


_RANKS: dict[What, int] = {"delivery": 0, "attempt": 1, "fetch": 2, "change": 3, "skip": 4}


def _of_event(event: Row, now: ProductDetail | None, last_end: datetime | None) -> list[TimelineEntry]:
    said = _said_to_be_of(event)
    if event["run_id"]:
        title = "Found unusable by a run"
    elif event["kind"] == "deleted":
        title = "Delivered: deleted in Zoho"
    else:
        title = "Delivered: created or edited"
    detail = f"It says it was modified at {said:%Y-%m-%d %H:%M:%S} UTC." if said else ""
    entries = [_entry(event, event["received_at"], "delivery", title, detail)]
    if event["state"] == "processed" and event["needs_fetch"]:
        why = "What was delivered could not be decided by itself."
        entries.append(_entry(event, event["claimed_at"], "fetch", "Zoho was asked for the item", why))
    if event["discarded_at"]:
        why = f"{event['discard_reason']} ({event['error']})"
        discarded = _entry(event, event["discarded_at"], "skip", f"Discarded by {event['discarded_by']}", why)
        entries.append(discarded)
    elif event["state"] == "dead":
        # One that could not even be read was never attempted.
        at = last_end or event["received_at"]
        entries.append(_entry(event, at, "skip", "Not applied: the event is dead", event["error"] or ""))
    elif event["state"] == "processed" and event["outcome"] in ("stale", "unchanged", "gone"):
        title, detail = _skip(event, said, now)
        entries.append(_entry(event, event["processed_at"], "skip", title, detail))
    elif event["state"] != "processed":
        at = last_end or event["received_at"]
        entries.append(_entry(event, at, "skip", *_still_open(event, is_new=last_end is None)))
    return entries


def _still_open(event: Row, *, is_new: bool) -> tuple[str, str]:
    if event["state"] == "processing":
        return "Not applied yet: a worker is at it", ""
    if event["needs_fetch"]:
        return "Not applied yet: Zoho is asked first", event["error"] or ""
    if is_new:
        return "Not applied yet: waiting for a worker", ""
    return "Not applied yet: waiting for its next try", event["error"] or ""


def _skip(event: Row, said: datetime | None, now: ProductDetail | None) -> tuple[str, str]:
    match event["outcome"]:
        case "stale":
            newest = now and now.zoho_last_modified_at
            than = f", which is of {newest:%Y-%m-%d %H:%M:%S} UTC by now" if newest else ""
            what = f"It is of {said:%Y-%m-%d %H:%M:%S} UTC, older" if said else "It is older"
            if event["needs_fetch"]:
                what = "What Zoho answered is older"
            return "Skipped: stale", f"{what} than what the row had{than}."
        case "gone":
            return "Skipped: gone", "Zoho does not have the item, and there was no row."
    compared = "what Zoho answered" if event["needs_fetch"] else "it"
    return "Skipped: unchanged", f"Nothing in {compared} differs from the row."


def _said_to_be_of(event: Row) -> datetime | None:
    if event["kind"] == "deleted" or not event["body"]:
        return None
    try:
        _, fields = payloads.read_item(bytes(event["body"]), event["content_type"], bytes(event["query_string"]))
        return items.read_body(fields).modified_at
    except (BodyUnreadable, ValueError):
        return None


def _entry(event: Row, at: datetime, what: What, title: str, detail: str) -> TimelineEntry:
    return TimelineEntry(at, what, title, detail, event["id"], event["run_id"], None, {})


def _of_attempt(attempt: Row) -> TimelineEntry:
    times = f", {attempt['times']} times" if attempt["times"] > 1 else ""
    if attempt["outcome"]:
        title, detail = f"Came to {attempt['outcome']} before it was replayed", ""
    elif attempt["is_wait"]:
        title, detail = f"Waited{times}: {attempt['error_class']}", attempt["error"] or ""
    else:
        title = f"Attempt {attempt['attempt']} failed{times}: {attempt['error_class']}"
        detail = attempt["error"] or ""
    return TimelineEntry(attempt["ended_at"], "attempt", title, detail, attempt["event_id"], None, None, {})


def _of_change(change: ItemChange) -> TimelineEntry:
    title = _SOURCES[change.source]
    if change.changes.get("is_active", (False,))[0] is None:
        # No row is without it.
        title = title.replace("Changed", "Created")
    elif "deleted_at" in change.changes:
        title = title.replace("Changed", "Tombstoned" if change.changes["deleted_at"][1] else "Brought back")
    detail = f"Why no webhook had made it: {IN_WORDS[change.cause]}." if change.cause else ""
    at, event_id, run_id = change.changed_at, change.event_id, change.run_id
    return TimelineEntry(at, "change", title, detail, event_id, run_id, None, change.changes)


def _of_fetch(entry: audit.Entry) -> TimelineEntry:
    detail = f"Zoho's answer came to: {entry.detail.get('outcome', 'nothing')}."
    who = f"{entry.requester} ({entry.channel})"
    return TimelineEntry(entry.at, "fetch", "Fetched by a person or a program", detail, None, None, who, {})


# Charts


@dataclass(frozen=True, slots=True)
class HourCount:
    """How many of the deliveries that one hour brought came to one thing."""

    hour: datetime
    what: str
    """An outcome, `dead`, or `unfinished`."""
    count: int


@dataclass(frozen=True, slots=True)
class RunDrift:
    """What one run had to repair."""

    run_id: int
    kind: RunKind
    started_at: datetime
    created: int
    updated: int
    deleted: int
    drift: int


def deliveries_by_hour(connection: Connection) -> list[HourCount]:
    """Return what came of the deliveries of the last 24 hours, by the hour of their receipt."""
    return [HourCount(**row) for row in connection.execute(_queries.deliveries_by_hour)]


def drift_by_run(connection: Connection, *, most: int) -> list[RunDrift]:
    """Return what the latest runs that ended had to repair, the oldest of them first."""
    parameters = {"most": most, "not_drift": sorted(NOT_DRIFT)}
    return [RunDrift(**row) for row in connection.execute(_queries.drift_by_run, parameters)]


def drift_counts(connection: Connection, run_ids: Sequence[int]) -> dict[int, int]:
    """Return how much these runs had to repair; those that had nothing are left out."""
    parameters = {"run_ids": list(run_ids), "not_drift": sorted(NOT_DRIFT)}
    return {row["run_id"]: row["drift"] for row in connection.execute(_queries.drift_counts, parameters)}
