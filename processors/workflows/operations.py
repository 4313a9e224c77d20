"""Every action that an operator, a program or the timetable takes. Console, API and command line stand on these."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import psycopg

from processors import logs
from processors.errors import MustWait, PublishFailed, RunRefused, WorkError, WrittenByOthers
from processors.store import api_calls, audit, certificates, runs, settlement
from processors.store.audit import Requester
from processors.store.certificates import Certificate, Recomputation
from processors.store.database import Connection, Pool
from processors.store.products import Change, Changes
from processors.store.runs import Prospects, Run, RunKind, Trigger
from processors.store.settlement import ItemDecision
from processors.workflows import fetching, merging
from processors.workflows.fetching import Asked
from processors.workflows.merging import Outcome, Write
from processors.workflows.paging import PER_PAGE

# A full run that ended by a fault is started again after so long, instead of tomorrow; then after twice as long.
_AGAIN_AFTER = timedelta(minutes=30)
_AGAIN_AFTER_AT_MOST = timedelta(hours=12)
_MOST_ROUNDS = 5

_log = logs.get(__name__)


class RunPublisher(Protocol):
    """What these actions need of `processors.messaging.messages.Publisher`."""

    def publish_run(self, run_id: int) -> None:
        """Ask a worker to work on a run."""


# Runs


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will cost, as far as can be told before it."""

    calls: int | None
    """None: nothing is known of the catalogue's size yet."""
    budget: int
    """Calls of a whole day."""
    used: int
    """Of it, in the last 24 hours, by everything."""

    def __str__(self) -> str:
        """Say it in a line."""
        if self.calls is None:
            return f"the catalogue's size is not known yet; {self.budget - self.used:,} calls are left today"
        calls = "1 call" if self.calls == 1 else f"{self.calls:,} calls"
        return f"{calls}, {self.calls / self.budget:.1%} of today's budget; {self.used:,} of {self.budget:,} are used"


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that was asked for."""

    run: Run
    is_new: bool
    """False: one of its kind was under way, and is the one that is meant."""
    estimate: Estimate


def start_run(pool: Pool, publisher: RunPublisher, kind: RunKind, requester: Requester, *, budget: int) -> StartedRun:
    """Open a run, or take up the one of its kind that is under way, and hand it to a worker.

    Raises:
        psycopg.OperationalError: Postgres is away.
    """
    with pool.connection() as connection, connection.transaction():
        estimate = estimate_run(connection, kind, budget=budget)
        run, is_new = _open(connection, kind, requester.channel)
        if not is_new:
            # Whoever asks for a run has mended what it waits for, or finds out that he has not.
            run = runs.hurry(connection, run.id) or run
        audit.note(connection, requester, "run.started" if is_new else "run.hurried", [run.id], {"kind": kind})
    if is_new:
        _log.info("run.started", run_id=run.id, run_kind=kind, requested_by=str(requester), estimate=str(estimate))
    _publish(publisher, run)
    return StartedRun(run, is_new, estimate)


def _open(connection: Connection, kind: RunKind, trigger: Trigger) -> tuple[Run, bool]:
    for _round in range(_MOST_ROUNDS):
        opened = runs.open_run(connection, kind, trigger)
        if opened:
            return opened, True
        running = runs.find_running(connection, kind)
        if running:
            return running, False
        # It ended between the two statements.
    message = f"a {kind} run can be neither opened nor found; try again"
    raise RunRefused(message)


def _publish(publisher: RunPublisher, run: Run) -> None:
    try:
        publisher.publish_run(run.id)
    except PublishFailed as error:
        # The relay hands it over.
        _log.warning("runs.not_published", run_id=run.id, error=str(error))


def estimate_run(connection: Connection, kind: RunKind, *, budget: int) -> Estimate:
    """Return what a run will cost; doubts that need calls of their own are not foreseen."""
    used = api_calls.usage(connection).day
    if not runs.prospects(connection).was_full_once:
        return Estimate(None, budget, used)
    pages = -(-runs.count_products(connection) // PER_PAGE) if kind == "full" else 1
    return Estimate(max(1, pages), budget, used)


def open_scheduled_run(connection: Connection, kind: RunKind) -> None:
    """Open a run whose time has come, where it makes sense: recent runs go by the watermark of a full one.

    It belongs into the transaction that takes the slot; the relay hands the run to a worker.
    """
    expected = runs.prospects(connection)
    if expected.is_connected and (kind == "full" or expected.was_full_once):
        _open_and_say(connection, kind)


def open_overdue_run(connection: Connection) -> None:
    """Open the first full run as soon as Zoho is connected, and one that was cut short again after a while."""
    if _is_overdue(runs.prospects(connection)):
        _open_and_say(connection, "full")


def _open_and_say(connection: Connection, kind: RunKind) -> None:
    run, is_new = _open(connection, kind, "schedule")
    if is_new:
        _log.info("run.started", run_id=run.id, run_kind=run.kind, trigger=run.trigger)


def _is_overdue(expected: Prospects) -> bool:
    if not expected.is_connected:
        return False
    if expected.last_full_state is None:
        return True
    # What an operator discarded, or a later run superseded, has no error class.
    was_cut_short = expected.last_full_state in ("partial", "failed") and expected.last_full_error_class is not None
    pause = min(_AGAIN_AFTER * 2 ** min(max(expected.fulls_cut_short - 1, 0), 10), _AGAIN_AFTER_AT_MOST)
    return was_cut_short and (expected.last_full_ended_ago or timedelta()) >= pause


def confirm_deletes(pool: Pool, publisher: RunPublisher, run_id: int, requester: Requester) -> Run:
    """Let a held run tombstone what Zoho does not have: each item is still asked for first.

    Raises:
        RunRefused: the run is not held, or another one is under way.
    """
    with pool.connection() as connection:
        try:
            with connection.transaction():
                run = runs.confirm_deletes(connection, run_id, str(requester))
                if run is None:
                    raise _not_held(connection, run_id)
                audit.note(connection, requester, "run.deletes_confirmed", [run.id], {"suspects": run.suspects})
        except psycopg.errors.UniqueViolation:
            message = "another full run is under way; wait until it has ended"
            raise RunRefused(message) from None
    _log.info("run.deletes_confirmed", run_id=run.id, suspects=run.suspects, requested_by=str(requester))
    _publish(publisher, run)
    return run


def discard_deletes(pool: Pool, run_id: int, requester: Requester) -> Run:
    """End a held run as partial: its suspects stay as they are.

    Raises:
        RunRefused: the run is not held.
    """
    with pool.connection() as connection, connection.transaction():
        run = runs.discard_deletes(connection, run_id, str(requester))
        if run is None:
            raise _not_held(connection, run_id)
        audit.note(connection, requester, "run.deletes_discarded", [run.id], {"suspects": run.suspects})
    _log.info("run.deletes_discarded", run_id=run.id, suspects=run.suspects, requested_by=str(requester))
    return run


def _not_held(connection: Connection, run_id: int) -> RunRefused:
    run = runs.find(connection, run_id)
    if run is None:
        return RunRefused(f"there is no run {run_id}")
    return RunRefused(f"run {run_id} is {run.state}, not held: there is nothing to decide")


@dataclass(frozen=True, slots=True)
class Verification:
    """A certificate, and what rows and history say of the same moment now."""

    certificate: Certificate
    recomputed: Recomputation

    @property
    def holds(self) -> bool:
        """The same items with the same contents."""
        return (self.certificate.items, self.certificate.hash) == (self.recomputed.items, self.recomputed.hash)


def verify_run(pool: Pool, run_id: int) -> Verification:
    """Compute the certificate of a complete full run again; what was changed since is undone by the history.

    Raises:
        RunRefused: the run has no certificate, or one that this release cannot compute.
    """
    with pool.connection() as connection:
        run = runs.find(connection, run_id)
        if run is None:
            message = f"there is no run {run_id}"
            raise RunRefused(message)
        certificate = run.certificate
        if certificate is None:
            message = f"run {run_id} has no certificate: only a complete full run leaves one, and it is {run.state}"
            raise RunRefused(message)
        if not certificate.is_comparable:
            message = (
                f"the certificate of run {run_id} is not comparable: it was made by another version of the mirrored "
                "fields; the next complete full run leaves one of this version"
            )
            raise RunRefused(message)
        return Verification(certificate, certificates.recompute(connection, certificate))


# Items


@dataclass(frozen=True, slots=True)
class FetchedItem:
    """What came of asking Zoho for one item."""

    item_id: str
    outcome: Outcome | None
    changes: dict[str, tuple[object, object]]
    error: str | None = None


def fetch_items(pool: Pool, zoho: fetching.Zoho, item_ids: Sequence[str], requester: Requester) -> list[FetchedItem]:
    """Ask Zoho for items now and write what it says; one that fails is told with its reason and stops no other.

    Raises:
        psycopg.OperationalError: Postgres is away.
    """
    fetched = []
    for item_id, done in _fetch(pool, zoho, item_ids, requester).items():
        if isinstance(done, Exception):
            _log.warning("item.not_fetched", item_id=item_id, error_class=type(done).__name__, error=str(done))
            done = FetchedItem(item_id, None, {}, str(done) or type(done).__name__)  # noqa: PLW2901 - as it is told
        fetched.append(done)
    return fetched


def fetch_item(pool: Pool, zoho: fetching.Zoho, item_id: str, requester: Requester) -> FetchedItem:
    """Ask Zoho for one item now and write what it says.

    Raises:
        WorkError: Zoho cannot be asked, or its answer is of no use; see `processors.errors`.
        psycopg.OperationalError: Postgres is away.
    """
    done = _fetch(pool, zoho, [item_id], requester)[item_id]
    if isinstance(done, Exception):
        raise done
    return done


def _fetch(
    pool: Pool, zoho: fetching.Zoho, item_ids: Sequence[str], requester: Requester
) -> dict[str, FetchedItem | Exception]:
    """Return what came of each item, in the order of their ids as given."""
    done: dict[str, FetchedItem | Exception] = {}
    left = list(dict.fromkeys(item_ids))
    asking = fetching.Asking(pool, zoho)
    for _round in range(_MOST_ROUNDS):
        try:
            for asked in itertools.chain.from_iterable(asking.each(left)):
                written = _write_answer(pool, asked, requester)
                if written is not None:
                    done[asked.item_id] = written
        except MustWait as error:
            done |= dict.fromkeys([item_id for item_id in left if item_id not in done], error)
        # Somebody else wrote their rows while Zoho answered: what Zoho says of them now may differ.
        left = [item_id for item_id in left if item_id not in done]
        if not left:
            break
    done |= dict.fromkeys(left, WrittenByOthers("its product was written by others again and again"))
    return {item_id: done[item_id] for item_id in item_ids}


def _write_answer(pool: Pool, asked: Asked, requester: Requester) -> FetchedItem | Exception | None:
    """Write one answer, with the record of who asked; None: somebody else wrote the row meanwhile."""
    item_id = asked.item_id
    decision, changes = ItemDecision(item_id, asked.known), Changes()
    try:
        decided = merging.decide_answer(asked.known, asked.given())
        if isinstance(decided, Write):
            decision.product, changes = decided.product, decided.changes
            if changes:
                modified_at = None if decided.product.deleted_at else decided.product.zoho_last_modified_at
                decision.changes.append(Change("fetch", changes, modified_at))
        with pool.connection() as connection, connection.transaction():
            if not settlement.settle(connection, [decision]):
                return None
            audit.note(connection, requester, "item.fetched", [item_id], {"outcome": decided.outcome})
    except (WorkError, psycopg.DataError) as error:
        return error
    _log.info("item.fetched", item_id=item_id, outcome=decided.outcome)
    return FetchedItem(item_id, decided.outcome, dict(changes))
