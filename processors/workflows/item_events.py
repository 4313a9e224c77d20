"""Applies events: claim, decide, write the row and its change, finish the event.

Two statements do it. The claim commits the lease and brings what is known of the items; after the decision, which is
pure (`merging`), `settle` writes everything of an item at once, if the row and the lease are still what they were.
Where they are not, the decision is made anew on what is known then. So an actor may be run twice, or killed anywhere:
either nothing of an event was done, and its lease lapses, or all of it was.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Protocol

import psycopg
from psycopg.errors import ProgramLimitExceeded, StatementTooComplex
from structlog.contextvars import bound_contextvars

from processors import logs
from processors.errors import BodyUnreadable, MustWait, PermanentError, PublishFailed
from processors.store import inbox, settlement
from processors.store.database import AWAY, TOO_LARGE, Connection, Pool
from processors.store.inbox import Event
from processors.store.products import Change, Current, Source
from processors.store.settlement import ItemDecision, Verdict
from processors.workflows import fetching, leases, merging, organisations
from processors.workflows.fetching import Asked
from processors.workflows.merging import Answer, Decision, FetchNeeded, Settled, Write
from processors.zoho import items, payloads

BATCH = 200
"""Events claimed together: larger batches gained nothing, smaller ones cost round trips."""

LEASE = timedelta(seconds=5)
"""Renewed while a batch is written, which takes milliseconds, unless somebody locks the table."""

FETCH_LEASE = timedelta(seconds=10)
"""Renewed while Zoho is waited for, which may take longer."""

LONGEST_DRAIN = timedelta(seconds=15)
"""An actor ends after this long even in the middle of a backlog, so that its process can stop; the relay goes on."""

FIRST_RETRY = timedelta(seconds=15)
MOST_FAILURES = 7
"""Seven tries, with six pauses of 15 s, 45 s, 2, 7, 20 and 61 minutes between them: an hour and a half."""

# After Postgres was away, or let a statement wait for too long.
_HANDED_BACK_FOR = timedelta(seconds=1)

# Of the ids that a line of the log names.
_MOST_LOGGED = 20

# Somebody else wrote the same item in between, again and again. Then this worker lets go for a moment.
_MOST_ROUNDS = 10

_log = logs.get(__name__)


class Publisher(Protocol):
    """What this workflow needs of `processors.messaging.messages.Publisher`."""

    def publish_fetches(self, event_ids: Sequence[int]) -> None:
        """Hand events over to the workers that call Zoho."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a worker process works with."""

    pool: Pool
    zoho: fetching.Zoho
    publisher: Publisher
    worker: str
    """The process's name, noted on what it claims."""
    organization_id: str | None = None
    """Of the settings, where they name one."""


def apply_events(shop: Workshop, event_ids: Sequence[int]) -> None:
    """Apply these events, and others that wait, as far as no call to Zoho is needed.

    Raises:
        psycopg.OperationalError: Postgres is away; what was claimed comes back when its lease lapses.
    """
    with shop.pool.connection() as connection:
        not_taken = set(event_ids)
        deadline = perf_counter() + LONGEST_DRAIN.total_seconds()
        claimed = inbox.claim(connection, event_ids, worker=shop.worker, lease=LEASE, others=BATCH)
        while claimed:
            _apply(shop, connection, claimed)
            not_taken -= {event.id for event, _ in claimed}
            if len(claimed) < BATCH or perf_counter() > deadline:
                break
            claimed = inbox.claim(connection, [], worker=shop.worker, lease=LEASE, others=BATCH)
        if not_taken:
            _apply_suspects(shop, connection, sorted(not_taken), deadline)


def _apply_suspects(shop: Workshop, connection: Connection, event_ids: Sequence[int], deadline: float) -> None:
    """Apply those that failed before, one by one."""
    while perf_counter() <= deadline:
        claimed = inbox.claim(connection, event_ids, worker=shop.worker, lease=LEASE, suspects=True, most=1)
        if not claimed:
            return
        if not _given_up(connection, claimed[0][0]):
            _apply(shop, connection, claimed)


def _given_up(connection: Connection, event: Event) -> bool:
    """Bury an event whose workers keep vanishing, instead of losing one more."""
    if event.failures < MOST_FAILURES:
        return False
    error = PermanentError(f"given up: {event.failures} attempts ended without a word, as when the process is killed")
    _note_failure(connection, event, error, retry_in=None, counts=False)
    return True


