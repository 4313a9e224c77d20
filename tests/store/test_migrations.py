"""Migrations: every way to this release ends in what schema.sql makes, and holds up nobody on the way."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from processors.errors import MigrationFailed, SchemaUnknown
from processors.runtime import procfile
from processors.runtime.cli import main
from processors.runtime.local import LocalPostgres
from processors.store import database, schema
from processors.store.database import Connection
from processors.store.schema import Migration, Release
from tests.workflows.scene import run_together

RELEASED = schema.shipped().migrations[0].text
RELEASED_DIGEST = "fc5c3cfe9cbdf5895c8687b9bedda924f3eb6a190af39335cb2f6727983aa2a9"
# As the first commits made it: what they lacked is added.
OLDER = b"""
    CREATE TABLE products (zoho_item_id text PRIMARY KEY, name text NOT NULL DEFAULT '', price numeric);
    INSERT INTO products VALUES ('1', 'Mug', 12.50), ('2', 'Cup', NULL);
    CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                         received_at timestamptz NOT NULL DEFAULT now(), item_id text);
    INSERT INTO events (item_id) VALUES ('1'), ('2'), ('2');
    CREATE TABLE product_changes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item_id text NOT NULL,
        source text NOT NULL
            CONSTRAINT product_changes_source CHECK (source IN ('webhook', 'full', 'recent', 'replay', 'fetch')),
        changes jsonb NOT NULL);
    INSERT INTO product_changes (item_id, source, changes) VALUES ('1', 'webhook', '{"price": [null, "12.50"]}');
    CREATE TABLE zoho_connection (
        singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT zoho_connection_singleton CHECK (singleton),
        refresh_token bytea);
    INSERT INTO zoho_connection VALUES (true, 'secret');
"""
FORMER_KEEP = b"""
    INSERT INTO schema_version (digest, fingerprint) VALUES ('digest', 'fingerprint') ON CONFLICT (is_only) DO UPDATE
       SET digest = excluded.digest, fingerprint = excluded.fingerprint, applied_at = now()
