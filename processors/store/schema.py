"""Bringing a database to the state that `schema.sql` describes."""

from __future__ import annotations

import hashlib
from importlib import resources

import psycopg

from processors.store.database import Connection

# Any number that no other program of this database uses for an advisory lock.
_MIGRATION_LOCK = 7_267_001
# While an old process reads a table, adding a column to it waits; it must not queue everybody else behind it for long.
_LOCK_TIMEOUT_MS = 15_000
_KEEP_DIGEST = """
INSERT INTO schema_version (digest) VALUES (%s)
    ON CONFLICT (is_only) DO UPDATE SET digest = excluded.digest, applied_at = now()
"""


def migrate(url: str) -> None:
    """Apply `schema.sql`, wholly or not at all; a second one at the same time waits for the first.

    Raises:
        psycopg.Error: Postgres is away, or refuses a statement; nothing was changed.
    """
    with psycopg.connect(url, connect_timeout=10) as connection:
        connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        # "IF NOT EXISTS … skipping" is what a second run is about, not news.
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute(_text())
        connection.execute(_KEEP_DIGEST, (_digest(),))


def is_current(connection: Connection) -> bool:
    """Tell whether `migrate` ran on this database as it is in this release."""
    try:
        row = connection.execute("SELECT digest FROM schema_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return False
    return row is not None and bytes(row["digest"]) == _digest()


def _text() -> bytes:
    return resources.files(__package__).joinpath("sql", "schema.sql").read_bytes()


def _digest() -> bytes:
    return hashlib.sha256(_text()).digest()
