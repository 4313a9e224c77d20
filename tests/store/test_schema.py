"""The schema: the statements fit it and use its indexes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from importlib import resources
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus

from processors.runtime import procfile
from processors.runtime.local import LocalPostgres
from processors.store import database, schema
from processors.store.database import Connection, Pool
from processors.store.queries import Queries

FILES = sorted(
    path.name
    for path in resources.files("processors.store").joinpath("sql").iterdir()
    if path.name.endswith(".sql") and path.name != "schema.sql"
)
STATEMENTS = [(file, name) for file in FILES for name in Queries(file).names()]


def numbered(statement: str) -> str:
    """Return a statement with `$1` for its first named parameter, and so on, as the server gets it."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return re.sub(r"%\((\w+)\)[sb]", number, statement).replace("%%", "%")


@pytest.mark.parametrize(("file", "name"), STATEMENTS)
def test_every_named_statement_fits_the_schema(connection: Connection, file: str, name: str) -> None:
    result = connection.pgconn.prepare(b"", numbered(getattr(Queries(file), name)).encode())
    assert result.status == ExecStatus.COMMAND_OK, result.error_message.decode()


# Plans


@pytest.fixture(scope="module")
def filled(postgres: LocalPostgres) -> Iterator[Pool]:
    """Thousands of rows as wide as real ones, of which few are left to do."""
    url = postgres.create_database("plans")
    schema.migrate(url)
    with database.sync_pool(url, size=1, name="plans") as pool, pool.connection() as connection:
        connection.execute(
            """CREATE FUNCTION pg_temp.noise(n integer) RETURNS bytea LANGUAGE sql AS $$
                   SELECT string_agg(sha256((n || '-' || k)::bytea), '') FROM generate_series(1, 20) AS k $$;
               INSERT INTO products (zoho_item_id, name, sku, zoho_last_modified_at, raw)
               SELECT n::text, 'Product ' || n, 'SKU-' || n, now(), to_jsonb(pg_temp.noise(n)::text)
                 FROM generate_series(1, 20000) AS n;
               INSERT INTO events (item_id, kind, state, outcome, processed_at, claimable_at, needs_fetch, fingerprint,
                                   body)
               SELECT (n % 5000 + 1)::text, CASE n % 50 WHEN 0 THEN 'deleted' ELSE 'changed' END,
                      CASE WHEN n > 9700 THEN 'recorded' ELSE 'processed' END,
                      CASE WHEN n > 9700 THEN NULL ELSE 'updated' END,
                      CASE WHEN n > 9700 THEN NULL ELSE now() END,
                      now() - n * interval '1 second', n % 7 = 0, sha256(n::text::bytea), pg_temp.noise(n)
                 FROM generate_series(1, 10000) AS n;
               INSERT INTO product_changes (item_id, source, changes)
               SELECT (n % 5000 + 1)::text, 'webhook', '{}' FROM generate_series(1, 10000) AS n;
               ANALYZE products; ANALYZE events; ANALYZE product_changes"""
        )
    with database.sync_pool(url, size=1, name="plans") as pool:
        yield pool
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE plans WITH (FORCE)")


INBOX = Queries("inbox.sql")
SETTLEMENT = Queries("settlement.sql")
TIMELINE = "SELECT * FROM events WHERE item_id = %(item_id)s ORDER BY id DESC LIMIT 50"
CHANGES = "SELECT * FROM product_changes WHERE item_id = %(item_id)s ORDER BY id DESC LIMIT 50"
BY_SKU = "SELECT * FROM products WHERE sku = %(sku)s"
SECOND = timedelta(seconds=1)
CLAIM = {"event_ids": [9801, 9802], "worker": "w", "lease": SECOND, "most": None}
PLANNED: dict[str, tuple[str, dict[str, Any]]] = {
    "claim named": (INBOX.claim_events, {**CLAIM, "needs_fetch": False, "suspects": False, "others": 0}),
    "claim a backlog": (INBOX.claim_events, {**CLAIM, "needs_fetch": False, "suspects": False, "others": 200}),
    "claim fetches": (INBOX.claim_events, {**CLAIM, "needs_fetch": True, "suspects": True, "others": 0}),
    "relay": (INBOX.take_due, {"needs_fetch": False, "grace": SECOND, "patience": SECOND, "most": 200}),
    "relay fetches": (INBOX.take_due, {"needs_fetch": True, "grace": SECOND, "patience": SECOND, "most": 200}),
    "siblings": (INBOX.find_fetch_siblings, {"event_id": 9800}),
    "read current": (SETTLEMENT.read_current, {"item_ids": ["1", "2"]}),
    "mark queued": (INBOX.mark_queued, {"event_ids": [9801]}),
    "give back": (INBOX.give_back, {"event_ids": [9801]}),
    "fingerprints": (INBOX.find_fingerprints, {"fingerprints": [b"x"]}),
    "absences": (SETTLEMENT.read_current, {"item_ids": ["none"]}),
    "item timeline": (TIMELINE, {"item_id": "17"}),
    "item changes": (CHANGES, {"item_id": "17"}),
    "product by SKU": (BY_SKU, {"sku": "SKU-17"}),
}


