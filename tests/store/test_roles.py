"""The roles of docs/security.md, made by its very statements: each may do its work, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from processors.runtime import procfile
from processors.runtime.local import LocalPostgres
from processors.store import schema
from processors.store.queries import Queries
from processors.workflows import checking
from tests.store.test_schema import STATEMENTS, numbered

DATABASE = "roles"
READABLE = {"products", "product_changes", "reconciliation_runs", "freshness"}
EVENTS = "id, received_at, kind, item_id, state, outcome, attempts, error, processed_at"
REFUSED = psycopg.errors.InsufficientPrivilege


def statements() -> list[str]:
    """Return the two blocks, for a database of this test."""
    page = (procfile.ROOT / "docs" / "security.md").read_text("utf-8")
    section = page.split("## Roles in Postgres")[1].split("\n## ")[0]
    return [
        block.replace("DATABASE mirror", f"DATABASE {DATABASE}")
        for block in re.findall(r"```sql\n(.+?)```", section, re.DOTALL)
    ]


def url(postgres: LocalPostgres, role: str) -> str:
    return postgres.database_url(DATABASE).replace("postgres@", f"mirror_{role}@", 1)


def connect(postgres: LocalPostgres, role: str) -> psycopg.Connection:
    return psycopg.connect(url(postgres, role), autocommit=True)


@pytest.fixture(scope="module")
def roles(postgres: LocalPostgres) -> Iterator[LocalPostgres]:
    by_superuser, by_owner = statements()
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        for statement in filter(str.strip, by_superuser.split(";")):
            superuser.execute(statement.encode())
        schema.migrate(url(postgres, "owner"))
        with connect(postgres, "owner") as owner:
            owner.execute(by_owner.encode())
        yield postgres
        superuser.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
        superuser.execute(b"DROP ROLE mirror_owner, mirror_writer, mirror_reader")


def relations(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    return {name for (name,) in rows}


def test_the_writer_may_run_every_statement_of_the_processes(roles: LocalPostgres) -> None:
    """Preparing a statement checks no rights, EXPLAIN does."""
    with connect(roles, "writer") as writer:
        refused = {}
        for file, name in STATEMENTS:
            asked = f"EXPLAIN (GENERIC_PLAN) {numbered(getattr(Queries(file), name))}"
            if file != "migrations.sql" and (message := writer.pgconn.exec_(asked.encode()).error_message):
                refused[name] = message
    assert refused == {}


def test_the_doctor_asks_no_right_of_the_writer_that_only_migrate_needs(roles: LocalPostgres) -> None:
    with connect(roles, "writer") as writer:
        found = list(checking._check_server(writer, lambda: datetime.now(UTC)))
    assert [finding.mark for finding in found] == ["ok"]


def test_the_writer_may_not_change_the_schema_nor_its_ledger(roles: LocalPostgres) -> None:
    with schema.connect(url(roles, "writer")) as writer:
        assert schema.is_current(writer)
        for statement in (
            "CREATE TABLE mine (id int)",
            "ALTER TABLE products ADD COLUMN mine int",
            "DROP TABLE products",
            "TRUNCATE products",
            "DELETE FROM schema_migrations",
            "ALTER TABLE products DISABLE TRIGGER ALL",
        ):
            with pytest.raises(REFUSED):
                writer.execute(statement.encode())


def test_the_writer_may_use_what_a_later_migration_makes(roles: LocalPostgres) -> None:
    with connect(roles, "owner") as owner, connect(roles, "writer") as writer, connect(roles, "reader") as reader:
        owner.execute("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, name text)")
        try:
            writer.execute("INSERT INTO later (name) VALUES ('x')")
            with pytest.raises(REFUSED):
                reader.execute("SELECT * FROM later")
        finally:
            owner.execute("DROP TABLE later")


def test_the_reader_reads_what_is_meant_for_others_and_nothing_else(roles: LocalPostgres) -> None:
    with connect(roles, "reader") as reader:
        for relation in relations(reader):
            asked = f"SELECT * FROM {relation}".encode()
            if relation in READABLE:
                reader.execute(asked)
            else:
                with pytest.raises(REFUSED):
                    reader.execute(asked)
        reader.execute(f"SELECT {EVENTS} FROM events".encode())
        for column in ("body", "query_string"):
            with pytest.raises(REFUSED):
                reader.execute(f"SELECT {column} FROM events".encode())


def test_the_reader_writes_nothing(roles: LocalPostgres) -> None:
    with connect(roles, "reader") as reader:
        for relation in (READABLE - {"freshness"}) | {"events"}:
            for statement in (
                f"DELETE FROM {relation}",
                f"TRUNCATE {relation}",
                f"INSERT INTO {relation} DEFAULT VALUES",
            ):
                with pytest.raises(REFUSED):
                    reader.execute(statement.encode())


def test_no_role_is_a_superuser(roles: LocalPostgres) -> None:
    with connect(roles, "owner") as owner:
        rows = owner.execute(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname LIKE 'mirror\\_%'"
        )
        assert rows.fetchall() == [(False,)] * 3
