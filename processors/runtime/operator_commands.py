"""Commands for the operator: each calls one action or one read, and says what came of it, for people or in JSON."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from processors.messaging.broker import broker_for
from processors.messaging.messages import Publisher
from processors.runtime.output import (
    LOOK_SECONDS,
    WORKERS_FIRST_SECONDS,
    Refused,
    ago,
    changes_line,
    columns,
    console,
    counted,
    echo_json,
    opened,
    plain_fields,
    requester,
    say,
    short,
    span,
)
from processors.runtime.processes import build_reconciler, repeating
from processors.settings import Settings
from processors.store import runs, timetable
from processors.store.database import Pool
from processors.store.products import NOT_DRIFT, ItemChange
from processors.store.runs import Run, RunKind
from processors.workflows import browsing, connection, insights, operations
from processors.workflows.drift import IN_WORDS
from processors.workflows.insights import Overview, RunReport
from processors.workflows.operations import FetchedItem, StartedRun, Verification
from processors.workflows.paging import PER_PAGE
from processors.zoho import limiter
from processors.zoho.client import ZohoClient

MOST_REPAIRS = 200

_WEBHOOKS = {
    "delivering": "delivering",
    "quiet": "quiet: there was nothing to deliver",
    "dead": "dead: nothing came, though there was something to deliver",
}
# A run goes on by itself after these are mended; nobody should wait for that in a terminal.
_NEEDS_A_PERSON = frozenset({"NotConnected", "NotAuthorised", "ZohoAway"})
_STATE_COLOURS = {"complete": "green", "running": "cyan", "partial": "yellow", "held": "magenta", "failed": "red"}


def reconcile(settings: Settings, *, kind: RunKind, wait: bool, as_json: bool) -> None:
    """Start or take up a run; with `wait`, exit with 0 only when it is complete."""
    publisher = Publisher(broker_for(settings))
    with opened(settings) as pool:
        _require_organisation(pool, settings)
        budget = settings.zoho_requests_per_day
        started = operations.start_run(pool, publisher, kind, requester(), budget=budget)
        if not wait:
            _say_start(started, as_json=as_json)
            return
        with _helping(pool, settings, started.run.id):
            show = _show_json if as_json else _show_bar if sys.stdout.isatty() else _show_lines
            run = show(partial(_find, pool, started.run.id), started, settings)
        with pool.connection() as connection:
            report = insights.run_report(connection, run.id, most=0)
        assert report is not None, "the run was just read"
        if as_json:
            echo_json(_report(report))
        else:
            _print_run(console(), report)
        if run.state != "complete":
            sys.exit(1)


def _require_organisation(pool: Pool, settings: Settings) -> None:
    with pool.connection() as connected:
        connection.require_organisation(connected, settings)


def _say_start(started: StartedRun, *, as_json: bool) -> None:
    if as_json:
        echo_json({"run_id": started.run.id, "is_new": started.is_new, "estimate": started.estimate})
    elif started.is_new:
        say(f"Run {started.run.id} ({started.run.kind}) is queued: {started.estimate}.")
    else:
        say(f"Run {started.run.id} ({started.run.kind}) is under way already; no second one was started.")


@contextlib.contextmanager
def _helping(pool: Pool, settings: Settings, run_id: int) -> Iterator[None]:
    """Work on a run for as long as the block lasts, whenever no worker does."""
    workers_first_until = time.monotonic() + WORKERS_FIRST_SECONDS
    is_over = threading.Event()
    with ZohoClient(pool, settings) as zoho:
        name = timetable.process_name("cli")
        reconciler = build_reconciler(pool, zoho, settings, name, is_stopping=is_over.is_set)

        def help_out() -> None:
            if time.monotonic() > workers_first_until:
                reconciler.work(run_id)

        with repeating([help_out], LOOK_SECONDS):
            try:
                yield
            finally:
                is_over.set()


def _find(pool: Pool, run_id: int) -> Run:
    with pool.connection() as connection:
        run = runs.find(connection, run_id)
    assert run is not None, "runs are not deleted"
    return run


def _watch(find: Callable[[], Run], *, all_looks: bool = False) -> Iterator[Run]:
    """Yield the run each time that it has changed, or at each look, until it has ended or waits for a person."""
    last = None
    while True:
        run = find()
        seen = (run.state, run.phase, run.pages, run.error, run.api_calls)
        if all_looks or seen != last:
            yield run
        if run.state != "running" or run.error_class in _NEEDS_A_PERSON:
            return
        last = seen
        time.sleep(LOOK_SECONDS)


def _show_json(find: Callable[[], Run], started: StartedRun, settings: Settings) -> Run:
    _say_start(started, as_json=True)
    del settings
    for run in _watch(find):
        if run.state == "running":
            echo_json({"run_id": run.id, "phase": run.phase, "pages": run.pages, "waits_for": run.error})
    return find()


def _show_lines(find: Callable[[], Run], started: StartedRun, settings: Settings) -> Run:
    _say_start(started, as_json=False)
    for run in _watch(find):
        if run.state == "running":
            say(_progress_line(run, settings))
    return find()


def _progress_line(run: Run, settings: Settings) -> str:
    if run.error:
        waits = max(run.claimable_at - datetime.now(UTC), timedelta())
        return f"waits {span(waits)}: {run.error}"
    if run.phase == "checking":
        return f"{counted(run.pages, 'page')} read; asking Zoho for items in doubt ({run.suspects:,} on no page)"
    pages, left = _expected_pages(run), _seconds_left(run, settings)
    of = f" of about {pages:,}" if pages else ""
    return f"page {run.pages:,}{of}, {run.read_to:,} items" + (
        f", about {span(timedelta(seconds=left))} left" if left else ""
    )


def _expected_pages(run: Run) -> int:
    return -(-run.expected_items // PER_PAGE)


def _seconds_left(run: Run, settings: Settings) -> float:
    """Return what the rest will take: at the speed so far, but no faster than the quota lets it."""
    left = max(0, _expected_pages(run) - run.pages)
    if not run.pages or not left:
        return 0
    by_quota = left * 60 / limiter.for_sweeps(settings.zoho_requests_per_minute)
    burst = limiter.for_sweeps(settings.zoho_requests_per_minute) >= _expected_pages(run)
    by_speed = left * (datetime.now(UTC) - run.started_at).total_seconds() / run.pages
    return by_speed if burst else max(by_quota, by_speed)


class _Rate(ProgressColumn):
    """Pages a second, as they came."""

    def render(self, task: Task) -> Text:
        """Say it, once there is something to say."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="dim", no_wrap=True)