@contextlib.contextmanager
def _held(shop: Workshop, events: Sequence[Event]) -> Iterator[None]:
    """Hand events back if Postgres is away for a moment, or lets a statement wait for too long.

    Left to its lease, an event would count that as one more worker that vanished over it, and die of it in the end.
    """
    try:
        yield
    except AWAY:
        with contextlib.suppress(*AWAY), shop.pool.connection() as connection:
            count = inbox.hand_back(connection, events, wait=_HANDED_BACK_FOR)
            if count:
                _log.warning("events.handed_back", count=count)
        raise


def _apply(shop: Workshop, connection: Connection, claimed: Sequence[tuple[Event, Current]]) -> None:
    events = [event for event, _ in claimed]
    kept = leases.kept(shop.pool, partial(inbox.renew_leases, events=events, lease=LEASE))
    with kept, _held(shop, events):
        _decide_and_settle(shop, connection, claimed)


def _decide_and_settle(shop: Workshop, connection: Connection, claimed: Sequence[tuple[Event, Current]]) -> None:
    started = perf_counter()
    known = {event.item_id: current for event, current in claimed}
    by_item: dict[str, list[Event]] = {}
    for event, _ in claimed:
        by_item.setdefault(event.item_id, []).append(event)
    doubt = organisations.doubt(connection, shop.organization_id)
    for _round in range(_MOST_ROUNDS):
        decisions = [_decide_item(connection, each, known[each], by_item[each], doubt) for each in by_item]
        settled, refused = _settle(connection, [decision for decision in decisions if decision.verdicts])
        _log_verdicts(settled, started)
        _hand_over_fetches(shop, settled)
        done = {decision.item_id for decision in settled} | refused
        by_item = {
            decision.item_id: [verdict.event for verdict in decision.verdicts]
            for decision in decisions
            if decision.verdicts and decision.item_id not in done
        }
        if not by_item:
            return
        # Somebody else wrote these items, or has their events now (then no round will settle them).
        known = settlement.read_current(connection, by_item)
    for events in by_item.values():
        for event in events:
            _put_off(connection, event, "its product was written by others at the same time")


def _decide_item(
    connection: Connection, item_id: str, current: Current, events: Sequence[Event], doubt: str | None
) -> ItemDecision:
    """Decide one item's events in the order of their receipt, each on what the ones before it leave.

    `doubt`: why none of them is believed without asking Zoho.
    """
    decision = ItemDecision(item_id, current)
    for event in events:
        try:
            verdict = _decide_event(connection, event, current, decision, doubt)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one event must not stop the others
            _fail(connection, event, error)
            continue
        decision.verdicts.append(verdict)
        if decision.product is not None:
            current = replace(current, product=decision.product)
        elif verdict.outcome == "gone":
            # What a later claim would find: a change after it has to be checked with Zoho.
            current = replace(current, absences=current.absences + 1)
    return decision


def _decide_event(
    connection: Connection, event: Event, current: Current, decision: ItemDecision, doubt: str | None
) -> Verdict:
    organisations.require_connected(connection, event.body, event.content_type, event.query_string)
    if doubt is not None:
        return _take_down(event, FetchNeeded(doubt), decision)
    if event.kind == "deleted":
        is_replayed = event.replay_id is not None
        decided = merging.decide_deleted(current, event.received_at, is_replayed=is_replayed)
        return _take_down(event, decided, decision)
    _, fields = payloads.read_certain(event.body, event.content_type, event.query_string)
    body = items.read_body(fields)
    return _take_down(event, merging.decide_change(current, event.item_id, body), decision, body)


def _take_down(event: Event, decided: Decision, decision: ItemDecision, body: items.Body | None = None) -> Verdict:
    """Add one event's decision to its item's; `body` is what it was decided by, unless that was a deletion."""
    notes = body.notes if body else ()
    match decided:
        case FetchNeeded(reason):
            return Verdict(event, None, reason, notes)
        case Settled(outcome):
            return Verdict(event, outcome, None, notes)
        case Write(outcome, product, changes):
            decision.product = product
            if changes:
                source: Source = "webhook" if event.replay_id is None else "replay"
                change = Change(source, changes, body.modified_at if body else None, event_id=event.id)
                decision.changes.append(change)
            return Verdict(event, outcome, None, notes)


