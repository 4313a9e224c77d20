"""Brings a database to the schema of this release, and tells how it differs from that.

An empty database is made by `schema.sql` at once. Any other gets the numbered files of `migrations/` that its ledger,
the table `schema_migrations`, does not have yet, in their order. File 0 is the schema of release 0.1.0, which had no
ledger: it can be run on any database of that release or of before, and leaves the schema of that release.

A file is applied in one transaction together with its row of the ledger: wholly or not at all. A file that begins with
`-- outside a transaction` is run statement by statement, for what would lock a table for long: `CREATE INDEX
CONCURRENTLY`, `VALIDATE CONSTRAINT`, updates in portions. Cut off in the middle it is run again from its beginning.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources

import psycopg
from psycopg.rows import dict_row

from processors.errors import MigrationFailed, SchemaUnknown
from processors.store import database
from processors.store.database import Connection, only_row
from processors.store.queries import Queries

# Any number that no other program of this database uses for an advisory lock. Release 0.1.0 has the same.
_MIGRATION_LOCK = 7_267_001
_POLL_SECONDS = 0.1
# While others read a table, adding a column to it waits, and whoever comes later waits behind it: for a moment only.
# Less than Postgres waits before it looks for a deadlock: it is always this one that gives way, and tries again.
_LOCK_TIMEOUT_MS = 500
_ATTEMPTS = 60
_PAUSE_SECONDS = 0.5

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_OUTSIDE = b"-- outside a transaction"
# Spaces and comments; then comments, texts, names, bodies between dollars and whatever else does not end a statement.
_STATEMENT = re.compile(r"""(?:\s|--[^\n]*+)*+((?:--[^\n]*|'[^']*'|"[^"]*"|\$(\w*)\$.*?\$\2\$|[^;'"])+;?)""", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*")
# These let writers through while they wait and work, so they may take their time. To give up a build would waste it.
_LETS_WRITERS_THROUGH = re.compile(r"\b(CONCURRENTLY|VALIDATE\s+CONSTRAINT)\b", re.IGNORECASE)
_BUILDS_INDEX = re.compile(r"\bINDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+(\w+)", re.IGNORECASE)
_EXPECTED_SCHEMA = "zoho_mirror_expected"

_queries = Queries("migrations.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered file."""

    number: int
    name: str
    text: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file: what was applied is never edited."""
        return hashlib.sha256(self.text).digest()

    @property
    def is_in_transaction(self) -> bool:
        """Whether it is applied wholly or not at all."""
        return not self.text.startswith(_OUTSIDE)

    def statements(self) -> Iterator[tuple[int, bytes]]:
        """Yield the statements one by one, each with the line on which it begins."""
        text = self.text.decode()
        for found in _STATEMENT.finditer(text):
            yield text.count("\n", 0, found.start(1)) + 1, found[1].encode()


@dataclass(frozen=True, slots=True)
class Release:
    """What a release makes of an empty database, and of older ones; both ways end in the same."""

    schema: bytes
    migrations: tuple[Migration, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A part of the database that is not as `schema.sql` makes it."""

    kind: str
    name: str
    expected: str | None
    """Its definition; None: `schema.sql` has no such part."""
    found: str | None
    """None: the database has no such part."""

    def __str__(self) -> str:
        """Name the part, and say what it should be."""
        if self.expected is None:
            return f"{self.kind} {self.name} is not part of schema.sql: {self.found}"
        if self.found is None:
            return f"{self.kind} {self.name} is missing; schema.sql makes it: {self.expected}"
        return f"{self.kind} {self.name} should be: {self.expected}; it is: {self.found}"


@cache
def shipped() -> Release:
    """Return this release's files."""
    package = resources.files(__package__)
    files = sorted(package.joinpath("migrations").iterdir(), key=lambda file: file.name)
    found = [(match, file) for file in files if (match := _FILE.fullmatch(file.name))]
    migrations = tuple(Migration(int(match[1]), file.name, file.read_bytes()) for match, file in found)
    assert [each.number for each in migrations] == list(range(len(migrations))), "migrations are numbered one by one"
    return Release(package.joinpath("sql", "schema.sql").read_bytes(), migrations)


def migrate(url: str, release: Release | None = None) -> list[str]:
    """Bring a database to this release, and return the names of the files that were applied; one process at a time.

    Safe while processes of this or an older release run: none of them waits for it for more than a moment at a time.

    Raises:
        MigrationFailed: a file could not be applied; the text names it and says what became of it.
        SchemaUnknown: the database has a migration that this release does not; nothing was changed.
        psycopg.Error: Postgres is away.
    """
    release = release or shipped()
    with connect(url) as connection:
        while not only_row(connection.execute(_queries.try_lock, {"key": _MIGRATION_LOCK}))["is_ours"]:
            time.sleep(_POLL_SECONDS)
        found = only_row(connection.execute(_queries.find_database))
        if not found["has_ledger"] and not found["has_tables"]:
            _create(connection, release)
            return ["schema.sql"]
        pending = _pending(connection, release) if found["has_ledger"] else release.migrations
        for migration in pending:
            with _named(migration):
                (_apply_wholly if migration.is_in_transaction else _apply_by_statement)(connection, migration)
            # Workers keep statements prepared that Postgres refuses once a table has a column more. They take new
            # connections; those of web stay: what records deliveries names each column.
            connection.execute(_queries.end_sessions)
        return [migration.name for migration in pending]


def connect(url: str) -> Connection:
    """Return a connection for `migrate` or `differences`; the caller closes it."""
    connection = psycopg.connect(
        url, autocommit=True, connect_timeout=10, row_factory=dict_row, application_name="zoho-mirror migrate"
    )
    # Whatever the server's default: what takes long here is meant to, unless the process is frozen or cut off.
    connection.execute(f"{database.BOUNDS}; SET statement_timeout = 0")
    return connection


def is_current(connection: Connection) -> bool:
    """Tell whether the database has every migration of this release; those of a newer one do not matter to it."""
    try:
        ledger = _ledger(connection)
    except psycopg.errors.UndefinedTable:
        return False
    return all(ledger.get(each.number) == (each.digest, True) for each in shipped().migrations)


def differences(connection: Connection, release: Release | None = None) -> list[Difference]:
    """Compare the database with what `schema.sql` makes, in a schema that is made for that and rolled back.

    The connection commits by itself. The order of columns is not compared, as migrations cannot change it. A database
    of a newer release is not compared.

    Raises:
        psycopg.errors.InsufficientPrivilege: its user may not create a schema.
    """
    release = release or shipped()
    if max(_ledger(connection), default=0) > release.migrations[-1].number:
        return []
    found = described(connection)
    with connection.transaction(force_rollback=True):
        connection.execute(f"CREATE SCHEMA {_EXPECTED_SCHEMA}".encode())
        connection.execute(f"SET LOCAL search_path = {_EXPECTED_SCHEMA}".encode())
        connection.execute(release.schema)
        expected = described(connection)
    return compare(expected, found)


def described(connection: Connection) -> dict[tuple[str, str], str]:
    """Return the definition of each part of the current schema, by kind and name."""
    return {(row["kind"], row["name"]): row["definition"] for row in connection.execute(_queries.describe, {})}


def compare(expected: dict[tuple[str, str], str], found: dict[tuple[str, str], str]) -> list[Difference]:
    """Return what differs, sorted by kind and name."""
    parts = sorted({*expected, *found})
    return [
        Difference(*part, expected.get(part), found.get(part))
        for part in parts
        if expected.get(part) != found.get(part)
    ]


def _create(connection: Connection, release: Release) -> None:
    try:
        with connection.transaction():
            connection.execute(release.schema)
            for migration in release.migrations:
                _record(connection, migration)
    except psycopg.Error as error:
        raise MigrationFailed(f"schema.sql failed, and nothing was changed: {_text(error)}") from error


def _pending(connection: Connection, release: Release) -> tuple[Migration, ...]:
    ledger, known = _ledger(connection), {each.number: each for each in release.migrations}
    for number, (digest, is_applied) in ledger.items():
        if number not in known:
            raise SchemaUnknown(
                f"this database has migration {number:04}, which this release does not know: a newer release migrated"
                " it. Run migrate of that release; processes of this one work without it"
            )
        # One that did not finish may have been mended since.
        if is_applied and digest != known[number].digest:
            raise SchemaUnknown(
                f"this database has another {known[number].name} than this release: run migrate of the release that"
                " applied it. Files that were released are never edited: a later one makes the change"
            )
    return tuple(each for each in release.migrations if not ledger.get(each.number, (b"", False))[1])


def _ledger(connection: Connection) -> dict[int, tuple[bytes, bool]]:
    rows = connection.execute(_queries.read_ledger)
    return {row["number"]: (bytes(row["digest"]), row["is_applied"]) for row in rows}


def _record(connection: Connection, migration: Migration) -> None:
    _begin(connection, migration)
    connection.execute(_queries.finish, {"number": migration.number})


def _begin(connection: Connection, migration: Migration) -> None:
    row = {"number": migration.number, "name": migration.name, "digest": migration.digest}
    connection.execute(_queries.begin, row)


def _apply_wholly(connection: Connection, migration: Migration) -> None:
    def apply() -> None:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            if migration.number == 0:
                connection.execute(_queries.create_ledger)
            for line, statement in migration.statements():
                _run(connection, line, statement)
            _record(connection, migration)

    _patiently(apply)


def _apply_by_statement(connection: Connection, migration: Migration) -> None:
    _begin(connection, migration)
    for line, statement in migration.statements():
        _patiently(partial(_run_outside, connection, line, statement))
    connection.execute(_queries.finish, {"number": migration.number})


def _run_outside(connection: Connection, line: int, statement: bytes) -> None:
    text = _COMMENT.sub("", statement.decode())
    index = _BUILDS_INDEX.search(text)
    connection.execute("SET lock_timeout = 0")
    if index and connection.execute(_queries.find_invalid_index, {"name": index[1]}).fetchone():
        connection.execute(f"DROP INDEX CONCURRENTLY {index[1]}".encode())
    if not _LETS_WRITERS_THROUGH.search(text):
        connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
    _run(connection, line, statement)


def _run(connection: Connection, line: int, statement: bytes) -> None:
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        error.add_note(f" (the statement at line {line})")
        raise


def _patiently(apply: Callable[[], None]) -> None:
    """Apply it again while others have what it needs; a deadlock ends it rather than those at work."""
    for _attempt in range(_ATTEMPTS - 1):
        try:
            apply()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    apply()


@contextmanager
def _named(migration: Migration) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        became = (
            "it was undone; those before it stay applied. Mend the cause, then run migrate again"
            if migration.is_in_transaction
            else "what it finished stays, and migrate repeats the rest. Mend the cause, then run it again"
        )
        raise MigrationFailed(f"{migration.name} failed, and {became}: {_text(error)}") from error


def _text(error: psycopg.Error) -> str:
    return (str(error).strip() or type(error).__name__) + "".join(getattr(error, "__notes__", ()))
