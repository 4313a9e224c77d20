"""Bringing a database to the state that `schema.sql` describes."""

from __future__ import annotations

import hashlib
import time
from importlib import resources

import psycopg

from processors.store.database import Connection

# Any number that no other program of this database uses for an advisory lock.
_MIGRATION_LOCK = 7_267_001
# While an old process reads a table, adding a column to it waits, and whoever comes later waits behind it: no longer
# than a delivery can. What could not be had in that time is tried again.
_LOCK_TIMEOUT_MS = 2_000
_ATTEMPTS = 20
_PAUSE_SECONDS = 1.0
_KEEP_DIGEST = """
INSERT INTO schema_version (digest) VALUES (%s)
    ON CONFLICT (is_only) DO UPDATE SET digest = excluded.digest, applied_at = now()
"""


def migrate(url: str) -> None:
    """Apply `schema.sql`, wholly or not at all; a second one at the same time waits for the first.

    Safe while processes of this or an older release run: they wait for it for a moment at a time.

    Raises:
        psycopg.Error: Postgres is away, refuses a statement, or leaves a table to others for long; nothing was changed.
    """
    for _attempt in range(_ATTEMPTS - 1):
        try:
            _migrate_once(url)
        except psycopg.errors.LockNotAvailable:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    _migrate_once(url)


def _migrate_once(url: str) -> None:
    with psycopg.connect(url, connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        # "IF NOT EXISTS … skipping" is what a second run is about, not news.
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute(_text())
        connection.execute(_KEEP_DIGEST, (_digest(),))


def is_current(connection: Connection) -> bool:
    """Tell whether `migrate` ran on this database as it is in this release."""
    found = connection.execute("SELECT to_regclass('schema_version') AS is_there").fetchone()
    if found is None or found["is_there"] is None:
        return False
    row = connection.execute("SELECT digest FROM schema_version").fetchone()
    return row is not None and bytes(row["digest"]) == _digest()


def _text() -> bytes:
    return resources.files(__package__).joinpath("sql", "schema.sql").read_bytes()


def _digest() -> bytes:
    return hashlib.sha256(_text()).digest()
