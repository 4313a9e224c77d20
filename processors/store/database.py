"""Connections to Postgres: pools, JSON without loss, and which failures mean that it is away."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

Row = dict[str, Any]
Connection = psycopg.Connection[Any]
Pool = ConnectionPool[Connection]
AsyncConnection = psycopg.AsyncConnection[Any]
AsyncPool = AsyncConnectionPool[AsyncConnection]

AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
)
"""What a call raises when Postgres is away, restarting, or refusing connections, or ended this one because its process
had been stopped in the middle of a transaction."""

NOT_MIGRATED = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)
"""What a statement raises before `migrate` ran."""

TOO_LARGE = (psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
"""Also operational errors in psycopg's order, but about the values: the next try would end the same."""

STATEMENT_TIMEOUT_MS = 10_000
# What a process locks is free again so soon after it was frozen or cut off in the middle of a transaction. Between two
# statements lie milliseconds; the one transaction that spans a call asks for longer (zoho_connection.lock).
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
# The same for a process that stops reading in the middle of an answer, and for a machine that vanished: on the server's
# side, for connections by TCP.
VANISHED_TIMEOUT_SECONDS = 8
CONNECT_TIMEOUT_SECONDS = 3
# The pool doubles its pause between attempts up to this, then begins anew: short, so that work goes on
# within seconds of Postgres coming back.
RECONNECT_SECONDS = 5

# Prices and quantities must not pass through binary floating point, on either way.
decode_json: Callable[[str | bytes], Any] = msgspec.json.Decoder(float_hook=Decimal).decode
encode_json: Callable[[Any], bytes] = msgspec.json.Encoder(decimal_format="number").encode

_OPTIONS = {
    "autocommit": True,
    "row_factory": dict_row,
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    # A dead peer is noticed within about 20 s, be the connection idle or waiting for an answer.
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "prepare_threshold": 1,
}
BOUNDS: Final = (
    f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_TIMEOUT_MS}; "
    f"SET tcp_keepalives_idle = {VANISHED_TIMEOUT_SECONDS // 2}; "
    f"SET tcp_keepalives_interval = {VANISHED_TIMEOUT_SECONDS // 4}; SET tcp_keepalives_count = 2; "
    f"SET tcp_user_timeout = {VANISHED_TIMEOUT_SECONDS * 1000}"
)
"""How long Postgres keeps the locks of a process that says nothing more."""
_SESSION: Final = f"{BOUNDS}; SET statement_timeout = {STATEMENT_TIMEOUT_MS}; SET timezone = 'UTC'"


def sync_pool(url: str, *, size: int, name: str, is_checked: bool = False) -> Pool:
    """Return a pool of autocommit connections, still closed, for the process that calls; `size` is the most it takes.

    `is_checked` has each connection tried before it is given, so that none is given that died with the server: for
    those who do not try again.

    Open it with `wait=False` where the process should start although Postgres is away.
    """

    def configure(connection: Connection) -> None:
        set_json_loads(decode_json, connection)
        set_json_dumps(encode_json, connection)
        connection.execute(_SESSION)

    return ConnectionPool(
        url,
        kwargs={**_OPTIONS, "application_name": f"zoho-mirror {name}"},
        min_size=1,
        max_size=size,
        configure=configure,
        check=ConnectionPool.check_connection if is_checked else None,
        timeout=5,
        reconnect_timeout=RECONNECT_SECONDS,
        name=name,
        open=False,
    )


def async_pool(url: str, *, size: int, name: str, timeout_seconds: float) -> AsyncPool:
    """Return the same for asyncio; `timeout_seconds` bounds the wait for a connection."""

    async def configure(connection: AsyncConnection) -> None:
        set_json_loads(decode_json, connection)
        set_json_dumps(encode_json, connection)
        await connection.execute(_SESSION)

    return AsyncConnectionPool(
        url,
        kwargs={**_OPTIONS, "application_name": f"zoho-mirror {name}"},
        min_size=1,
        max_size=size,
        configure=configure,
        timeout=timeout_seconds,
        reconnect_timeout=RECONNECT_SECONDS,
        name=name,
        open=False,
    )


def only_row(cursor: psycopg.Cursor[Any]) -> Row:
    """Return the row of a statement that always yields exactly one."""
    row: Row | None = cursor.fetchone()
    assert row is not None, "this statement yields a row whatever the tables hold"
    return row
