"""The `operators` and `sessions` tables: who may use the console, and from where they are signed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

Role = Literal["viewer", "operator"]

IDLE = timedelta(hours=12)
"""A session ends when it was not used for so long,"""

LONGEST = timedelta(days=7)
"""and after so long in any case."""

_queries = Queries("operators.sql")


@dataclass(frozen=True, slots=True)
class Operator:
    """One person."""

    name: str
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ListedOperator:
    """One person, with how often they are signed in now."""

    name: str
    role: Role
    created_at: datetime
    sessions: int
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that somebody is signed in with."""

    digest: bytes
    created_at: datetime
    seen_at: datetime
    address: str | None
    browser: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whose session it is."""

    name: str
    role: Role


def add(connection: Connection, name: str, role: Role, password_hash: str) -> Operator | None:
    """Add a person; None: there is one of that name."""
    parameters = {"name": name, "role": role, "password_hash": password_hash}
    row = connection.execute(_queries.add_operator, parameters).fetchone()
    return row and Operator(**row)


def password_hash(connection: Connection, name: str) -> str | None:
    """Return what is kept of a person's password; None: there is nobody of that name."""
    row = connection.execute(_queries.find_operator, {"name": name}).fetchone()
    return row and row["password_hash"]


def listed(connection: Connection) -> list[ListedOperator]:
    """Return everybody."""
    return [ListedOperator(**row) for row in connection.execute(_queries.list_operators)]


def any_exists(connection: Connection) -> bool:
    """Tell whether anybody can sign in at all."""
    return bool(only_row(connection.execute(_queries.any_operator))["is_there"])


def change_password(connection: Connection, name: str, new_hash: str, *, former: str | None = None) -> bool:
    """Replace what is kept of a password; False: there is nobody of that name, or it is not `former` any more."""
    parameters = {"name": name, "password_hash": new_hash, "former": former}
    return connection.execute(_queries.change_password, parameters).fetchone() is not None


def change_role(connection: Connection, name: str, role: Role) -> bool:
    """Let somebody act, or only see; False: there is nobody of that name."""
    return connection.execute(_queries.change_role, {"name": name, "role": role}).fetchone() is not None


def remove(connection: Connection, name: str) -> bool:
    """Remove a person; False: there is nobody of that name."""
    return connection.execute(_queries.remove_operator, {"name": name}).fetchone() is not None


def open_session(connection: Connection, digest: bytes, name: str, *, address: str | None, browser: str) -> None:
    """Note that somebody signed in."""
    parameters = {"digest": digest, "operator": name, "idle": IDLE, "address": address, "browser": browser}
    connection.execute(_queries.open_session, parameters)


def find_session(connection: Connection, digest: bytes) -> SignedIn | None:
    """Return whose session this is, and prolong it; None: it is over, or never was."""
    row = connection.execute(_queries.find_session, {"digest": digest, "idle": IDLE, "longest": LONGEST}).fetchone()
    return row and SignedIn(**row)


def sessions_of(connection: Connection, name: str) -> list[Session]:
    """Return where somebody is signed in, the latest seen first."""
    rows = connection.execute(_queries.sessions_of, {"operator": name})
    return [Session(**{**row, "digest": bytes(row["digest"])}) for row in rows]


def close_session(connection: Connection, digest: bytes) -> None:
    """End one session."""
    connection.execute(_queries.close_session, {"digest": digest})


def close_sessions_of(connection: Connection, name: str, *, but: bytes | None = None) -> int:
    """End all sessions of a person, but one; return how many ended."""
    return connection.execute(_queries.close_sessions_of, {"operator": name, "but": but}).rowcount
