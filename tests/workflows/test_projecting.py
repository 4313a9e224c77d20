"""Rows that another version of the field table projected: what a former release wrote is carried on, without a call.

`tests/fixtures/released_0_1_0.rows` was written by release 0.1.0's own code: a full run over 30 items of the simulator,
then webhooks for six of them, a deletion, and a row that another program altered. A line holds one row of a table.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors import field_table
from processors.errors import RunRefused
from processors.runtime.local import LocalPostgres
from processors.store import database, projection, schema
from processors.workflows import operations, projecting
from simulator import Catalogue
from tests.workflows.runs_scene import ServedZoho, Shop, open_shop
from tests.workflows.scene import DEADLINE

RELEASED = Path(__file__).parents[1] / "fixtures" / "released_0_1_0.rows"
MADE_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
EDITED = slice(0, 6)
GONE, ALTERED, OTHER = 7, 9, 12
NEW_COLUMNS = {"group_id", "group_name", "available_stock", "actual_available_stock"}


@pytest.fixture
def upgraded(postgres: LocalPostgres, served: ServedZoho) -> Iterator[Shop]:
    """The released mirror after `migrate`, beside the catalogue that it was made of."""
    url = postgres.create_database("upgraded")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(schema.shipped().migrations[0].text)
        for line in RELEASED.read_text("utf-8").splitlines():
            table, _, row = line.partition(" ")
            told = f"(jsonb_populate_record(NULL::{table}, %s::jsonb)).*"
            connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT {told}", (row,))
            if table != "products" and "id" in row:
                connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
        # The test numbers its deliveries anew.
        connection.execute("UPDATE events SET fingerprint = NULL")
    schema.migrate(url)
    with database.sync_pool(url, size=8, name="tests") as pool, open_shop(served, pool, url) as shop:
        shop.clock.stand_at(MADE_AT)
        shop.at_zoho.catalogue = Catalogue.generate(30, clock=shop.clock)
        ids = shop.ids()
        for number, item_id in enumerate(ids[EDITED]):
            shop.catalogue.edit(item_id, rate=Decimal(100 + number), webhook=False)
        shop.catalogue.delete(ids[GONE], webhook=False)
        yield shop
    postgres.drop_database("upgraded")


def ids(shop: Shop) -> list[str]:
    return [row["zoho_item_id"] for row in shop.execute("SELECT zoho_item_id FROM products ORDER BY zoho_item_id")]


def project(shop: Shop) -> int:
    """Let passes go on until none is due."""
    total = projecting.project_rows(shop.pool)
    while more := projecting.project_rows(shop.pool):
        total += more
    return total


def outdated(shop: Shop) -> set[str]:
    rows = shop.execute(
        """SELECT zoho_item_id FROM products
            WHERE (fields_version, fields_revision) IS DISTINCT FROM (%(version)s, revision)""",
        version=field_table.VERSION,
    )
    return {row["zoho_item_id"] for row in rows}


def history(shop: Shop, source: str) -> list[dict[str, Any]]:
    return shop.execute("SELECT * FROM product_changes WHERE source = %(source)s ORDER BY id", source=source)


def let_time_pass(shop: Shop, time: timedelta) -> None:
    shop.execute("UPDATE projection_passes SET ended_at = ended_at - %(time)s", time=time)


def test_a_release_fills_its_new_columns_from_raw_without_a_call_and_says_so_in_the_history(upgraded: Shop) -> None:
    everything = ids(upgraded)
    before = {row["zoho_item_id"]: row for row in upgraded.execute("SELECT * FROM products")}
    assert outdated(upgraded) == set(everything)
    # What another program altered waits for Zoho's word.
    assert project(upgraded) == len(everything) - 1
    assert outdated(upgraded) == {everything[ALTERED]}
    assert upgraded.line.asked == []
    assert upgraded.differences().keys() == {everything[ALTERED]}
    after = {row["zoho_item_id"]: row for row in upgraded.execute("SELECT * FROM products")}
    for item_id in set(everything) - {everything[ALTERED]}:
        assert after[item_id]["revision"] == before[item_id]["revision"] + 1
        same = before[item_id].keys() - NEW_COLUMNS - {"revision", "updated_at", "fields_version", "fields_revision"}
        assert {name: after[item_id][name] for name in same} == {name: before[item_id][name] for name in same}
    told = history(upgraded, "release")
    assert {change["item_id"] for change in told} == set(everything) - {everything[ALTERED]}
    assert all(change["changes"].keys() <= NEW_COLUMNS for change in told)
    assert all(change["run_id"] is change["event_id"] is change["cause"] is None for change in told)


def test_the_first_full_run_after_it_costs_its_list_call_and_repairs_what_was_altered_only(upgraded: Shop) -> None:
    altered = ids(upgraded)[ALTERED]
    project(upgraded)
    run = upgraded.complete()
    assert (len(upgraded.line.list_calls()), upgraded.line.item_calls()) == (run.pages, 1)
    assert upgraded.causes(run) == {"altered_here": 1}
    assert [change["item_id"] for change in history(upgraded, "full") if change["run_id"] == run.id] == [altered]
    assert upgraded.differences() == {}
    assert outdated(upgraded) == set()
    rows = upgraded.rows()
    second = upgraded.complete()
    assert (second.created, second.updated, upgraded.causes(second)) == (0, 0, {})
    assert upgraded.rows() == rows


def test_a_run_that_comes_first_projects_what_it_meets_and_writes_no_row_twice(upgraded: Shop) -> None:
    run = upgraded.complete()
    assert upgraded.causes(run) == {"altered_here": 1}
    assert upgraded.line.item_calls() == 1
    assert upgraded.differences() == {}
    # No page shows what is deleted in Zoho.
    assert outdated(upgraded) == {ids(upgraded)[GONE]}
    rows = upgraded.rows()
    upgraded.complete()
    assert upgraded.rows() == rows
    assert project(upgraded) == 1


def test_a_webhook_that_meets_such_a_row_projects_it_on_the_way(upgraded: Shop) -> None:
    upgraded.clock.stand_at(MADE_AT + timedelta(hours=1))
    item = upgraded.catalogue.edit(ids(upgraded)[OTHER], rate=Decimal(5), webhook=False)
    event = upgraded.deliver(item)
    upgraded.settle(event)
    assert upgraded.line.asked == []
    release, webhook = upgraded.execute(
        "SELECT * FROM product_changes WHERE item_id = %(id)s ORDER BY id DESC LIMIT 2", id=item.item_id
    )[::-1]
    assert (release["source"], webhook["source"], webhook["event_id"]) == ("release", "webhook", event)
    assert release["changes"].keys() <= NEW_COLUMNS
    assert webhook["changes"].keys() == {"price"}
    assert item.item_id not in upgraded.differences().keys() | outdated(upgraded)


def test_an_old_webhook_says_nothing_new_and_the_row_is_projected_all_the_same(upgraded: Shop) -> None:
    item = next(each for each in upgraded.catalogue.all() if each.item_id == ids(upgraded)[OTHER])
    event = upgraded.deliver(item)
    upgraded.settle(event)
    assert upgraded.outcomes([event]) == ["unchanged"]
    assert [change["item_id"] for change in history(upgraded, "release")] == [item.item_id]
    assert item.item_id not in outdated(upgraded)


def test_what_a_worker_of_the_former_release_writes_is_projected_by_the_next_pass(upgraded: Shop) -> None:
    project(upgraded)
    item_id = ids(upgraded)[OTHER]
    # It merges a newer body, and knows neither the new columns nor their version.
    upgraded.execute(
        """UPDATE products SET raw = raw || '{"group_name": "Renamed"}', revision = revision + 1
            WHERE zoho_item_id = %(id)s""",
        id=item_id,
    )
    assert outdated(upgraded) == {item_id, ids(upgraded)[ALTERED]}
    assert project(upgraded) == 0
    let_time_pass(upgraded, timedelta(minutes=16))
    assert project(upgraded) == 1
    (row,) = upgraded.execute("SELECT group_name FROM products WHERE zoho_item_id = %(id)s", id=item_id)
    assert row["group_name"] == "Renamed"


def test_later_passes_begin_a_day_apart(upgraded: Shop) -> None:
    project(upgraded)
    for after, is_due in ((timedelta(minutes=14), False), (timedelta(minutes=2), True), (timedelta(hours=23), False)):
        let_time_pass(upgraded, after)
        with upgraded.pool.connection() as connection:
            assert (projection.next_portion(connection, most=500) is not None) is is_due
        project(upgraded)
    let_time_pass(upgraded, timedelta(hours=2))
    with upgraded.pool.connection() as connection:
        assert projection.next_portion(connection, most=500) is not None


def test_a_pass_that_is_cut_off_goes_on_after_its_last_portion(upgraded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ids(upgraded)
    monkeypatch.setattr(projecting, "_MOST", 10)
    seen: list[list[str]] = []
    read = projection.next_portion

    def cut_off(connection: database.Connection, *, most: int) -> projection.Portion | None:
        portion = read(connection, most=most)
        seen.append(portion.outdated if portion else [])
        if len(seen) == 2:
            raise psycopg.OperationalError("away")
        return portion

    monkeypatch.setattr(projection, "next_portion", cut_off)
    with pytest.raises(psycopg.OperationalError):
        projecting.project_rows(upgraded.pool)
    projecting.project_rows(upgraded.pool)
    assert seen[1] == seen[2]
    assert seen[0][0] == everything[0]
    assert outdated(upgraded) == {everything[ALTERED]}


def test_the_certificate_of_a_former_release_is_not_comparable_and_the_next_one_holds(upgraded: Shop) -> None:
    (former,) = upgraded.execute("SELECT id FROM reconciliation_runs")
    with pytest.raises(RunRefused, match="not comparable: it was made by another version"):
        operations.verify_run(upgraded.pool, former["id"])
    run = upgraded.complete()
    assert operations.verify_run(upgraded.pool, run.id).holds
    project(upgraded)
    assert operations.verify_run(upgraded.pool, run.id).holds


def test_projecting_and_deliveries_at_once_end_in_what_zoho_has(upgraded: Shop) -> None:
    upgraded.clock.stand_at(MADE_AT + timedelta(hours=1))
    events = []
    for number, item_id in enumerate(ids(upgraded)[10:20]):
        events.append(upgraded.deliver(upgraded.catalogue.edit(item_id, rate=Decimal(number), webhook=False)))
    projector = threading.Thread(target=project, args=(upgraded,))
    projector.start()
    upgraded.settle(*events)
    projector.join(DEADLINE)
    assert not projector.is_alive()
    assert upgraded.differences().keys() == {ids(upgraded)[ALTERED]}
    assert outdated(upgraded) == {ids(upgraded)[ALTERED]}
