"""Events, and what programs do about them: replays and discards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Response
from pydantic import Discriminator, Field, Tag

from processors.store import replays
from processors.store.event_filter import EventFilter, EventState
from processors.store.inbox import Kind
from processors.store.replays import ReplayState
from processors.workflows import browsing, insights, replaying
from processors.workflows.merging import Outcome
from processors.workflows.replaying import Effect
from receiver.api.problems import NotFound
from receiver.api.shapes import (
    DEFAULT_LIMIT,
    Answer,
    Asked,
    At,
    ChangedColumns,
    Id,
    IdCursor,
    IdText,
    ItemId,
    Limit,
    Moment,
    Note,
    Page,
    Text,
    Whole,
    page_of,
)
from receiver.api.shared import Base, By, Mirror

_MOST_IDS = 10_000
_MOST_REHEARSED = 200
_MOST_LISTED = 1_000

PathId = Annotated[Id, Path()]


class _Conditions(Asked):
    """Conditions that an event meets all of; null is no condition."""

    error: Text | None = Field(None, description="A part of the error's text, in any case.")
    error_class: Text | None = None
    cause: Text | None = Field(None, description="The root cause: the error's text without numbers and quoted parts.")
    item_id: ItemId | None = None
    kind: Kind | None = None
    run_id: Id | None = None
    since: Moment | None = Field(None, description="Received at this time or later.")
    until: Moment | None = Field(None, description="Received before.")

    def filter(self) -> EventFilter:
        """Return the conditions."""
        return EventFilter(**self.model_dump(exclude={"limit", "cursor"}))


class EventsAsked(_Conditions):
    """Which events; what is left out does not matter."""

    state: EventState | None = Field(None, description="`dead` ones are those that nobody discarded.")
    outcome: Outcome | None = None
    is_discarded: bool = Field(default=False, description="With the state `dead`: those that somebody discarded.")
    limit: Limit = DEFAULT_LIMIT
    cursor: IdCursor | None = None


class DeadFilter(_Conditions):
    """Which dead events, of those that nobody discarded; null does not matter. It has to name something."""

    state: Literal["dead"] | None = None


class FinishedFilter(_Conditions):
    """Which finished events, of those that nobody discarded; null does not matter. It has to name something."""

    state: Literal["dead", "processed"] | None = None
    outcome: Outcome | None = None


class Event(Answer):
    """One event, without its body."""

    id: IdText
    received_at: At
    kind: Kind
    item_id: str | None
    state: EventState
    outcome: Outcome | None
    attempts: int
    error_class: str | None
    error: str | None
    processed_at: At | None
    run_id: IdText | None = Field(description="The run that found the item unusable; null: it was delivered.")
    replay_id: IdText | None
    discarded_at: At | None


class Attempt(Answer):
    """One attempt at an event, or repeated waits for one thing."""

    attempt: int
    worker: str | None
    started_at: At | None
    ended_at: At | None
    outcome: str | None
    error_class: str | None
    error: str | None
    error_at: str | None
    is_wait: bool
    times: int


class EventDetail(Answer):
    """All that is known of one event."""

    id: IdText
    received_at: At
    kind: Kind
    item_id: str | None
    state: EventState
    outcome: Outcome | None
    attempts: list[Attempt]
    failures: int
    error_class: str | None
    error: str | None
    error_at: str | None
    warnings: list[str]
    body: str = Field(description="As Zoho sent it; what is not UTF-8 is replaced. Empty where it was trimmed.")
    content_type: str
    claimable_at: At
    processed_at: At | None
    run_id: IdText | None
    replay_id: IdText | None
    discarded_at: At | None
    discarded_by: str | None
    discard_reason: str | None


EventIds = Annotated[list[Id], Field(min_length=1, max_length=_MOST_IDS, description="The events that are meant.")]


class _Replay(Asked):
    reason: Note = Field("", description="For the record.")
    per_second: Whole = Field(replaying.PER_SECOND, ge=1, le=10_000, description="The pace.")
    dry_run: bool = Field(default=False, strict=True, description="Say what each event would change; change nothing.")


class ReplayByIds(_Replay):
    """Send the events that are named."""

    event_ids: EventIds


class ReplayByFilter(_Replay):
    """Send all events that match."""

    filter: FinishedFilter


class _Discard(Asked):
    reason: Text = Field(description="Why, for the record.")


class DiscardByIds(_Discard):
    """Take the events that are named for settled."""

    event_ids: EventIds


class DiscardByFilter(_Discard):
    """Take all dead events that match for settled."""

    filter: DeadFilter


def _alternative(body: object) -> str:
    names_a_filter = isinstance(body, Mapping) and "filter" in body
    is_by_filter = names_a_filter or isinstance(body, ReplayByFilter | DiscardByFilter)
    return "ByFilter" if is_by_filter else "ByIds"


ReplayAsked = Annotated[
    Annotated[ReplayByIds, Tag("ByIds")] | Annotated[ReplayByFilter, Tag("ByFilter")], Discriminator(_alternative)
]
DiscardAsked = Annotated[
    Annotated[DiscardByIds, Tag("ByIds")] | Annotated[DiscardByFilter, Tag("ByFilter")], Discriminator(_alternative)
]


class Replay(Answer):
    """One replay, as it was asked for."""

    id: IdText
    requested_at: At
    requested_by: str
    reason: str
    filter: dict[str, Any]
    per_second: int
    state: ReplayState
    finished_at: At | None
    total: int = Field(description="How many events are meant.")


class Progress(Answer):
    """What came of a replay so far."""

    unsent: int
    skipped: int
    unfinished: int
    dead: int
    outcomes: dict[str, int]


class ReplayDetail(Replay):
    """One replay, and what came of it so far."""

    progress: Progress


class Rehearsed(Answer):
    """What replaying one event would do to its row as it is now."""

    event_id: IdText
    item_id: str | None
    state: str
    effect: Effect = Field(description="`fetch`: only Zoho can tell; `unreadable`: it would stay dead.")
    changes: ChangedColumns
    reason: str | None


class Rehearsal(Answer):
    """The preview of a replay: nothing was changed."""

    items: list[Rehearsed] = Field(description=f"The first {_MOST_REHEARSED}.")
    total: int = Field(description="How many events the replay would send.")


class Discarded(Answer):
    """What was taken for settled."""

    count: int
    event_ids: list[IdText] = Field(description=f"The first {_MOST_LISTED:,}.")


class ReplaysAsked(Asked):
    """Which part of the list."""

    limit: Limit = DEFAULT_LIMIT
    cursor: IdCursor | None = None


def find(mirror: Mirror, asked: Annotated[EventsAsked, Query()]) -> Page[Event]:
    """List events, the newest first."""
    with mirror.reading() as connection:
        found = browsing.find_events(connection, asked.filter(), before=asked.cursor, most=asked.limit + 1)
    return page_of(found, asked.limit, Event.model_validate, lambda event: f"before-{event.id}")


def show(mirror: Mirror, event_id: PathId) -> EventDetail:
    """Show an event with its attempts and its body."""
    with mirror.reading() as connection:
        event = insights.event_detail(connection, event_id)
    if event is None:
        message = f"There is no event {event_id}; finished ones are kept for a while only."
        raise NotFound(message)
    return EventDetail.model_validate(event)


def start_replay(mirror: Mirror, by: By, base: Base, asked: ReplayAsked, response: Response) -> Replay | Response:
    """Send finished events again, at a pace: those named, or all that match; or tell what that would change."""
    chosen = _chosen(asked)
    if asked.dry_run:
        preview = replaying.preview(mirror.pool, chosen, most=_MOST_REHEARSED)
        rehearsal = Rehearsal(items=list(map(Rehearsed.model_validate, preview.rehearsals)), total=preview.total)
        return Response(rehearsal.model_dump_json(), media_type="application/json")
    replay = replaying.start(mirror.pool, chosen, by, reason=asked.reason, per_second=asked.per_second)
    response.headers["Location"] = f"{base}/replays/{replay.id}"
    return Replay.model_validate(replay)


def list_replays(mirror: Mirror, asked: Annotated[ReplaysAsked, Query()]) -> Page[Replay]:
    """List replays, the newest first."""
    with mirror.reading() as connection:
        found = replays.latest(connection, before=asked.cursor, most=asked.limit + 1)
    return page_of(found, asked.limit, Replay.model_validate, lambda replay: f"before-{replay.id}")


def show_replay(mirror: Mirror, replay_id: PathId) -> ReplayDetail:
    """Show a replay, and what came of its events so far."""
    with mirror.reading() as connection:
        replay = replays.find(connection, replay_id)
        if replay is None:
            raise _no_replay(replay_id)
        progress = replays.progress(connection, replay_id)
    return ReplayDetail(**dict(Replay.model_validate(replay)), progress=Progress.model_validate(progress))


def cancel_replay(mirror: Mirror, by: By, replay_id: PathId) -> Replay:
    """Send nothing more of a replay; what was sent stays sent."""
    with mirror.reading() as connection:
        if replays.find(connection, replay_id) is None:
            raise _no_replay(replay_id)
    return Replay.model_validate(replaying.cancel(mirror.pool, replay_id, by))


def discard(mirror: Mirror, by: By, asked: DiscardAsked) -> Discarded:
    """Take dead events for settled: they stay, but ask for nobody any more."""
    discarded = replaying.discard(mirror.pool, _chosen(asked), by, reason=asked.reason)
    return Discarded(count=len(discarded), event_ids=discarded[:_MOST_LISTED])


def _chosen(asked: ReplayAsked | DiscardAsked) -> EventFilter:
    if isinstance(asked, ReplayByIds | DiscardByIds):
        return EventFilter(event_ids=tuple(asked.event_ids))
    return asked.filter.filter()


def _no_replay(replay_id: int) -> NotFound:
    return NotFound(f"There is no replay {replay_id}.")
