"""Works on reconciliation runs: compares Zoho's own list with the rows, repairs what differs, and says why it had to.

A run is a row. Whoever claims it goes on after the last page that was committed, so it may be killed, deployed or
suspended anywhere; each page is one transaction that holds the repairs, their history, what was seen, and the lease's
proof. What a page leaves in doubt (two contents of one second, a row altered here, a product that no page showed) is
noted with it, and asked for by id when all pages are read. Only then is a run complete, and only a complete run moves
the watermark or leaves a certificate.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import Protocol

from structlog.contextvars import bound_contextvars

from processors import logs
from processors.errors import (
    BodyUnreadable,
    LeaseLost,
    ListUntrustworthy,
    MustWait,
    PermanentError,
    TransientError,
    WrittenByOthers,
)
from processors.store import certificates, runs
from processors.store import drift as drift_store
from processors.store.database import AWAY, Connection, Pool, encode_json
from processors.store.products import NOT_DRIFT
from processors.store.runs import Check, KeptPage, Run, RunState, WebhookState
from processors.workflows import fetching, leases, merging, paging, steps
from processors.workflows.fetching import Asked
from processors.workflows.listed_pages import decide_page
from processors.workflows.merging import Decision
from processors.workflows.paging import Frontier, Listing, Pace, ReadPage, Window
from processors.workflows.steps import Step
from processors.zoho import items
from processors.zoho.listing import ListedPage

LONGEST_STRETCH = timedelta(minutes=4)
"""After so long a worker lets go of a run between two pages; whoever is free goes on."""

MOST_FAILURES = 5
"""Five tries of one page, with pauses of 1, 3, 9 and 27 seconds between them; then the run ends, incomplete."""

_FIRST_RETRY = timedelta(seconds=1)
# A sweep that would tombstone no more than this is never held, whatever share that is.
_NEVER_HELD = 10
_SAMPLE = 5

_log = logs.get(__name__)


class Zoho(fetching.Zoho, Protocol):
    """What this workflow needs of `processors.zoho.client.ZohoClient`."""

    def item_page(
        self,
        *,
        page: int,
        per_page: int,
        sort_column: str,
        descending: bool = False,
        modified_since: datetime | None = None,
        run_id: int,
    ) -> ListedPage:
        """Return one page of the list."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """What a process that works on runs works with."""

    pool: Pool
    zoho: Zoho
    worker: str
    """The process's name, noted on what it claims."""
    pace: Pace
    delete_guard_percent: Decimal
    is_stopping: Callable[[], bool] = lambda: False

    def work(self, run_id: int) -> None:
        """Take up a run, if nobody has it, and go on until it ends, has to wait, or somebody else should.

        Raises:
            psycopg.OperationalError: Postgres is away; the run comes back when its lease lapses.
        """
        with self.pool.connection() as connection:
            run = runs.claim(connection, run_id, worker=self.worker)
        if run is None:
            return
        # One page of Zoho's may take longer than the lease lasts.
        kept = leases.kept(self.pool, lambda connection: runs.renew_lease(connection, run))
        with bound_contextvars(run_id=run.id, run_kind=run.kind), kept:
            _log.info("run.taken_up", phase=run.phase, pages=run.pages, attempt=run.attempts)
            try:
                self._go_on_or_put_off(run)
            except LeaseLost as error:
                _log.warning("run.lost_to_another_worker", error=str(error))

    def _go_on_or_put_off(self, run: Run) -> None:
        try:
            self._go_on(run)
        except (LeaseLost, *AWAY):
            raise
        except Exception as error:  # noqa: BLE001 - its class decides what becomes of the run
            self._put_off(run, error)

    def _put_off(self, run: Run, error: Exception) -> None:
        """Decide by the error's class whether the run waits, tries again, or ends."""
        with self.pool.connection() as connection:
            now = runs.find(connection, run.id)
            failures = now.failures + 1 if now else 1
            if isinstance(error, MustWait):
                wait = max(error.retry_after, _FIRST_RETRY) * random.uniform(1.0, 1.05)  # noqa: S311 - no secret
                if runs.release(connection, run, wait=wait, error=error):
                    _log.warning("run.suspended", seconds=round(wait.total_seconds(), 1), error=str(error))
                return
            if not isinstance(error, PermanentError) and failures < MOST_FAILURES:
                wait = _FIRST_RETRY * float(3 ** (failures - 1))
                if runs.release(connection, run, wait=wait, error=error, counts=True):
                    _log.warning(
                        "run.put_off",
                        seconds=wait.total_seconds(),
                        failures=failures,
                        error_class=type(error).__name__,
                        error=str(error),
                        exc_info=None if isinstance(error, TransientError) else error,
                    )
                return
        self._finish(run, error=error)

    def _go_on(self, run: Run) -> None:
        started = perf_counter()

        def goes_on() -> bool:
            return not self.is_stopping() and perf_counter() - started < LONGEST_STRETCH.total_seconds()

        if run.phase == "listing":
            if not self._read_pages(run, goes_on):
                self._hand_back(run)
                return
            with self.pool.connection() as connection:
                run = runs.end_listing(connection, run)
        if not self._check(run, is_suspect=False, goes_on=goes_on):
            self._hand_back(run)
            return
        relies = self._relies_on_answers(run)
        if self._is_guarded(run) and self._are_gone(run, relies=relies, goes_on=goes_on):
            self._hold(run)
            return
        # Most suspects are gone from Zoho, and one dead id fails a whole call: begin with one at a time.
        if not self._check(run, is_suspect=True, together=1, goes_on=goes_on, relies=relies):
            self._hand_back(run)
            return
        self._finish(run)

    def _are_gone(self, run: Run, *, relies: bool, goes_on: Callable[[], bool]) -> bool:
        """Tell whether it is for an operator to say that so many suspects are deleted.

        Raises:
            ListUntrustworthy: some of them exist, and the run before did not find the same.
        """
        with self.pool.connection() as connection:
            sample = runs.sample_suspects(connection, run, most=_SAMPLE)
        alive = [check.item_id for check in sample if self.zoho.item(check.item_id, run_id=run.id) is not None]
        if not alive:
            return True
        if not relies:
            message = (
                f"no page showed {run.suspects} of {run.suspected_of} products, but {len(alive)} of {len(sample)} that "
                f"were looked up exist (such as {alive[0]}): the list was not whole, or changed much meanwhile. "
                "If the next full run finds the same, it asks Zoho for each of them"
            )
            raise ListUntrustworthy(message)
        if not self._check(run, is_suspect=True, goes_on=goes_on, relies=True, spared=[]):
            # Told to stop: whoever goes on finds out.
            return False
        with self.pool.connection() as connection:
            return self._is_guarded(runs.find(connection, run.id) or run)

    def _relies_on_answers(self, run: Run) -> bool:
        """Tell whether the full run before missed about as many items that exist.

        Then the list does not show them, whatever the reason; Zoho's answer for each stands in for it.
        """
        with self.pool.connection() as connection:
            return 0 < _missing(run) <= 2 * runs.oddity_before(connection, run).missed

    def _hand_back(self, run: Run) -> None:
        with self.pool.connection() as connection:
            runs.release(connection, run, wait=timedelta())
        _log.info("run.handed_back")

    # Pages

    def _read_pages(self, run: Run, goes_on: Callable[[], bool]) -> bool:
        """Read and merge page after page; False: not to the end yet."""
        with self.pool.connection() as connection:
            last = runs.last_page(connection, run)
            is_odd = runs.oddity_before(connection, run).is_odd
        for read in self._listing(run, last, goes_on, is_odd=is_odd).pages():
            last = self.merge_page(run, read, last)
            if read.is_last:
                return True
        return False

    def _listing(self, run: Run, last: KeptPage | None, goes_on: Callable[[], bool], *, is_odd: bool) -> Listing:
        since = run.modified_since
        is_recent = run.kind == "recent"

        def fetch(window: Window) -> ListedPage:
            return self.zoho.item_page(
                page=window.page,
                per_page=window.per_page,
                # By their creation, edits move nothing. By their modification, the latest first, they move items back
                # to where they are read once more, and the reading may end at the first item that is too old.
                sort_column="last_modified_time" if is_recent else "created_time",
                descending=is_recent,
                modified_since=since,
                run_id=run.id,
            )

        def is_behind(page: ListedPage) -> bool:
            # All that was modified after the watermark was read. The overlap behind it is read as far as it stands on
            # the same page: an import gives thousands of items one second. Zoho is known to ignore filters, too.
            mark = since and since + runs.RECENT_OVERLAP
            return is_recent and mark is not None and _is_in_order(page) and _is_no_newer(page, mark)

        return Listing(
            fetch,
            read_to=run.read_to,
            last=last,
            shown=run.seen,
            known_until=None if is_recent or run.known_since is None else Frontier(run.known_to_id, run.known_until),
            expected=run.expected_items,
            pace=self.pace,
            is_odd=is_odd,
            is_behind=is_behind,
            # A recent run is to cost one call: what it may miss so, the next full run finds.
            is_by_creation=not is_recent,
            goes_on=goes_on,
        )

    def merge_page(self, run: Run, read: ReadPage, before: KeptPage | None) -> KeptPage:
        """Write what one page changes, and that it was read, together; return what is kept of it.

        Raises:
            LeaseLost: another worker has the run; nothing was written.
        """
        started = perf_counter()
        asked_at = datetime.now(UTC)
        page = paging.kept(read.page)
        # What bears no exact time may have been modified at any.
        times = [item.modified_at if _is_exact(item.modified_at) else asked_at for item in read.page.items]
        newest = max((at for at in times if at is not None), default=None)

        def note(connection: Connection, step: Step) -> None:
            runs.advance(connection, run, step.counts, page=page, read_to=read.read_to, newest_modified_at=newest)

        known_before = frozenset(before.item_ids) if before else frozenset()
        with self.pool.connection() as connection:
            decide = partial(decide_page, connection, read.page.items, known_before, asked_at)
            step = steps.commit(connection, run, decide, note)
        _log.info(
            "page.merged",
            items=len(read.page.items),
            created=step.counts.created,
            updated=step.counts.updated,
            doubts=len(step.doubts),
            failed=step.counts.failed,
            read_to=read.read_to,
            duration_ms=round((perf_counter() - started) * 1000, 1),
        )
        return page

    # Checks

    def _check(
        self,
        run: Run,
        *,
        is_suspect: bool,
        together: int = fetching.MOST_TOGETHER,
        goes_on: Callable[[], bool],
        relies: bool = False,
        spared: list[str] | None = None,
    ) -> bool:
        """Ask Zoho for what is in doubt, more at once while all of them are there; False: not all of it yet.

        `relies`: that suspects exist says nothing against the list. `spared` takes up those that are gone, where they
        are not to be tombstoned yet.
        """
        asking = fetching.Asking(self.pool, self.zoho, run.id, together)
        while goes_on():
            with self.pool.connection() as connection:
                checks = runs.next_checks(
                    connection, run, is_suspect=is_suspect, most=asking.together, besides=spared or ()
                )
            if not checks:
                return True
            of = {check.item_id: check for check in checks}
            answered = [(of[asked.item_id], asked) for asked in asking.ask(list(of))]
            if spared is not None:
                spared += [check.item_id for check, asked in answered if _is_gone(asked)]
                answered = [(check, asked) for check, asked in answered if not _is_gone(asked)]
            if answered:
                self._take_answers(run, answered, relies=relies)
        return False

    def _take_answers(self, run: Run, answered: Sequence[tuple[Check, Asked]], *, relies: bool) -> None:
        """Do what Zoho says of some items; one that it will not give is kept as one that cannot be used."""
        for _check, asked in answered:
            if isinstance(asked.answer, TransientError):
                raise asked.answer
        decide = partial(_decide_checks, answered)
        with self.pool.connection() as connection:
            step = steps.commit(connection, run, decide, partial(_note_checks, run))
        for check, asked in answered:
            if isinstance(asked.answer, Exception):
                error = asked.answer
                _log.warning(
                    "item.passed_over", item_id=check.item_id, error_class=type(error).__name__, error=str(error)
                )
            else:
                _log.info("item.checked", item_id=check.item_id, reason=check.reason, is_there=asked.fields is not None)
        _require_a_whole_list(run, answered, relies=relies)
        if not step.cleared:
            # All of them were written by others meanwhile; they are asked for again, but not in a tight loop.
            message = "the products in doubt were written by others while Zoho was asked"
            raise WrittenByOthers(message)

    def _is_guarded(self, run: Run) -> bool:
        if run.deletes_confirmed_by is not None or _missing(run) <= _NEVER_HELD:
            return False
        return _missing(run) * 100 > run.suspected_of * self.delete_guard_percent

    def _hold(self, run: Run) -> None:
        """Leave a mass deletion to an operator."""
        message = (
            f"{_missing(run)} of {run.suspected_of} products are missing in Zoho, more than "
            f"{self.delete_guard_percent} %"
        )
        with self.pool.connection() as connection:
            runs.finish(connection, run, "held", error=message)
        _log.error("run.held", suspects=_missing(run), suspected_of=run.suspected_of)

    # The end

    def _finish(self, run: Run, *, error: Exception | None = None) -> None:
        with self.pool.connection() as connection:
            certificate = certificates.certify(connection) if error is None and run.kind == "full" else None
            now = runs.find(connection, run.id)
            assert now is not None, "runs are not deleted while they are worked on"
            with connection.transaction():
                drift_store.excuse_late_deliveries(connection)
                webhooks = _webhook_state(drift_store.deliveries(connection, run.id))
                if error is None:
                    ended = runs.finish(
                        connection,
                        run,
                        "complete",
                        watermark=_watermark(now),
                        webhooks=webhooks,
                        certificate=certificate,
                    )
                else:
                    state: RunState = "partial" if now.pages else "failed"
                    # That nothing was missed is proven by complete runs only.
                    ended = runs.finish(
                        connection, run, state, error=error, webhooks="dead" if webhooks == "dead" else None
                    )
            causes = drift_store.by_cause(connection, run.id)
        _log_end(ended, causes)