"""
LARGE = ("products", "events", "event_attempts", "product_changes")


@pytest.fixture
def url(postgres: LocalPostgres) -> Iterator[str]:
    """A database of its own, empty."""
    yield postgres.create_database("migrated")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE migrated WITH (FORCE)")


@pytest.fixture
def released(url: str) -> str:
    """A database as release 0.1.0 left it, with rows."""
    execute(url, RELEASED)
    execute(
        url,
        "INSERT INTO schema_version (digest) VALUES ('x')",
        "INSERT INTO products (zoho_item_id, name) SELECT n, n FROM generate_series(1, 5) AS n",
        "INSERT INTO events (item_id) SELECT n FROM generate_series(1, 5) AS n",
        "INSERT INTO event_attempts (event_id, attempt) SELECT n, 1 FROM generate_series(1, 5) AS n",
        "INSERT INTO product_changes (item_id, source, changes) SELECT n, 'full', '{}' FROM generate_series(1, 5) AS n",
    )
    return url


def execute(url: str, *statements: str | bytes) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement if isinstance(statement, bytes) else statement.encode())


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def differing(url: str, release: Release | None = None) -> list[str]:
    with schema.connect(url) as connection:
        return [str(each) for each in schema.differences(connection, release)]


def with_next(*texts: str) -> Release:
    """Return this release with more migrations."""
    release, first = schema.shipped(), len(schema.shipped().migrations)
    added = [Migration(first + n, f"{first + n:04}_scratch.sql", text.encode()) for n, text in enumerate(texts)]
    return replace(release, migrations=(*release.migrations, *added))


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Every way ends in the same


def test_file_0_is_the_schema_of_release_0_1_0_to_the_byte() -> None:
    assert hashlib.sha256(RELEASED).hexdigest() == RELEASED_DIGEST


def test_an_empty_database_is_made_by_schema_sql_with_its_ledger_filled(url: str) -> None:
    assert schema.migrate(url) == ["schema.sql"]
    assert differing(url) == []
    names = rows(url, "SELECT name FROM schema_migrations WHERE applied_at IS NOT NULL ORDER BY number")
    assert names == [(each.name,) for each in schema.shipped().migrations]
    assert schema.migrate(url) == []


@pytest.mark.parametrize("before", [RELEASED, OLDER], ids=["released", "older"])
def test_migrations_end_in_what_schema_sql_makes(url: str, before: bytes) -> None:
    execute(url, before)
    assert schema.migrate(url) == [each.name for each in schema.shipped().migrations]
    assert differing(url) == []
    assert schema.migrate(url) == []


def test_migrations_leave_the_rows_that_schema_sql_makes(url: str, postgres: LocalPostgres) -> None:
    execute(url, RELEASED)
    schema.migrate(url)
    with schema.connect(url) as migrated, schema.connect(postgres.create_database("fresh")) as fresh:
        schema.migrate(fresh.info.dsn)
        tables = [name for kind, name in schema.described(fresh) if kind == "table"]
        counts = {name: [_count(each, name) for each in (migrated, fresh)] for name in tables}
    postgres.drop_database("fresh")
    counts.pop("schema_version")
    assert {name: each for name, each in counts.items() if each[0] != each[1]} == {}


def _count(connection: Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row
    return int(row["count"])


def test_an_older_database_keeps_its_rows(url: str) -> None:
    execute(url, OLDER)
    schema.migrate(url)
    assert rows(url, "SELECT name, price::text, revision, raw, deleted_at FROM products ORDER BY zoho_item_id") == [
        ("Mug", "12.50", 1, {}, None),
        ("Cup", None, 1, {}, None),
    ]
    assert rows(url, "SELECT item_id, state, attempts FROM events ORDER BY id") == [
        ("1", "recorded", 0),
        ("2", "recorded", 0),
        ("2", "recorded", 0),
    ]
    assert rows(url, "SELECT item_id, changes FROM product_changes") == [("1", {"price": [None, "12.50"]})]
    assert rows(url, "SELECT refresh_token, refusals FROM zoho_connection") == [(b"secret", 0)]


@pytest.mark.parametrize("before", [b"", RELEASED, OLDER], ids=["empty", "released", "older"])
def test_three_at_once_migrate_as_one(url: str, before: bytes) -> None:
    execute(url, before)
    applied: list[list[str]] = []
    run_together([lambda: applied.append(schema.migrate(url))] * 3)
    assert sorted(map(bool, applied)) == [False, False, True]
    assert differing(url) == []
    assert rows(url, "SELECT count(*) FROM zoho_connection") == [(1,)]


def test_tables_of_another_program_are_not_taken_for_an_older_release(url: str) -> None:
    execute(url, "CREATE TABLE products (id integer)")
    with pytest.raises(MigrationFailed, match=r"schema\.sql failed.*\"products\" already exists"):
        schema.migrate(url)
    assert rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("products",)]


# The comparison


MUTATIONS = {
    "table": "DROP TABLE jobs",
    "another table": "CREATE TABLE others (id integer)",
    "unlogged": "ALTER TABLE listed_digests SET LOGGED",
    "fillfactor": "ALTER TABLE events SET (fillfactor = 70)",
    "autovacuum": "ALTER TABLE products SET (autovacuum_vacuum_scale_factor = 0.01)",
    "toast option": "ALTER TABLE products SET (toast.autovacuum_enabled = off)",
    "column": "ALTER TABLE products DROP COLUMN brand CASCADE",
    "another column": "ALTER TABLE products ADD COLUMN colour text",
    "type": "ALTER TABLE replays ALTER total TYPE bigint",
    "type modifier": "ALTER TABLE replays ALTER reason TYPE varchar(80)",
    "nullability": "ALTER TABLE replays ALTER total DROP NOT NULL",
    "default": "ALTER TABLE replays ALTER per_second SET DEFAULT 60",
    "no default": "ALTER TABLE replays ALTER per_second DROP DEFAULT",
    "collation": 'ALTER TABLE replays ALTER reason TYPE text COLLATE "C"',
    "storage": "ALTER TABLE products ALTER raw SET STORAGE external",
    "statistics": "ALTER TABLE products ALTER sku SET STATISTICS 500",
    "identity": "ALTER TABLE replays ALTER id SET GENERATED BY DEFAULT",
    "no identity": "ALTER TABLE replays ALTER id DROP IDENTITY",
    "check": "ALTER TABLE events DROP CONSTRAINT events_kind",
    "check's text": """ALTER TABLE events DROP CONSTRAINT events_kind,
        ADD CONSTRAINT events_kind CHECK (kind IN ('changed'))""",
    "constraint's name": "ALTER TABLE events RENAME CONSTRAINT events_kind TO kinds",
    "not validated": """ALTER TABLE events DROP CONSTRAINT events_kind,
        ADD CONSTRAINT events_kind CHECK (kind IN ('changed', 'deleted')) NOT VALID""",
    "foreign key": "ALTER TABLE sessions DROP CONSTRAINT sessions_operator_is_there",
    "primary key": "ALTER TABLE jobs DROP CONSTRAINT jobs_pkey",
    "unique": "ALTER TABLE events DROP CONSTRAINT events_fingerprint",
    "index": "DROP INDEX events_item",
    "another index": "CREATE INDEX others ON events (item_id)",
    "index's predicate": "DROP INDEX products_sku; CREATE INDEX products_sku ON products USING hash (sku)",
    "index option": "ALTER INDEX events_received SET (pages_per_range = 64)",
    "function": "DROP FUNCTION absences_of",
    "function's body": "CREATE OR REPLACE FUNCTION root_cause(error text) RETURNS text LANGUAGE sql IMMUTABLE"
    " AS 'SELECT error'",
    "volatility": "ALTER FUNCTION root_cause VOLATILE",
    "trigger": "DROP TRIGGER products_altered ON products",
    "trigger off": "ALTER TABLE products DISABLE TRIGGER products_altered",
    "view": "CREATE OR REPLACE VIEW freshness AS SELECT ''::text AS lane, now() AS last_success_at,"
    " 0::bigint AS changes, interval '1' AS p50, interval '1' AS p95, interval '1' AS p99",
    "view option": "ALTER VIEW freshness SET (security_barrier = true)",
    "rule": "CREATE RULE nothing AS ON DELETE TO jobs DO INSTEAD NOTHING",
    "sequence": "ALTER SEQUENCE events_id_seq INCREMENT 2",
    "another sequence": "CREATE SEQUENCE others",
    "comment": "COMMENT ON COLUMN products.raw IS 'a body'",
    "comment on a function": "COMMENT ON FUNCTION root_cause IS 'of errors'",
    "row security": "ALTER TABLE products ENABLE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("statement", MUTATIONS.values(), ids=MUTATIONS)
def test_the_comparison_notices(database_url: str, statement: str) -> None:
    with schema.connect(database_url) as connection:
        before = schema.described(connection)
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
            assert schema.compare(before, schema.described(connection)) != []


def test_the_order_of_columns_is_not_compared(database_url: str) -> None:
    with schema.connect(database_url) as connection, connection.transaction(force_rollback=True):
        before = schema.described(connection)
        connection.execute(
            "ALTER TABLE jobs DROP taken_at; ALTER TABLE jobs ADD taken_at timestamptz DEFAULT now() NOT NULL"
        )
        assert schema.compare(before, schema.described(connection)) == []


def test_the_comparison_leaves_nothing_behind(database_url: str) -> None:
    assert differing(database_url) == []
    assert rows(database_url, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'zoho%'") == []


def test_schema_sql_has_only_what_the_comparison_knows() -> None:
    text = schema.shipped().schema.decode()
    kinds = set(re.findall(r"^(?:CREATE|ALTER|COMMENT ON) (?:UNLOGGED |UNIQUE )*(\w+)", text, re.MULTILINE))
    assert kinds <= {"TABLE", "INDEX", "FUNCTION", "TRIGGER", "VIEW", "SEQUENCE", "COLUMN"}


def test_a_column_that_someone_dropped_is_named_with_what_it_should_be(url: str) -> None:
    schema.migrate(url)
    execute(url, "ALTER TABLE products DROP COLUMN revision CASCADE")
    assert schema.migrate(url) == []
    assert "column products.revision is missing; schema.sql makes it: bigint NOT NULL DEFAULT 1" in "\n".join(
        differing(url)
    )


# The ledger


def test_a_migration_that_fails_changes_nothing_and_those_before_it_stay(released: str) -> None:
    release = with_next(
        "ALTER TABLE events ADD COLUMN first text;",
        "ALTER TABLE events ADD COLUMN second text;\nUPDATE events SET nothing = 1;",
        "ALTER TABLE events ADD COLUMN third text;",
    )
    number = release.migrations[-2].number
    with pytest.raises(MigrationFailed) as failed:
        schema.migrate(released, release)
    said = str(failed.value)
    assert said.startswith(f"{number:04}_scratch.sql failed, and it was undone")
    assert 'column "nothing" of relation "events" does not exist' in said
    assert said.endswith("(the statement at line 2)")
    columns = "SELECT column_name FROM information_schema.columns WHERE column_name IN ('first', 'second', 'third')"
    assert rows(released, columns) == [("first",)]
    assert rows(released, "SELECT max(number) FROM schema_migrations") == [(number - 1,)]
    mended = with_next(
        "ALTER TABLE events ADD COLUMN first text;", "ALTER TABLE events ADD COLUMN second text;", "SELECT 1;"
    )
    assert schema.migrate(released, mended) == [each.name for each in mended.migrations[-2:]]


def test_a_baseline_that_fails_leaves_no_ledger(url: str) -> None:
    execute(url, "CREATE TABLE products (zoho_item_id text PRIMARY KEY); CREATE VIEW events AS SELECT 1 AS id")
    with pytest.raises(MigrationFailed, match=r"0000_released\.sql failed, and it was undone"):
        schema.migrate(url)
    assert rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("products",)]


def test_the_database_of_a_newer_release_is_refused_and_serves_this_one(released: str) -> None:
    newer = with_next("ALTER TABLE events ADD COLUMN first text;")
    schema.migrate(released, newer)
    with pytest.raises(SchemaUnknown, match=rf"has migration {newer.migrations[-1].number:04}.*newer release"):
        schema.migrate(released)
    with schema.connect(released) as connection:
        assert schema.is_current(connection)
        assert schema.differences(connection) == []


def test_a_migration_that_was_edited_after_it_was_applied_is_refused(released: str) -> None:
    schema.migrate(released, with_next("SELECT 1;"))
    with pytest.raises(SchemaUnknown, match=r"another \d+_scratch\.sql than this release"):
        schema.migrate(released, with_next("SELECT 2;"))


def test_a_database_is_not_current_until_every_migration_is_applied(url: str) -> None:
    with schema.connect(url) as connection:
        assert not schema.is_current(connection)
        execute(url, RELEASED)
        assert not schema.is_current(connection)
        schema.migrate(url)
        assert schema.is_current(connection)
        connection.execute("UPDATE schema_migrations SET applied_at = NULL WHERE number = 1")
        assert not schema.is_current(connection)


def test_migrate_of_release_0_1_0_is_refused_and_changes_nothing(released: str) -> None:
    schema.migrate(released)
    execute(released, "CREATE OR REPLACE FUNCTION root_cause(error text) RETURNS text LANGUAGE sql AS 'SELECT 1::text'")
    with schema.connect(released) as connection:
        before = schema.described(connection)
        # What it does: all of its file, and a row about it, in one transaction.
        with pytest.raises(psycopg.errors.RaiseException, match="newer release"):
            connection.execute(b"BEGIN;" + RELEASED + FORMER_KEEP)
        connection.rollback()
        assert schema.described(connection) == before


def test_the_package_ships_the_migrations() -> None:
    project = tomllib.loads((procfile.ROOT / "pyproject.toml").read_text("utf-8"))
    assert "migrations/*.sql" in project["tool"]["setuptools"]["package-data"]["processors.store"]


# Nobody is held up


def test_a_migration_gives_way_to_those_at_work(released: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_PAUSE_SECONDS", 0.2)
    release = with_next("ALTER TABLE events ADD COLUMN first text;")
    schema.migrate(released)
    longest = 0.0
    with psycopg.connect(released) as reader, psycopg.connect(released, autocommit=True) as writer:
        reader.execute("SELECT count(*) FROM events")
        with ThreadPoolExecutor(1) as executor:
            migrated = executor.submit(schema.migrate, released, release)
            eventually(lambda: _waiting(writer, "ALTER TABLE events"))
            for _ in range(20):
                began = time.monotonic()
                writer.execute("INSERT INTO events (item_id) VALUES ('1')")
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.05)
            assert not migrated.done()
            reader.rollback()
            assert migrated.result(30)[-1] == release.migrations[-1].name
    assert longest < 1.0


def _waiting(connection: psycopg.Connection[Any], statement: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s AND pid <> pg_backend_pid()",
        [f"%{statement}%"],
    )
    return found.fetchone() is not None


def reads_whole(connection: Connection, text: bytes) -> set[str]:
    """Return which of the large tables a text would read or rewrite whole while it locks them. It is undone."""
    with connection.transaction(force_rollback=True):
        before = _files_and_rows_read(connection)
        connection.execute(text)
        after = _files_and_rows_read(connection)
    return {name for name in LARGE if after.get(name, before[name]) != before[name]}


def _files_and_rows_read(connection: Connection) -> dict[str, tuple[int, int]]:
    found = connection.execute(
        """SELECT relname, pg_relation_filenode(relid) AS file, seq_tup_read
             FROM pg_stat_xact_user_tables WHERE schemaname = 'public'"""
    )
    return {row["relname"]: (row["file"], row["seq_tup_read"]) for row in found}


def test_no_migration_in_a_transaction_reads_a_large_table_whole(released: str) -> None:
    release = schema.shipped()
    with schema.connect(released) as connection:
        for migration in release.migrations:
            if migration.number and migration.is_in_transaction:
                assert reads_whole(connection, migration.text) == set(), migration.name
            schema.migrate(released, replace(release, migrations=release.migrations[: migration.number + 1]))


@pytest.mark.parametrize(
    "text",
    [
        b"CREATE INDEX scratch ON events (state)",
        b"ALTER TABLE events ADD CONSTRAINT scratch CHECK (attempts >= 0)",
        b"ALTER TABLE events ALTER item_id SET NOT NULL",
        b"ALTER TABLE events ALTER attempts TYPE bigint",
        b"ALTER TABLE events ADD COLUMN scratch timestamptz DEFAULT clock_timestamp()",
        b"UPDATE events SET attempts = 1",
        b"ALTER TABLE events ADD CONSTRAINT scratch FOREIGN KEY (item_id) REFERENCES products",
    ],
)
def test_a_migration_that_reads_a_large_table_whole_is_noticed(released: str, text: bytes) -> None:
    with schema.connect(released) as connection:
        assert "events" in reads_whole(connection, text)
        assert reads_whole(connection, b"ALTER TABLE events ADD COLUMN scratch integer NOT NULL DEFAULT 0") == set()


# Outside a transaction


OUTSIDE = """-- outside a transaction
DO $$
BEGIN
    LOOP
        UPDATE events SET content_type = 'text/plain'  -- a portion; the next one has what is left
         WHERE id IN (SELECT id FROM events WHERE content_type <> 'text/plain' LIMIT 2);
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END $$;

CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS events_scratch ON events (item_id, id);
ALTER TABLE events ADD COLUMN IF NOT EXISTS scratch text;
"""


def is_valid(url: str) -> list[Any]:
    return rows(url, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('events_scratch')")


@pytest.fixture
def build_that_waits(released: str) -> Iterator[Callable[[], None]]:
    """A transaction that has written to events: an index on them is not finished before the fixture is called."""
    schema.migrate(released)
    with psycopg.connect(released) as writer:
        writer.execute("INSERT INTO events (item_id, content_type) VALUES ('9', 'text/plain')")
        yield writer.rollback


def is_building(url: str) -> bool:
    return bool(rows(url, "SELECT 1 FROM pg_stat_progress_create_index WHERE lockers_total > lockers_done"))


def test_a_build_whose_connection_is_killed_is_made_again(released: str, build_that_waits: Callable[[], None]) -> None:
    release = with_next(OUTSIDE)
    with ThreadPoolExecutor(1) as executor:
        migrated = executor.submit(schema.migrate, released, release)
        eventually(lambda: is_building(released))
        execute(released, "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
        with pytest.raises(MigrationFailed, match=r"_scratch\.sql failed, and what it finished stays"):
            migrated.result(30)
    build_that_waits()
    assert is_valid(released) == [(False,)], "it was cut off in the middle"
    assert rows(released, "SELECT DISTINCT content_type FROM events") == [("text/plain",)], "portions stay"
    assert rows(released, "SELECT name FROM schema_migrations WHERE applied_at IS NULL") == [
        (release.migrations[-1].name,)
    ]
    assert schema.migrate(released, release) == [release.migrations[-1].name]
    assert is_valid(released) == [(True,)]
    assert schema.migrate(released, release) == []


def test_a_migrate_that_is_killed_is_taken_over_by_the_next(
    released: str, build_that_waits: Callable[[], None]
) -> None:
    release = with_next(OUTSIDE)
    program = "import sys; from tests.store.test_migrations import *; schema.migrate(sys.argv[1], with_next(OUTSIDE))"
    process = subprocess.Popen([sys.executable, "-c", program, released], cwd=procfile.ROOT)
    eventually(lambda: is_building(released))
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    with ThreadPoolExecutor(1) as executor:
        migrated = executor.submit(schema.migrate, released, release)
        # What the dead process asked for goes on in Postgres, and keeps the lock until it ends.
        assert wait([migrated], 0.3).not_done
        build_that_waits()
        assert migrated.result(30) == [release.migrations[-1].name]
    assert is_valid(released) == [(True,)]


def test_a_migration_that_failed_outside_a_transaction_may_be_mended(released: str) -> None:
    with pytest.raises(MigrationFailed, match=r'"nothing" does not exist \(the statement at line 3\)$'):
        schema.migrate(released, with_next("-- outside a transaction\nSELECT 1;\nALTER TABLE nothing ADD a text;"))
    mended = with_next("-- outside a transaction\nSELECT 1;")
    assert schema.migrate(released, mended) == [mended.migrations[-1].name]


def test_builds_of_two_migrates_do_not_wait_for_each_other(released: str) -> None:
    release = with_next(OUTSIDE)
    run_together([lambda: schema.migrate(released, release)] * 3)
    assert is_valid(released) == [(True,)]


@pytest.mark.parametrize(
    "migration",
    [each for each in schema.shipped().migrations if not each.is_in_transaction],
    ids=lambda migration: migration.name,
)
def test_what_runs_outside_a_transaction_can_be_repeated(released: str, migration: Migration) -> None:
    schema.migrate(released)
    execute(released, f"UPDATE schema_migrations SET applied_at = NULL WHERE number = {migration.number}")
    assert schema.migrate(released) == [migration.name]
    assert differing(released) == []


def test_the_recipe_for_filling_a_column_in_portions_works(released: str) -> None:
    text = (procfile.ROOT / "docs" / "how-to-add.md").read_text("utf-8")
    (recipe,) = re.findall(r"```sql\n(-- outside a transaction\n.*?)```", text, re.DOTALL)
    release = with_next("ALTER TABLE products ADD COLUMN colour text;", recipe.replace("LIMIT 1000", "LIMIT 2"))
    execute(released, """UPDATE products SET raw = '{"colour": "red"}', revision = 2 WHERE zoho_item_id <> '3'""")
    schema.migrate(released, release)
    assert rows(
        released, "SELECT colour, revision, altered_at, count(*) FROM products GROUP BY 1, 2, 3 ORDER BY 1"
    ) == [
        ("red", 3, None, 4),
        (None, 1, None, 1),
    ]


def test_statements_are_told_apart() -> None:
    text = """-- outside a transaction; a comment's
