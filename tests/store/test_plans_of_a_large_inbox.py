"""No statement that is run again and again reads all of ten million events, or of a million products.

The rows are thousands. The planner is made to believe in millions: it takes the size of a table from the length of its
files, and these are lengthened without writing anything; the statistics of real rows are multiplied.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus
from psycopg.rows import dict_row

from processors.runtime.local import LocalPostgres
from processors.store import schema
from processors.store.database import Connection
from processors.store.event_filter import EventFilter
from processors.store.queries import Queries, containing
from processors.workflows.browsing import ProductQuery
from tests.benchmarks.overview import seed
from tests.store.test_browsing_plans import LISTS, PRODUCT_LISTS
from tests.store.test_schema import STATEMENTS, numbered

EVENTS, PRODUCTS = 20_000, 2_500
TIMES = {"events": 500, "event_attempts": 500, "product_changes": 500, "products": 400}
"""How many times as many rows the planner is to believe in: ten million events of a million products."""

LARGE = set(TIMES)
PAGE_BYTES = 8_192
SEGMENT_PAGES = 131_072
"""Postgres keeps a table in files of a gigabyte."""

# What makes a table has no plan.
NAMES = [f"{file.removesuffix('.sql')}.{name}" for file, name in STATEMENTS if name != "create_ledger"]
READ_EVERYTHING = {
    "browsing.products_sorted": "another order than that of the ids: each index more would be written with each change",
    "browsing.categories": "the console's choice of categories, when a person opens the list of products",
    "certificates.certify": "once at the end of a full run: a certificate is about every product",
    "certificates.recompute": "asked for by a person: a certificate is about every product",
    "certificates.altered": "beside recompute, which reads every product anyway",
    "insights.all_events": "exact totals for /metrics, from an index alone",
    "insights.products": "how many products there are by state, from an index alone",
    "runs.end_listing": "once in a full run: which of all products no page showed",
}
"""Statements that read all events or all products, each with the reason why it may."""

PLANNED_ANEW = {
    "browsing.products_by_id",
    "browsing.products_by_id_backwards",
    "browsing.products_sorted",
    "browsing.count_products_meant",
    "browsing.find_events",
    "browsing.count_events_meant",
    "browsing.find_changes",
    "browsing.find_runs",
    "browsing.count_runs_meant",
    "browsing.events_of",
    "browsing.attempts_at",
    "replays.match",
}
"""Statements with filters: the planner knows each time what is asked for, so there is no plan for any parameters."""

BY_STATE = {"events_state_outcome", "events_unfinished"}
OF_THE_BACKLOG = {
    "inbox.claim_events": ["events_unfinished"],
    "inbox.take_due": ["events_unfinished"],
    "inbox.hurry_fetches": ["events_unfinished"],
}
"""Statements that take whatever waits, in the order in which it may be taken, and how they find it."""

NOW = datetime.now(UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ITEM = "4100000000000000042"
AT_ONCE = 100
OF_TYPE: dict[str, object] = {
    "text": ITEM,
    "bigint": 17_000,
    "integer": 1,
    "boolean": True,
    "numeric": Decimal("12.5"),
    "timestamptz": NOW - HOUR,
    "bytea": b"fingerprint",
}
"""An element of an array of each type."""

GIVEN: dict[str, object] = {
    "after": 17_000,
    "at_most": 1_000,
    "attempt": 1,
    "before": None,
    "counts": 1,
    "duplicate_window": 10 * MINUTE,
    "error": "no answer from Zoho",
    "error_at": "client.py, line 1, in get",
    "error_class": "ZohoUnavailable",
    "error_classes": ["NotAuthorised", "ZohoAway"],
    "event_id": 17_000,
    "after_item": "",
    "fields_version": "0f0f0f0f",
    "later_passes": DAY,
    "second_pass": 15 * MINUTE,
    "up_to_item": ITEM,
    "version": "0f0f0f0f",
    "event_ids": list(range(17_000, 17_000 + AT_ONCE)),
    "fingerprints": [bytes([number]) * 32 for number in range(AT_ONCE)],
    "grace": SECOND,
    "id": 17_000,
    "item_id": ITEM,
    "item_ids": [str(4_100_000_000_000_000_000 + number) for number in range(AT_ONCE)],
    "kind": "changed",
    "last_id": 20_000,
    "lock": "shared",
    "lock_key": 7_267_002,
    "lease": 15 * SECOND,
    "longest": 10 * MINUTE,
    "most": 100,
    "needs_fetch": False,
    "not_drift": ["first_load", "during_run", "delivery_late"],
    "older_than": 20 * DAY,
    "operator": "olga",
    "others": 0,
    "patience": 30 * SECOND,
    "reason": "known",
    "replay_id": 17,
    "retry_in": SECOND,
    "run_id": 4_000,
    "run_ids": [4_000, 4_001],
    "skip": 0,
    "suspects": False,
    "wait": SECOND,
    "window": 15 * MINUTE,
    "worker": "worker:1",
}
"""What parameters are usually given, by their names; an array that says its type has elements of that."""


def _products_meant(query: ProductQuery) -> dict[str, object]:
    return {**asdict(query), "pattern": containing(query.text)}


_MEANT_FOR_REPLAY = [
    EventFilter(state="dead"),
    EventFilter(item_id=ITEM),
    EventFilter(run_id=4_007),
    EventFilter(error="no such text"),
    EventFilter(error_class="ItemUnusable"),
    EventFilter(cause="item … has no name"),
    EventFilter(event_ids=(17_000, 17_001)),
    EventFilter(since=NOW - HOUR),
    EventFilter(since=NOW - 20 * DAY, until=NOW - 20 * DAY + HOUR),
]
_EVENTS = [chosen.parameters() for chosen in LISTS.values()]
_PRODUCTS = [_products_meant(query) for query in PRODUCT_LISTS.values()]
ASKED: dict[str, list[dict[str, object]]] = {
    "browsing.products_by_id": [{**meant, "after": after} for meant in _PRODUCTS for after in (None, ITEM)],
    "browsing.products_by_id_backwards": _PRODUCTS,
    "browsing.count_products_meant": _PRODUCTS,
    "browsing.find_events": [{**meant, "before": before} for meant in _EVENTS for before in (None, 17_000)],
    "browsing.count_events_meant": _EVENTS,
    "browsing.products_sorted": [{**_products_meant(ProductQuery()), "sort": "name", "descending": False}],
    "browsing.find_runs": [{"kind": "full", "state": "complete"}],
    "browsing.count_runs_meant": [{"kind": "full", "state": "complete"}],
    "browsing.find_changes": [{}, {"item_id": None}, {"item_id": None, "before": 17_000}],
    "certificates.recompute": [{"certified_at": NOW - HOUR, "snapshot": "1000:1000:"}],
    "inbox.claim_events": [{}, {"others": 200}, {"needs_fetch": True}, {"needs_fetch": True, "suspects": True}],
    "inbox.fail_event": [{}, {"retry_in": None}],
    "inbox.take_due": [{}, {"needs_fetch": True}],
    "runs.open_run": [{"kind": kind, "trigger": "schedule", "overlap": MINUTE} for kind in ("full", "recent")],
    "replays.match": [chosen.parameters() for chosen in _MEANT_FOR_REPLAY],
}
"""What else a statement is asked for, or how often; all others are asked once for what is usual."""


def statement(name: str) -> str:
    file, _, of_file = name.partition(".")
    return str(getattr(Queries(f"{file}.sql"), of_file))


_FINISH = """
UPDATE events
   SET state = 'processed', outcome = 'updated', processed_at = received_at + interval '400 ms'
 WHERE state NOT IN ('processed', 'dead')
