"""Every read that an operator or a monitor sees. Metrics, console and command line stand on the same functions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from processors.store import api_calls, drift, runs, timetable
from processors.store.api_calls import Usage
from processors.store.database import Connection, only_row
from processors.store.drift import DriftCount, Repair
from processors.store.products import NOT_DRIFT, Cause, Changes, Source
from processors.store.queries import Queries
from processors.store.runs import Run, RunKind

LAG_WINDOW = timedelta(minutes=15)
LAG_QUANTILES = (0.5, 0.95, 0.99)

_queries = Queries("insights.sql")


@dataclass(frozen=True, slots=True)
class EventCount:
    """How many events are in one state, with one outcome where there is one."""

    state: str
    outcome: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Lag:
    """From receipt to applied, over `LAG_WINDOW`."""

    count: int
    quantiles: tuple[float, ...]
    """Seconds, for each of `LAG_QUANTILES`; empty where nothing was finished in the window."""


@dataclass(frozen=True, slots=True)
class RejectionCount:
    """How many deliveries one route refused for one reason, ever."""

    route: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """The state of the connection to Zoho; no secrets."""

    has_refresh_token: bool
    access_token_expires_at: datetime | None
    refreshed_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class LaneFreshness:
    """One row of the view `freshness`: from the modification in Zoho to its being visible here, over the last day."""

    lane: str
    last_success_at: datetime | None
    changes: int
    p50: timedelta | None
    p95: timedelta | None
    p99: timedelta | None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What the runs say of the mirror."""

    last_complete: dict[RunKind, Run]
    newest: list[Run]
    """The newest run of each kind, whatever became of it."""
    held: Run | None
    watermark: datetime | None
    """Every modification in Zoho up to here is known to be in the mirror."""
    drift: dict[Cause, int]
    """What the newest complete full run had to repair, without what is no drift."""
    webhooks_are_dead: bool
    """Changes were missed while nothing was delivered, and nothing has been since."""
    last_delivery_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole system, as Postgres knows it."""

    products: dict[str, int]
    events: list[EventCount]
    discarded: int
    """Dead events that an operator took for settled; they are counted in `events` all the same."""
    oldest_unfinished_age: timedelta | None
    lag: Lag
    api_usage: Usage
    rejections: list[RejectionCount]
    connection: ConnectionStatus
    processes: dict[str, int]
    freshness: list[LaneFreshness]
    reconciliation: Reconciliation
    now: datetime


def overview(connection: Connection) -> Overview:
    """Read everything in one consistent snapshot of the database."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        lag = only_row(connection.execute(_queries.lag, {"window": LAG_WINDOW}))
        return Overview(
            products=only_row(connection.execute(_queries.products)),
            events=[EventCount(**row) for row in connection.execute(_queries.events)],
            discarded=only_row(connection.execute(_queries.discarded))["count"],
            oldest_unfinished_age=only_row(connection.execute(_queries.oldest_unfinished))["age"],
            lag=Lag(count=lag["count"], quantiles=tuple(lag["quantiles"] or ())),
            api_usage=api_calls.usage(connection),
            rejections=[RejectionCount(**row) for row in connection.execute(_queries.rejections)],
            connection=ConnectionStatus(**only_row(connection.execute(_queries.connection))),
            processes=timetable.alive(connection),
            freshness=[LaneFreshness(**row) for row in connection.execute(_queries.freshness)],
            reconciliation=_reconciliation(connection),
            now=only_row(connection.execute(_queries.now))["now"],
        )


def _reconciliation(connection: Connection) -> Reconciliation:
    last_complete = runs.last_complete(connection)
    newest = runs.newest(connection)
    full = last_complete.get("full")
    marks = [run.watermark for run in last_complete.values() if run.watermark]
    last_delivery_at: datetime | None = only_row(connection.execute(_queries.last_delivery))["received_at"]
    undelivered = runs.newest_without_deliveries(connection)
    return Reconciliation(
        last_complete=last_complete,
        newest=newest,
        held=runs.newest_held(connection),
        watermark=max(marks, default=None),
        drift=_drift(drift.by_cause(connection, full.id)) if full else {},
        webhooks_are_dead=undelivered is not None
        and (last_delivery_at is None or last_delivery_at < undelivered.started_at),
        last_delivery_at=last_delivery_at,
    )


