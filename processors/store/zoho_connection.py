"""The `zoho_connection` table: the tokens of the one connection, as ciphertexts. Its row's lock is the refresh lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from processors.errors import TokenThrottled
from processors.store.database import Connection, only_row
from processors.store.queries import Queries

LONGEST_TOKEN_CALL = timedelta(seconds=10)
"""A call to the token endpoint that was not ended after this long belongs to a process that died."""


_queries = Queries("zoho_connection.sql")


@dataclass(frozen=True, slots=True)
class Stored:
    """The row; durations count from now, by the database's clock. Bytes are ciphertexts."""

    refresh_token: bytes | None
    seed_digest: bytes | None
    refused_seed_digest: bytes | None
    refused_seed_reason: str | None
    """Why the refresh token of the settings was not taken over."""
    access_token: bytes | None
    access_token_expires_at: datetime | None
    good_for: timedelta | None
    refreshed_at: datetime | None
    api_domain: str | None
    refusals: int
    last_error: str | None
    refresh_allowed_at: datetime
    left_alone_for: timedelta
    """How long the token endpoint must not be called for a refresh; not positive: it may."""
    often_called_for: timedelta
    """How long it must not be called for anything, because it was called often; not positive: it may."""
    data_center: str | None
    client_id: str | None
    client_secret: bytes | None
    organization_id: str | None
    organization_name: str | None
    mirrored_organization_id: str | None
    """Whose items the rows are; see `processors.store.organization`."""
    obstacle: str | None
    obstacle_reason: str | None
    accounts_url: str | None
    scopes: str | None
    connected_as: str | None
    connected_at: datetime | None
    """Null: not connected, or by a setting."""
    connected_by: str | None


def seed(connection: Connection, *, refresh_token: bytes, seed_digest: bytes) -> None:
    """Take over a refresh token from the settings, unless it was taken over before."""
    connection.execute(_queries.seed, {"refresh_token": refresh_token, "seed_digest": seed_digest})


def note_seed(connection: Connection, seed_digest: bytes) -> None:
    """Keep that the refresh token of the settings is not to be taken over, without a word against it."""
    connection.execute(_queries.note_seed, {"seed_digest": seed_digest})


def note_refused_seed(connection: Connection, seed_digest: bytes | None, reason: str | None) -> None:
    """Show operators why the refresh token of the settings is not taken over; None: there is none any more."""
    connection.execute(_queries.note_refused_seed, {"seed_digest": seed_digest, "reason": reason})


def take_over_organization(connection: Connection, organization_id: str) -> None:
    """Store the organisation of the settings; one that is stored already keeps its name."""
    connection.execute(_queries.take_over_organization, {"organization_id": organization_id})


def read(connection: Connection) -> Stored:
    """Return the row as it is now."""
    return Stored(**only_row(connection.execute(_queries.read)))


def organization_id(connection: Connection) -> str | None:
    """Return the organisation of the rows, or the connected one while there are none; None while none is known."""
    found: str | None = only_row(connection.execute(_queries.organization_id))["organization_id"]
    return found


def ciphertexts(stored: Stored) -> dict[str, bytes]:
    """Return the secrets that are stored, by the names of their columns."""
    kept = {
        "refresh_token": stored.refresh_token,
        "access_token": stored.access_token,
        "client_secret": stored.client_secret,
    }
    return {name: bytes(ciphertext) for name, ciphertext in kept.items() if ciphertext is not None}


def place_of(name: str) -> str:
    """Return the place that the secret of a column is encrypted for; see `processors.encryption`."""
    return f"zoho_connection.{name}"


def replace_ciphertexts(connection: Connection, anew: Mapping[str, bytes]) -> None:
    """Store the same secrets under another key; those that are not named stay as they are."""
    names = ("refresh_token", "access_token", "client_secret")
    connection.execute(_queries.replace_ciphertexts, {name: anew.get(name) for name in names})


def lock(connection: Connection) -> None:
    """Wait for the refresh lock and hold it until the transaction ends.

    Raises:
        TokenThrottled: another process has held it for longer than a statement may take.
    """
    try:
        longest_call_ms = int(LONGEST_TOKEN_CALL.total_seconds() * 1000)
        connection.execute(_queries.lock, {"longest_call_ms": longest_call_ms})
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
    client_secret: bytes | None,
    api_domain: str | None,
) -> None:
    """Store what the token endpoint gave; `client_secret` is the stored one, encrypted anew."""
    connection.execute(
        _queries.keep_tokens,
        {
            "access_token": access_token,
            "good_for": good_for,
            "refresh_token": refresh_token,
            "client_secret": client_secret,
            "api_domain": api_domain,
        },
    )


def note_refusal(connection: Connection, *, wait: timedelta, error: str) -> None:
    """Leave the token endpoint alone for `wait`; `error` is for operators and holds no secret."""
    connection.execute(_queries.note_refusal, {"wait": wait, "error": error})


def note_obstacle(connection: Connection, obstacle: str | None, reason: str | None) -> None:
    """Show operators what keeps Zoho from being asked at all; None: nothing does."""
    connection.execute(_queries.note_obstacle, {"obstacle": obstacle, "reason": reason})


def note_error(connection: Connection, error: str) -> None:
    """Show an error to operators; it holds no secret."""
    connection.execute(_queries.note_error, {"error": error})


def keep_client(
    connection: Connection, *, data_center: str | None, client_id: str | None, client_secret: bytes | None
) -> None:
    """Store what an operator entered."""
    parameters = {"data_center": data_center, "client_id": client_id, "client_secret": client_secret}
    connection.execute(_queries.keep_client, parameters)


def keep_connection(
    connection: Connection,
    *,
    refresh_token: bytes,
    access_token: bytes,
    good_for: timedelta,
    api_domain: str | None,
    accounts_url: str,
    scopes: str,
    connected_by: str,
) -> None:
    """Store a connection that was made in the browser."""
    connection.execute(
        _queries.keep_connection,
        {
            "refresh_token": refresh_token,
            "access_token": access_token,
            "good_for": good_for,
            "api_domain": api_domain,
            "accounts_url": accounts_url,
            "scopes": scopes,
            "connected_by": connected_by,
        },
    )


def keep_user(connection: Connection, connected_as: str) -> None:
    """Store whose consent it was."""
    connection.execute(_queries.keep_user, {"connected_as": connected_as})


def choose_organization(connection: Connection, organization_id: str | None, name: str | None) -> None:
    """Store the organisation that is mirrored; None: nobody has chosen one."""
    parameters = {"organization_id": organization_id, "organization_name": name}
    connection.execute(_queries.choose_organization, parameters)


def forget_tokens(connection: Connection) -> None:
    """Be disconnected until somebody connects again."""
    connection.execute(_queries.forget_tokens)