"""


@pytest.fixture(scope="module")
def month(postgres: LocalPostgres) -> Iterator[str]:
    """The name of a database with a month of a shop in it."""
    url = postgres.create_database("month")
    schema.migrate(url)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET synchronous_commit = off")
        seed(connection, products=PRODUCTS, events=EVENTS)
        # Runs are not multiplied, so their repairs must not be many before they are.
        connection.execute("DELETE FROM product_changes WHERE run_id IS NOT NULL AND id % 100 <> 0")
    yield "month"
    postgres.drop_database("month")


@pytest.fixture(scope="module", params=["a quiet time", "a backlog"])
def vast(request: pytest.FixtureRequest, postgres: LocalPostgres, month: str) -> Iterator[Connection]:
    """Ten million events of a million products, as the planner sees it.

    In a quiet time it was told that nothing is ever unfinished: then all that waits looks like nothing to be read, and
    stays so when a backlog comes.
    """
    url = postgres.create_database("vast", template=month)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        if request.param == "a quiet time":
            connection.execute(_FINISH)
        connection.execute("VACUUM (ANALYZE)")
        for table, times in TIMES.items():
            multiply(connection, postgres.directory / "data", table, times)
        yield connection
    postgres.drop_database("vast")


def multiply(connection: Connection, data: Path, table: str, times: int) -> None:
    """Lengthen a table and its indexes, by holes in their files, and multiply what is known of them."""
    relations = connection.execute(
        """SELECT oid, pg_relation_filepath(oid) AS path, pg_relation_size(oid) / %(page)s AS pages
             FROM pg_class
            WHERE oid = %(table)s::regclass
               OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %(table)s::regclass)""",
        {"table": table, "page": PAGE_BYTES},
    ).fetchall()
    for relation in relations:
        pages = relation["pages"] * times
        owner = (data / relation["path"]).stat()
        for segment, first in enumerate(range(0, pages, SEGMENT_PAGES)):
            path = data / (relation["path"] + (f".{segment}" if segment else ""))
            if segment:
                # Postgres runs as whoever owns its data.
                path.touch(0o600)
                os.chown(path, owner.st_uid, owner.st_gid)
            os.truncate(path, min(SEGMENT_PAGES, pages - first) * PAGE_BYTES)
        connection.execute(
            """UPDATE pg_class
                  SET relpages = %(pages)s, reltuples = reltuples * %(times)s, relallvisible = relallvisible * %(times)s
                WHERE oid = %(oid)s""",
            {"oid": relation["oid"], "pages": pages, "times": times},
        )


Plan = dict[str, Any]


def plans(connection: Connection, name: str) -> list[Plan]:
    """Return how a statement is planned: for what it is asked for, and for any parameters where that may be."""
    text = statement(name)
    found: list[Plan] = []
    if name not in PLANNED_ANEW:
        # After a few executions Postgres may plan without knowing the parameters. By the simple protocol, which does
        # not ask for their values.
        result = connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(text)}".encode())
        assert result.status == ExecStatus.TUPLES_OK, result.error_message.decode()
        found += json.loads(result.get_value(0, 0) or b"")
        if not any(LARGE & {node.get("Relation Name") for node, _ in nodes(plan)} for plan in found):
            return found
    for asked in ASKED.get(name, [{}]):
        for row in connection.execute(f"EXPLAIN (FORMAT JSON) {text}", parameters(text, asked), prepare=False):
            found += row["QUERY PLAN"]
    return found


def parameters(text: str, asked: dict[str, object]) -> dict[str, object]:
    """Return a value for each parameter of a statement."""
    given = GIVEN | asked
    for parameter, array_of in re.findall(r"%\((\w+)\)[sb](?:::(\w+)\[\])?", text):
        if array_of and parameter not in ("event_ids", "run_ids", "item_ids", "not_drift"):
            given[parameter] = [OF_TYPE[array_of]] * AT_ONCE
        assert parameter in given, f"{parameter} needs a usual value in GIVEN, or one in ASKED"
    return given


def nodes(plan: object, *, is_limited: bool = False) -> Iterator[tuple[Plan, bool]]:
    """Return each node of a plan, and whether a limit ends it early."""
    if isinstance(plan, list):
        for each in plan:
            yield from nodes(each, is_limited=is_limited)
    elif isinstance(plan, dict):
        yield plan, is_limited
        for part in plan.values():
            yield from nodes(part, is_limited=is_limited or plan.get("Node Type") == "Limit")


def read_whole(plan: object, indexes: dict[str, bool]) -> set[str]:
    """Return which large tables a plan reads from end to end: themselves, or an index that holds every row.

    `indexes` tells of each index whether it is partial. What a limit ends is not read to its end.
    """
    found = set()
    for node, is_limited in nodes(plan):
        index = node.get("Index Name")
        if node.get("Node Type") == "Seq Scan" and node["Relation Name"] in LARGE:
            found.add(node["Relation Name"])
        elif index in indexes and not indexes[index] and "Index Cond" not in node and not is_limited:
            found.add(index)
    return found


def read_by_state(plan: Plan) -> list[str]:
    """Return which indexes of whole states a plan goes through: they are as long as the backlog, or as the inbox."""
    return [node["Index Name"] for node, _ in nodes(plan) if node.get("Index Name") in BY_STATE]


@pytest.fixture(scope="module")
def indexes(vast: Connection) -> dict[str, bool]:
    rows = vast.execute(
        """SELECT indexrelid::regclass::text AS name, indpred IS NOT NULL AS is_partial
             FROM pg_index
            WHERE indrelid = ANY(%s::regclass[])""",
        (sorted(LARGE),),
    )
    return {row["name"]: row["is_partial"] for row in rows}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in READ_EVERYTHING])
def test_no_statement_reads_a_large_table_from_end_to_end(
    vast: Connection, indexes: dict[str, bool], name: str
) -> None:
    assert read_whole(plans(vast, name), indexes) == set()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("inbox.", "settlement.", "drift."))])
def test_what_is_named_is_looked_up_however_much_waits(vast: Connection, name: str) -> None:
    for plan in plans(vast, name):
        assert read_by_state(plan) == OF_THE_BACKLOG.get(name, [])


@pytest.mark.parametrize("name", READ_EVERYTHING)
def test_only_what_reads_everything_is_excepted(vast: Connection, indexes: dict[str, bool], name: str) -> None:
    assert read_whole(plans(vast, name), indexes)


@pytest.mark.parametrize("listed", [READ_EVERYTHING, PLANNED_ANEW, ASKED, OF_THE_BACKLOG])
def test_what_is_said_of_statements_is_said_of_such_as_there_are(listed: Collection[str]) -> None:
    assert set(listed) <= set(NAMES)


def test_the_planner_believes_in_ten_million_events(vast: Connection) -> None:
    (row,) = vast.execute("EXPLAIN (FORMAT JSON) SELECT FROM events").fetchall()
    assert 9_900_000 < row["QUERY PLAN"][0]["Plan"]["Plan Rows"] < 10_100_000
    (row,) = vast.execute("EXPLAIN (FORMAT JSON) SELECT FROM products").fetchall()
    assert 990_000 < row["QUERY PLAN"][0]["Plan"]["Plan Rows"] < 1_010_000


def test_a_plan_that_reads_everything_would_be_found(vast: Connection, indexes: dict[str, bool]) -> None:
    """The one has no index, the other reads an index to its end, the third stops soon."""
    for query, found in (
        ("SELECT FROM events WHERE claimed_by = 'worker:1'", {"events"}),
        ("SELECT state, count(*) FROM events GROUP BY state", {"events_state_outcome"}),
        ("SELECT FROM events ORDER BY id DESC LIMIT 10", set()),
    ):
        (row,) = vast.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchall()
        assert read_whole(row["QUERY PLAN"], indexes) == found
