"""The `zoho_connection` table: the tokens of the one connection, as ciphertexts. Its row's lock is the refresh lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import psycopg

from processors.errors import TokenThrottled
from processors.store.database import Connection, only_row
from processors.store.queries import Queries

LONGEST_TOKEN_CALL = timedelta(seconds=10)
"""A call to the token endpoint that was not ended after this long belongs to a process that died."""

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
    """Wait for the refresh lock and hold it until the transaction ends.

    Raises:
        TokenThrottled: another process has held it for longer than a statement may take.
    """
    try:
        connection.execute(_queries.lock)
    except psycopg.errors.QueryCanceled:
        message = "another process has been waiting for the token endpoint for long"
        raise TokenThrottled(message, LONGEST_TOKEN_CALL) from None


def begin_token_call(connection: Connection) -> int:
    """Note that the token endpoint is being called, and return the note's id.

    `connection` must not be the one whose transaction holds the refresh lock: the note has to outlive that.
    """
    call_id: int = only_row(connection.execute(_queries.begin_token_call, {"longest": LONGEST_TOKEN_CALL}))["id"]
    return call_id


def end_token_call(connection: Connection, call_id: int) -> None:
    """Note that the call is over."""
    connection.execute(_queries.end_token_call, {"id": call_id})


def keep_tokens(
    connection: Connection,
    *,
    access_token: bytes,
    good_for: timedelta,
    refresh_token: bytes,
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
