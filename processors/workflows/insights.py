"""Every read that an operator or a monitor sees. Metrics, console and command line stand on the same functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from processors.store import api_calls, timetable
from processors.store.api_calls import Usage
from processors.store.database import Connection, only_row
from processors.store.products import Changes, Source
from processors.store.queries import Queries

LAG_WINDOW = timedelta(minutes=15)
LAG_QUANTILES = (0.5, 0.95, 0.99)

_queries = Queries("insights.sql")


@dataclass(frozen=True, slots=True)
class EventCount:
    """How many events are in one state, with one outcome where there is one."""

    state: str
    outcome: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Lag:
    """From receipt to applied, over `LAG_WINDOW`."""

    count: int
    quantiles: tuple[float, ...]
    """Seconds, for each of `LAG_QUANTILES`; empty where nothing was finished in the window."""


@dataclass(frozen=True, slots=True)
class RejectionCount:
    """How many deliveries one route refused for one reason, ever."""

    route: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """The state of the connection to Zoho; no secrets."""

    has_refresh_token: bool
    access_token_expires_at: datetime | None
    refreshed_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole system, as Postgres knows it."""

    products: dict[str, int]
    events: list[EventCount]
    oldest_unfinished_age: timedelta | None
    lag: Lag
    api_usage: Usage
    rejections: list[RejectionCount]
    connection: ConnectionStatus
    processes: dict[str, int]


def overview(connection: Connection) -> Overview:
    """Read everything in one consistent snapshot of the database."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        lag = only_row(connection.execute(_queries.lag, {"window": LAG_WINDOW}))
        return Overview(
            products=only_row(connection.execute(_queries.products)),
            events=[EventCount(**row) for row in connection.execute(_queries.events)],
            oldest_unfinished_age=only_row(connection.execute(_queries.oldest_unfinished))["age"],
            lag=Lag(count=lag["count"], quantiles=tuple(lag["quantiles"] or ())),
            api_usage=api_calls.usage(connection),
            rejections=[RejectionCount(**row) for row in connection.execute(_queries.rejections)],
            connection=ConnectionStatus(**only_row(connection.execute(_queries.connection))),
            processes=timetable.alive(connection),
        )


def schema_is_there(connection: Connection) -> bool:
    """Tell whether `migrate` ran on this database."""
    return bool(only_row(connection.execute(_queries.schema_is_there))["is_there"])


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """One row of `product_changes`, with the name the product has now and what its event came to."""

    id: int
    item_id: str
    changed_at: datetime
    source: Source
    changes: Changes
    name: str | None
    outcome: str | None
    lag: timedelta | None
    """From the receipt of its delivery to this change."""


def changes_after(connection: Connection, change_id: int, *, most: int) -> list[AppliedChange]:
    """Return the changes applied after `change_id`, the oldest first."""
    rows = connection.execute(_queries.changes_after, {"id": change_id, "most": most})
    return [AppliedChange(**row) for row in rows]
