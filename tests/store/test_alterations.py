"""Rows that something other than the mirror wrote: noted by the database, and cleared when Zoho has confirmed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from processors import field_table
from processors.store import runs
from processors.store.audit import Requester
from processors.store.database import Connection, Row, encode_json
from processors.workflows import operations
from processors.zoho import listing
from processors.zoho.items import Fields
from processors.zoho.listing import ListedPage
from tests.workflows.scene import ITEM, Scene, fields

OTHER = "4100000000000099999"
OF_TYPE = {"text": "'altered'", "numeric": "1", "integer": "1", "boolean": "false"}
ALTERATIONS: dict[str, str] = {
    **{column: OF_TYPE[source.sql] for column, source in field_table.BY_COLUMN.items()},
    "zoho_last_modified_at": "now()",
    "deleted_at": "now()",
    "raw": """'{"name": "Altered"}'""",
    "older_keys": """'{"name": 1}'""",
}
OWN_BUSINESS = {
    "zoho_item_id",
    "revision",
    "fields_version",
    "is_listed",
    "fields_revision",
    "altered_at",
    "created_at",
    "updated_at",
}


@pytest.fixture(autouse=True)
def product(scene: Scene) -> None:
    """A row as the mirror wrote it."""
    scene.apply(scene.changed(fields()))


def altered_at(scene: Scene, item_id: str = ITEM) -> datetime | None:
    row = scene.product(item_id)
    assert row is not None
    at: datetime | None = row["altered_at"]
    return at


def alter(scene: Scene, assignment: str = "price = 1", item_id: str = ITEM) -> None:
    scene.execute(f"UPDATE products SET {assignment} WHERE zoho_item_id = %(id)s", id=item_id)


def forget(scene: Scene) -> None:
    scene.execute("UPDATE products SET altered_at = NULL, revision = revision + 1")


@dataclass
class ListingZoho:
    """A Zoho with these items."""

    items: list[dict[str, Any]] = field(default_factory=list)

    def item(self, item_id: str, *, run_id: int | None = None) -> Fields | None:  # noqa: ARG002
        return next((item for item in self.items if item["item_id"] == item_id), None)

    def items_by_id(self, item_ids: Sequence[str], *, run_id: int | None = None) -> dict[str, Fields] | None:
        found = {item_id: self.item(item_id, run_id=run_id) for item_id in item_ids}
        whole = {item_id: item for item_id, item in found.items() if item is not None}
        return whole if len(whole) == len(found) else None

    def item_page(self, *, per_page: int, **_asked: Any) -> ListedPage:
        envelope = listing.read_envelope(encode_json({"items": self.items, "page_context": {"has_more_page": False}}))
        assert envelope is not None
        page = listing.read_page(envelope, per_page=per_page)
        assert page is not None
        return page


def sweep(scene: Scene, *items: dict[str, Any]) -> Row:
    """Let a full run go through, against a Zoho with these items."""
    with scene.pool.connection() as connection:
        run = runs.open_run(connection, "full", "cli")
    assert run is not None
    scene.reconciler(ListingZoho(list(items))).work(run.id)
    (row,) = scene.execute("SELECT * FROM reconciliation_runs WHERE id = %(id)s", id=run.id)
    assert row["state"] == "complete", row["error"]
    return row


# Noted


def test_an_alteration_of_any_column_is_noted(scene: Scene) -> None:
    for column, value in ALTERATIONS.items():
        alter(scene, f"{column} = {value}")
        assert altered_at(scene) is not None, column
        forget(scene)


def test_every_column_that_the_mirror_fills_is_watched(connection: Connection) -> None:
    columns = connection.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'products'")
    assert {row["column_name"] for row in columns} - OWN_BUSINESS == ALTERATIONS.keys()


def test_a_value_that_becomes_null_or_was_null_is_noted(scene: Scene) -> None:
    alter(scene, "price = NULL")
    assert altered_at(scene) is not None
    forget(scene)
    alter(scene, "price = 1")
    assert altered_at(scene) is not None


def test_the_time_of_the_last_alteration_is_noted(scene: Scene) -> None:
    alter(scene, "price = 1")
    first = altered_at(scene)
    alter(scene, "price = 2")
    last = altered_at(scene)
    assert first is not None
    assert last is not None
    assert last > first


def test_only_the_rows_that_were_altered_are_noted(scene: Scene) -> None:
    scene.apply(scene.changed(fields(item_id=OTHER, name="Cup")))
    scene.execute("UPDATE products SET name = 'Mug'")
    assert altered_at(scene) is None
    assert altered_at(scene, OTHER) is not None


def test_an_update_that_changes_nothing_is_not_noted(scene: Scene) -> None:
    columns = ", ".join(f"{column} = {column}" for column in ALTERATIONS)
    alter(scene, columns)
    alter(scene, "price = 12.5000, stock_on_hand = 7")
    alter(scene, "raw = raw::text::jsonb")
    assert altered_at(scene) is None


def test_an_alteration_by_way_of_an_insert_is_noted(scene: Scene) -> None:
    scene.execute(
        """INSERT INTO products (zoho_item_id, name) VALUES (%(id)s, 'Altered')
               ON CONFLICT (zoho_item_id) DO UPDATE SET name = excluded.name""",
        id=ITEM,
    )
    assert altered_at(scene) is not None


def test_other_programs_own_columns_are_their_own_business(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("ALTER TABLE products ADD COLUMN shelf text")
        connection.execute("UPDATE products SET shelf = 'A7'")
        (row,) = connection.execute("SELECT shelf, altered_at FROM products").fetchall()
    assert row == {"shelf": "A7", "altered_at": None}


def test_what_is_rolled_back_is_not_noted(scene: Scene) -> None:
    with scene.pool.connection() as connection, connection.transaction():
        connection.execute("UPDATE products SET price = 1")
        raise psycopg.Rollback
    assert altered_at(scene) is None


# The mirror's own writes


def test_the_mirrors_own_writes_are_not_noted(scene: Scene) -> None:
    scene.zoho.answers[ITEM] = fields(9, name="Restored")
    scene.apply(scene.changed(fields(1, rate=Decimal(13), name="Cup")))
    assert (altered_at(scene), scene.live()["name"]) == (None, "Cup")
    scene.apply(scene.deleted())
    assert altered_at(scene) is None
    scene.changed(fields(9, name="Restored"))
    scene.settle_all()
    assert (altered_at(scene), scene.live()["name"]) == (None, "Restored")
    sweep(scene, fields(10, name="Swept"), fields(10, OTHER))
    assert (altered_at(scene), scene.live()["name"], altered_at(scene, OTHER)) == (None, "Swept", None)


def test_a_webhook_does_not_clear_it(scene: Scene) -> None:
    alter(scene, "brand = 'altered'")
    at = altered_at(scene)
    scene.apply(scene.changed(fields(1, rate=Decimal(13))))
    assert (altered_at(scene), scene.live()["price"]) == (at, Decimal(13))


# Cleared


@pytest.mark.parametrize("column", ["price", "zoho_last_modified_at", "raw", "deleted_at"])
def test_a_fetch_puts_right_what_was_altered_and_clears_it(scene: Scene, column: str) -> None:
    alter(scene, f"{column} = {ALTERATIONS[column]}")
    scene.zoho.answers[ITEM] = fields()
    (fetched,) = operations.fetch_items(scene.pool, scene.zoho, [ITEM], Requester("cli", "somebody"))
    assert fetched.error is None
    assert altered_at(scene) is None
    row = scene.live()
    assert (row["price"], row["raw"]["name"]) == (Decimal("12.50"), "Mug")
    assert row["zoho_last_modified_at"] < row["created_at"]


def test_a_sweep_puts_right_whatever_was_altered_clears_it_and_says_why(scene: Scene) -> None:
    sweep(scene, fields())
    before = scene.live()
    for column, value in ALTERATIONS.items():
        alter(scene, f"{column} = {value}")
        at = altered_at(scene)
        run = sweep(scene, fields())
        after = scene.live()
        assert {key: after[key] for key in ALTERATIONS} == {key: before[key] for key in ALTERATIONS}, column
        assert after["altered_at"] is None, column
        change = scene.changes()[-1]
        assert (change["run_id"], change["cause"], change["wrong_since"]) == (run["id"], "altered_here", at), column


def test_a_sweep_clears_what_was_altered_there_and_back(scene: Scene) -> None:
    alter(scene, "price = 1")
    alter(scene, "price = 12.50")
    assert altered_at(scene) is not None
    sweep(scene, fields())
    assert altered_at(scene) is None


def test_an_altered_row_whose_item_zoho_does_not_have_is_cleared_by_zohos_word(scene: Scene) -> None:
    scene.zoho.answers[ITEM] = None
    alter(scene)
    operations.fetch_items(scene.pool, scene.zoho, [ITEM], Requester("cli", "somebody"))
    row = scene.product()
    assert row is not None
    assert row["deleted_at"] is not None
    assert row["altered_at"] is None


def test_a_sweep_leaves_no_row_that_was_altered_not_even_a_tombstone(scene: Scene) -> None:
    """`runs verify` says that the next full run repairs them."""
    scene.apply(scene.changed(fields(item_id=OTHER)), scene.deleted(OTHER))
    alter(scene, "price = 1")
    alter(scene, "deleted_at = NULL", OTHER)
    sweep(scene)
    rows = scene.execute("SELECT deleted_at IS NULL AS is_live, altered_at FROM products")
    assert rows == [{"is_live": False, "altered_at": None}] * 2
