"""Replays and discards: which events were sent again, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from processors.store.database import Connection, Row, only_row
from processors.store.event_filter import EventFilter
from processors.store.inbox import Event, event_from_row
from processors.store.queries import Queries

ReplayState = Literal["running", "complete", "cancelled"]

_queries = Queries("replays.sql")


@dataclass(frozen=True, slots=True)
class Replay:
    """One row of `replays`."""

    id: int
    requested_at: datetime
    requested_by: str
    reason: str
    filter: dict[str, Any]
    per_second: int
    state: ReplayState
    finished_at: datetime | None
    total: int


@dataclass(frozen=True, slots=True)
class Unsent:
    """One event that a replay is to send."""

    replay_id: int
    id: int
    item_id: str | None
    body: bytes
    content_type: str
    query_string: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """What came of a replay so far."""

    unsent: int
    skipped: int
    unfinished: int
    dead: int
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class ReplayedEvent:
    """One event of a replay; without a state it was not sent, or another replay has sent it since."""

    event_id: int
    item_id: str | None
    state: str | None
    outcome: str | None
    note: str | None


def match(connection: Connection, chosen: EventFilter) -> list[int]:
    """Return the ids of all finished events that match, the oldest first; discarded ones only where they are named."""
    # Planned for this very filter: a plan for any would read the whole table.
    return [row["id"] for row in connection.execute(_queries.match, chosen.parameters(), prepare=False)]


def open_replay(
    connection: Connection,
    chosen: EventFilter,
    event_ids: Sequence[int],
    *,
    requested_by: str,
    reason: str,
    per_second: int,
) -> Replay:
    """Note that these events are to be sent again, and by whose order."""
    with connection.transaction():
        row = only_row(
            connection.execute(
                _queries.open_replay,
                {
                    "requested_by": requested_by,
                    "reason": reason,
                    "filter": Jsonb(chosen.given()),
                    "per_second": per_second,
                    "event_ids": list(event_ids),
                },
            )
        )
        connection.execute(_queries.add_events, {"replay_id": row["id"], "event_ids": list(event_ids)})
    return _replay(row)


def find(connection: Connection, replay_id: int) -> Replay | None:
    """Return one replay."""
    row = connection.execute(_queries.find_replay, {"replay_id": replay_id}).fetchone()
    return row and _replay(row)


def latest(connection: Connection, *, before: int | None = None, most: int) -> list[Replay]:
    """Return the newest replays, or the newest before one, the newest first."""
    rows = connection.execute(_queries.latest_replays, {"before": before, "most": most})
    return [_replay(row) for row in rows]


def running(connection: Connection) -> list[Replay]:
    """Return the replays that have something to send, the oldest first."""
    return [_replay(row) for row in connection.execute(_queries.running_replays)]


def next_events(connection: Connection, replay: Replay, *, most: int) -> list[Unsent]:
    """Return what is to be sent now, locked until the transaction ends."""
    rows = connection.execute(_queries.next_events, {"replay_id": replay.id, "most": most})
    return [Unsent(**{**row, "body": bytes(row["body"]), "query_string": bytes(row["query_string"])}) for row in rows]


def send(connection: Connection, replay: Replay, events: Sequence[tuple[int, str]]) -> list[int]:
    """Let events, each with the id of its item, be worked on again; return those that are."""
    parameters = {
        "replay_id": replay.id,
        "event_ids": [event_id for event_id, _ in events],
        "item_ids": [item_id for _, item_id in events],
    }
    return [row["id"] for row in connection.execute(_queries.send_events, parameters)]


def skip(connection: Connection, replay: Replay, events: Sequence[tuple[int, str]]) -> None:
    """Note events that cannot be sent, each with the reason."""
    parameters = {
        "replay_id": replay.id,
        "event_ids": [event_id for event_id, _ in events],
        "notes": [note for _, note in events],
    }
    connection.execute(_queries.skip_events, parameters)


def end_sent(connection: Connection) -> list[int]:
    """End the replays that have sent everything, and return their ids."""
    return [row["id"] for row in connection.execute(_queries.end_sent_replays)]


def cancel(connection: Connection, replay_id: int) -> Replay | None:
    """Send nothing more; None: it is not running."""
    row = connection.execute(_queries.cancel_replay, {"replay_id": replay_id}).fetchone()
    return row and _replay(row)


def progress(connection: Connection, replay_id: int) -> Progress:
    """Tell what came of a replay so far."""
    counts = only_row(connection.execute(_queries.progress, {"replay_id": replay_id}))
    outcomes = connection.execute(_queries.outcomes, {"replay_id": replay_id})
    return Progress(**counts, outcomes={row["outcome"]: row["count"] for row in outcomes})


def unfinished(connection: Connection, replay_id: int, *, most: int) -> list[tuple[int, bool]]:
    """Return events that were sent and are not finished, each with whether only Zoho can settle it."""
    rows = connection.execute(_queries.unfinished, {"replay_id": replay_id, "most": most})
    return [(row["id"], row["needs_fetch"]) for row in rows]


def replayed_events(connection: Connection, replay_id: int, *, most: int) -> list[ReplayedEvent]:
    """Return a replay's events with what came of each."""
    rows = connection.execute(_queries.replayed_events, {"replay_id": replay_id, "most": most})
    return [ReplayedEvent(**row) for row in rows]


def read_events(connection: Connection, event_ids: Sequence[int]) -> list[tuple[Event, str]]:
    """Return events as a claim would, each with its state, without taking them."""
    rows = connection.execute(_queries.read_events, {"event_ids": list(event_ids)})
    return [(event_from_row(row), row["state"]) for row in rows]


def discard(connection: Connection, event_ids: Sequence[int], *, operator: str, reason: str) -> list[int]:
    """Take dead events for settled; return those that were dead and not discarded yet."""
    parameters = {"event_ids": list(event_ids), "operator": operator, "reason": reason}
    return [row["id"] for row in connection.execute(_queries.discard, parameters)]


def _replay(row: Row) -> Replay:
    return Replay(**{field.name: row[field.name] for field in fields(Replay)})
