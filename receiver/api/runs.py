"""Reconciliation runs: started, watched, decided on."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import Field

from processors.store import runs
from processors.store.products import Cause
from processors.store.runs import Phase, RunKind, RunState, Trigger, WebhookState
from processors.workflows import browsing, insights, operations
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
    Limit,
    Page,
    page_of,
)
from receiver.api.shared import Base, By, Mirror

_MOST_REPAIRS = 200

PathId = Annotated[Id, Path()]


class RunsAsked(Asked):
    """Which runs; what is left out does not matter."""

    kind: RunKind | None = None
    state: RunState | None = None
    limit: Limit = DEFAULT_LIMIT
    cursor: IdCursor | None = None


class RunAsked(Asked):
    """Which kind of run to start."""

    kind: RunKind = Field(description="`full` reads Zoho's whole list; `recent` what was modified lately.")


class Certificate(Answer):
    """What the live products were when a full run was complete."""

    certified_at: At
    items: int
    hash: str


class Run(Answer):
    """One comparison with Zoho."""

    id: IdText
    kind: RunKind
    trigger: Trigger
    state: RunState
    phase: Phase
    started_at: At
    finished_at: At | None
    expected_items: int
    pages: int
    api_calls: int
    seen: int
    created: int
    updated: int
    unchanged: int
    failed: int
    deleted: int
    missed: int
    suspects: int = Field(description="Products that no page showed: of a held run, what would be tombstoned.")
    deletes_confirmed_by: str | None
    error_class: str | None
    error: str | None
    watermark: At | None
    webhooks: WebhookState | None
    certificate: Certificate | None


class Estimate(Answer):
    """What a run will cost, as far as can be told before it."""

    calls: int | None = Field(description="null: nothing is known of the catalogue's size yet.")
    budget: int = Field(description="Calls of a whole day.")
    used: int = Field(description="Of it, in the last 24 hours.")


class StartedRun(Answer):
    """A run that was asked for."""

    id: IdText
    is_new: bool = Field(description="false: one of its kind is under way, and is the one that is meant.")
    estimate: Estimate
    run: Run


class CauseCount(Answer):
    """How many changes a run made for one cause."""

    cause: Cause
    count: int
    wrong_since: At | None


class Repair(Answer):
    """One change that a run made."""

    id: IdText
    item_id: str
    name: str | None
    changed_at: At
    changes: ChangedColumns
    cause: Cause
    wrong_since: At | None
    zoho_modified_at: At | None


class RunDetail(Run):
    """One run, and its drift report."""

    drift: int = Field(description="Changes that a webhook should have made.")
    causes: list[CauseCount]
    repairs: list[Repair] = Field(description=f"The first {_MOST_REPAIRS}, drift first.")


def start(mirror: Mirror, by: By, base: Base, asked: RunAsked, response: Response) -> StartedRun:
    """Start a run, or take up the one of its kind that is under way."""
    mirror.require_organisation()
    budget = mirror.settings.zoho_requests_per_day
    started = operations.start_run(mirror.pool, mirror.publisher, asked.kind, by, budget=budget)
    response.headers["Location"] = f"{base}/reconciliation-runs/{started.run.id}"
    return StartedRun(
        id=started.run.id,
        is_new=started.is_new,
        estimate=Estimate.model_validate(started.estimate),
        run=Run.model_validate(started.run),
    )


def find(mirror: Mirror, asked: Annotated[RunsAsked, Query()]) -> Page[Run]:
    """List runs, the newest first."""
    with mirror.reading() as connection:
        found = browsing.find_runs(
            connection, kind=asked.kind, state=asked.state, before=asked.cursor, most=asked.limit + 1
        )
    return page_of(found, asked.limit, Run.model_validate, lambda run: f"before-{run.id}")


def show(mirror: Mirror, run_id: PathId) -> RunDetail:
    """Show a run with its drift report."""
    with mirror.reading() as connection:
        report = insights.run_report(connection, run_id, most=_MOST_REPAIRS)
    if report is None:
        raise _no_run(run_id)
    return RunDetail(
        **dict(Run.model_validate(report.run)),
        drift=report.drift,
        causes=[CauseCount.model_validate(each) for each in report.causes],
        repairs=[Repair.model_validate(each) for each in report.repairs],
    )


def confirm_deletes(mirror: Mirror, by: By, run_id: PathId) -> Run:
    """Let a held run tombstone what Zoho does not have; each item is still asked for first."""
    _require(mirror, run_id)
    return Run.model_validate(operations.confirm_deletes(mirror.pool, mirror.publisher, run_id, by))


def discard_deletes(mirror: Mirror, by: By, run_id: PathId) -> Run:
    """End a held run: its suspects stay as they are."""
    _require(mirror, run_id)
    return Run.model_validate(operations.discard_deletes(mirror.pool, run_id, by))


def _require(mirror: Mirror, run_id: int) -> None:
    with mirror.reading() as connection:
        if runs.find(connection, run_id) is None:
            raise _no_run(run_id)


def _no_run(run_id: int) -> NotFound:
    return NotFound(f"There is no run {run_id}.")
