"""Events: found, read, and, all that a filter finds, sent again or discarded, after a look at what that does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from urllib.parse import urlencode

from starlette.datastructures import FormData, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin.actions import ActionSelection, action
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors.errors import ReplayRefused
from processors.store import api_calls, replays
from processors.store.database import Connection
from processors.store.event_filter import EventFilter, EventState
from processors.store.inbox import Kind
from processors.store.replays import Progress, Replay, ReplayedEvent
from processors.workflows import browsing, insights, replaying
from processors.workflows.insights import EventDetail, EventSummary
from processors.workflows.merging import Outcome
from processors.zoho.items import item_id_of
from receiver.console.context import Page, acts, back_to, requester, require_operator
from receiver.console.lists import Filter, List, Moment, RowId, column, in_operators_zone, parse_id
from receiver.console.presenting import sentence

_MOST_REHEARSED: Final = 200
_MOST_LISTED: Final = 200
_MOST_IDS: Final = 1_000
_FASTEST: Final = 10_000


class EventsFilter(Filter):
    """What the list of events can be asked for."""

    state: EventState | Literal["discarded"] | None = None
    outcome: Outcome | None = None
    kind: Kind | None = None
    item: str | None = None
    run: RowId | None = None
    error: str | None = None
    error_class: str | None = None
    cause: str | None = None
    since: Moment | None = None
    until: Moment | None = None

    def conditions(self) -> EventFilter:
        """Return the same, in the database's terms."""
        return EventFilter(
            state="dead" if self.state == "discarded" else self.state,
            is_discarded=self.state == "discarded",
            outcome=self.outcome,
            kind=self.kind,
            # Rows of former releases may have ids of another form.
            item_id=self.item and (item_id_of(self.item) or self.item),
            run_id=self.run,
            error=self.error,
            error_class=self.error_class,
            cause=self.cause,
            since=in_operators_zone(self.since),
            until=in_operators_zone(self.until),
        )