def _is_in_order(page: ListedPage) -> bool:
    known = [item.modified_at for item in page.items if item.modified_at is not None]
    return len(known) == len(page.items) > 0 and all(earlier <= later for later, earlier in pairwise(known))


def _is_exact(modified_at: datetime | None) -> bool:
    """Tell whether this is a time of day, and not a bare date, which reads as midnight."""
    return modified_at is not None and modified_at.time() != time.min


def _missing(run: Run) -> int:
    """Return how many suspects have not been found in Zoho."""
    return run.suspects - run.missed


def _is_no_newer(page: ListedPage, mark: datetime) -> bool:
    """Tell whether the last item of a page was modified by then; a bare date may be a day of any zone."""
    try:
        body = page.items[-1].body()
    except BodyUnreadable:
        return False
    if body.modified_at is None:
        return False
    return body.modified_at + (merging.DAY_IN_ANY_ZONE if body.is_day_only else timedelta()) <= mark


def _is_gone(asked: Asked) -> bool:
    return asked.fields is None and not isinstance(asked.answer, Exception)


def _decide_checks(
    answered: Sequence[tuple[Check, Asked]], refused: Mapping[str, Exception], beaten: AbstractSet[str]
) -> Step:
    """Decide what Zoho's answers for single items do; the answers for `beaten` may be outdated, and decide nothing."""
    step = Step()
    for check, asked in answered:
        if check.item_id in beaten:
            continue
        step.cleared.append(check.item_id)
        step.counts.missed += check.is_suspect and asked.fields is not None
        # Replayed, a body with nothing but its id has the item fetched.
        body = encode_json({"item_id": check.item_id} if isinstance(asked.answer, Exception) else asked.fields)
        if asked.fields is not None and check.item_id in refused:
            step.keep_unusable(check.item_id, body, refused[check.item_id])
            continue
        decided = step.attempt(check.item_id, body, partial(_decide_answered, asked))
        if decided is not None:
            step.take_down(check.item_id, asked.known, decided, is_counted=asked.fields is not None)
    return step