def _drift(counts: list[DriftCount]) -> dict[Cause, int]:
    return {count.cause: count.count for count in counts if count.cause not in NOT_DRIFT}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs a person."""

    what: str
    do: str


# Twice a day's distance: one missed night is an hour's matter, two are a fault.
_FULL_RUN_OVERDUE = timedelta(hours=49)
_FIRST_FULL_RUN_OVERDUE = timedelta(hours=6)
_EVENTS_OVERDUE = timedelta(minutes=10)


def problems(overview: Overview) -> list[Problem]:
    """Return what needs a person, the gravest first; nothing, where the system helps itself."""
    found: list[Problem] = []
    connection, seen = overview.connection, overview.reconciliation
    if not connection.has_refresh_token:
        found.append(
            Problem("Zoho is not connected", "set ZOHO_REFRESH_TOKEN (docs/quick-start.md) and start a worker")
        )
    elif connection.last_error:
        found.append(
            Problem(f"Zoho refuses the connection: {connection.last_error}", "docs/operations.md, Zoho refuses")
        )
    if not overview.processes.get("worker"):
        found.append(Problem("no worker is alive", "start one: python -m processors worker"))
    if seen.held:
        run = seen.held
        found.append(Problem(f"run {run.id} is held: {run.error}", f"runs show {run.id}"))
    if seen.webhooks_are_dead:
        found.append(
            Problem(
                "webhooks are dead: changes were missed, and nothing was delivered",
                "in Zoho, look at the workflow rules, the webhook's address and secret, and the daily limit",
            )
        )
    dead = sum(count.count for count in overview.events if count.state == "dead") - overview.discarded
    if dead:
        found.append(Problem(f"{dead:,} dead events", "events causes; then replay --state dead, or discard"))
    if overview.oldest_unfinished_age and overview.oldest_unfinished_age > _EVENTS_OVERDUE:
        waiting = sum(e.count for e in overview.events if e.state in ("recorded", "queued", "processing"))
        found.append(
            Problem(f"{waiting:,} events wait, the oldest for more than 10 minutes", "see error of the events")
        )
    found += [
        Problem(f"run {run.id} ({run.kind}) waits: {run.error}", "docs/operations.md, Parts that are away")
        for run in seen.newest
        if run.state == "running" and run.error_class in ("NotAuthorised", "NotConnected")
    ]
    full = seen.last_complete.get("full")
    if full is None and any(overview.now - run.started_at > _FIRST_FULL_RUN_OVERDUE for run in seen.newest):
        found.append(Problem("no full run was ever complete", "runs"))
    if full and full.finished_at and overview.now - full.finished_at > _FULL_RUN_OVERDUE:
        since = f"{full.finished_at:%Y-%m-%d %H:%M}"
        found.append(Problem(f"no full run was complete since {since} UTC", "is a clock alive? what do the runs say?"))
    found += [
        Problem(f"run {run.id} ({run.kind}) ended {run.state}: {run.error}", f"runs show {run.id}")
        for run in seen.newest
        if run.state in ("partial", "failed") and run.error_class
    ]
    return found


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run, and what it had to repair."""

    run: Run
    causes: list[DriftCount]
    repairs: list[Repair]
    """Drift first; not what was loaded for the first time."""

    @property
    def drift(self) -> int:
        """How many changes a webhook should have made."""
        return sum(count.count for count in self.causes if count.cause not in NOT_DRIFT)


def run_report(connection: Connection, run_id: int, *, most: int) -> RunReport | None:
    """Return a run's report with at most so many of its repairs; None: there is no such run."""
    run = runs.find(connection, run_id)
    if run is None:
        return None
    return RunReport(run, drift.by_cause(connection, run_id), drift.repairs(connection, run_id, most=most))


@dataclass(frozen=True, slots=True)
class DeadCause:
    """Dead events with one root cause; discarded ones are not among them."""

    error_class: str | None
    cause: str
    """The error's text, with numbers and quoted parts left out."""
    count: int
    first_received_at: datetime
    last_received_at: datetime
    example_id: int
    error_at: str | None


