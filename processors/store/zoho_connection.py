"""The `zoho_connection` table: the tokens of the one connection, as ciphertexts. Its row's lock is the refresh lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

_queries = Queries("zoho_connection.sql")


@dataclass(frozen=True, slots=True)
class Stored:
    """The row; durations count from now, by the database's clock."""

    refresh_token: bytes | None
    access_token: bytes | None
    good_for: timedelta | None
    api_domain: str | None
    refusals: int
    last_error: str | None
    left_alone_for: timedelta
    """How long the token endpoint must not be called; not positive: it may."""


def seed(connection: Connection, *, refresh_token: bytes, seed_digest: bytes) -> None:
    """Take over a refresh token from the settings, unless it was taken over before."""
    connection.execute(_queries.seed, {"refresh_token": refresh_token, "seed_digest": seed_digest})


def read(connection: Connection) -> Stored:
    """Return the row as it is now."""
    return Stored(**only_row(connection.execute(_queries.read)))


def lock(connection: Connection) -> None:
    """Wait for the refresh lock and hold it until the transaction ends."""
    connection.execute(_queries.lock)


def keep_tokens(
    connection: Connection,
    *,
    access_token: bytes,
    good_for: timedelta,
    refresh_token: bytes | None,
    api_domain: str | None,
) -> None:
    """Store what the token endpoint gave."""
    connection.execute(
        _queries.keep_tokens,
        {
            "access_token": access_token,
            "good_for": good_for,
            "refresh_token": refresh_token,
            "api_domain": api_domain,
        },
    )


def note_refusal(connection: Connection, *, wait: timedelta, error: str) -> None:
    """Leave the token endpoint alone for `wait`; `error` is for operators and holds no secret."""
    connection.execute(_queries.note_refusal, {"wait": wait, "error": error})
