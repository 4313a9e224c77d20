"""Sends events again at a person's request: all that match, a few each second, on record, and first as a rehearsal.

A replayed event goes the way of any other, from the beginning: the same decision, by the time of its values alone. So
an old one never puts a row back, and one that has nothing new says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from processors import logs
from processors.errors import BodyUnreadable, PublishFailed, ReplayRefused
from processors.store import audit, replays, settlement
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.store.event_filter import EventFilter
from processors.store.inbox import Event
from processors.store.products import Changes, Current
from processors.store.replays import Replay, Unsent
from processors.workflows import merging, organisations
from processors.workflows.merging import Decision, FetchNeeded, Settled, Write
from processors.zoho import items, payloads

EVERY = timedelta(seconds=1)
"""How often events are sent again; how many each time is the replay's pace."""

PER_SECOND = 50
"""The pace where none is asked for: a small part of what a worker applies, so that new deliveries do not wait."""

JOB = "replays"
"""The name of the timetable's line, for whoever sends: at most one does in each second."""

_REHEARSED_TOGETHER = 200

_log = logs.get(__name__)

Effect = Literal["created", "updated", "unchanged", "stale", "tombstoned", "gone", "fetch", "unreadable"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What replaying one event would do to its row as it is now."""

    event_id: int
    item_id: str | None
    state: str
    effect: Effect
    """`fetch`: only Zoho can tell; `unreadable`: it would stay dead."""
    changes: Changes
    reason: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a replay would be about, before it is asked for."""

    total: int
    """How many events it would send."""
    rehearsals: list[Rehearsal]
    """The first of them."""


def start(
    pool: Pool, chosen: EventFilter, requester: Requester, *, reason: str = "", per_second: int = PER_SECOND
) -> Replay:
    """Open a replay of all finished events that match; it is sent by the timetable.

    Raises:
        ReplayRefused: the filter is empty, or nothing matches.
    """
    with pool.connection() as connection, connection.transaction():
        event_ids = matching(connection, chosen)
        replay = replays.open_replay(
            connection, chosen, event_ids, requested_by=str(requester), reason=reason, per_second=per_second
        )
        # Which events are meant, the replay itself keeps.
        detail = {"events": replay.total, "filter": replay.filter, "reason": reason}
        audit.note(connection, requester, "replay.started", [replay.id], detail)
    _log.info("replay.started", replay_id=replay.id, events=replay.total, requested_by=str(requester), reason=reason)
    return replay


def matching(connection: Connection, chosen: EventFilter) -> list[int]:
    """Return the finished events that match, and can be replayed.

    Raises:
        ReplayRefused: the filter is empty, asks for events that are unfinished or discarded, or nothing matches.
    """
    if chosen.is_empty:
        message = "the filter names nothing, and would match every event: name ids, or what the events have in common"
        raise ReplayRefused(message)
    if chosen.state not in (None, "dead", "processed") or chosen.is_discarded:
        message = "the filter asks for unfinished or discarded events; discarded ones can be replayed by their ids only"
        raise ReplayRefused(message)
    event_ids = replays.match(connection, chosen)
    missing = set(chosen.event_ids or ()) - set(event_ids)
    if missing:
        listed = ", ".join(map(str, sorted(missing)[:10]))
        found = chosen.state or "finished"
        message = f"no {found} event that matches has the id {listed}: it is not there, still under way, or no match"
        raise ReplayRefused(message)
    if not event_ids:
        message = f"no {chosen.state or 'finished'} event matches"
        raise ReplayRefused(message)
    return event_ids


def matching_dead(connection: Connection, chosen: EventFilter) -> list[int]:
    """Return the dead events that match, and can be discarded.

    Raises:
        ReplayRefused: the filter is empty, asks for other events than dead ones, or nothing matches.
    """
    if chosen.state not in (None, "dead"):
        message = f"only dead events can be discarded, and the filter asks for {chosen.state} ones"
        raise ReplayRefused(message)
    return matching(connection, chosen if chosen.is_empty else replace(chosen, state="dead"))


def send_due(pool: Pool, publish: Callable[[Sequence[int]], None]) -> int:
    """Send the next events of every running replay, as many as its pace allows for `EVERY`; return how many.

    Raises:
        psycopg.OperationalError: Postgres is away; nothing was sent that is not on record.
    """
    with pool.connection() as connection:
        sent = [event_id for replay in replays.running(connection) for event_id in _send_some(connection, replay)]
        for replay_id in replays.end_sent(connection):
            _log.info("replay.sent", replay_id=replay_id)
    if sent:
        try:
            publish(sent)
        except PublishFailed as error:
            # The relay hands them over.
            _log.warning("events.not_published", count=len(sent), error=str(error))
    return len(sent)


def _send_some(connection: Connection, replay: Replay) -> list[int]:
    most = max(1, round(replay.per_second * EVERY.total_seconds()))
    with connection.transaction():
        readable: list[tuple[int, str]] = []
        unreadable: list[tuple[int, str]] = []
        for event in replays.next_events(connection, replay, most=most):
            try:
                readable.append((event.id, _item_id(event)))
            except BodyUnreadable as error:
                unreadable.append((event.id, str(error)))
        sent = replays.send(connection, replay, readable) if readable else []
        if unreadable:
            replays.skip(connection, replay, unreadable)
    return sent


def _item_id(event: Unsent) -> str:
    """Return the item's id, read anew where it could not be read before: the code may have learned since."""
    _require_body(event.body, event.query_string)
    if event.item_id is not None:
        return event.item_id
    return payloads.read_item(event.body, event.content_type, event.query_string)[0]


def _require_body(body: bytes, query_string: bytes) -> None:
    if not body and not query_string:
        message = "its body was trimmed"
        raise BodyUnreadable(message)


def cancel(pool: Pool, replay_id: int, requester: Requester) -> Replay:
    """Send nothing more of a replay; what was sent stays sent.

    Raises:
        ReplayRefused: it is not running.
    """
    with pool.connection() as connection, connection.transaction():
        cancelled = replays.cancel(connection, replay_id)
        if cancelled is None:
            replay = replays.find(connection, replay_id)
            state = "not there" if replay is None else f"{replay.state} already"
            message = f"replay {replay_id} is {state}"
            raise ReplayRefused(message)
        audit.note(connection, requester, "replay.cancelled", [replay_id])
    _log.info("replay.cancelled", replay_id=replay_id, requested_by=str(requester))
    return cancelled


def rehearse(pool: Pool, chosen: EventFilter) -> Iterator[Rehearsal]:
    """Tell of each event that matches what replaying it would do to the row as it is now; nothing is changed.

    Raises:
        ReplayRefused: the filter is empty, or nothing matches.
    """
    with pool.connection() as connection:
        yield from _rehearsals(connection, matching(connection, chosen))


def preview(pool: Pool, chosen: EventFilter, *, most: int) -> Preview:
    """Count the events that match, and rehearse the first `most` of them; nothing is changed.

    Raises:
        ReplayRefused: the filter is empty, or nothing matches.
    """
    with pool.connection() as connection:
        event_ids = matching(connection, chosen)
        return Preview(len(event_ids), list(_rehearsals(connection, event_ids[:most])))


def _rehearsals(connection: Connection, event_ids: Sequence[int]) -> Iterator[Rehearsal]:
    for start_at in range(0, len(event_ids), _REHEARSED_TOGETHER):
        events = replays.read_events(connection, event_ids[start_at : start_at + _REHEARSED_TOGETHER])
        known = settlement.read_current(connection, {event.item_id for event, _ in events})
        for event, state in events:
            yield _rehearse(connection, event, state, known[event.item_id])


def _rehearse(connection: Connection, event: Event, state: str, current: Current) -> Rehearsal:
    item_id = event.item_id or None
    try:
        organisations.require_connected(connection, event.body, event.content_type, event.query_string)
        decided = _decide(event, current)
    except Exception as error:  # noqa: BLE001 - told of this event, while the others go on
        return Rehearsal(event.id, item_id, state, "unreadable", {}, str(error) or type(error).__name__)
    match decided:
        case FetchNeeded(reason):
            return Rehearsal(event.id, item_id, state, "fetch", {}, reason)
        case Settled(outcome):
            why = "the row is newer" if outcome == "stale" else None
            return Rehearsal(event.id, item_id, state, outcome, {}, why)
        case Write(outcome, _, changes):
            return Rehearsal(event.id, item_id, state, outcome, changes, None)


def _decide(event: Event, current: Current) -> Decision:
    if event.kind == "deleted" and event.item_id:
        return merging.decide_deleted(current, event.received_at, is_replayed=True)
    _require_body(event.body, event.query_string)
    item_id, fields = payloads.read_certain(event.body, event.content_type, event.query_string)
    return merging.decide_change(current, item_id, items.read_body(fields))


def discard(pool: Pool, chosen: EventFilter, requester: Requester, *, reason: str) -> list[int]:
    """Take dead events for settled: they stay, but ask for nobody any more. Return which.

    Raises:
        ReplayRefused: the filter is empty, asks for other events than dead ones, or nothing matches.
    """
    with pool.connection() as connection, connection.transaction():
        event_ids = matching_dead(connection, chosen)
        discarded = replays.discard(connection, event_ids, operator=str(requester), reason=reason)
        if not discarded:
            message = "none of these events is dead, or all are discarded already"
            raise ReplayRefused(message)
        audit.note(connection, requester, "events.discarded", discarded, {"reason": reason})
    _log.info(
        "events.discarded",
        count=len(discarded),
        event_ids=discarded[:20],
        requested_by=str(requester),
        reason=reason,
    )
    return discarded