def _show_bar(find: Callable[[], Run], started: StartedRun, settings: Settings) -> Run:
    _say_start(started, as_json=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        _Rate(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(started.run.kind, total=_expected_pages(started.run) or None, told="")
        for run in _watch(find, all_looks=True):
            total = max(_expected_pages(run), run.pages) or None
            told = "" if run.state != "running" else escape(_progress_line(run, settings))
            progress.update(task, completed=run.pages, total=total, told=told)
    return find()


def fetch(settings: Settings, item_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Ask Zoho for items now; exit code 1 if one could not be had."""
    with opened(settings) as pool, ZohoClient(pool, settings) as zoho:
        _require_organisation(pool, settings)
        fetched = operations.fetch_items(pool, zoho, item_ids, requester())
    for item in fetched:
        if as_json:
            echo_json(item)
        else:
            say(f"{item.item_id}  {_told_of(item)}")
    if any(item.error for item in fetched):
        sys.exit(1)


def _told_of(item: FetchedItem) -> str:
    if item.error:
        return f"not fetched: {item.error}"
    told = changes_line(item.changes) if item.changes else ""
    return f"{item.outcome}{f'  {told}' if told else ''}"


def list_runs(settings: Settings, *, most: int, as_json: bool) -> None:
    """List the newest runs."""
    with opened(settings) as pool, pool.connection() as connection:
        found = browsing.find_runs(connection, most=most)
    if as_json:
        for run in found:
            echo_json(run)
        return
    if not found:
        say("No run yet. The clock starts the first one as soon as Zoho is connected; or: reconcile")
        return
    rows: list[tuple[str | Text, ...]] = [
        (
            str(run.id),
            run.kind,
            Text(run.state, _STATE_COLOURS[run.state]),
            f"{run.started_at:%m-%d %H:%M}",
            span(run.finished_at - run.started_at) if run.finished_at else "",
            *(f"{count:,}" for count in (run.api_calls, run.seen, run.created, run.updated, run.deleted, run.failed)),
        )
        for run in found
    ]
    names = ("run", "kind", "state", "started", "took", "calls", "seen", "new", "upd.", "gone", "fail")
    console().print(columns(rows, names, left=("kind", "state", "started")))


def show_run(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """Show one run with its drift report."""
    with opened(settings) as pool, pool.connection() as connection:
        report = insights.run_report(connection, run_id, most=MOST_REPAIRS)
    if report is None:
        message = f"there is no run {run_id}"
        raise Refused(message)
    if as_json:
        echo_json(_report(report))
    else:
        _print_run(console(), report)


def confirm_deletes(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """Let a held run go on."""
    publisher = Publisher(broker_for(settings))
    with opened(settings) as pool:
        run = operations.confirm_deletes(pool, publisher, run_id, requester())
    if as_json:
        echo_json(run)
    else:
        say(
            f"Run {run.id} goes on: Zoho is asked for each of {run.suspects:,} items (as many calls, if all are gone), "
            "and those that it does not have are tombstoned."
        )


def discard_deletes(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """End a held run without its deletions."""
    with opened(settings) as pool:
        run = operations.discard_deletes(pool, run_id, requester())
    if as_json:
        echo_json(run)
    else:
        say(f"Run {run.id} has ended as partial; its {run.suspects:,} suspects stay as they are.")


def verify_run(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """Compute a run's certificate again; exit code 1 if it does not hold."""
    with opened(settings) as pool:
        verification = operations.verify_run(pool, run_id)
    if as_json:
        echo_json({"holds": verification.holds, **plain_fields(verification)})
    else:
        say(_verdict(run_id, verification))
    if not verification.holds:
        sys.exit(1)


def _verdict(run_id: int, verification: Verification) -> str:
    certificate, now = verification.certificate, verification.recomputed
    lines = [
        f"certificate of run {run_id}, {certificate.certified_at:%Y-%m-%d %H:%M:%S} UTC",
        f"  certified    {certificate.items:,} items, {certificate.hash}",
        f"  recomputed   {now.items:,} items, {now.hash}",
        f"  since then   {counted(now.changed_since, 'item')} changed, and taken back by history",
    ]
    if verification.holds:
        lines.append("It holds: rows and history lead back to exactly what was certified.")
    else:
        lines.append("It does not hold: rows were altered, removed or added by something other than the mirror.")
        if now.repaired_since:
            lines.append(
                f"Of {counted(now.repaired_since, 'item')} it is known: altered here, and repaired by a run since "
                "(cause altered_here in runs show); what the rows said before is on no record."
            )
    if now.altered:
        shown = ", ".join(now.altered_item_ids)
        lines.append(
            f"Altered and not confirmed since: {now.altered:,} rows ({shown}); the next full run repairs them."
        )
    return "\n".join(lines)


def status(settings: Settings, *, as_json: bool) -> None:
    """Say how the mirror is; exit code 1 if something needs a person."""
    with opened(settings) as pool, pool.connection() as connection:
        overview = insights.overview(connection)
    problems = insights.problems(overview)
    if as_json:
        echo_json({"problems": problems, "overview": overview})
    else:
        _print_status(console(), overview, settings)
        for problem in problems:
            say(f"! {problem.what}\n  -> {problem.do}" + (f": {problem.command}" if problem.command else ""))
        if not problems:
            say("Nothing needs a person.")
    if problems:
        sys.exit(1)


def _print_status(out: Console, overview: Overview, settings: Settings) -> None:
    seen, usage = overview.reconciliation, overview.api_usage
    products = overview.products
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    table.add_row(
        "products", f"{products['active']:,} active, {products['inactive']:,} inactive, {products['deleted']:,} deleted"
    )
    told = f"{overview.unfinished:,} unfinished, {overview.dead:,} dead"
    table.add_row("events", told + (f", {overview.discarded:,} discarded" if overview.discarded else ""))
    table.add_row("last delivery", ago(seen.last_delivery_at, overview.now))
    for kind in ("full", "recent"):
        run = seen.last_complete.get(kind)
        told = f"{ago(run.finished_at, overview.now)} (run {run.id})" if run else "never"
        running = next((each for each in seen.newest if each.kind == kind and each.state == "running"), None)
        if running:
            told += f"; run {running.id} is under way" + (f" and waits: {running.error}" if running.error else "")
        table.add_row(f"last {kind} run", told)
    drift = ", ".join(f"{n:,} {IN_WORDS[cause]}" for cause, n in seen.drift.items())
    if "full" in seen.last_complete:
        table.add_row("drift found by it", drift or "none")
    table.add_row(
        "in the mirror up to", f"{seen.watermark:%Y-%m-%d %H:%M:%S} UTC" if seen.watermark else "not known yet"
    )
    for lane in overview.freshness:
        if lane.changes and lane.p50 is not None and lane.p95 is not None and lane.p99 is not None:
            spans = " / ".join(span(length) for length in (lane.p50, lane.p95, lane.p99))
            table.add_row(f"fresh by {lane.lane}", f"{spans} (p50/p95/p99 of {lane.changes:,} changes)")
    table.add_row(
        "calls to Zoho",
        f"{usage.day:,} of {settings.zoho_requests_per_day:,} in a day, "
        f"{usage.minute:,} of {settings.zoho_requests_per_minute:,} in a minute"
        + (f"; none for {span(usage.closed_for)}: {usage.closed_because}" if usage.closed_because else ""),
    )
    table.add_row(
        "processes", ", ".join(f"{alive.count} {role}" for role, alive in sorted(overview.processes.items())) or "none"
    )
    out.print(table)


def changes(settings: Settings, item_id: str, *, most: int, as_json: bool) -> None:
    """List an item's changes, the newest first."""
    with opened(settings) as pool, pool.connection() as connection:
        found = browsing.find_changes(connection, item_id=item_id, most=most)
    if as_json:
        for change in found:
            echo_json(change)
    elif not found:
        say(f"Nothing was ever changed for item {item_id}: it is not in the mirror, or its id is another.")
    else:
        for change in found:
            say(f"{change.changed_at:%Y-%m-%d %H:%M:%S}  {_origin(change):<28}  {changes_line(change.changes)}")


def _origin(change: ItemChange) -> str:
    if change.event_id:
        return f"{change.source}, event {change.event_id}"
    return f"{change.source}, run {change.run_id}" if change.run_id else change.source


def _print_run(out: Console, report: RunReport) -> None:
    run = report.run
    title = Text(f"Run {run.id}, {run.kind}, ")
    title.append(run.state, _STATE_COLOURS[run.state])
    out.print(title)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    took = f", took {span(run.finished_at - run.started_at)}" if run.finished_at else ""
    table.add_row("started", f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC by {run.trigger}{took}")
    read = f"{counted(run.seen, 'item')} on {counted(run.pages, 'page')}, with {counted(run.api_calls, 'call')} to Zoho"
    table.add_row("read", read)
    table.add_row(
        "items",
        f"{run.created:,} created, {run.updated:,} updated, {run.unchanged:,} unchanged, {run.deleted:,} deleted, "
        f"{run.failed:,} failed",
    )
    if run.suspects:
        missed = f", {run.missed:,} of them exist" if run.missed else ""
        table.add_row("not on any page", f"{run.suspects:,} of {run.suspected_of:,}{missed}")
    if run.error:
        table.add_row("waits" if run.state == "running" else "because", run.error)
    if run.state == "held":
        table.add_row("decide", f"runs confirm-deletes {run.id}, or runs discard-deletes {run.id}")
    if run.webhooks:
        told = {
            "delivering": "delivering",
            "quiet": "quiet: nothing to deliver",
            "dead": "dead: nothing came, though it should have",
        }
        table.add_row("webhooks", told[run.webhooks])
    if run.certificate:
        window = f"between {run.started_at:%H:%M:%S} and {run.certificate.certified_at:%H:%M:%S}"
        table.add_row("certificate", f"{run.certificate.items:,} items, {run.certificate.hash}, read {window}")
    out.print(table)
    _print_drift(out, report)


def _print_drift(out: Console, report: RunReport) -> None:
    excused = [count for count in report.causes if count.cause in NOT_DRIFT]
    if report.drift:
        out.print(f"Drift: {report.drift:,} changes that no webhook had made")
    elif report.run.state == "complete":
        out.print("No drift: no webhook was missed.")
    for count in report.causes:
        if count.cause not in NOT_DRIFT:
            since = f", one of them wrong since {count.wrong_since:%Y-%m-%d %H:%M} UTC" if count.wrong_since else ""
            out.print(f"  {count.count:>7,}  {IN_WORDS[count.cause]}{since}", highlight=False)
    for count in excused:
        out.print(f"  {count.count:>7,}  {IN_WORDS[count.cause]} (no drift)", style="dim", highlight=False)
    if not report.repairs:
        if report.drift:
            out.print(f"Each of them: runs show {report.run.id}")
        return
    for repair in report.repairs:
        age = span(repair.age) if repair.age is not None else "?"
        at_most = "at most " if repair.age is not None and repair.zoho_modified_at is None else ""
        out.print(f"{repair.item_id}  {repair.cause}  wrong for {at_most}{age}", highlight=False, markup=False)
        told = f"    {short(repair.name or '')}: {changes_line(repair.changes)}"
        out.print(told, style="dim", highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    hidden = sum(count.count for count in report.causes if count.cause != "first_load") - len(report.repairs)
    if hidden > 0:
        out.print(f"… and {hidden:,} more, in the table product_changes", style="dim")


def _report(report: RunReport) -> dict[str, object]:
    return {**plain_fields(report.run), "drift": report.drift, "causes": report.causes, "repairs": report.repairs}
