"""Migrations of a large database while deliveries are recorded and products written: how long one of these waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter, sleep

import psycopg

from processors.store import schema
from processors.store.schema import Migration, Release
from tests.benchmarks import report
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

_NOTES = (
    "No wait is to take longer than a second.",
    "Meanwhile one connection records a delivery, another writes a product, each every 5 ms.",
    "Below the numbered migrations: the recipes of docs/how-to-add.md.",
)
_PAUSE_SECONDS = 0.005
_RECIPES = {
    "columns": "ALTER TABLE events ADD COLUMN bench text NOT NULL DEFAULT '';"
    " ALTER TABLE products ADD COLUMN bench text;",
    "another CHECK": "ALTER TABLE events DROP CONSTRAINT events_kind,"
    " ADD CONSTRAINT events_kind CHECK (kind IN ('changed', 'deleted', 'stock')) NOT VALID;",
    "validate": "-- outside a transaction\nALTER TABLE events VALIDATE CONSTRAINT events_kind;",
    "unique index": "-- outside a transaction\n"
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS events_bench ON events (item_id, id);",
    "fill in portions": """-- outside a transaction
        DO $$
        DECLARE
            last text := '';
        BEGIN
            LOOP
                WITH portion AS (
                    SELECT zoho_item_id FROM products WHERE zoho_item_id > last ORDER BY zoho_item_id LIMIT 1000
                ), filled AS (
                    UPDATE products SET bench = name, revision = revision + 1
                      FROM portion WHERE products.zoho_item_id = portion.zoho_item_id
                )
                SELECT max(zoho_item_id) INTO last FROM portion;
                EXIT WHEN last IS NULL;
                COMMIT;
            END LOOP;
        END $$;""",
}
_FILL = (
    """INSERT INTO products (zoho_item_id, name, sku, price, stock_on_hand, is_active, zoho_last_modified_at, raw)
       SELECT n::text, 'Product ' || n, 'SKU-' || n, 12.5, 7, true, now(), jsonb_build_object('name', 'Product ' || n)
         FROM generate_series(1, {products}) AS n""",
    """INSERT INTO events (item_id, state, outcome, processed_at, fingerprint, body)
       SELECT (n % {products} + 1)::text, 'processed', 'updated', now(), sha256(n::text::bytea), repeat('x', 300)::bytea
         FROM generate_series(1, {events}) AS n""",
    "VACUUM (ANALYZE)",
)
_DELIVERY = b"INSERT INTO events (item_id, body) VALUES ('1', '{}')"
_PRODUCT = b"UPDATE products SET price = price + 1, revision = revision + 1 WHERE zoho_item_id = '1'"


def measure(system: System, scale: Scale) -> Iterator[Subject]:
    """Fill a database of release 0.1.0, and apply this release's migrations and the recipes one by one."""
    title = f"Migrations: {scale.seen_products:,} products, {scale.seen_events:,} events"
    subject = Subject(title, ("seconds", "longest wait to record, ms", "longest wait to write, ms"), _NOTES)
    url = system.installation.postgres.create_database("released")
    released = schema.shipped().migrations[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(b"SET synchronous_commit = off")
        connection.execute(released.text)
        for statement in _FILL:
            connection.execute(statement.format(products=scale.seen_products, events=scale.seen_events).encode())
    for what, release in _releases():
        with _longest_waits(url, _DELIVERY) as to_record, _longest_waits(url, _PRODUCT) as to_write:
            began = perf_counter()
            schema.migrate(url, release)
            seconds = perf_counter() - began
        subject.add(what, *(report.over_rounds([value]) for value in (seconds, max(to_record), max(to_write))))
    system.installation.postgres.drop_database("released")
    yield subject


def _releases() -> Iterator[tuple[str, Release]]:
    """Yield this release in steps, each with one more migration than the one before."""
    whole = schema.shipped()
    added = [
        Migration(number, f"{number:04}_bench.sql", text.encode())
        for number, text in enumerate(_RECIPES.values(), len(whole.migrations))
    ]
    names = [each.name.removesuffix(".sql") for each in whole.migrations] + list(_RECIPES)
    steps = (*whole.migrations, *added)
    for count, name in enumerate(names, 1):
        yield name, replace(whole, migrations=steps[:count])


@contextmanager
def _longest_waits(url: str, statement: bytes) -> Iterator[list[float]]:
    """Run a statement again and again while the block runs; gives the milliseconds that each took."""
    stop, waits = threading.Event(), list[float]()
    thread = threading.Thread(target=partial(_run_again_and_again, url, statement, stop, waits))
    thread.start()
    try:
        while not waits:
            sleep(_PAUSE_SECONDS)
        yield waits
    finally:
        stop.set()
        thread.join()


def _run_again_and_again(url: str, statement: bytes, stop: threading.Event, waits: list[float]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
        while not stop.wait(_PAUSE_SECONDS):
            began = perf_counter()
            connection.execute(statement)
            waits.append((perf_counter() - began) * 1000)