def sequential_scans(plan: object) -> list[str]:
    if isinstance(plan, list):
        return [name for each in plan for name in sequential_scans(each)]
    if not isinstance(plan, dict):
        return []
    here = [plan["Relation Name"]] if plan.get("Node Type") == "Seq Scan" else []
    return here + [name for value in plan.values() for name in sequential_scans(value)]


def test_statements_that_run_for_each_event_use_indexes(filled: Pool) -> None:
    found: dict[str, list[str]] = {}
    with filled.connection() as connection:
        for what, (statement, parameters) in PLANNED.items():
            (row,) = connection.execute("EXPLAIN (FORMAT JSON) " + statement, parameters).fetchall()
            found[what] = sequential_scans(row["QUERY PLAN"])
    assert {what: names for what, names in found.items() if names} == {}


def test_the_same_statements_use_indexes_once_they_are_prepared(filled: Pool) -> None:
    # After a few executions Postgres may plan without knowing the parameters.
    found: dict[str, list[str]] = {}
    with filled.connection() as connection:
        for what, (statement, _) in PLANNED.items():
            # By the simple protocol, which does not ask for the parameters' values.
            result = connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}".encode())
            assert result.status == ExecStatus.TUPLES_OK, result.error_message.decode()
            found[what] = sequential_scans(json.loads(result.get_value(0, 0) or b""))
    assert {what: names for what, names in found.items() if names} == {}


def test_counting_absences_uses_its_index(filled: Pool) -> None:
    statement = """EXPLAIN (FORMAT JSON) SELECT count(*) FROM events
                    WHERE item_id = '17' AND (state = 'processed') IS TRUE
                   AND (kind = 'deleted' OR outcome IN ('gone', 'tombstoned'))"""
    with filled.connection() as connection:
        (row,) = connection.execute(statement).fetchall()
    assert "events_absence" in str(row["QUERY PLAN"])
    (definition,) = re.findall(r"FUNCTION absences_of.*?\$\$(.*?)\$\$", schema_text(), re.DOTALL)
    assert " ".join(definition.split()).split("WHERE")[1].replace("an_item_id", "'17'") in " ".join(statement.split())


def schema_text() -> str:
    return resources.files("processors.store").joinpath("sql", "schema.sql").read_text("utf-8")


def test_the_recipe_for_an_archive_of_events_works(connection: Connection) -> None:
    (recipe,) = re.findall(r"```sql\n(.*?)```", (procfile.ROOT / "docs" / "scaling.md").read_text("utf-8"), re.DOTALL)
    connection.execute(
        """INSERT INTO events (kind, item_id, state, outcome, received_at, processed_at, body, content_type,
                               query_string)
           SELECT kind, '1', 'processed', outcome, '2026-02-03', '2026-02-03', 'x', '', ''
             FROM (VALUES ('changed', 'updated'), ('changed', 'gone'), ('deleted', 'tombstoned'))
                  AS old (kind, outcome)"""
    )
    try:
        with connection.transaction():
            connection.execute(recipe.encode())
            left = connection.execute("SELECT outcome FROM events ORDER BY id").fetchall()
            moved = connection.execute("SELECT outcome, body FROM events_archive").fetchall()
            raise psycopg.Rollback
    finally:
        connection.execute("DROP TABLE IF EXISTS events_archive")
    assert [row["outcome"] for row in left] == ["gone", "tombstoned"]
    assert moved == [{"outcome": "updated", "body": b"x"}]
