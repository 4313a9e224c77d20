"""Commands for events: look at them, find out why they died, send them again, or take them for settled."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from processors.messaging.broker import broker_for
from processors.messaging.messages import Publisher
from processors.runtime.output import (
    LOOK_SECONDS,
    WORKERS_FIRST_SECONDS,
    Refused,
    changes_line,
    columns,
    console,
    echo_json,
    opened,
    plain_fields,
    requester,
    say,
    span,
)
from processors.runtime.processes import repeating
from processors.settings import Settings
from processors.store import replays, timetable
from processors.store.database import Pool
from processors.store.event_filter import EventFilter
from processors.store.replays import Progress as ReplayProgress
from processors.store.replays import Replay
from processors.workflows import browsing, insights, item_events, replaying
from processors.workflows.insights import EventDetail
from processors.workflows.item_events import Workshop
from processors.workflows.replaying import Rehearsal
from processors.zoho.client import ZohoClient

MOST_SHOWN = 200


def list_events(settings: Settings, chosen: EventFilter, *, most: int, as_json: bool) -> None:
    """List the newest events that match."""
    with opened(settings) as pool, pool.connection() as connection:
        found = browsing.find_events(connection, chosen, most=most)
    if as_json:
        for event in found:
            echo_json(event)
    elif not found:
        say("No event matches.")
    else:
        rows = [
            (
                str(event.id),
                f"{event.received_at:%m-%d %H:%M:%S}",
                event.kind,
                event.item_id or "?",
                "discarded" if event.discarded_at else event.state,
                event.outcome or "",
                event.error or "",
            )
            for event in found
        ]
        names = ("event", "received", "kind", "item", "state", "outcome", "why")
        console().print(columns(rows, names, left=names[1:]))


def show_event(settings: Settings, event_id: int, *, as_json: bool) -> None:
    """Show one event: its attempts one by one, and its body."""
    with opened(settings) as pool, pool.connection() as connection:
        event = insights.event_detail(connection, event_id)
    if event is None:
        message = f"there is no event {event_id}"
        raise Refused(message)
    if as_json:
        echo_json(event)
    else:
        _print_event(console(), event)


def _print_event(out: Console, event: EventDetail) -> None:
    state = "discarded" if event.discarded_at else event.state
    out.print(
        f"Event {event.id}, {event.kind}, item {event.item_id or '?'}: {state} {event.outcome or ''}".rstrip(),
        highlight=False,
        markup=False,
    )
    origin = f"found by run {event.run_id}" if event.run_id else "delivered"
    out.print(f"{origin} {event.received_at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
    if event.discarded_at:
        out.print(f"discarded by {event.discarded_by}: {event.discard_reason}", highlight=False, markup=False)
    for attempt in event.attempts:
        ended = f"{attempt.ended_at:%m-%d %H:%M:%S}" if attempt.ended_at else "under way"
        took = ""
        if attempt.ended_at and attempt.started_at and attempt.times == 1:
            took = f" after {span(attempt.ended_at - attempt.started_at)}"
        times = f", {attempt.times} times" if attempt.times > 1 else ""
        what = (
            attempt.outcome or f"{'waited, ' if attempt.is_wait else ''}{attempt.error_class}{times}: {attempt.error}"
        )
        if not attempt.ended_at:
            what = f"by {attempt.worker}"
        out.print(f"  attempt {attempt.attempt}  {ended}{took}  {what}", highlight=False, markup=False)
        if attempt.error_at and not attempt.is_wait:
            out.print(f"             {attempt.error_at}", style="dim", highlight=False, markup=False)
    for warning in event.warnings:
        out.print(f"  warning: {warning}", highlight=False, markup=False)
    out.print(event.body or "(its body was trimmed)", highlight=False, markup=False, soft_wrap=True)


def list_causes(settings: Settings, *, as_json: bool) -> None:
    """Group dead events by the root of their cause."""
    with opened(settings) as pool, pool.connection() as connection:
        causes = insights.dead_by_cause(connection)
    if as_json:
        for cause in causes:
            echo_json(cause)
    elif not causes:
        say("No event is dead.")
    else:
        for cause in causes:
            say(f"{cause.count:>7,}  {cause.error_class}: {cause.cause}")
            first, last = (f"{at:%Y-%m-%d %H:%M}" for at in (cause.first_received_at, cause.last_received_at))
            where = f", {cause.error_at}" if cause.error_at else ""
            say(f"         {first} to {last} UTC, such as event {cause.example_id}{where}")


def rehearse(settings: Settings, chosen: EventFilter, *, as_json: bool) -> None:
    """Say what a replay would do, and do nothing."""
    effects: dict[str, int] = {}
    with opened(settings) as pool:
        for rehearsal in replaying.rehearse(pool, chosen):
            effects[rehearsal.effect] = effects.get(rehearsal.effect, 0) + 1
            if as_json:
                echo_json(rehearsal)
            else:
                say(_told(rehearsal))
    if not as_json:
        counts = ", ".join(
            f"{count:,} {effect}" for effect, count in sorted(effects.items(), key=lambda pair: -pair[1])
        )
        say(f"A rehearsal of {sum(effects.values()):,} events: {counts}. Nothing was changed.")


def _told(rehearsal: Rehearsal) -> str:
    why = f": {rehearsal.reason}" if rehearsal.reason else ""
    changes = f"  {changes_line(rehearsal.changes)}" if rehearsal.changes else ""
    return f"event {rehearsal.event_id}  item {rehearsal.item_id or '?'}  {rehearsal.effect}{why}{changes}"


def replay(settings: Settings, chosen: EventFilter, *, reason: str, per_second: int, wait: bool, as_json: bool) -> None:
    """Send all finished events that match again; waiting, exit with 1 if one of them is dead again."""
    publisher = Publisher(broker_for(settings))
    with opened(settings) as pool:
        started = replaying.start(pool, chosen, requester(), reason=reason, per_second=per_second)
        if not wait:
            _say_start(started, as_json=as_json)
            return
        with _helping(pool, settings, publisher, started):
            done = _wait(pool, started, is_quiet=as_json)
        with pool.connection() as connection:
            events = replays.replayed_events(connection, started.id, most=MOST_SHOWN)
    if as_json:
        echo_json({"replay_id": started.id, **plain_fields(done), "events": events})
    else:
        for event in events:
            what = event.outcome or event.state or "not sent"
            note = f": {event.note}" if event.note else ""
            say(f"event {event.event_id}  item {event.item_id or '?'}  {what}{note}")
        if started.total > len(events):
            say(f"… and {started.total - len(events):,} more")
        say(f"Replay {started.id}: {_counts(done)}.")
    if done.dead or done.skipped:
        sys.exit(1)


def _say_start(started: Replay, *, as_json: bool) -> None:
    if as_json:
        echo_json({"replay_id": started.id, "total": started.total, "per_second": started.per_second})
    else:
        say(
            f"Replay {started.id}: {started.total:,} events are sent again, {started.per_second:,} a second. "
            f"See: replays show {started.id}; stop it: replays cancel {started.id}"
        )


def _counts(done: ReplayProgress) -> str:
    parts = [f"{count:,} {outcome}" for outcome, count in done.outcomes.items()]
    named = (("dead again", done.dead), ("not sent", done.skipped), ("unfinished", done.unfinished + done.unsent))
    parts += [f"{count:,} {name}" for name, count in named if count]
    return ", ".join(parts) or "nothing"


@contextlib.contextmanager
def _helping(pool: Pool, settings: Settings, publisher: Publisher, started: Replay) -> Iterator[None]:
    """Send the replay's events, and apply them where no worker does, for as long as the block lasts."""
    workers_first_until = time.monotonic() + WORKERS_FIRST_SECONDS
    with ZohoClient(pool, settings) as zoho:
        workshop = Workshop(pool, zoho, publisher, timetable.process_name("cli"), settings.zoho_organization_id)

        def help_out() -> None:
            with pool.connection() as connection:
                is_our_turn = timetable.take_slot(connection, replaying.JOB, replaying.EVERY) is not None
            if is_our_turn:
                replaying.send_due(pool, publisher.publish_events)
            if time.monotonic() > workers_first_until:
                _apply(workshop, started)

        with repeating([help_out], LOOK_SECONDS):
            yield