def _settle(connection: Connection, decisions: Sequence[ItemDecision]) -> tuple[list[ItemDecision], set[str]]:
    """Write decisions; return those that were settled, and the items whose values Postgres refused."""
    if not decisions:
        return [], set()
    try:
        settled = settlement.settle(connection, decisions)
    except Exception as error:
        if _is_away(error):
            raise
        if len(decisions) == 1:
            for verdict in decisions[0].verdicts:
                _fail(connection, verdict.event, error)
            return [], {decisions[0].item_id}
        # One item's values are refused: find out whose, and let the others through.
        singly = [_settle(connection, [decision]) for decision in decisions]
        return [done for settled, _ in singly for done in settled], set().union(*(refused for _, refused in singly))
    return [decision for decision in decisions if decision.item_id in settled], set()


def _hand_over_fetches(shop: Workshop, settled: Iterable[ItemDecision]) -> None:
    waiting = [verdict.event.id for decision in settled for verdict in decision.verdicts if verdict.outcome is None]
    if not waiting:
        return
    try:
        shop.publisher.publish_fetches(waiting)
    except PublishFailed as error:
        # The relay finds them.
        _log.warning("fetches.not_published", event_ids=waiting, error=str(error))


def fetch_items(shop: Workshop, event_ids: Sequence[int]) -> None:
    """Settle events that only Zoho can: these, and whatever else waits for Zoho now, in as few calls as it takes.

    Raises:
        psycopg.OperationalError: Postgres is away; what was claimed comes back when its lease lapses.
    """
    deadline = perf_counter() + LONGEST_DRAIN.total_seconds()
    claim = partial(inbox.claim, worker=shop.worker, lease=FETCH_LEASE, needs_fetch=True)
    not_taken = set(event_ids)
    with shop.pool.connection() as connection:
        claimed = claim(connection, event_ids, others=BATCH)
    while claimed:
        not_taken -= {event.id for event, _ in claimed}
        must_wait = _fetch(shop, [event for event, _ in claimed])
        if must_wait:
            # Whatever it is, the others would meet it too.
            _put_off_fetches(shop, sorted(not_taken), must_wait)
            return
        if len(claimed) < BATCH or perf_counter() > deadline:
            break
        with shop.pool.connection() as connection:
            claimed = claim(connection, [], others=BATCH)
    for event_id in sorted(not_taken):
        if perf_counter() > deadline:
            # The relay goes on.
            return
        # What failed before is asked for by itself, with the other events of its item.
        with shop.pool.connection() as connection:
            waiting = inbox.find_fetch_siblings(connection, event_id)
            taken = claim(connection, waiting) + claim(connection, waiting, suspects=True)
            events = [event for event, _ in taken if not _given_up(connection, event)]
        must_wait = _fetch(shop, events) if events else None
        if must_wait:
            _put_off_fetches(shop, sorted(not_taken), must_wait)
            return


def _put_off_fetches(shop: Workshop, event_ids: Sequence[int], reason: MustWait) -> None:
    with shop.pool.connection() as connection:
        count = inbox.put_off(connection, event_ids, reason)
    if count:
        _log.warning("events.postponed", count=count, error_class=type(reason).__name__, error=str(reason))


def _fetch(shop: Workshop, events: Sequence[Event]) -> MustWait | None:
    """Ask Zoho for the items of claimed events, and settle; return what keeps Zoho from being asked at all."""
    waiting: dict[str, list[Event]] = {}
    for event in events:
        waiting.setdefault(event.item_id, []).append(event)
    kept = leases.kept(shop.pool, partial(inbox.renew_leases, events=events, lease=FETCH_LEASE))
    with bound_contextvars(event_ids=[event.id for event in events][:_MOST_LOGGED]), kept, _held(shop, events):
        started = perf_counter()
        try:
            for asked in fetching.Asking(shop.pool, shop.zoho).each(list(waiting)):
                _settle_answers(shop, [(each, waiting.pop(each.item_id)) for each in asked], started)
                started = perf_counter()
        except Exception as error:
            if _is_away(error):
                raise
            with shop.pool.connection() as connection:
                for event in itertools.chain.from_iterable(waiting.values()):
                    _fail(connection, event, error)
            return error if isinstance(error, MustWait) else None
    return None


