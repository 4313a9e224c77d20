"""What operators and programs wait for looks up what it shows: no page reads all events or all products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from processors.runtime.local import LocalPostgres
from processors.store import database, schema
from processors.store.database import Connection, Pool
from processors.workflows import browsing, insights
from processors.workflows.browsing import ProductQuery
from processors.workflows.insights import EventQuery
from tests.benchmarks.overview import seed
from tests.store.test_schema import sequential_scans

LARGE = {"products", "events", "event_attempts", "product_changes"}
ITEM = "4100000000000000042"
LOOKS: dict[str, Any] = {
    "the overview": insights.overview,
    "dead events by cause": insights.dead_by_cause,
    "deliveries by hour": browsing.deliveries_by_hour,
    "drift by run": lambda connection: browsing.drift_by_run(connection, most=30),
    "one product": lambda connection: browsing.product(connection, ITEM),
    "one item's timeline": lambda connection: browsing.timeline(connection, ITEM, most=200),
    "changes of an item": lambda connection: browsing.find_changes(connection, item_id=ITEM, most=25),
    "the newest changes": lambda connection: browsing.find_changes(connection, most=25),
    "changes further back": lambda connection: browsing.find_changes(connection, before=1_000, most=25),
}
EVENTS: dict[str, EventQuery] = {
    "all": EventQuery(),
    "processed": EventQuery(state="processed"),
    "unfinished": EventQuery(state="queued"),
    "dead": EventQuery(state="dead"),
    "discarded": EventQuery(state="dead", is_discarded=True),
    "by outcome": EventQuery(outcome="stale"),
    "of an outcome that there is not": EventQuery(outcome="gone"),
    "of an item": EventQuery(item_id=ITEM),
    "of a run": EventQuery(run_id=7),
    "by class": EventQuery(error_class="ItemUnusable"),
    "of a class that there is not": EventQuery(error_class="Nothing"),
    "by cause, as the overview leads there": EventQuery(
        state="dead", error_class="ItemUnusable", cause="item … has no name"
    ),
    "by cause": EventQuery(cause="item … has no name"),
    "of a cause that there is not": EventQuery(cause="nothing"),
    "by a part of the error": EventQuery(error="has no"),
    "by a part of an error that there is not": EventQuery(error="nothing"),
}
# A search for a part of a name or a SKU may read all products, and so may a filter or an order by a column without an
# index: each index more would be written with every change. At 100,000 products that is less than a tenth of a second.
PRODUCTS: dict[str, ProductQuery] = {
    "all": ProductQuery(),
    "live": ProductQuery(state="live"),
    "active": ProductQuery(state="active"),
    "inactive": ProductQuery(state="inactive"),
    "deleted": ProductQuery(state="deleted"),
}


class Recorder:
    """Stands between a read and its connection, and keeps how each statement is planned."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.read_whole: list[str] = []
        self.statements = 0

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None, **how: Any) -> Any:
        if not statement.startswith("SET"):
            # Planned for these parameters, as is a statement that was not prepared.
            explain: Any = f"EXPLAIN (FORMAT JSON) {statement}"
            (row,) = self._connection.execute(explain, parameters, prepare=False).fetchall()
            self.read_whole += [name for name in sequential_scans(row["QUERY PLAN"]) if name in LARGE]
            self.statements += 1
        asked: Any = statement
        return self._connection.execute(asked, parameters, **how)

    def transaction(self) -> Any:
        return self._connection.transaction()


@pytest.fixture(scope="module")
def month(postgres: LocalPostgres) -> Iterator[Pool]:
    """A month of a shop: large enough that reading a table from end to end never looks cheap."""
    url = postgres.create_database("browsing_plans")
    schema.migrate(url)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        seed(connection, products=20_000, events=100_000)
        connection.execute("UPDATE events SET run_id = 7 WHERE state = 'dead' AND id % 5000 = 0")
        connection.execute("ANALYZE")
    with database.sync_pool(url, size=1, name="plans") as pool:
        yield pool
    postgres.drop_database("browsing_plans")


@pytest.fixture
def recorder(month: Pool) -> Iterator[Recorder]:
    with month.connection() as connection:
        yield Recorder(connection)


@pytest.mark.parametrize("what", LOOKS)
def test_a_page_reads_no_large_table_from_end_to_end(recorder: Recorder, what: str) -> None:
    LOOKS[what](recorder)
    assert recorder.statements
    assert recorder.read_whole == []


@pytest.mark.parametrize("what", EVENTS)
def test_lists_of_events_and_their_counts_use_indexes(recorder: Recorder, what: str) -> None:
    connection: Any = recorder
    browsing.find_events(connection, EVENTS[what], most=25)
    browsing.find_events(connection, EVENTS[what], before=5_000, most=25)
    browsing.count_events(connection, EVENTS[what], at_most=10_000)
    assert recorder.read_whole == []


@pytest.mark.parametrize("what", PRODUCTS)
def test_lists_of_products_by_id_and_their_counts_use_indexes(recorder: Recorder, what: str) -> None:
    connection: Any = recorder
    browsing.find_products(connection, PRODUCTS[what], most=25)
    browsing.find_products(connection, PRODUCTS[what], after=ITEM, most=25)
    browsing.find_products(connection, PRODUCTS[what], descending=True, most=25)
    browsing.count_products(connection, PRODUCTS[what], at_most=1_000)
    assert recorder.read_whole == []


def test_a_timeline_takes_a_handful_of_statements_however_much_there_is_to_tell(recorder: Recorder) -> None:
    connection: Any = recorder
    entries = browsing.timeline(connection, ITEM, most=200)
    assert len(entries) > 5
    assert recorder.statements == 5


def test_a_read_of_everything_would_be_found(recorder: Recorder) -> None:
    connection: Any = recorder
    browsing.find_products(connection, ProductQuery(text="duct"), sort="name", most=25)
    assert recorder.read_whole == ["products"]
