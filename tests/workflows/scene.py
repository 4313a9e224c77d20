"""What the tests of events share: a mirror without its processes, and a stand-in for the Zoho client."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from processors import field_table
from processors.errors import PublishFailed
from processors.store.database import Pool, Row, encode_json, only_row
from processors.workflows import item_events
from processors.workflows.item_events import Workshop
from processors.workflows.paging import Pace
from processors.workflows.reconciliation import Reconciler, Zoho
from processors.zoho import items
from processors.zoho.listing import ListedPage

ITEM = "4100000000000012345"
DEADLINE = 20.0
"""Seconds until a test gives up waiting."""

START = datetime(2026, 10, 5, 12, tzinfo=UTC)
NEEDED = ("item_id", *field_table.NEEDED)

Answer = items.Fields | None | Exception | Callable[[], items.Fields | None]


def fields(second: int = 0, item_id: str = ITEM, **changed: Any) -> dict[str, Any]:
    """Return the keys of an item as it was modified `second` seconds after the start."""
    modified = (START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    return {
        "item_id": item_id,
        "name": "Mug",
        "sku": "MUG",
        "description": "",
        "rate": Decimal("12.50"),
        "stock_on_hand": Decimal("7.0"),
        "status": "active",
        "track_inventory": True,
        "unit": "pcs",
        "last_modified_time": modified,
        **changed,
    }


def thin(item_id: str = ITEM) -> dict[str, Any]:
    """Return a body that says nothing but which item it is about."""
    return {"item_id": item_id}


class FakeZoho:
    """Answers as it is told, and counts."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.calls: list[str] = []
        """Of single items, and what was asked for together, divided by commas."""

    def items_by_id(self, item_ids: Sequence[str], **_run: Any) -> dict[str, items.Fields] | None:
        self.calls.append(",".join(item_ids))
        found = {item_id: self._answer(item_id) for item_id in item_ids}
        whole = {item_id: fields for item_id, fields in found.items() if fields is not None}
        return whole if len(whole) == len(found) else None

    def item_page(self, **_asked: Any) -> ListedPage:
        raise AssertionError("this Zoho has no list")

    def item(self, item_id: str, **_run: Any) -> items.Fields | None:
        self.calls.append(item_id)
        return self._answer(item_id)

    def _answer(self, item_id: str) -> items.Fields | None:
        answer = self.answers[item_id]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


class FakePublisher:
    """Keeps what it is given, or fails."""

    def __init__(self) -> None:
        self.fetches: list[int] = []
        self.is_failing = False

    def publish_fetches(self, event_ids: Sequence[int]) -> None:
        if self.is_failing:
            raise PublishFailed("Redis is away")
        self.fetches += event_ids


class Scene:
    """A mirror whose deliveries, workers and time are in the hands of a test."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.zoho = FakeZoho()
        self.publisher = FakePublisher()
        self.shop = Workshop(pool, self.zoho, self.publisher, "worker:test")
        self._numbers = itertools.count()

    def reconciler(self, zoho: Zoho | None = None, *, guard_percent: int = 5) -> Reconciler:
        """Return what works on runs, with another Zoho than the one that answers for single items."""
        return Reconciler(self.pool, zoho or self.zoho, "worker:test", Pace(72, 3), Decimal(guard_percent))

    def execute(self, statement: str, **parameters: Any) -> list[Row]:
        with self.pool.connection() as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def changed(self, said: dict[str, Any], *, body: bytes | None = None) -> int:
        """Record a delivery at the route of created and edited items; return the event's id."""
        return self.record("changed", said["item_id"], body or b'{"item": %b}' % encode_json(said))

    def deleted(self, item_id: str = ITEM) -> int:
        """Record a delivery at the route of deleted items."""
        return self.record("deleted", item_id, b'{"item": {"item_id": "%b"}}' % item_id.encode())

    def record(self, kind: str, item_id: str, body: bytes) -> int:
        fingerprint = hashlib.sha256(f"{next(self._numbers)}".encode()).digest()
        with self.pool.connection() as connection:
            row = only_row(
                connection.execute(
                    "INSERT INTO events (kind, item_id, body, fingerprint) VALUES (%s, %s, %s, %s) RETURNING id",
                    (kind, item_id, body, fingerprint),
                )
            )
        return int(row["id"])

    def apply(self, *event_ids: int) -> None:
        item_events.apply_events(self.shop, event_ids)

    def fetch(self, *event_ids: int) -> None:
        item_events.fetch_items(self.shop, event_ids)

    def settle_all(self) -> None:
        """Apply and fetch until nothing is left that may be done now."""
        for _ in range(20):
            self.make_due()
            waiting = self.execute(
                "SELECT id, needs_fetch FROM events WHERE state IN ('recorded', 'queued', 'processing') ORDER BY id"
            )
            if not waiting:
                return
            self.apply(*(row["id"] for row in waiting if not row["needs_fetch"]))
            self.fetch(*(row["id"] for row in waiting if row["needs_fetch"]))
        raise AssertionError(f"still unfinished: {waiting}")

    def make_due(self) -> None:
        """Let every wait and every lease be over."""
        self.execute(
            """UPDATE events SET claimable_at = now() - interval '1 hour'
                WHERE state IN ('recorded', 'queued', 'processing') AND claimable_at > now()"""
        )

    def event(self, event_id: int) -> Row:
        (row,) = self.execute("SELECT *, claimable_at - now() AS due_in FROM events WHERE id = %(id)s", id=event_id)
        return row

    def outcomes(self, event_ids: Iterable[int]) -> list[str | None]:
        return [self.event(event_id)["outcome"] for event_id in event_ids]

    def product(self, item_id: str = ITEM) -> Row | None:
        rows = self.execute("SELECT * FROM products WHERE zoho_item_id = %(id)s", id=item_id)
        return rows[0] if rows else None

    def live(self, item_id: str = ITEM) -> Row:
        row = self.product(item_id)
        assert row is not None
        assert row["deleted_at"] is None
        return row

    def changes(self, item_id: str = ITEM) -> list[Row]:
        return self.execute("SELECT * FROM product_changes WHERE item_id = %(id)s ORDER BY id", id=item_id)

    def state(self) -> list[Row]:
        """Return everything that events may have changed, to compare."""
        return [
            *self.execute("SELECT * FROM products ORDER BY zoho_item_id"),
            *self.execute("SELECT * FROM product_changes ORDER BY id"),
            *self.execute("SELECT id, state, outcome, processed_at FROM events ORDER BY id"),
        ]


def run_together(works: Sequence[Callable[[], object]]) -> None:
    """Run `works` at the same time in threads; what any of them raises is raised here."""
    start = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            start.wait(DEADLINE)
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a thread did not end"
    if failures:
        raise failures[0]