def _settle_answers(shop: Workshop, answered: Iterable[tuple[Asked, Sequence[Event]]], started: float) -> None:
    with shop.pool.connection() as connection:
        decisions = []
        for asked, events in answered:
            decision = ItemDecision(asked.item_id, asked.known)
            try:
                _decide_by_answer(decision, events, asked.given())
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one item must not stop the others
                for event in events:
                    _fail(connection, event, error)
            else:
                decisions.append(decision)
        settled, refused = _settle(connection, decisions)
        _log_verdicts(settled, started)
        done = {decision.item_id for decision in settled} | refused
        for decision in decisions:
            if decision.item_id not in done:
                # A webhook, or another fetch, wrote the row while Zoho answered: what Zoho says of it now may differ.
                for verdict in decision.verdicts:
                    _put_off(connection, verdict.event, "its product changed while Zoho was asked")


def _decide_by_answer(decision: ItemDecision, events: Sequence[Event], answer: Answer) -> None:
    """Let one answer decide all events that waited for it; the first of them is what changed the row."""
    current = decision.current
    for event in events:
        decided = merging.decide_answer(current, answer, _said_by(event))
        decision.verdicts.append(_take_down(event, decided, decision, answer.body))
        if decision.product is not None:
            current = replace(current, product=decision.product)


def _said_by(event: Event) -> items.Body | None:
    if event.kind == "deleted":
        return None
    try:
        _, fields = payloads.read_item(event.body, event.content_type, event.query_string)
    except (BodyUnreadable, PermanentError):
        return None
    return items.read_body(fields)


def _is_away(error: Exception) -> bool:
    return isinstance(error, AWAY) and not isinstance(error, TOO_LARGE)


def _fail(connection: Connection, event: Event, error: Exception) -> None:
    """Decide by the error's class whether the event waits, is tried again, or is dead."""
    match error:
        case MustWait():
            # Jitter: what waited together need not come back together.
            wait = error.retry_after * random.uniform(1.0, 1.2)  # noqa: S311 - no secret depends on it
            _note_failure(connection, event, error, retry_in=max(wait, timedelta(seconds=1)), counts=False)
        case PermanentError() | BodyUnreadable() | psycopg.DataError() | ProgramLimitExceeded() | StatementTooComplex():
            _note_failure(connection, event, error, retry_in=None, counts=True)
        case _:
            _note_failure(connection, event, error, retry_in=_retry_delay(event.failures), counts=True)


def _retry_delay(failures: int) -> timedelta | None:
    """How long to wait after a failure that had `failures` before it; None: no more."""
    if failures + 1 >= MOST_FAILURES:
        return None
    jitter = random.uniform(0.8, 1.2)  # noqa: S311 - no secret depends on it
    return FIRST_RETRY * float(3**failures) * jitter


def _put_off(connection: Connection, event: Event, why: str) -> None:
    wait = timedelta(seconds=random.uniform(0.2, 1.0))  # noqa: S311 - no secret depends on it
    _note_failure(connection, event, MustWait(why, wait), retry_in=wait, counts=False)


def _note_failure(
    connection: Connection, event: Event, error: BaseException, *, retry_in: timedelta | None, counts: bool
) -> None:
    state = inbox.fail(connection, event, error, retry_in=retry_in, counts=counts)
    log = _log.bind(
        event_id=event.id,
        item_id=event.item_id,
        attempt=event.attempt,
        error_class=type(error).__name__,
        error=str(error),
    )
    if state is None:
        log.warning("event.lost_to_another_worker")
    elif state == "dead":
        log.error("event.died")
    else:
        log.warning("event.postponed", retry_in_seconds=retry_in and round(retry_in.total_seconds(), 1))


def _log_verdicts(settled: Iterable[ItemDecision], started: float) -> None:
    duration_ms = round((perf_counter() - started) * 1000, 1)
    for decision in settled:
        for verdict in decision.verdicts:
            _log.info(
                "event.needs_fetch" if verdict.outcome is None else "event.processed",
                event_id=verdict.event.id,
                item_id=decision.item_id,
                kind=verdict.event.kind,
                attempt=verdict.event.attempt,
                outcome=verdict.outcome,
                reason=verdict.reason,
                warnings=list(verdict.warnings) or None,
                duration_ms=duration_ms,
            )