SELECT ';' AS "a;b", 'it''s'; -- one more;

DO $body$ BEGIN; 'x END $body$;
SELECT 2 -- more
-- no statement"""
    found = list(Migration(1, "", text.encode()).statements())
    assert found == [
        (2, b"SELECT ';' AS \"a;b\", 'it''s';"),
        (4, b"DO $body$ BEGIN; 'x END $body$;"),
        (5, b"SELECT 2 -- more\n-- no statement"),
    ]


# The command


def command(url: str, *options: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["migrate", *options], env={"DATABASE_URL": url})
    return done.exit_code, done.stdout, done.stderr


def test_the_command_names_what_it_applied_and_what_differs(url: str) -> None:
    assert command(url) == (0, "Applied schema.sql.\nThe database is up to date.\n", "")
    execute(url, "DROP INDEX events_run")
    code, said, warned = command(url)
    assert (code, said) == (0, "The database is up to date.\n")
    assert warned.startswith("index events_run is missing; schema.sql makes it: CREATE INDEX events_run ON events")
    code, said, _ = command(url, "--json")
    told = json.loads(said)
    assert (code, told["state"], told["changed"], told["applied"]) == (0, "up to date", False, [])
    assert told["differences"] == [warned.rstrip("\n")]


def test_what_others_added_is_no_difference_to_the_command(url: str) -> None:
    schema.migrate(url)
    execute(url, "CREATE INDEX of_the_shop ON products (brand)", "CREATE TABLE events_archive (LIKE events)")
    assert command(url) == (0, "The database is up to date.\n", "")


def test_a_user_who_may_not_create_a_schema_migrates_without_the_comparison(url: str) -> None:
    execute(url, "CREATE ROLE modest LOGIN", "GRANT CREATE ON SCHEMA public TO modest")
    try:
        code, said, warned = command(url.replace("postgres@", "modest@", 1))
    finally:
        execute(url, "DROP OWNED BY modest", "DROP ROLE modest")
    assert (code, said) == (0, "Applied schema.sql.\nThe database is up to date.\n")
    assert warned.startswith("The database was not compared with schema.sql: permission denied")


def test_a_newer_database_ends_the_command_with_what_to_do(url: str) -> None:
    schema.migrate(url, with_next("SELECT 1;"))
    schema_at_next = len(schema.shipped().migrations)
    code, _, said = command(url)
    assert code == 1
    assert f"has migration {schema_at_next:04}" in said
    assert "Run migrate of that release" in said
    assert "Traceback" not in said


def test_processes_at_work_go_on_after_a_column_was_added(url: str) -> None:
    """Their prepared statements would be refused for as long as their connections live."""
    schema.migrate(url)
    release = with_next("ALTER TABLE products ADD COLUMN colour text;")
    with (
        database.sync_pool(url, size=1, name="worker") as worker,
        database.sync_pool(url, size=1, name="web intake") as intake,
    ):
        for pool in (worker, intake):
            with pool.connection() as connection:
                pid = connection.info.backend_pid
                for _time in range(3):
                    connection.execute("SELECT * FROM products WHERE zoho_item_id = %s", ["1"])
        schema.migrate(url, release)

        def works() -> bool:
            try:
                with worker.connection() as connection:
                    connection.execute("SELECT * FROM products WHERE zoho_item_id = %s", ["1"])
            except psycopg.OperationalError:
                # The one that was ended; a worker tries again.
                return False
            return True

        eventually(works)
        with intake.connection() as connection:
            assert connection.info.backend_pid == pid
