"""Every read that an operator or a monitor sees. Metrics, console and command line stand on the same functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from processors import field_table
from processors.store import alerts, api_calls, drift, runs, shapes, timetable
from processors.store.api_calls import Breaker, Usage
from processors.store.database import Connection, only_row
from processors.store.drift import DriftCount, Repair
from processors.store.products import NOT_DRIFT, Cause, Changes, Source
from processors.store.queries import Queries
from processors.store.runs import Run, RunKind
from processors.store.shapes import LostKey
from processors.store.timetable import Alive

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
class RefusedShare:
    """How many of the deliveries to one route in the last 24 hours were refused for one reason."""

    route: str
    reason: str
    count: int
    total: int


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """The state of the connection to Zoho; no secrets."""

    has_refresh_token: bool
    has_organization: bool
    """A connection by a setting is taken to have one in the settings, too."""
    access_token_expires_at: datetime | None
    refreshed_at: datetime | None
    last_error: str | None
    obstacle: str | None
    """The cause for which Zoho is not asked at all, and the words for it; see `processors.zoho.guard`."""
    obstacle_reason: str | None
    refused_seed_reason: str | None
    """Why `ZOHO_REFRESH_TOKEN` was not taken over."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events that have waited for more than a minute for one thing that is not theirs."""

    error_class: str
    count: int
    age: timedelta
    error: str


@dataclass(frozen=True, slots=True)
class HeldLong:
    """Events that one worker has had for more than a minute."""

    worker: str | None
    count: int
    age: timedelta


@dataclass(frozen=True, slots=True)
class Untaken:
    """Events that were due for more than a minute, in which nothing was finished."""

    count: int
    age: timedelta


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
    """Those that are not finished, and the dead: what is processed is only in `Totals`."""
    discarded: int
    """Dead events that an operator took for settled; they are counted in `events` all the same."""
    oldest_unfinished_age: timedelta | None
    api_usage: Usage
    breaker: Breaker | None
    """Why Zoho is not asked, where it is not."""
    connection: ConnectionStatus
    waiting: list[Waiting]
    held_long: list[HeldLong]
    untaken: Untaken | None
    processes: dict[str, Alive]
    """By role."""
    freshness: list[LaneFreshness]
    reconciliation: Reconciliation
    refused: list[RefusedShare]
    """What most deliveries were refused for, where most of them were refused."""
    lost_keys: list[LostKey]
    """Mapped keys that deliveries had, and have no more."""
    alerts_undelivered: tuple[datetime, str] | None
    """Since when people cannot be told, and why."""
    now: datetime

    @property
    def dead(self) -> int:
        """How many events wait for a person."""
        return sum(count.count for count in self.events if count.state == "dead") - self.discarded

    @property
    def unfinished(self) -> int:
        """How many events wait for a worker, or are with one."""
        return sum(count.count for count in self.events if count.state != "dead")