def _decide_answered(asked: Asked) -> Decision:
    return merging.decide_answer(asked.known, asked.given())


def _note_checks(run: Run, connection: Connection, step: Step) -> None:
    runs.advance(connection, run, step.counts)
    runs.clear_checks(connection, run, step.cleared)


def _require_a_whole_list(run: Run, answered: Sequence[tuple[Check, Asked]], *, relies: bool) -> None:
    """Find out that the list went on behind what was said to be its end."""
    for check, asked in answered:
        fields = asked.fields
        if not check.is_suspect or not fields:
            continue
        if run.seen == 0:
            message = f"Zoho's list was empty, but item {check.item_id} exists: the list was not whole"
            raise ListUntrustworthy(message)
        created_at = items.time_of(fields.get("created_time"))
        if not relies and created_at is not None and run.listed_until is not None and created_at > run.listed_until:
            message = (
                f"Zoho's list ended with an item created at {run.listed_until.isoformat()}, but item {check.item_id} "
                f"exists and was created at {created_at.isoformat()}: the list was not whole"
            )
            raise ListUntrustworthy(message)


def _watermark(run: Run) -> datetime | None:
    """Return up to where every modification is known now: never beyond the run's start, nor beyond what Zoho showed."""
    former = run.modified_since and run.modified_since + runs.RECENT_OVERLAP
    seen = min(run.started_at, run.newest_modified_at) if run.newest_modified_at else None
    return max((at for at in (former, seen) if at is not None), default=None)


def _webhook_state(deliveries: drift_store.Deliveries) -> WebhookState | None:
    if deliveries.any_came is None:
        return None
    if deliveries.any_came:
        return "delivering"
    return "dead" if deliveries.any_undelivered else "quiet"


def _log_end(run: Run, causes: Sequence[drift_store.DriftCount]) -> None:
    drifted = {count.cause: count.count for count in causes if count.cause not in NOT_DRIFT}
    log = _log.bind(
        state=run.state,
        pages=run.pages,
        api_calls=run.api_calls,
        seen=run.seen,
        created=run.created,
        updated=run.updated,
        unchanged=run.unchanged,
        failed=run.failed,
        deleted=run.deleted,
        missed=run.missed,
        drift=drifted or None,
        error=run.error,
        duration_s=round((run.finished_at - run.started_at).total_seconds(), 1) if run.finished_at else None,
    )
    (log.info if run.state == "complete" else log.error)("run.finished")
    if run.webhooks == "dead":
        _log.error("webhooks.dead", undelivered=drifted.get("no_delivery"))
