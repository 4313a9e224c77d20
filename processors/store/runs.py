"""The reconciliation runs: opened, worked on page by page under a lease, finished.

A run is worked on by the worker whose claim was the last: every write of its progress names that claim's number, so a
worker that was frozen past its lease commits nothing more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Literal

from processors import redaction
from processors.errors import LeaseLost
from processors.store.certificates import Certificate
from processors.store.database import Connection, Row, only_row
from processors.store.queries import Queries

RunKind = Literal["full", "recent"]
Trigger = Literal["schedule", "console", "api", "cli"]
RunState = Literal["running", "complete", "partial", "held", "failed"]
Phase = Literal["listing", "checking"]
WebhookState = Literal["delivering", "quiet", "dead"]

LEASE = timedelta(seconds=15)
"""Renewed every few seconds, so that a killed worker's run is taken up within half a minute."""

RECENT_OVERLAP = timedelta(minutes=5)
"""How far a recent run reads behind the watermark: whether Zoho's filter includes its own second, how far Zoho's clock
is from ours, and how late a change shows in its list are not known."""

_LONGEST_STATEMENT_MS = 300_000

_queries = Queries("runs.sql")


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `reconciliation_runs`."""

    id: int
    kind: RunKind
    trigger: Trigger
    state: RunState
    phase: Phase
    started_at: datetime
    finished_at: datetime | None
    known_since: datetime | None
    known_until: datetime | None
    known_to_id: str | None
    modified_since: datetime | None
    expected_items: int
    pages: int
    read_to: int
    newest_modified_at: datetime | None
    api_calls: int
    seen: int
    created: int
    updated: int
    unchanged: int
    failed: int
    deleted: int
    missed: int
    suspects: int
    suspected_of: int
    listed_until: datetime | None
    listed_to_id: str | None
    deletes_confirmed_by: str | None
    claimable_at: datetime
    attempts: int
    claimed_by: str | None
    failures: int
    error_class: str | None
    error: str | None
    watermark: datetime | None
    webhooks: WebhookState | None
    certified_at: datetime | None
    certified_items: int | None
    certified_hash: str | None
    certified_snapshot: str | None
    certified_fields: str | None

    @property
    def certificate(self) -> Certificate | None:
        """What the products were when it was complete."""
        if self.certified_at is None or self.certified_hash is None or self.certified_snapshot is None:
            return None
        return Certificate(
            self.certified_items or 0,
            self.certified_hash,
            self.certified_at,
            self.certified_snapshot,
            self.certified_fields,
        )


@dataclass(slots=True)
class Counts:
    """What a step of a run adds to its counts."""

    seen: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    deleted: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class KeptPage:
    """What is kept of a page for as long as pages are read."""

    item_ids: Sequence[str]
    last_created_at: datetime | None


@dataclass(frozen=True, slots=True)
class Oddity:
    """What a full run made of Zoho's list."""

    is_odd: bool
    """It was at odds with itself, or with what exists."""
    missed: int
    """So many items exist, or had to be supposed to, though no page showed them."""


@dataclass(frozen=True, slots=True)
class Check:
    """An item that the pages leave in doubt."""

    item_id: str
    reason: str
    is_suspect: bool
    """No page showed it."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """An item of Zoho's list that cannot be applied."""

    item_id: str | None
    body: bytes
    error: Exception


@dataclass(frozen=True, slots=True)
class Prospects:
    """What is known before a run is opened."""

    was_full_once: bool
    is_connected: bool
    last_full_state: RunState | None
    last_full_error_class: str | None
    last_full_ended_ago: timedelta | None
    fulls_cut_short: int
    """Full runs in a row that were neither complete nor held."""


def open_run(connection: Connection, kind: RunKind, trigger: Trigger) -> Run | None:
    """Start a run; None: one of this kind is under way."""
    parameters = {"kind": kind, "trigger": trigger, "overlap": RECENT_OVERLAP}
    return _run(connection.execute(_queries.open_run, parameters).fetchone())


def find_running(connection: Connection, kind: RunKind) -> Run | None:
    """Return the run of this kind that is under way."""
    return _run(connection.execute(_queries.find_running, {"kind": kind}).fetchone())


def find(connection: Connection, run_id: int) -> Run | None:
    """Return one run."""
    return _run(connection.execute(_queries.find_run, {"run_id": run_id}).fetchone())


def newest(connection: Connection) -> list[Run]:
    """Return the newest run of each kind."""
    return [run_from_row(row) for row in connection.execute(_queries.newest)]


