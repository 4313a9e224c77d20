"""What people and programs look at is looked up, not searched for: of a large mirror a small part is read for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self

import psycopg
import pytest
from psycopg.pq import ExecStatus
from psycopg.rows import dict_row, tuple_row

from processors.runtime.local import LocalPostgres
from processors.store import audit, replays, schema
from processors.store.database import Connection
from processors.store.event_filter import EventFilter
from processors.workflows import browsing, insights
from processors.workflows.browsing import ProductQuery, TimelineEntry
from tests.benchmarks.overview import seed
from tests.store.test_schema import numbered, sequential_scans

Look = Callable[[Connection], object]

EVENTS, PRODUCTS = 100_000, 20_000
LARGE = {"events", "event_attempts", "products", "product_changes", "audit_log"}
"""Tables whose size grows with the catalogue and with what happens to it."""

NOW = datetime.now(UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ITEM = "4100000000000000042"
_SELECTS = re.compile(r"(?:\s*--[^\n]*\n)*\s*(?:SELECT|WITH)\b")

_MORE = """
INSERT INTO events (item_id, state, error, error_class, run_id)
SELECT n::text, 'dead', 'item ' || n || ' has no name', 'ItemUnusable', 4000 + n FROM generate_series(1, 20) AS n;
INSERT INTO audit_log (channel, requester, action, targets)
SELECT 'console', 'olga', 'item.fetched', ARRAY[(4100000000000000000 + n)::text] FROM generate_series(1, 20000) AS n;
"""


class Explaining(psycopg.Cursor[Any]):
    """Keeps the plan of each query that it runs, by the very parameters, and for any where it may be planned so."""

    plans: ClassVar[list[dict[str, Any]]] = []
    statements = 0

    def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None, **given: Any) -> Self:
        if _SELECTS.match(query):
            with psycopg.Cursor(self.connection, row_factory=tuple_row) as explaining:
                explaining.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", params, prepare=False)
                ((plans,),) = explaining.fetchall()
            Explaining.plans += plans
            Explaining.statements += 1
            if prepare is not False:
                # After a few executions Postgres may plan without knowing the parameters.
                result = self.connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(query)}".encode())
                assert result.status == ExecStatus.TUPLES_OK, result.error_message.decode()
                Explaining.plans += json.loads(result.get_value(0, 0) or b"")
        return super().execute(query, params, prepare=prepare, **given)


@pytest.fixture(scope="module")
def large(postgres: LocalPostgres) -> Iterator[Connection]:
    """A month of a shop, some of what runs found, and many fetches."""
    url = postgres.create_database("browsing_plans")
    schema.migrate(url)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET synchronous_commit = off")
        seed(connection, products=PRODUCTS, events=EVENTS)
        connection.execute(_MORE)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("SET timezone = 'UTC'")
        yield connection
    postgres.drop_database("browsing_plans")


def looked_up(connection: Connection, look: Look) -> list[dict[str, Any]]:
    """Return the plans of what a look asks."""
    Explaining.plans.clear()
    Explaining.statements = 0
    connection.cursor_factory = Explaining
    try:
        look(connection)
    finally:
        connection.cursor_factory = psycopg.Cursor
    return list(Explaining.plans)


def read_whole(plans: list[dict[str, Any]]) -> set[str]:
    return {name for name in sequential_scans(plans) if name in LARGE}


def pages_read(plans: list[dict[str, Any]]) -> int:
    return sum(each["Plan"].get(f"Shared {kind} Blocks", 0) for each in plans for kind in ("Hit", "Read"))


def pages_of(connection: Connection, table: str) -> int:
    (row,) = connection.execute("SELECT pg_relation_size(%s) / 8192 AS pages", (table,)).fetchall()
    return int(row["pages"])


def of_products(query: ProductQuery) -> Look:
    """Return the look at a list of products: a page of it, one further on, the last one, and how many there are."""

    def look(connection: Connection) -> None:
        browsing.find_products(connection, query, most=25)
        browsing.find_products(connection, query, after=ITEM, most=25)
        browsing.find_products(connection, query, descending=True, most=25)
        browsing.count_products(connection, query, at_most=1_000)

    return look


def of_events(query: EventFilter) -> Look:
    """Return the look at a list of events: a page of it, the next one, and how many there are."""

    def look(connection: Connection) -> None:
        found = browsing.find_events(connection, query, most=25)
        if found:
            browsing.find_events(connection, query, before=found[-1].id, most=25)
        browsing.count_events(connection, query, at_most=1_000)

    return look


OVERVIEW: dict[str, Look] = {
    "overview": insights.overview,
    "dead by cause": insights.dead_by_cause,
    "rejections": insights.rejections_lately,
    "deliveries by hour": browsing.deliveries_by_hour,
    "drift by run": lambda connection: browsing.drift_by_run(connection, most=30),
}
LISTS: dict[str, EventFilter] = {
    "all": EventFilter(),
    "processed": EventFilter(state="processed"),
    "queued": EventFilter(state="queued"),
    "recorded, of which there are none": EventFilter(state="recorded"),
    "dead": EventFilter(state="dead"),
    "discarded": EventFilter(state="dead", is_discarded=True),
    "of an item": EventFilter(item_id=ITEM),
    "of an item that is not known": EventFilter(item_id="17"),
    "found by a run": EventFilter(run_id=4_007),
    "with a common outcome": EventFilter(outcome="updated"),
    "with an outcome that never was": EventFilter(outcome="gone"),
    "deletions": EventFilter(kind="deleted"),
    "by a part of an error": EventFilter(error="no rate"),
    "by a text that no error has": EventFilter(error="no such text"),
    "by an error's class": EventFilter(error_class="ItemUnusable"),
    "by a class that never was": EventFilter(error_class="NoSuchError"),
    "by the cause of death": EventFilter(state="dead", cause="item … has no name"),
    "as the overview leads there": EventFilter(state="dead", error_class="ItemUnusable", cause="item … has no name"),
    "by a cause": EventFilter(cause="item … has no name"),
    "by a cause that never was": EventFilter(cause="no such cause"),
    "of the last minute": EventFilter(since=NOW - timedelta(minutes=1)),
    "of the last day": EventFilter(since=NOW - DAY),
    "of the future": EventFilter(since=NOW + DAY),
    "of an hour weeks ago": EventFilter(since=NOW - 20 * DAY, until=NOW - 20 * DAY + HOUR),
    "before almost everything": EventFilter(until=NOW - 29 * DAY),
    "before everything": EventFilter(until=NOW - 40 * DAY),
    "dead ones of an hour weeks ago": EventFilter(state="dead", since=NOW - 20 * DAY, until=NOW - 20 * DAY + HOUR),
}
# A part of a name or a SKU, a category, a stock or a time may be looked for in all products, and so may an order by
# another column: each index more would be written with every change. Of 100,000 that is less than a tenth of a second.
PRODUCT_LISTS: dict[str, ProductQuery] = {
    "all": ProductQuery(),
    "live": ProductQuery(state="live"),
    "active": ProductQuery(state="active"),
    "inactive": ProductQuery(state="inactive"),
    "deleted": ProductQuery(state="deleted"),
}
HISTORIES: dict[str, Look] = {
    "timeline": lambda connection: browsing.timeline(connection, ITEM, most=200),
    "timeline of nothing": lambda connection: browsing.timeline(connection, "17", most=200),
    "changes of an item": lambda connection: browsing.find_changes(connection, item_id=ITEM, most=50),
    "older changes of an item": lambda connection: browsing.find_changes(
        connection, item_id=ITEM, before=40_000, most=50
    ),
    "changes": lambda connection: browsing.find_changes(connection, before=40_000, most=50),
    "fetches": lambda connection: audit.fetches_of(connection, ITEM, most=50),
    "audit log": lambda connection: audit.find_entries(connection, most=50),
    "runs": lambda connection: browsing.find_runs(connection, most=50),
    "full runs": lambda connection: browsing.find_runs(connection, kind="full", state="complete", most=50),
    "report of a run": lambda connection: insights.run_report(connection, 4_000, most=50),
    "a product": lambda connection: browsing.product(connection, ITEM),
    "an event": lambda connection: insights.event_detail(connection, 50_000),
}


@pytest.mark.parametrize("what", OVERVIEW)
def test_the_overview_reads_no_table_from_end_to_end(large: Connection, what: str) -> None:
    plans = looked_up(large, OVERVIEW[what])
    assert plans
    assert read_whole(plans) == set()


@pytest.mark.parametrize("what", LISTS)
def test_a_list_of_events_reads_a_small_part_of_them(large: Connection, what: str) -> None:
    plans = looked_up(large, of_events(LISTS[what]))
    assert read_whole(plans) == set()
    assert pages_read(plans) < pages_of(large, "events") / 4


def test_a_count_of_what_is_common_is_soon_at_its_end(large: Connection) -> None:
    plans = looked_up(large, of_events(EventFilter(kind="changed")))
    assert pages_read(plans) < pages_of(large, "events") / 20


@pytest.mark.parametrize("what", PRODUCT_LISTS)
def test_a_list_of_products_by_their_ids_reads_a_small_part_of_them(large: Connection, what: str) -> None:
    plans = looked_up(large, of_products(PRODUCT_LISTS[what]))
    assert read_whole(plans) == set()
    assert pages_read(plans) < pages_of(large, "products") / 4


@pytest.mark.parametrize("what", HISTORIES)
def test_what_happened_to_one_thing_is_looked_up(large: Connection, what: str) -> None:
    plans = looked_up(large, HISTORIES[what])
    assert plans
    assert read_whole(plans) == set()
    assert pages_read(plans) < 700


def test_a_timeline_takes_a_handful_of_statements_however_much_there_is_to_tell(large: Connection) -> None:
    entries: list[TimelineEntry] = []
    looked_up(large, lambda connection: entries.extend(browsing.timeline(connection, ITEM, most=200)))
    assert len(entries) > 5
    assert Explaining.statements == 5


@pytest.mark.parametrize(
    "chosen",
    [
        EventFilter(state="dead"),
        EventFilter(item_id=ITEM),
        EventFilter(run_id=4_007),
        EventFilter(outcome="gone"),
        EventFilter(error="no such text"),
        EventFilter(cause="item … has no name"),
        EventFilter(since=NOW - HOUR),
        EventFilter(since=NOW - 20 * DAY, until=NOW - 20 * DAY + HOUR),
    ],
)
def test_what_a_replay_means_is_looked_up(large: Connection, chosen: EventFilter) -> None:
    plans = looked_up(large, lambda connection: replays.match(connection, chosen))
    assert read_whole(plans) == set()
    assert pages_read(plans) < pages_of(large, "events") / 4


def test_a_plan_that_reads_a_large_table_would_be_found(large: Connection) -> None:
    """A part of a name has no index."""
    plans = looked_up(
        large, lambda connection: browsing.find_products(connection, ProductQuery(text="duct 77"), sort="name", most=25)
    )
    assert read_whole(plans) == {"products"}
    assert pages_read(plans) >= pages_of(large, "products")


def test_an_old_hours_list_holds_all_of_that_hour(large: Connection) -> None:
    """Where the list begins is found by a bound on the ids, which must not cut anything off."""
    since, until = NOW - 20 * DAY, NOW - 20 * DAY + HOUR
    listed = browsing.find_events(large, EventFilter(since=since, until=until), most=EVENTS)
    received = large.execute(
        "SELECT id FROM events WHERE received_at >= %s AND received_at < %s ORDER BY id DESC", (since, until)
    ).fetchall()
    assert len(listed) > 100
    assert [each.id for each in listed] == [row["id"] for row in received]


def test_a_lists_filters_are_taken_apart_by_the_planner(large: Connection) -> None:
    """A function that was called for each row would know of no index."""
    for look in (of_events(EventFilter(state="dead")), of_products(PRODUCT_LISTS["live"])):
        assert "_is_meant" not in json.dumps(looked_up(large, look))