def dead_by_cause(connection: Connection) -> list[DeadCause]:
    """Return dead events by their cause, the most frequent first."""
    return [DeadCause(**row) for row in connection.execute(_queries.dead_by_cause)]


@dataclass(frozen=True, slots=True)
class EventSummary:
    """One event, without its body."""

    id: int
    received_at: datetime
    kind: str
    item_id: str | None
    state: str
    outcome: str | None
    attempts: int
    error_class: str | None
    error: str | None
    processed_at: datetime | None
    run_id: int | None
    replay_id: int | None
    discarded_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events are wanted; what is None does not matter. Dead ones are those that nobody discarded."""

    state: str | None = None
    outcome: str | None = None
    kind: str | None = None
    item_id: str | None = None
    run_id: int | None = None
    error: str | None = None
    error_class: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def find_events(connection: Connection, query: EventQuery, *, most: int) -> list[EventSummary]:
    """Return the newest events that match, the newest first."""
    rows = connection.execute(_queries.find_events, {**asdict(query), "most": most})
    return [EventSummary(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at an event, or repeated waits for one thing."""

    attempt: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    error_class: str | None
    error: str | None
    error_at: str | None
    is_wait: bool = False
    times: int = 1


@dataclass(frozen=True, slots=True)
class EventDetail:
    """All that is known of one event."""

    id: int
    received_at: datetime
    kind: str
    item_id: str | None
    state: str
    outcome: str | None
    attempts: list[Attempt]
    failures: int
    error_class: str | None
    error: str | None
    error_at: str | None
    warnings: list[str]
    body: str
    content_type: str
    claimable_at: datetime
    processed_at: datetime | None
    run_id: int | None
    replay_id: int | None
    discarded_at: datetime | None
    discarded_by: str | None
    discard_reason: str | None


def event_detail(connection: Connection, event_id: int) -> EventDetail | None:
    """Return one event with its attempts; None: there is none of that id."""
    row = connection.execute(_queries.find_event, {"event_id": event_id}).fetchone()
    if row is None:
        return None
    attempts = [Attempt(**each) for each in connection.execute(_queries.attempts_of, {"event_id": event_id})]
    # The attempt that finished the event, or is at work on it, is in the event's own row.
    if row["attempts"] and row["attempts"] not in {each.attempt for each in attempts}:
        last = Attempt(
            attempt=row["attempts"],
            worker=row["claimed_by"],
            started_at=row["claimed_at"],
            ended_at=row["processed_at"],
            outcome=row["outcome"],
            error_class=None,
            error=None,
            error_at=None,
        )
        attempts.append(last)
    del row["claimed_by"], row["claimed_at"]
    return EventDetail(**{**row, "attempts": attempts, "body": bytes(row["body"]).decode("utf-8", "replace")})


def latest_runs(connection: Connection, *, most: int) -> list[Run]:
    """Return the newest runs, the newest first."""
    return runs.latest(connection, most=most)


@dataclass(frozen=True, slots=True)
class ItemChange:
    """One change of one item."""

    id: int
    changed_at: datetime
    source: Source
    event_id: int | None
    run_id: int | None
    cause: Cause | None
    zoho_modified_at: datetime | None
    changes: Changes


def changes_of(connection: Connection, item_id: str, *, most: int) -> list[ItemChange]:
    """Return an item's changes, the newest first."""
    rows = connection.execute(_queries.changes_of, {"item_id": item_id, "most": most})
    return [ItemChange(**row) for row in rows]


def schema_is_there(connection: Connection) -> bool:
    """Tell whether `migrate` ran on this database."""
    return bool(only_row(connection.execute(_queries.schema_is_there))["is_there"])


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """One row of `product_changes`, with the name the product has now and what its event came to."""

    id: int
    item_id: str
    changed_at: datetime
    source: Source
    changes: Changes
    name: str | None
    outcome: str | None
    lag: timedelta | None
    """From the receipt of its delivery to this change."""


def changes_after(connection: Connection, change_id: int, *, most: int) -> list[AppliedChange]:
    """Return the changes applied after `change_id`, the oldest first."""
    rows = connection.execute(_queries.changes_after, {"id": change_id, "most": most})
    return [AppliedChange(**row) for row in rows]
