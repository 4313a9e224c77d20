"""Bringing a database to the state that `schema.sql` describes."""

from __future__ import annotations

import hashlib
import time
from importlib import resources

import psycopg
from psycopg.rows import dict_row

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

# Any number that no other program of this database uses for an advisory lock.
_MIGRATION_LOCK = 7_267_001
# While others read a table, adding a column to it waits, and whoever comes later waits behind it: for a moment only.
# Less than Postgres waits before it looks for a deadlock: it is always this one that gives way, and tries again.
_LOCK_TIMEOUT_MS = 500
_ATTEMPTS = 60
_PAUSE_SECONDS = 0.5

_queries = Queries("schema_version.sql")


def migrate(url: str) -> bool:
    """Apply `schema.sql`, wholly or not at all; a second one at the same time waits for the first.

    False: the database is as this release makes it already, and nothing was locked. Safe while processes of this or an
    older release run: none of them waits for it for more than a moment at a time.

    Raises:
        psycopg.Error: Postgres is away, refuses a statement, or leaves a table to others for long; nothing was changed.
    """
    for _attempt in range(_ATTEMPTS - 1):
        try:
            return _migrate_once(url)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(_PAUSE_SECONDS)
    return _migrate_once(url)


def is_current(connection: Connection) -> bool:
    """Tell whether `migrate` of this very release ran on this database."""
    try:
        row = connection.execute(_queries.digest).fetchone()
    except psycopg.errors.UndefinedTable:
        return False
    return row is not None and bytes(row["digest"]) == _digest()


def _migrate_once(url: str) -> bool:
    with psycopg.connect(url, connect_timeout=10, row_factory=dict_row) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        if _is_applied(connection):
            return False
        connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        # "IF NOT EXISTS … skipping" is what a second run is about, not news.
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute(_text())
        connection.execute(_queries.keep, {"digest": _digest(), "fingerprint": _fingerprint(connection)})
        return True


def _is_applied(connection: Connection) -> bool:
    parameters = {"digest": _digest(), "fingerprint": _fingerprint(connection)}
    try:
        with connection.transaction():
            row = connection.execute(_queries.is_applied, parameters).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return False
    return row is not None and bool(row["is_applied"])


def _fingerprint(connection: Connection) -> str:
    fingerprint: str = only_row(connection.execute(_queries.fingerprint))["fingerprint"]
    return fingerprint


def _text() -> bytes:
    return resources.files(__package__).joinpath("sql", "schema.sql").read_bytes()


def _digest() -> bytes:
    return hashlib.sha256(_text()).digest()
