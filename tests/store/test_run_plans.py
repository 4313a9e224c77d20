"""The statements of a run look up what they need: no page reads the whole catalogue, no report the whole history."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus

from processors.runtime.local import LocalPostgres
from processors.store import comparison, database, schema
from processors.store.database import Connection, Pool
from processors.store.queries import Queries
from tests.store.test_schema import numbered, sequential_scans

COMPARISON = Queries("comparison.sql")
RUNS = Queries("runs.sql")
DRIFT = Queries("drift.sql")
INSIGHTS = Queries("insights.sql")
NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)
LARGE = {"products", "listed_digests", "events", "product_changes", "run_checks", "api_calls"}
"""Tables whose size grows with the catalogue and with what happens to it."""

ITEM_IDS = [str(number * 97 + 1) for number in range(200)]
DIGESTS: dict[str, Any] = {"item_id": ITEM_IDS, "digest": [b"d" * 16] * 200}
KEPT: dict[str, Any] = {**DIGESTS, "revision": [1] * 200, "row_version": ["1000"] * 200}
EVIDENCE: dict[str, Any] = {
    "item_id": ITEM_IDS[:40],
    "kind": ["changed"] * 40,
    "since": [NOW - timedelta(hours=3)] * 40,
    "until": [NOW] * 40,
}
PROGRESS: dict[str, Any] = {
    "run_id": 4999,
    "attempt": 1,
    "lease": SECOND,
    "item_ids": ITEM_IDS,
    "last_created_at": NOW,
    "read_to": 200,
    "newest_modified_at": NOW,
    **dict.fromkeys(("seen", "created", "updated", "unchanged", "failed", "deleted", "missed"), 1),
}
PLANNED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "compare a page": (COMPARISON.find_unknown, DIGESTS),
    "keep what agrees": (COMPARISON.keep, KEPT),
    "advance": (RUNS.advance, PROGRESS),
    "take due runs": (RUNS.take_due_runs, {"grace": SECOND, "patience": SECOND}),
    "claim": (RUNS.claim_run, {"run_id": 4999, "worker": "w", "lease": SECOND}),
    "next checks": (RUNS.next_checks, {"run_id": 4999, "is_suspect": True, "most": 100, "besides": []}),
    "clear checks": (RUNS.clear_checks, {"run_id": 4999, "item_ids": ITEM_IDS[:100]}),
    "evidence": (DRIFT.evidence, EVIDENCE),
    "drift by cause": (DRIFT.drift_by_cause, {"run_id": 4999}),
    "repairs": (DRIFT.repairs, {"run_id": 4999, "most": 50}),
    "excuse late deliveries": (DRIFT.excuse_late_deliveries, {}),
    "deliveries": (DRIFT.deliveries_since_run_before, {"run_id": 4999}),
    "freshness": (INSIGHTS.freshness, {}),
    "prospects": (RUNS.prospects, {}),
}
OF_ALL_RUNS = {"freshness"}
"""For these a person, or a scrape of the metrics, waits: they may read all runs. A worker or a clock may not."""


@pytest.fixture(scope="module")
def filled(postgres: LocalPostgres) -> Iterator[Pool]:
    """A catalogue of some size, a hundred days of changes and runs, and one run under way."""
    url = postgres.create_database("run_plans")
    schema.migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """CREATE FUNCTION pg_temp.noise(n integer) RETURNS text LANGUAGE sql AS $$
                   SELECT string_agg(md5(n || '-' || k), '') FROM generate_series(1, 20) AS k $$;
               INSERT INTO products (zoho_item_id, name, sku, zoho_last_modified_at, raw)
               SELECT n::text, 'Product ' || n, 'SKU-' || n, now(), to_jsonb(pg_temp.noise(n))
                 FROM generate_series(1, 20000) AS n;
               INSERT INTO listed_digests (item_id, digest, revision, row_version)
               SELECT zoho_item_id, sha256(zoho_item_id::bytea), revision, xmin FROM products;
               INSERT INTO events (item_id, received_at, state, outcome, processed_at, fingerprint, body)
               SELECT (n % 5000 + 1)::text, now() - n * interval '15 minutes', 'processed', 'updated',
                      now() - n * interval '15 minutes', sha256(n::text::bytea), pg_temp.noise(n)::bytea
                 FROM generate_series(1, 10000) AS n;
               INSERT INTO product_changes (item_id, changed_at, source, run_id, changes, zoho_modified_at, cause)
               SELECT (n % 5000 + 1)::text, now() - n * interval '15 minutes',
                      CASE n % 3 WHEN 0 THEN 'recent' ELSE 'webhook' END,
                      CASE n % 3 WHEN 0 THEN 5000 - n / 3 END,
                      '{"price": ["12.50", "13.00"]}', now() - n * interval '15 minutes',
                      CASE n % 3 WHEN 0 THEN (ARRAY['no_delivery', 'stock_only', 'event_dead'])[n / 3 % 3 + 1] END
                 FROM generate_series(1, 10000) AS n;
               INSERT INTO reconciliation_runs (kind, state, started_at, finished_at)
               SELECT CASE n % 100 WHEN 0 THEN 'full' ELSE 'recent' END, 'complete',
                      now() - (5000 - n) * interval '10 minutes', now() - (5000 - n) * interval '10 minutes'
                 FROM generate_series(1, 5000) AS n;
               UPDATE reconciliation_runs SET state = 'running', finished_at = NULL, attempts = 1 WHERE id = 4999;
               INSERT INTO run_checks (run_id, item_id, reason, is_suspect)
               SELECT 4990 + n % 10, n::text, 'no page showed it', true FROM generate_series(1, 20000) AS n;
               INSERT INTO api_calls (ends_at, purpose, run_id)
               SELECT now() - n * interval '1 minute', 'sweep', 5000 - n FROM generate_series(1, 2000) AS n;
               ANALYZE"""
        )
    with database.sync_pool(url, size=1, name="plans") as pool:
        yield pool
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE run_plans WITH (FORCE)")


def read_whole(plan: object, what: str = "") -> list[str]:
    large = LARGE if what in OF_ALL_RUNS else LARGE | {"reconciliation_runs"}
    return [name for name in sequential_scans(plan) if name in large]


def planned(connection: Connection) -> dict[str, list[str]]:
    """Return which large tables each statement reads from end to end, for these parameters."""
    found = {}
    for what, (statement, parameters) in PLANNED.items():
        (row,) = connection.execute("EXPLAIN (FORMAT JSON) " + statement, parameters).fetchall()
        found[what] = read_whole(row["QUERY PLAN"], what)
    return {what: names for what, names in found.items() if names}


def planned_for_any(connection: Connection) -> dict[str, list[str]]:
    """Return the same for parameters that are not known."""
    found = {}
    for what, (statement, _) in PLANNED.items():
        # By the simple protocol, which does not ask for the parameters' values.
        result = connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}".encode())
        assert result.status == ExecStatus.TUPLES_OK, result.error_message.decode()
        found[what] = read_whole(json.loads(result.get_value(0, 0) or b""), what)
    return {what: names for what, names in found.items() if names}


def test_the_statements_of_a_run_use_indexes(filled: Pool) -> None:
    with filled.connection() as connection:
        assert planned(connection) == {}


def test_the_same_statements_use_indexes_once_they_are_prepared(filled: Pool) -> None:
    # After a few executions Postgres may plan without knowing the parameters.
    with filled.connection() as connection:
        assert planned_for_any(connection) == {}


@pytest.mark.parametrize("was_analyzed_empty", [False, True], ids=["never analyzed", "analyzed while empty"])
def test_a_page_is_compared_by_key_whatever_was_known_of_the_tables(filled: Pool, was_analyzed_empty: bool) -> None:
    with filled.connection() as connection, connection.transaction(force_rollback=True):
        for table in ("products", "listed_digests"):
            connection.execute(f"CREATE TEMPORARY TABLE kept_{table} ON COMMIT DROP AS SELECT * FROM {table}")
            connection.execute(f"TRUNCATE {table}")
        if was_analyzed_empty:
            connection.execute("ANALYZE products, listed_digests")
            # What is prepared now, is planned for empty tables.
            for _ in range(7):
                comparison.find_unknown(connection, dict(zip(ITEM_IDS, DIGESTS["digest"], strict=True)))
        for table in ("products", "listed_digests"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
        prepared = connection.execute(
            "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%listed_dig%'"
        )
        assert prepared.fetchall() == []
        for statement, parameters in ((COMPARISON.find_unknown, DIGESTS), (COMPARISON.keep, KEPT)):
            (row,) = connection.execute("EXPLAIN (FORMAT JSON) " + statement, parameters).fetchall()
            assert read_whole(row["QUERY PLAN"]) == []
            result = connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}".encode())
            assert read_whole(json.loads(result.get_value(0, 0) or b"")) == []


def test_a_plan_that_reads_a_large_table_would_be_found(filled: Pool) -> None:
    with filled.connection() as connection:
        (row,) = connection.execute("EXPLAIN (FORMAT JSON) SELECT * FROM products WHERE brand = 'x'").fetchall()
    assert read_whole(row["QUERY PLAN"]) == ["products"]