class Events(List[EventsFilter]):
    """The list, and the page of one event."""

    key = "events"
    what = "events"
    display_name = "event"
    icon = "fa fa-inbox"
    pk_attr = "id"
    filter = EventsFilter
    list_template = "events.html"
    detail_template = "event.html"
    actions = ("replay", "discard")
    fields = (
        column("event", "event_id"),
        column("received", "received"),
        column("kind", "kind"),
        column("item", "event_item"),
        column("state", "event_state"),
        column("error", "event_error", "Why"),
    )

    async def find(
        self, request: Request, asked: EventsFilter, sorts: Sequence[tuple[str, str]], *, skip: int, most: int
    ) -> Sequence[EventSummary]:
        """Return a page of events, the newest first."""
        del request, sorts
        return await self.console.read(browsing.find_events, asked.conditions(), skip=skip, most=most)

    async def count_up_to(self, request: Request, asked: EventsFilter, *, at_most: int) -> int:
        """Count events."""
        del request
        return await self.console.read(browsing.count_events, asked.conditions(), at_most=at_most)

    async def find_by_pk(self, request: Request, pk: Any) -> EventDetail | None:  # noqa: ANN401
        """Return all of one event."""
        del request
        event_id = parse_id(str(pk))
        return None if event_id is None else await self.console.read(insights.event_detail, event_id)

    @action(name="replay", text="Replay …", custom_response=True)
    async def replay(self, request: Request, selection: ActionSelection) -> Response:
        """Go on to the page that says what replaying them would do."""
        return await self._look_first(request, selection, "replay")

    @action(name="discard", text="Discard …", custom_response=True)
    async def discard(self, request: Request, selection: ActionSelection) -> Response:
        """Go on to the page that says what is discarded."""
        return await self._look_first(request, selection, "discard")

    async def _look_first(self, request: Request, selection: ActionSelection, what: str) -> Response:
        if selection.is_select_all:
            return back_to(request, f"events/{what}?{urlencode(self.asked(request).given())}")
        return back_to(request, f"events/{what}?{urlencode({'event': await selection.pks()}, doseq=True)}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The events that an action is about, as the address or the form says."""

    filter: EventFilter
    given: list[tuple[str, str]]
    """The same in the terms of a form."""

    @classmethod
    def of(cls, parameters: QueryParams | FormData) -> Chosen:
        """Read ids, or a filter of the list.

        Raises:
            HTTPException: 400; it cannot be read.
        """
        ids = [str(each) for each in parameters.getlist("event")]
        if len(ids) > _MOST_IDS:
            raise HTTPException(400, f"event: at most {_MOST_IDS:,} at once; a filter can mean more")
        if ids:
            read = [parse_id(each) for each in ids]
            if None in read:
                raise HTTPException(400, "event: an id holds digits only")
            return cls(EventFilter(event_ids=tuple(each for each in read if each)), [("event", each) for each in ids])
        texts = QueryParams([(name, value) for name, value in parameters.multi_items() if isinstance(value, str)])
        asked = cast("EventsFilter", EventsFilter.of(texts))
        given = [(name, str(texts[name])) for name in asked.given() if name in texts]
        return cls(asked.conditions(), given)


class EventActions(Page):
    """Replay and discard: first a look at what is meant and what it would do, then the doing."""

    path = "/events"
    menu_label = "Events"

    @route("/replay")
    async def before_replay(self, request: Request) -> Response:
        """Say which events are meant, and what each would change now."""
        require_operator(request)
        try:
            chosen = Chosen.of(request.query_params)
            preview = await self.console.run(replaying.preview, self.console.pool, chosen.filter, most=_MOST_REHEARSED)
        except ReplayRefused as error:
            return self._refused(request, error)
        effects: dict[str, int] = {}
        for each in preview.rehearsals:
            effects[each.effect] = effects.get(each.effect, 0) + 1
        return self.page(
            request,
            "replay_preview.html",
            chosen=chosen,
            total=preview.total,
            rehearsed=preview.rehearsals,
            effects=effects,
            used=(await self.console.read(api_calls.usage)).day,
            budget=self.console.settings.zoho_requests_per_day,
            per_second=replaying.PER_SECOND,
            fastest=_FASTEST,
        )

    @route("/replay", methods=["POST"])
    @acts(then="events/list")
    async def replay(self, request: Request) -> Response:
        """Send them again."""
        form = await request.form()
        chosen = Chosen.of(form)
        changed = await self._count_changed(request, form, chosen, "replay")
        if changed:
            return changed
        pace = parse_id(str(form.get("per_second", ""))) or replaying.PER_SECOND
        started = await self.console.run(
            replaying.start,
            self.console.pool,
            chosen.filter,
            requester(request),
            reason=_reason(form),
            per_second=min(max(pace, 1), _FASTEST),
        )
        flash(request, f"Replay {started.id} sends {started.total:,} events again.", "success")
        return back_to(request, f"replays/detail?pk={started.id}")

    @route("/discard")
    async def before_discard(self, request: Request) -> Response:
        """Say which events are meant."""
        require_operator(request)
        try:
            chosen = Chosen.of(request.query_params)
            event_ids = await self.console.read(replaying.matching_dead, chosen.filter)
        except ReplayRefused as error:
            return self._refused(request, error)
        return self.page(request, "discard_preview.html", chosen=chosen, total=len(event_ids), event_ids=event_ids[:50])

    @route("/discard", methods=["POST"])
    @acts(then="events/list?state=dead")
    async def discard(self, request: Request) -> Response | None:
        """Take them for settled."""
        form = await request.form()
        chosen = Chosen.of(form)
        reason = _reason(form)
        if not reason:
            message = "say why: whoever looks at these events later will ask"
            raise ReplayRefused(message)
        changed = await self._count_changed(request, form, chosen, "discard")
        if changed:
            return changed
        discarded = await self.console.run(
            replaying.discard, self.console.pool, chosen.filter, requester(request), reason=reason
        )
        flash(
            request, f"{len(discarded):,} dead events are discarded. They stay, but ask for nobody any more.", "success"
        )
        return None

    async def _count_changed(self, request: Request, form: FormData, chosen: Chosen, what: str) -> Response | None:
        """Let an operator look again where a filter finds other events than the page had said."""
        matching = replaying.matching_dead if what == "discard" else replaying.matching
        now = len(await self.console.read(matching, chosen.filter))
        if str(now) == form.get("total"):
            return None
        flash(request, f"Meanwhile {now:,} events match, other than before. Please look again.", "warning")
        return back_to(request, f"events/{what}?{urlencode(chosen.given)}")

    @staticmethod
    def _refused(request: Request, error: ReplayRefused) -> Response:
        flash(request, sentence(str(error)), "error")
        return back_to(request, "events/list")


def _reason(form: FormData) -> str:
    return str(form.get("reason", "")).replace("\0", "").strip()[:500]


class ReplaysFilter(Filter):
    """Replays are few: the list is not filtered."""


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """What the page of one replay shows."""

    id: int
    replay: Replay
    progress: Progress
    events: list[ReplayedEvent]


class Replays(List[ReplaysFilter]):
    """The list of replays, and the page of one."""

    key = "replays"
    what = "replays"
    display_name = "replay"
    icon = "fa fa-rotate-right"
    pk_attr = "id"
    filter = ReplaysFilter
    list_template = "replays.html"
    detail_template = "replay.html"
    fields = (
        column("replay", "replay_id"),
        column("requested", "replay_requested"),
        column("meant", "replay_meant"),
        column("total", "replay_total", "Events"),
        column("state", "state"),
    )

    async def find(
        self, request: Request, asked: ReplaysFilter, sorts: Sequence[tuple[str, str]], *, skip: int, most: int
    ) -> Sequence[Replay]:
        """Return the newest replays."""
        del request, asked, sorts
        return (await self.console.read(replays.latest, most=skip + most))[skip:]

    async def count_up_to(self, request: Request, asked: ReplaysFilter, *, at_most: int) -> int:
        """Count replays."""
        del request, asked
        return len(await self.console.read(replays.latest, most=at_most))

    async def find_by_pk(self, request: Request, pk: Any) -> ReplayPage | None:  # noqa: ANN401
        """Return a replay with what came of its events."""
        del request
        replay_id = parse_id(str(pk))
        return None if replay_id is None else await self.console.read(_replay_page, replay_id)


def _replay_page(connection: Connection, replay_id: int) -> ReplayPage | None:
    replay = replays.find(connection, replay_id)
    if replay is None:
        return None
    progress = replays.progress(connection, replay_id)
    return ReplayPage(replay.id, replay, progress, replays.replayed_events(connection, replay_id, most=_MOST_LISTED))


class ReplayActions(Page):
    """Actions on replays."""

    path = "/replays"
    menu_label = "Replays"

    @route("/{replay_id:int}/cancel", methods=["POST"])
    @acts(then="replays/detail?pk={replay_id}")
    async def cancel(self, request: Request) -> None:
        """Send nothing more of it."""
        replay_id = request.path_params["replay_id"]
        await self.console.run(replaying.cancel, self.console.pool, replay_id, requester(request))
        flash(request, f"Replay {replay_id} is cancelled; what was sent stays sent.", "success")
