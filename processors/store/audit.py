"""The `audit_log` table: who did what, to which ids, when, and from where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg.types.json import Jsonb

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

Channel = Literal["console", "api", "cli"]

UNKNOWN = "unknown:"
"""Begins what is kept of a name that was no operator's when it was tried; an operator's name holds no colon."""

_queries = Queries("audit.sql")


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks for something: an operator, a program by its token's name, or an account of a shell."""

    channel: Channel
    name: str
    address: str | None = None
    """Where from; a shell has none."""

    def __str__(self) -> str:
        """Say it in a word, as other tables keep it."""
        return f"{self.channel}:{self.name}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row."""

    id: int
    at: datetime
    channel: Channel
    requester: str
    address: str | None
    action: str
    targets: list[str]
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FailedSignIns:
    """How often somebody failed to sign in lately."""

    by_name: int
    by_network: int
    by_both: int
    is_known_here: bool
    """It succeeded there not long ago."""


def note(
    connection: Connection,
    requester: Requester,
    action: str,
    targets: Sequence[str | int] = (),
    detail: Mapping[str, object] | None = None,
) -> None:
    """Note what was done; it belongs into the transaction that does it. Nothing in it may be a secret."""
    connection.execute(
        _queries.note,
        {
            "channel": requester.channel,
            "requester": requester.name,
            "address": requester.address,
            "action": action,
            "targets": [str(target) for target in targets],
            "detail": Jsonb(dict(detail or {})),
        },
    )


def find_entries(
    connection: Connection,
    *,
    requester: str | None = None,
    action: str | None = None,
    before: int | None = None,
    skip: int = 0,
    most: int,
) -> list[Entry]:
    """Return what was done, the newest first."""
    parameters = {"requester": requester, "action": action, "before": before, "skip": skip, "most": most}
    return [Entry(**row) for row in connection.execute(_queries.find_entries, parameters)]


def count_entries(
    connection: Connection, *, requester: str | None = None, action: str | None = None, at_most: int
) -> int:
    """Return how many entries there are, counting no further than `at_most`."""
    parameters = {"requester": requester, "action": action, "at_most": at_most}
    count: int = only_row(connection.execute(_queries.count_entries, parameters))["count"]
    return count


def fetches_of(connection: Connection, item_id: str, *, most: int) -> list[Entry]:
    """Return who asked Zoho for an item, the newest first."""
    return [Entry(**row) for row in connection.execute(_queries.fetches_of, {"item_id": item_id, "most": most})]


def failed_sign_ins(
    connection: Connection, name: str, network: str | None, window: timedelta, *, known_for: timedelta
) -> FailedSignIns:
    """Return how often sign-ins failed within the window that ends now."""
    parameters = {"name": name, "network": network, "window": window, "known_for": known_for}
    return FailedSignIns(**only_row(connection.execute(_queries.failed_sign_ins, parameters)))


def forget_failed_sign_ins(connection: Connection, *, older_than: timedelta) -> None:
    """Remove the only entries that strangers make; what operators and programs did stays."""
    connection.execute(_queries.forget_failed_sign_ins, {"older_than": older_than})


def forget_unknown_names(connection: Connection) -> None:
    """Take names that are no operators' out of failed attempts: earlier releases kept them as they were typed."""
    connection.execute(_queries.forget_unknown_names, {"unknown": UNKNOWN})