def newest_held(connection: Connection) -> Run | None:
    """Return the run that waits for an operator's decision."""
    return _run(connection.execute(_queries.newest_held).fetchone())


def newest_without_deliveries(connection: Connection) -> Run | None:
    """Return the last run that found the webhooks dead."""
    return _run(connection.execute(_queries.newest_without_deliveries).fetchone())


def hurry_waiting(connection: Connection, error_classes: Sequence[str]) -> None:
    """Let runs that wait for what these errors say be taken up now: it is over."""
    connection.execute(_queries.hurry_waiting_runs, {"error_classes": list(error_classes)})


def hurry(connection: Connection, run_id: int) -> Run | None:
    """Let a run that waits for an operator be taken up at once; None: it does not."""
    return _run(connection.execute(_queries.hurry_run, {"run_id": run_id}).fetchone())


def last_complete(connection: Connection) -> dict[RunKind, Run]:
    """Return the last complete run of each kind."""
    runs = [run_from_row(row) for row in connection.execute(_queries.last_complete)]
    return {run.kind: run for run in runs}


def count_products(connection: Connection) -> int:
    """Return how many products are live: all of them are read for it."""
    count: int = only_row(connection.execute(_queries.count_products))["count"]
    return count


def prospects(connection: Connection) -> Prospects:
    """Return what a run has to expect."""
    return Prospects(**only_row(connection.execute(_queries.prospects)))


def claim(connection: Connection, run_id: int, *, worker: str) -> Run | None:
    """Take a run for one lease; None: it ended, waits, or somebody else has it."""
    parameters = {"run_id": run_id, "worker": worker, "lease": LEASE}
    return _run(connection.execute(_queries.claim_run, parameters).fetchone())


def renew_lease(connection: Connection, run: Run) -> bool:
    """Keep a run for another lease; False: somebody else has it."""
    parameters = {"run_id": run.id, "attempt": run.attempts, "lease": LEASE}
    return connection.execute(_queries.renew_lease, parameters).fetchone() is not None


def release(
    connection: Connection, run: Run, *, wait: timedelta, error: Exception | None = None, counts: bool = False
) -> bool:
    """Let go of a run, to be taken up again after `wait`; `counts` tells whether this was a failure."""
    row = connection.execute(
        _queries.release_run,
        {
            "run_id": run.id,
            "attempt": run.attempts,
            "wait": wait,
            "counts": int(counts),
            "error_class": error and type(error).__name__,
            "error": error and (redaction.redact(str(error)) or type(error).__name__),
        },
    ).fetchone()
    return row is not None


def advance(
    connection: Connection,
    run: Run,
    counts: Counts,
    *,
    page: KeptPage | None = None,
    read_to: int | None = None,
    newest_modified_at: datetime | None = None,
) -> None:
    """Note progress, and the page that it was, in the transaction that also holds what was done.

    Raises:
        LeaseLost: somebody else works on the run now; the transaction must not be committed.
    """
    parameters: Row = {field.name: getattr(counts, field.name) for field in fields(Counts)}
    parameters |= {"run_id": run.id, "attempt": run.attempts, "lease": LEASE}
    parameters |= {"item_ids": page and list(page.item_ids), "last_created_at": page and page.last_created_at}
    parameters |= {"read_to": read_to, "newest_modified_at": newest_modified_at}
    if connection.execute(_queries.advance, parameters).fetchone() is None:
        raise _lost(run)


def last_page(connection: Connection, run: Run) -> KeptPage | None:
    """Return the last page that showed anything."""
    row = connection.execute(_queries.last_page, {"run_id": run.id}).fetchone()
    return row and KeptPage(**row)


def add_checks(connection: Connection, run: Run, doubts: Sequence[tuple[str, str]]) -> None:
    """Note items, each with the reason why only Zoho can tell."""
    if doubts:
        parameters = {"run_id": run.id, "item_id": [item for item, _ in doubts], "reason": [why for _, why in doubts]}
        connection.execute(_queries.add_checks, parameters)


def keep_unusable(connection: Connection, run: Run, unusable: Sequence[Unusable]) -> None:
    """Keep items that cannot be applied as dead events."""
    if not unusable:
        return
    connection.execute(
        _queries.keep_unusable,
        {
            "run_id": run.id,
            "item_id": [each.item_id for each in unusable],
            "error_class": [type(each.error).__name__ for each in unusable],
            "error": [str(each.error) or type(each.error).__name__ for each in unusable],
            "body": [each.body for each in unusable],
            "fingerprint": [hashlib.sha256(b"run\0" + each.body).digest() for each in unusable],
        },
    )