def _apply(workshop: Workshop, started: Replay) -> None:
    with workshop.pool.connection() as connection:
        waiting = replays.unfinished(connection, started.id, most=item_events.BATCH)
    if waiting:
        item_events.apply_events(workshop, [event_id for event_id, needs_fetch in waiting if not needs_fetch])
        item_events.fetch_items(workshop, [event_id for event_id, needs_fetch in waiting if needs_fetch])


def _wait(pool: Pool, started: Replay, *, is_quiet: bool) -> ReplayProgress:
    """Wait until every event of a replay is finished, or the replay is cancelled."""
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, transient=True, disable=is_quiet or not sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=started.total)
        while True:
            with pool.connection() as connection:
                now, done = replays.find(connection, started.id), replays.progress(connection, started.id)
            left = done.unsent + done.unfinished
            bar.update(task, completed=started.total - left, description=_counts(done))
            if not left or (now and now.state == "cancelled" and not done.unfinished):
                return done
            time.sleep(LOOK_SECONDS)


def list_replays(settings: Settings, *, most: int, as_json: bool) -> None:
    """List the newest replays."""
    with opened(settings) as pool, pool.connection() as connection:
        found = [(each, replays.progress(connection, each.id)) for each in replays.latest(connection, most=most)]
    for each, done in found:
        if as_json:
            echo_json({**plain_fields(each), "progress": done})
        else:
            reason = f" ({each.reason})" if each.reason else ""
            say(f"{each.id:>5}  {each.requested_at:%Y-%m-%d %H:%M} UTC by {each.requested_by}{reason}: {each.state}")
            say(f"       {each.total:,} events, {_asked(each)}: {_counts(done)}")
    if not found and not as_json:
        say("Nothing was ever replayed.")


