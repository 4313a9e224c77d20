"""What needs a person, what does not, and where in the console it is seen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from processors.store import timetable
from processors.store.database import Connection, only_row
from processors.workflows import insights

HOUR = timedelta(hours=1)


@pytest.fixture
def well(connection: Connection) -> Connection:
    """A mirror that is connected and at work, and had its nightly run."""
    connection.execute("UPDATE zoho_connection SET refresh_token = 'x', organization_id = '10234695'")
    for role in ("worker", "clock"):
        timetable.beat(connection, f"{role}:1", role)
    add_run(connection, "full", "complete", ago=3 * HOUR)
    return connection


def add_run(connection: Connection, kind: str, state: str, **given: object) -> int:
    """Add a run; it has an error where its state demands one."""
    has_error = state in ("partial", "failed", "held")
    row = only_row(
        connection.execute(
            """INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at, error, error_class,
                                                webhooks)
               VALUES (%(kind)s, %(state)s, %(trigger)s, now() - %(ago)s::interval,
                       CASE WHEN %(state)s <> 'running' THEN now() - %(ago)s::interval END, %(error)s,
                       %(error_class)s, %(webhooks)s)
               RETURNING id""",
            {
                "kind": kind,
                "state": state,
                "trigger": "schedule",
                "ago": timedelta(),
                "error": "why" if has_error else None,
                "error_class": None,
                "webhooks": None,
                **given,
            },
        )
    )
    return int(row["id"])


def problems(connection: Connection) -> list[tuple[str, str]]:
    """Return what needs a person, each with its page."""
    found = insights.problems(insights.overview(connection))
    assert all(problem.do for problem in found)
    return [(problem.what, problem.page) for problem in found]


def test_where_all_is_well_nobody_is_needed(well: Connection) -> None:
    assert problems(well) == []


# The connection


@pytest.mark.parametrize(
    ("assignment", "what"),
    [
        ("refresh_token = NULL", "Zoho is not connected"),
        ("last_error = 'invalid_code'", "Zoho refuses the connection: invalid_code"),
        ("organization_id = NULL, connected_at = now()", "no organisation is chosen"),
    ],
)
def test_a_connection_that_does_not_work_is_mended_on_its_page(well: Connection, assignment: str, what: str) -> None:
    well.execute(f"UPDATE zoho_connection SET {assignment}".encode())
    assert problems(well) == [(what, "zoho")]


def test_a_connection_by_a_setting_has_its_organisation_there_too(well: Connection) -> None:
    well.execute("UPDATE zoho_connection SET organization_id = NULL")
    assert problems(well) == []


# Processes


def test_without_a_worker_nothing_is_done(well: Connection) -> None:
    timetable.leave(well, "worker:1")
    assert problems(well) == [("no worker is alive", "")]


NO_CLOCK = [("no clock is alive: no run starts by itself", "")]


def test_without_a_clock_no_run_starts(well: Connection) -> None:
    timetable.leave(well, "clock:1")
    assert problems(well) == NO_CLOCK


def test_a_scheduler_that_starts_runs_by_the_command_line_stands_in_for_a_clock(well: Connection) -> None:
    timetable.leave(well, "clock:1")
    add_run(well, "full", "complete", trigger="cli", ago=2 * HOUR)
    assert problems(well) == []


def test_a_scheduler_that_started_nothing_for_two_days_stands_in_for_none(
    connection: Connection, well: Connection
) -> None:
    timetable.leave(well, "clock:1")
    well.execute("UPDATE reconciliation_runs SET trigger = 'cli', started_at = now() - interval '50 hours'")
    assert problems(connection) == NO_CLOCK


@pytest.mark.parametrize("trigger", ["schedule", "console", "api"])
def test_a_run_by_hand_does_not_stand_in_for_a_clock_that_ran_since(well: Connection, trigger: str) -> None:
    """Somebody started a run in a shell, the clock went on with its own, and then fell silent."""
    add_run(well, "full", "complete", trigger="cli", ago=2 * HOUR)
    add_run(well, "recent", "complete", trigger=trigger, ago=HOUR)
    timetable.leave(well, "clock:1")
    assert problems(well) == NO_CLOCK


# Deliveries


def test_dead_events_need_a_person_until_they_are_discarded(well: Connection) -> None:
    insert = "INSERT INTO events (item_id, state, error) VALUES ('1', 'dead', 'why')"
    well.execute(insert)
    assert problems(well) == [("1 dead event", "events/list?state=dead")]
    for _ in range(1_233):
        well.execute(insert)
    assert problems(well) == [("1,234 dead events", "events/list?state=dead")]
    well.execute("UPDATE events SET discarded_at = now()")
    assert problems(well) == []


def test_events_that_wait_for_long_need_a_person(well: Connection) -> None:
    well.execute("INSERT INTO events (item_id) VALUES ('1'), ('2')")
    assert problems(well) == []
    well.execute("UPDATE events SET received_at = now() - interval '11 minutes' WHERE item_id = '1'")
    assert problems(well) == [("2 events wait, the oldest for more than 10 minutes", "events/list?state=recorded")]


def test_webhooks_that_miss_changes_are_dead_until_one_delivers(well: Connection) -> None:
    add_run(well, "recent", "complete", webhooks="dead", ago=HOUR)
    ((what, page),) = problems(well)
    assert what.startswith("webhooks are dead")
    assert page == "webhooks"
    well.execute("INSERT INTO events (item_id, state, outcome, processed_at) VALUES ('1', 'processed', 'gone', now())")
    assert problems(well) == []


# Runs


def test_a_held_run_waits_for_a_decision_on_its_page(well: Connection) -> None:
    run_id = add_run(well, "full", "held")
    assert problems(well) == [(f"run {run_id} is held: why", f"runs/detail?pk={run_id}")]


@pytest.mark.parametrize("state", ["partial", "failed"])
def test_a_run_that_ended_by_a_fault_is_told_until_another_of_its_kind(well: Connection, state: str) -> None:
    run_id = add_run(well, "recent", state, error_class="ZohoRefused")
    assert problems(well) == [(f"run {run_id} (recent) ended {state}: why", f"runs/detail?pk={run_id}")]
    add_run(well, "recent", "complete")
    assert problems(well) == []


def test_a_run_that_somebody_ended_needs_nobody(well: Connection) -> None:
    add_run(well, "full", "partial")
    assert problems(well) == []


@pytest.mark.parametrize("error_class", ["NotAuthorised", "NotConnected"])
def test_a_run_that_waits_for_the_connection_is_told(well: Connection, error_class: str) -> None:
    run_id = add_run(well, "recent", "running", error="no scope", error_class=error_class)
    assert problems(well) == [(f"run {run_id} (recent) waits: no scope", f"runs/detail?pk={run_id}")]


def test_a_run_that_waits_for_the_quota_goes_on_by_itself(well: Connection) -> None:
    add_run(well, "recent", "running", error="spent", error_class="BudgetSpent")
    assert problems(well) == []


def test_a_mirror_without_a_full_run_for_hours_leads_to_its_runs(well: Connection) -> None:
    well.execute(
        "UPDATE reconciliation_runs SET state = 'running', finished_at = NULL, started_at = now() - interval '5 h'"
    )
    assert problems(well) == []
    well.execute("UPDATE reconciliation_runs SET started_at = now() - interval '7 hours'")
    assert problems(well) == [("no full run was ever complete", "runs/list")]


def test_a_missed_second_night_leads_to_the_full_runs(well: Connection) -> None:
    well.execute("UPDATE reconciliation_runs SET finished_at = now() - interval '48 hours'")
    assert problems(well) == []
    well.execute("UPDATE reconciliation_runs SET finished_at = now() - interval '50 hours'")
    ((what, page),) = problems(well)
    assert what.startswith("no full run was complete since ")
    assert page == "runs/list?kind=full"


# What keeps work from being done


def waits(connection: Connection, error_class: str, *, ago: timedelta) -> None:
    connection.execute(
        """INSERT INTO events (item_id, needs_fetch, error_class, error, received_at, claimable_at)
           VALUES ('1', true, %s, 'why', now() - %s::interval, now() + interval '5 minutes')""",
        (error_class, ago),
    )


@pytest.mark.parametrize("error_class", ["NotAuthorised", "NotConnected", "TokenThrottled", "ZohoAway"])
def test_events_that_wait_for_zoho_for_a_minute_are_told(well: Connection, error_class: str) -> None:
    waits(well, error_class, ago=timedelta(seconds=50))
    assert problems(well) == []
    waits(well, error_class, ago=timedelta(seconds=70))
    assert problems(well) == [("1 event waits for Zoho for more than a minute: why", "zoho")]


@pytest.mark.parametrize("error_class", ["ZohoUnavailable", "BudgetSpent", "RefusalUnexplained", "MustWait"])
def test_events_that_are_tried_again_by_themselves_need_nobody(well: Connection, error_class: str) -> None:
    waits(well, error_class, ago=timedelta(minutes=5))
    assert problems(well) == []


def test_a_worker_that_holds_events_for_a_minute_stands_still(well: Connection) -> None:
    well.execute(
        """INSERT INTO events (item_id, state, attempts, claimed_by, claimed_at, claimable_at)
           VALUES ('1', 'processing', 1, 'worker:1', now() - interval '50 s', now() + interval '5 s')"""
    )
    assert problems(well) == []
    well.execute("UPDATE events SET claimed_at = now() - interval '3 minutes'")
    assert problems(well) == [("worker:1 has had 1 event for 3 minutes: it stands still", "")]


def test_work_that_is_due_while_nothing_is_finished_is_told_and_a_backlog_that_shrinks_is_not(well: Connection) -> None:
    well.execute("INSERT INTO events (item_id, claimable_at) VALUES ('1', now() - interval '2 minutes')")
    ((what, _),) = problems(well)
    assert what.startswith("1 event waits for a worker")
    well.execute("INSERT INTO events (item_id, state, outcome, processed_at) VALUES ('2', 'processed', 'gone', now())")
    assert problems(well) == []


@pytest.mark.parametrize("reason", ["content_type", "size", "network", "slow", "busy", "signature_mismatch"])
def test_whatever_most_deliveries_are_refused_for_is_told(well: Connection, reason: str) -> None:
    statement = "INSERT INTO rejections VALUES (date_trunc('hour', now()), 'changed', %s, %s)"
    well.execute(statement, (reason, 4))
    assert problems(well) == []
    well.execute("UPDATE rejections SET count = 6")
    ((what, page),) = problems(well)
    assert what.startswith("6 of the last 6 deliveries of changed items ")
    assert page == "webhooks"
    well.execute("INSERT INTO events (item_id, state, error) SELECT '1', 'dead', 'why' FROM generate_series(1, 7)")
    well.execute("UPDATE events SET discarded_at = now()")
    assert problems(well) == []


@pytest.mark.parametrize(
    ("cause", "closed_for", "is_told"),
    [
        ("installation", "1 minute", True),
        ("unusable", "-1 s", True),
        ("quota", "61 s", False),
        ("quota", "1 hour", True),
    ],
)
def test_a_breaker_that_stops_work_is_told_but_not_a_minutes_limit(
    well: Connection, cause: str, closed_for: str, is_told: bool
) -> None:
    well.execute(
        """UPDATE api_gate SET strikes = 1, cause = %s, reason = 'Zoho answered', closed_since = now(),
                               closed_at = now(), closed_until = now() + %s::interval""",
        (cause, closed_for),
    )
    assert [page for _, page in problems(well)] == ["zoho"] * is_told
    add_run(well, "recent", "running", error="why", error_class="NotAuthorised" if is_told else "BudgetSpent")
    assert len(problems(well)) == is_told