def overview(connection: Connection) -> Overview:
    """Read what an operator looks at, in one consistent snapshot of the database; quick however much there is."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return Overview(
            products=only_row(connection.execute(_queries.products)),
            events=[EventCount(**row) for row in connection.execute(_queries.open_events)],
            discarded=only_row(connection.execute(_queries.discarded))["count"],
            oldest_unfinished_age=only_row(connection.execute(_queries.oldest_unfinished))["age"],
            api_usage=api_calls.usage(connection),
            breaker=api_calls.breaker(connection),
            connection=ConnectionStatus(**only_row(connection.execute(_queries.connection))),
            waiting=[Waiting(**row) for row in connection.execute(_queries.waiting)],
            held_long=[HeldLong(**row) for row in connection.execute(_queries.held_long)],
            untaken=_untaken(connection),
            processes=timetable.alive(connection),
            freshness=[LaneFreshness(**row) for row in connection.execute(_queries.freshness)],
            reconciliation=_reconciliation(connection),
            refused=_refused(connection),
            lost_keys=lost_keys(connection),
            alerts_undelivered=alerts.undelivered_since(connection, least=_ALERT_FAILURES),
            now=only_row(connection.execute(_queries.now))["now"],
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """What takes longer the more there is: counts over all that is kept, for monitors."""

    events: list[EventCount]
    lag: Lag
    rejections: list[RejectionCount]


def totals(connection: Connection) -> Totals:
    """Count everything."""
    return Totals(
        events=[EventCount(**row) for row in connection.execute(_queries.all_events)],
        lag=lag(connection),
        rejections=[RejectionCount(**row) for row in connection.execute(_queries.rejections)],
    )


def lag(connection: Connection) -> Lag:
    """Return how long what was finished lately had taken."""
    row = only_row(connection.execute(_queries.lag, {"window": LAG_WINDOW}))
    return Lag(count=row["count"], quantiles=tuple(row["quantiles"] or ()))


def rejections_lately(connection: Connection) -> list[RejectionCount]:
    """Return what was refused at the door in the last 24 hours, the most frequent first."""
    return [RejectionCount(**row) for row in connection.execute(_queries.rejections_lately)]


def lost_keys(connection: Connection) -> list[LostKey]:
    """Return the mapped keys that deliveries had, and have no more."""
    return shapes.lost_keys(connection, field_table.EXPECTED, least=_FEWEST_LOOKED_AT)


def _untaken(connection: Connection) -> Untaken | None:
    row = connection.execute(_queries.untaken).fetchone()
    return Untaken(**row) if row else None


def _refused(connection: Connection) -> list[RefusedShare]:
    counts = [count for count in rejections_lately(connection) if count.reason in _REFUSED]
    if sum(count.count for count in counts) < _FEWEST_REFUSED:
        return []
    delivered = {row["route"]: row for row in connection.execute(_queries.delivered_lately)}
    shares = []
    for count in counts:
        let_in = delivered.get(count.route, {"count": 0, "this_hour": 0})
        is_signature = count.reason.startswith("signature_")
        # Half of them unsigned and half of them wrongly signed are all of them refused.
        refused = sum(
            other.count
            for other in counts
            if other.route == count.route
            and (other.reason == count.reason or (is_signature and other.reason.startswith("signature_")))
        )
        total = refused + let_in["count"]
        # What is refused before its signature is looked at may be anybody's, as long as others are let in.
        is_zohos = is_signature or let_in["this_hour"] == 0
        if count.count >= _FEWEST_REFUSED and refused * 2 >= total and is_zohos:
            shares.append(RefusedShare(count.route, count.reason, count.count, total))
    return shares


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

    cause: str
    """The kind of problem, always the same word for the same one."""
    what: str
    do: str
    page: str
    """Of the console: where to see it, and what can be done about it."""
    command: str = ""
    """In a shell."""


BREAKER_IS_OPEN = "zoho.closed"
"""The one cause for all that keeps Zoho from being asked, with a connection that could."""

SETTING_IS_REFUSED = "zoho.setting_refused"
"""The one cause for a refresh token of the settings that does not replace the present one."""

_NOT_BY_ITSELF = ("NotAuthorised", "NotConnected", "ZohoAway")
# Twice a day's distance: one missed night is an hour's matter, two are a fault.
_FULL_RUN_OVERDUE = timedelta(hours=49)
_FIRST_FULL_RUN_OVERDUE = timedelta(hours=6)
_EVENTS_OVERDUE = timedelta(minutes=10)
# A minute's limit is over sooner than that.
_QUOTA_CLOSED_FOR_LONG = timedelta(seconds=90)
# So often in a row a message to people failed before it is worth a word on the screen.
_ALERT_FAILURES = 3
# Strangers try addresses, too: only where most of what comes is refused is it Zoho's form that is wrong.
_FEWEST_REFUSED = 5
# Fewer deliveries without a key may be items of a kind that was not seen before.
_FEWEST_LOOKED_AT = 5
_REFUSED = {
    "signature_absent": (
        "carry no signature",
        "in Zoho's webhook tick “I want to secure this webhook” and paste the secret of ZOHO_WEBHOOK_SECRETS",
    ),
    "signature_malformed": (
        "carry a signature of another kind",
        "let Zoho's webhook call web itself, with nothing in between that signs or rewrites",
    ),
    "signature_mismatch": (
        "carry a signature that fits no secret of ZOHO_WEBHOOK_SECRETS",
        "paste the newest secret into Zoho's webhook anew; look at proxies that change bodies",
    ),
    "content_type": (
        "are of a type that is not taken, and not signed",
        "in Zoho's webhook choose the default payload, or JSON, and secure it with the secret of ZOHO_WEBHOOK_SECRETS",
    ),
    "size": (
        "are larger than WEBHOOK_MAX_BYTES",
        "let Zoho's webhook send the default payload, or raise WEBHOOK_MAX_BYTES",
    ),
    "network": (
        "come from outside WEBHOOK_ALLOWED_NETWORKS",
        "correct WEBHOOK_ALLOWED_NETWORKS, or TRUSTED_PROXIES, which says whose address counts",
    ),
    "slow": (
        "did not arrive within the time that a body may take",
        "look at proxies in front of web, and at the way to it",
    ),
    "busy": (
        "found no room: they come faster than they can be stored",
        "start more web processes; look at Postgres",
    ),
}


def problems(overview: Overview) -> list[Problem]:
    """Return what needs a person, the gravest first; nothing, where the system helps itself."""
    of_zoho = [*_of_connection(overview.connection), *_of_breaker(overview.breaker)]
    return [
        *of_zoho,
        *_of_processes(overview),
        *_of_deliveries(overview),
        # Whatever waits for Zoho is told of once.
        *([] if of_zoho else _of_what_waits(overview)),
        *_of_runs(overview.reconciliation, overview.now, is_zoho_told_of=bool(of_zoho)),
        *_of_alerts(overview.alerts_undelivered),
    ]


def of_breaker(connection: Connection) -> list[Problem]:
    """Return why Zoho is not asked, if that needs a person."""
    return list(_of_breaker(api_calls.breaker(connection)))


def notices(overview: Overview, requests_per_day: int) -> list[Problem]:
    """Return what people want to hear of, though nothing has to be done at once, or waiting helps."""
    found = []
    full = overview.reconciliation.last_complete.get("full")
    drift = sum(overview.reconciliation.drift.values())
    if full and drift:
        changes = "1 change" if drift == 1 else f"{drift:,} changes"
        what = f"run {full.id} had to make {changes} that a webhook should have made"
        how = "the products are right again; its drift report says why they were not"
        found.append(Problem("drift", what, how, _page(full), f"runs show {full.id}"))
    usage = overview.api_usage
    if usage.day >= requests_per_day:
        what = f"the day's quota is used up: {usage.day:,} of {requests_per_day:,} calls"
        how = "nothing is fetched until some are a day old; raise ZOHO_REQUESTS_PER_DAY if the plan allows more"
        found.append(Problem("quota.exhausted", what, how, "zoho"))
    return found


def _of_connection(connection: ConnectionStatus) -> Iterator[Problem]:
    if connection.refused_seed_reason:
        how = "set one that can do the work of the present connection, or remove it; to do without, disconnect first"
        yield Problem(SETTING_IS_REFUSED, connection.refused_seed_reason, how, "zoho", "check")
    if connection.obstacle:
        what, how = str(connection.obstacle_reason), "work waits meanwhile, and goes on by itself"
        yield Problem(f"zoho.{connection.obstacle}", what, how, "zoho", "check")
    elif not connection.has_refresh_token:
        how = "connect it in the console, or set ZOHO_REFRESH_TOKEN and start a worker (docs/quick-start.md)"
        yield Problem("zoho.not_connected", "Zoho is not connected", how, "zoho")
    elif connection.last_error:
        yield Problem(
            "zoho.refused",
            f"Zoho refuses the connection: {connection.last_error}",
            "see docs/operations.md, Parts that are away",
            "zoho",
        )
    elif not connection.has_organization:
        how = "choose one in the console, or set ZOHO_ORGANIZATION_ID"
        yield Problem("zoho.no_organisation", "no organisation is chosen", how, "zoho")


def _of_breaker(breaker: Breaker | None) -> Iterator[Problem]:
    """Say why Zoho is not asked. It goes on by itself, so what is to be done is to remove the cause."""
    if breaker is None:
        return
    since = f"since {breaker.since:%Y-%m-%d %H:%M:%S} UTC"
    goes_on = "nothing is lost: work waits, and goes on by itself"
    match breaker.cause:
        case "installation":
            what = f"Zoho refuses whatever is asked, {since}: {breaker.reason}"
            if breaker.organization_id:
                what += f"; the organisation is {breaker.organization_id}"
            how = "look at the subscription, at the user's rights in Zoho, and at the scopes of the connection"
            if breaker.organizations:
                what += f", and this login reaches {breaker.organizations}"
                if breaker.organization_id and breaker.organization_id not in breaker.organizations:
                    how = "set ZOHO_ORGANIZATION_ID to one that is reached, or connect with the login of this one"
            yield Problem(BREAKER_IS_OPEN, what, f"{how}; {goes_on}", "zoho", "check")
        case "unusable":
            what = f"Zoho says nothing that can be used, {since}: {breaker.reason}"
            how = f"look at Zoho's status page, and at ZOHO_API_URL and the way out of this network; {goes_on}"
            yield Problem(BREAKER_IS_OPEN, what, how, "zoho", "check")
        case "quota":
            # A minute's limit is no matter for a person.
            if breaker.closed_for and breaker.age + breaker.closed_for > _QUOTA_CLOSED_FOR_LONG:
                what = f"Zoho's quota is used up, {since}: {breaker.reason}"
                how = f"find out what else calls Zoho; raise its plan, or lower ZOHO_REQUESTS_PER_DAY to it; {goes_on}"
                yield Problem(BREAKER_IS_OPEN, what, how, "zoho")


def _of_what_waits(overview: Overview) -> Iterator[Problem]:
    for waiting in overview.waiting:
        what = f"{_counted(waiting.count)} for Zoho for more than a minute: {waiting.error}"
        yield Problem("events.waiting", what, "see docs/operations.md, Parts that are away", "zoho", "check")


def _of_work(overview: Overview) -> Iterator[Problem]:
    """Name work that somebody has, or should have, and that does not go on."""
    for held in overview.held_long:
        events = "1 event" if held.count == 1 else f"{held.count:,} events"
        what = f"{held.worker or 'a worker'} has had {events} for {_minutes(held.age)}: it stands still"
        yield Problem("worker.frozen", what, "restart it; what it holds is taken over then", "", "events")
    untaken = overview.untaken
    # Without a worker it is plain why.
    if untaken and "worker" in overview.processes and not overview.held_long:
        what = f"{_counted(untaken.count)} for a worker, the first for {_minutes(untaken.age)}, and nothing is finished"
        yield Problem("worker.frozen", what, "restart the workers, and look at their log", "", "events")


def _counted(count: int) -> str:
    return "1 event waits" if count == 1 else f"{count:,} events wait"


def _minutes(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    return "more than a minute" if minutes <= 1 else f"{minutes:,} minutes"


def _of_processes(overview: Overview) -> Iterator[Problem]:
    if "worker" not in overview.processes:
        yield Problem("worker.missing", "no worker is alive", "start one", "", "python -m processors worker")
    yield from _of_work(overview)
    # A scheduler that starts runs by the command line stands in for a clock.
    newest = max(overview.reconciliation.newest, key=lambda run: run.id, default=None)
    is_scheduled = newest and newest.trigger == "cli" and overview.now - newest.started_at < _FULL_RUN_OVERDUE
    if "clock" not in overview.processes and not is_scheduled:
        what = "no clock is alive: no run starts by itself"
        yield Problem("clock.missing", what, "start one", "", "python -m processors clock")


def _of_deliveries(overview: Overview) -> Iterator[Problem]:
    if overview.reconciliation.webhooks_are_dead:
        what = "webhooks are dead: changes were missed, and nothing was delivered"
        how = "in Zoho, look at the workflow rules, the webhook's address and secret, and the daily limit"
        yield Problem("webhooks.dead", what, how, "webhooks")
    for share in overview.refused:
        what, how = _REFUSED[share.reason]
        what = f"{share.count:,} of the last {share.total:,} deliveries of {share.route} items {what}"
        yield Problem(f"webhooks.{share.reason}", what, how, "webhooks")
    if overview.lost_keys:
        keys = ", ".join(dict.fromkeys(lost.key for lost in overview.lost_keys))
        since = min(lost.last_seen_at for lost in overview.lost_keys)
        what = f"deliveries carry {keys} no more, since {since:%Y-%m-%d %H:%M} UTC"
        how = "let Zoho's webhook send the default payload again; or, if that is meant so, accept it"
        yield Problem("webhooks.shape_changed", what, how, "webhooks", "webhooks accept-shape")
    if overview.dead:
        what = "1 dead event" if overview.dead == 1 else f"{overview.dead:,} dead events"
        how = "find out the cause, then replay or discard them"
        yield Problem("events.dead", what, how, "events/list?state=dead", "events causes")
    if overview.oldest_unfinished_age and overview.oldest_unfinished_age > _EVENTS_OVERDUE:
        what = f"{overview.unfinished:,} events wait, the oldest for more than 10 minutes"
        how = "see what they wait for"
        yield Problem("events.overdue", what, how, "events/list?state=recorded", "events --state recorded")


def _of_runs(seen: Reconciliation, now: datetime, *, is_zoho_told_of: bool) -> Iterator[Problem]:
    if seen.held:
        held = seen.held.id
        how = "if they were deleted there, confirm; if not, discard"
        command = f"runs confirm-deletes {held}, or runs discard-deletes {held}"
        yield Problem("run.held", f"run {held} is held: {seen.held.error}", how, _page(seen.held), command)
    for run in seen.newest:
        if run.state == "running" and run.error_class in _NOT_BY_ITSELF and not is_zoho_told_of:
            what = f"run {run.id} ({run.kind}) waits: {run.error}"
            yield Problem("run.waiting", what, "see docs/operations.md, Parts that are away", _page(run))
        if run.state in ("partial", "failed") and run.error_class:
            what = f"run {run.id} ({run.kind}) ended {run.state}: {run.error}"
            yield Problem("run.failed", what, "see what it had to leave out", _page(run), f"runs show {run.id}")
    full = seen.last_complete.get("full")
    if full is None and any(now - run.started_at > _FIRST_FULL_RUN_OVERDUE for run in seen.newest):
        yield Problem("run.overdue", "no full run was ever complete", "see what the runs say", "runs/list", "runs")
    if full and full.finished_at and now - full.finished_at > _FULL_RUN_OVERDUE:
        what = f"no full run was complete since {full.finished_at:%Y-%m-%d %H:%M} UTC"
        yield Problem("run.overdue", what, "is a clock alive? what do the runs say?", "runs/list?kind=full")


ALERTS_FAIL = "alerts.failing"
"""The one cause that people cannot be told of in the way that fails."""


def _of_alerts(undelivered: tuple[datetime, str] | None) -> Iterator[Problem]:
    if undelivered:
        since, error = undelivered
        what = f"alerts cannot be delivered since {since:%Y-%m-%d %H:%M} UTC: {error}"
        yield Problem(ALERTS_FAIL, what, "check ALERT_WEBHOOK_URL", "alerts", "alerts test")


def _page(run: Run) -> str:
    return f"runs/detail?pk={run.id}"


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