def _asked(each: Replay) -> str:
    ids: Sequence[int] = each.filter.get("event_ids", ())
    if ids:
        return f"named by id ({', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''})"  # noqa: PLR2004 - a few
    return ", ".join(f"{name} {value}" for name, value in each.filter.items())


def show_replay(settings: Settings, replay_id: int, *, as_json: bool) -> None:
    """Show what came of each event of a replay."""
    with opened(settings) as pool, pool.connection() as connection:
        found = replays.find(connection, replay_id)
        if found is None:
            message = f"there is no replay {replay_id}"
            raise Refused(message)
        done = replays.progress(connection, replay_id)
        events = replays.replayed_events(connection, replay_id, most=MOST_SHOWN)
    if as_json:
        echo_json({**plain_fields(found), "progress": done, "events": events})
        return
    say(f"Replay {found.id}, {found.state}, by {found.requested_by}: {_counts(done)}")
    for event in events:
        what = event.outcome or event.state or "not sent, or sent by another replay since"
        say(f"event {event.event_id}  item {event.item_id or '?'}  {what}{f': {event.note}' if event.note else ''}")


def cancel_replay(settings: Settings, replay_id: int, *, as_json: bool) -> None:
    """Send nothing more of a replay."""
    with opened(settings) as pool:
        cancelled = replaying.cancel(pool, replay_id, requester())
    if as_json:
        echo_json(cancelled)
    else:
        say(f"Replay {replay_id} is cancelled; what was sent stays sent.")


def discard(settings: Settings, chosen: EventFilter, *, reason: str, as_json: bool) -> None:
    """Take dead events for settled."""
    with opened(settings) as pool:
        discarded = replaying.discard(pool, chosen, requester(), reason=reason)
    if as_json:
        echo_json({"discarded": discarded})
    else:
        say(f"{len(discarded):,} dead events are discarded: they stay, but ask for nobody any more.")
