"""The `alerts` table: what is wrong, whether people were told, and whether they could be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

_queries = Queries("alerts.sql")


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that is wrong now."""

    cause: str
    what: str
    what_to_do: str
    page: str


@dataclass(frozen=True, slots=True)
class Due:
    """A message to send: that something is wrong, or that it is over."""

    cause: str
    what: str
    what_to_do: str
    page: str
    opened_at: datetime
    failures: int
    is_over: bool


@dataclass(frozen=True, slots=True)
class Alert:
    """One row."""

    cause: str
    what: str
    what_to_do: str
    page: str
    opened_at: datetime
    gone_since: datetime | None
    cleared_at: datetime | None
    sent_at: datetime | None
    failures: int
    error: str | None

    @property
    def is_open(self) -> bool:
        """Tell whether it still is wrong, or only just is not."""
        return self.cleared_at is None


def see(connection: Connection, causes: Sequence[Cause], *, stays_away: timedelta) -> None:
    """Note all that is wrong now, and what is not any more; what nobody was told of ends quietly after `stays_away`."""
    parameters = {
        "cause": [cause.cause for cause in causes],
        "what": [cause.what for cause in causes],
        "what_to_do": [cause.what_to_do for cause in causes],
        "page": [cause.page for cause in causes],
    }
    with connection.transaction():
        connection.execute(_queries.see, parameters)
        connection.execute(_queries.miss, {"cause": parameters["cause"]})
        connection.execute(_queries.clear_quietly, {"stays_away": stays_away})


def claim_due(
    connection: Connection, *, stands: timedelta, again: timedelta, stays_away: timedelta, lease: timedelta
) -> Due | None:
    """Return a message that is due, which nobody else gets for as long as the lease.

    What is wrong for so long (`stands`), is told again after so long, or is over for so long.
    """
    parameters = {"stands": stands, "again": again, "stays_away": stays_away, "lease": lease}
    row = connection.execute(_queries.claim_due, parameters).fetchone()
    return Due(**row) if row else None


def note_sent(connection: Connection, due: Due) -> None:
    """Note that people were told."""
    connection.execute(_queries.note_sent, {"cause": due.cause, "is_over": due.is_over})


def note_failure(connection: Connection, due: Due, *, error: str, wait: timedelta) -> None:
    """Note that they could not be; it is tried again after `wait`."""
    connection.execute(_queries.note_failure, {"cause": due.cause, "error": error, "wait": wait})


def listed(connection: Connection) -> list[Alert]:
    """Return all alerts, open ones first."""
    return [Alert(**row) for row in connection.execute(_queries.listed)]


def undelivered_since(connection: Connection, *, least: int) -> tuple[datetime, str] | None:
    """Return since when a message failed `least` times or more, and why; None: all went out."""
    row = only_row(connection.execute(_queries.undelivered_since, {"least": least}))
    return (row["since"], row["error"] or "") if row["since"] else None