def end_listing(connection: Connection, run: Run) -> Run:
    """Go over to the checks: all pages were read.

    Raises:
        LeaseLost: somebody else works on the run now.
    """
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = {_LONGEST_STATEMENT_MS}")
        ended = connection.execute(_queries.end_listing, {"run_id": run.id, "attempt": run.attempts}).fetchone()
        if ended is None:
            raise _lost(run)
        parameters = {key: ended[key] for key in ("seen", "suspects", "suspected_of", "listed_until", "listed_to_id")}
        return run_from_row(only_row(connection.execute(_queries.note_listing, {"run_id": run.id, **parameters})))


def oddity_before(connection: Connection, run: Run) -> Oddity:
    """Return what the full run before this one made of Zoho's list."""
    row = connection.execute(_queries.oddity_before, {"run_id": run.id}).fetchone()
    return Oddity(**row) if row else Oddity(is_odd=False, missed=0)


def next_checks(
    connection: Connection, run: Run, *, is_suspect: bool, most: int, besides: Sequence[str] = ()
) -> list[Check]:
    """Return items to ask Zoho for."""
    parameters = {"run_id": run.id, "is_suspect": is_suspect, "most": most, "besides": list(besides)}
    return [Check(**row) for row in connection.execute(_queries.next_checks, parameters)]


def sample_suspects(connection: Connection, run: Run, *, most: int) -> list[Check]:
    """Return some suspects, spread over all of them."""
    return [Check(**row) for row in connection.execute(_queries.sample_suspects, {"run_id": run.id, "most": most})]


def clear_checks(connection: Connection, run: Run, item_ids: Iterable[str]) -> None:
    """Note that these items are in doubt no longer."""
    connection.execute(_queries.clear_checks, {"run_id": run.id, "item_ids": list(item_ids)})


def finish(
    connection: Connection,
    run: Run,
    state: RunState,
    *,
    error: Exception | str | None = None,
    watermark: datetime | None = None,
    webhooks: WebhookState | None = None,
    certificate: Certificate | None = None,
) -> Run:
    """End a run.

    Raises:
        LeaseLost: somebody else works on the run now.
    """
    row = connection.execute(
        _queries.finish_run,
        {
            "run_id": run.id,
            "attempt": run.attempts,
            "state": state,
            "error_class": type(error).__name__ if isinstance(error, Exception) else None,
            "error": error and (redaction.redact(str(error)) or type(error).__name__),
            "watermark": watermark,
            "webhooks": webhooks,
            "certified_at": certificate and certificate.certified_at,
            "certified_items": certificate and certificate.items,
            "certified_hash": certificate and certificate.hash,
            "certified_snapshot": certificate and certificate.snapshot,
            "certified_fields": certificate and certificate.fields_version,
        },
    ).fetchone()
    if row is None:
        raise _lost(run)
    return run_from_row(row)


def confirm_deletes(connection: Connection, run_id: int, operator: str) -> Run | None:
    """Let a held run go on; None: it is not held.

    Raises:
        psycopg.errors.UniqueViolation: another full run is under way.
    """
    return _run(connection.execute(_queries.confirm_deletes, {"run_id": run_id, "operator": operator}).fetchone())


def discard_deletes(connection: Connection, run_id: int, operator: str) -> Run | None:
    """End a held run without its deletions; None: it is not held."""
    return _run(connection.execute(_queries.discard_deletes, {"run_id": run_id, "operator": operator}).fetchone())


def take_due(connection: Connection, *, grace: timedelta, patience: timedelta) -> list[int]:
    """Mark as handed over, and return, the runs that nobody has worked on for `grace`."""
    rows = connection.execute(_queries.take_due_runs, {"grace": grace, "patience": patience})
    return [row["id"] for row in rows]


def give_back(connection: Connection, run_ids: Sequence[int]) -> None:
    """Undo `take_due`."""
    connection.execute(_queries.give_back_runs, {"run_ids": list(run_ids)})


def _lost(run: Run) -> LeaseLost:
    return LeaseLost(f"run {run.id} is worked on by another worker")


_FIELDS = tuple(field.name for field in fields(Run))


def run_from_row(row: Row) -> Run:
    """Return the run that a row holds."""
    return Run(**{name: row[name] for name in _FIELDS})


def _run(row: Row | None) -> Run | None:
    return None if row is None else run_from_row(row)
