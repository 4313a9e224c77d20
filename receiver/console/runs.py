"""Reconciliation runs: started, watched, read, and decided upon where one is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors.store.database import Connection
from processors.store.products import NOT_DRIFT
from processors.store.runs import Run, RunKind, RunState
from processors.workflows import browsing, connection, insights, operations
from processors.workflows.insights import RunReport
from processors.workflows.operations import Estimate
from receiver.console.context import Page, acts, back_to, requester
from receiver.console.lists import Filter, List, column, parse_id

_MOST_REPAIRS: Final = 200


class RunsFilter(Filter):
    """What the list of runs can be asked for."""

    kind: Literal["full", "recent"] | None = None
    state: RunState | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """What the page of one run shows."""

    id: int
    run: Run
    report: RunReport
    not_drift: frozenset[str] = frozenset(NOT_DRIFT)


class Runs(List[RunsFilter]):
    """The list, and the page of one run."""

    key = "runs"
    what = "reconciliation runs"
    menu_label = "Runs"
    display_name = "run"
    icon = "fa fa-arrows-rotate"
    pk_attr = "id"
    filter = RunsFilter
    list_template = "runs.html"
    detail_template = "run.html"
    fields = (
        column("run", "run_id"),
        column("state", "state"),
        column("started", "run_started"),
        column("seen", "run_seen", "Items"),
        column("counts", "run_counts", "Created / updated / deleted"),
        column("drift", "run_drift"),
        column("failed", "run_failed"),
        column("calls", "run_calls", "Calls"),
    )

    async def find(
        self, request: Request, asked: RunsFilter, sorts: Sequence[tuple[str, str]], *, skip: int, most: int
    ) -> Sequence[Run]:
        """Return a page of runs, the newest first, and what new ones would cost."""
        del sorts
        found = await self.console.read(browsing.find_runs, kind=asked.kind, state=asked.state, skip=skip, most=most)
        request.state.shown = {
            "estimates": await self.console.read(self._estimates),
            "drift": await self.console.read(browsing.drift_counts, [run.id for run in found]),
        }
        return found

    async def count_up_to(self, request: Request, asked: RunsFilter, *, at_most: int) -> int:
        """Count runs."""
        del request
        return await self.console.read(browsing.count_runs, kind=asked.kind, state=asked.state, at_most=at_most)

    async def find_by_pk(self, request: Request, pk: Any) -> RunPage | None:  # noqa: ANN401
        """Return a run with what it had to repair."""
        del request
        run_id = parse_id(str(pk))
        if run_id is None:
            return None
        report = await self.console.read(insights.run_report, run_id, most=_MOST_REPAIRS)
        return None if report is None else RunPage(run_id, report.run, report)

    def _estimates(self, connection: Connection) -> dict[RunKind, Estimate]:
        budget = self.console.settings.zoho_requests_per_day
        return {kind: operations.estimate_run(connection, kind, budget=budget) for kind in get_args(RunKind)}


class RunActions(Page):
    """Actions on runs."""

    path = "/runs"
    menu_label = "Runs"

    @route("", methods=["POST"])
    @acts(then="runs/list")
    async def start(self, request: Request) -> Response:
        """Start a run, or take up the one that is under way."""
        kind = (await request.form()).get("kind")
        if kind not in get_args(RunKind):
            raise HTTPException(400, "kind: full or recent")
        await self.console.read(connection.require_connection, self.console.settings)
        started = await self.console.run(
            operations.start_run,
            self.console.pool,
            self.console.publisher,
            "full" if kind == "full" else "recent",
            requester(request),
            budget=self.console.settings.zoho_requests_per_day,
        )
        if started.is_new:
            flash(request, f"Run {started.run.id} ({kind}) is started: {started.estimate}.", "success")
        else:
            flash(request, f"Run {started.run.id} ({kind}) is under way already; no second one was started.", "info")
        return back_to(request, f"runs/detail?pk={started.run.id}")

    @route("/{run_id:int}/confirm-deletes", methods=["POST"])
    @acts(then="runs/detail?pk={run_id}")
    async def confirm_deletes(self, request: Request) -> None:
        """Let a held run go on."""
        run = await self.console.run(
            operations.confirm_deletes,
            self.console.pool,
            self.console.publisher,
            request.path_params["run_id"],
            requester(request),
        )
        flash(request, f"Run {run.id} goes on. Zoho is asked for each of {run.suspects:,} items first.", "success")

    @route("/{run_id:int}/discard-deletes", methods=["POST"])
    @acts(then="runs/detail?pk={run_id}")
    async def discard_deletes(self, request: Request) -> None:
        """End a held run without its deletions."""
        run = await self.console.run(
            operations.discard_deletes, self.console.pool, request.path_params["run_id"], requester(request)
        )
        flash(request, f"Run {run.id} has ended as partial; its {run.suspects:,} suspects stay as they are.", "success")

    @route("/{run_id:int}/verify", methods=["POST"])
    @acts(then="runs/detail?pk={run_id}")
    async def verify(self, request: Request) -> None:
        """Compute a run's certificate again."""
        run_id = request.path_params["run_id"]
        verification = await self.console.run(operations.verify_run, self.console.pool, run_id)
        if verification.holds:
            flash(request, f"The certificate holds: {verification.certificate.items:,} items, as certified.", "success")
        else:
            flash(
                request,
                f"The certificate does not hold: {verification.certificate.items:,} items were certified, and rows and "
                f"history lead back to {verification.recomputed.items:,} or to other contents. Something other than "
                f"the mirror wrote rows; “runs verify {run_id}” in a shell says more.",
                "error",
            )
