"""Slots by a cron expression: each is taken once, in any zone, and a run is opened with its slot or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.runtime import clock
from processors.runtime.clock import Job
from processors.store import timetable
from processors.store.database import Connection, Pool
from processors.store.timetable import Cron
from processors.workflows import operations
from tests.workflows.scene import Scene, run_together

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 29, 1, tzinfo=UTC)
"""In Berlin the clocks go from 2 to 3."""
AUTUMN = datetime(2026, 10, 25, 1, tzinfo=UTC)
"""In Berlin the clocks go from 3 back to 2."""


def latest(expression: str, now: datetime, zone: ZoneInfo = BERLIN) -> datetime:
    return Cron(expression, zone).latest(now).astimezone(UTC)


def minutes(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += MINUTE


def taken(expression: str, start: datetime, end: datetime, zone: ZoneInfo = BERLIN) -> list[tuple[datetime, datetime]]:
    """Return the slots that a clock which looks every minute takes, with the times when it does."""
    newest = latest(expression, start - MINUTE, zone)
    found = []
    for now in minutes(start, end):
        slot = latest(expression, now, zone)
        if slot > newest:
            newest = slot
            found.append((now, slot))
    return found


# The newest slot


@pytest.mark.parametrize(
    ("expression", "now", "slot"),
    [
        ("0 2 * * *", "2026-10-05T12:00:00+00:00", "2026-10-05T00:00:00+00:00"),
        ("0 2 * * *", "2026-10-05T00:00:00+00:00", "2026-10-05T00:00:00+00:00"),
        ("0 2 * * *", "2026-10-04T23:59:59.999999+00:00", "2026-10-04T00:00:00+00:00"),
        ("0 2 * * *", "2026-12-05T01:00:00.000001+00:00", "2026-12-05T01:00:00+00:00"),
        ("*/10 * * * *", "2026-10-05T12:09:59.9+00:00", "2026-10-05T12:00:00+00:00"),
        ("*/10 * * * *", "2026-10-05T12:10:00+00:00", "2026-10-05T12:10:00+00:00"),
        ("0 2 * * MON", "2026-10-06T12:00:00+00:00", "2026-10-05T00:00:00+00:00"),
        ("0 2 1 * *", "2026-10-05T12:00:00+00:00", "2026-10-01T00:00:00+00:00"),
        ("0 0 29 2 *", "2026-10-05T12:00:00+00:00", "2024-02-28T23:00:00+00:00"),
    ],
)
def test_the_newest_slot_is_the_last_that_is_not_in_the_future(expression: str, now: str, slot: str) -> None:
    assert latest(expression, datetime.fromisoformat(now)) == datetime.fromisoformat(slot)


ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"]
).map(ZoneInfo)
MOMENTS = st.integers(-36 * 3600, 36 * 3600).flatmap(
    lambda seconds: st.sampled_from([SPRING, AUTUMN, datetime(2026, 11, 1, 6, tzinfo=UTC)]).map(
        lambda change: change + timedelta(seconds=seconds)
    )
)
EXPRESSIONS = st.sampled_from(["0 2 * * *", "30 2 * * *", "*/10 * * * *", "0 * * * *", "15 */6 * * *", "5,35 * * * *"])


@settings(deadline=None)
@given(EXPRESSIONS, ZONES, MOMENTS)
def test_a_slot_is_never_in_the_future_nor_long_past(expression: str, zone: ZoneInfo, now: datetime) -> None:
    slot = latest(expression, now, zone)
    assert now - 2 * DAY - HOUR < slot <= now


@settings(deadline=None)
@given(ZONES, MOMENTS)
@example(BERLIN, AUTUMN + 5 * MINUTE)
@example(BERLIN, SPRING + 5 * MINUTE)
def test_what_is_due_every_ten_minutes_was_due_in_the_last_ten_whatever_the_clocks_show(
    zone: ZoneInfo, now: datetime
) -> None:
    assert now - latest("*/10 * * * *", now, zone) < 10 * MINUTE


@settings(deadline=None)
@given(st.sampled_from(["*/10 * * * *", "0 * * * *", "5,35 * * * *"]), ZONES, MOMENTS)
@example("5,35 * * * *", BERLIN, AUTUMN + HOUR + 4 * MINUTE)
def test_at_its_own_time_a_slot_is_the_newest(expression: str, zone: ZoneInfo, now: datetime) -> None:
    slot = latest(expression, now, zone)
    assert latest(expression, slot, zone) == slot


@pytest.mark.parametrize("expression", ["0 2 * * *", "30 2 * * *"])
@pytest.mark.parametrize("change", [SPRING, AUTUMN])
def test_what_is_due_at_night_is_due_once_a_night_also_when_its_hour_is_skipped_or_comes_twice(
    expression: str, change: datetime
) -> None:
    slots = [slot for _, slot in taken(expression, change - 36 * HOUR, change + 36 * HOUR)]
    nights = [slot.astimezone(BERLIN).date() for slot in slots]
    assert nights == [change.date() + days * DAY for days in (-1, 0, 1)]


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
def test_what_is_due_every_ten_minutes_is_due_six_times_an_hour_also_in_an_hour_that_comes_twice(
    change: datetime,
) -> None:
    found = taken("*/10 * * * *", change - 3 * HOUR, change + 3 * HOUR)
    assert found == [(now, now) for now in minutes(change - 3 * HOUR, change + 3 * HOUR) if now.minute % 10 == 0]


# Taken

NIGHTLY = Cron("0 2 * * *", BERLIN)
YEARLY = Cron("0 0 1 1 *", ZoneInfo("UTC"))
"""No slot of it passes while a test runs, but on New Year's Eve."""


def take(connection: Connection, cron: Cron = YEARLY) -> datetime | None:
    return timetable.take_slot(connection, "job", cron)


def miss(connection: Connection, slots: int) -> None:
    """Pretend that the newest slots went by while no clock was up."""
    connection.execute("UPDATE jobs SET slot = slot - %s * interval '1 year'", [slots])


def test_the_slot_taken_is_the_newest_by_the_databases_clock(connection: Connection) -> None:
    slot = take(connection, NIGHTLY)
    (row,) = connection.execute("SELECT now() AS now, slot FROM jobs").fetchall()
    assert slot == row["slot"]
    assert row["slot"] in (NIGHTLY.latest(row["now"]), NIGHTLY.latest(row["now"] - MINUTE))


def test_a_slot_is_taken_once(connection: Connection) -> None:
    assert take(connection) is not None
    assert [take(connection) for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("missed", [1, 3, 400])
def test_slots_that_were_missed_are_made_up_for_once(connection: Connection, missed: int) -> None:
    slot = take(connection)
    miss(connection, missed)
    assert [take(connection) for _ in range(3)] == [slot, None, None]


def test_of_two_clocks_one_takes_a_slot(pool: Pool, connection: Connection) -> None:
    found: list[datetime | None] = []

    def look() -> None:
        with pool.connection() as own:
            found.extend(take(own) for _ in range(3))

    for _ in range(3):
        run_together([look] * 4)
        assert len([slot for slot in found if slot]) == 1
        found.clear()
        miss(connection, 1)


def test_an_expression_that_was_changed_takes_no_slot_before_the_last_one(connection: Connection) -> None:
    now = datetime.now(UTC)
    assert take(connection, Cron("* * * * *", BERLIN)) is not None
    assert take(connection) is None
    connection.execute("UPDATE jobs SET slot = %s", [now - 400 * DAY])
    assert take(connection) is not None


def test_a_slot_in_the_hour_that_comes_twice_is_written_as_the_moment_that_it_is(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in (AUTUMN - 20 * MINUTE, AUTUMN + 40 * MINUTE):
        slot = moment.astimezone(BERLIN)
        monkeypatch.setattr(Cron, "latest", lambda _self, _now, slot=slot: slot)
        assert take(connection, NIGHTLY) == moment


# With its run


@pytest.fixture
def connected(scene: Scene) -> Scene:
    """A mirror that Zoho is connected to, and whose catalogue was read before."""
    scene.execute("UPDATE zoho_connection SET refresh_token = 'x'")
    scene.execute("INSERT INTO reconciliation_runs (kind, state, finished_at) VALUES ('full', 'complete', now())")
    return scene


def running(scene: Scene) -> list[str]:
    rows = scene.execute("SELECT kind, trigger FROM reconciliation_runs WHERE state = 'running' ORDER BY kind")
    assert {row["trigger"] for row in rows} <= {"schedule"}
    return [row["kind"] for row in rows]


def job(kind: Any = "full") -> Job:
    return Job(f"reconcile-{kind}", YEARLY, open=partial(operations.open_scheduled_run, kind=kind))


def test_a_slot_opens_its_run_once_however_many_clocks_look(connected: Scene) -> None:
    look = partial(clock._run_if_due, connected.pool)
    run_together([partial(look, job(kind)) for kind in ("full", "recent")] * 3)
    assert running(connected) == ["full", "recent"]
    connected.execute("UPDATE reconciliation_runs SET state = 'complete', finished_at = now() WHERE state = 'running'")
    for kind in ("full", "recent"):
        look(job(kind))
    assert running(connected) == []


def test_where_opening_fails_the_slot_is_not_taken_either(connected: Scene) -> None:
    def fail(connection: Connection) -> None:
        operations.open_scheduled_run(connection, "full")
        raise ValueError("a bug")

    clock._run_if_due(connected.pool, Job("reconcile-full", YEARLY, open=fail))
    assert connected.execute("SELECT FROM jobs") == []
    assert running(connected) == []
    clock._run_if_due(connected.pool, job())
    assert running(connected) == ["full"]


def test_a_clock_that_dies_between_slot_and_run_leaves_both_to_the_next(connected: Scene) -> None:
    def die(connection: Connection) -> None:
        operations.open_scheduled_run(connection, "full")
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(psycopg.OperationalError):
        clock._run_if_due(connected.pool, Job("reconcile-full", YEARLY, open=die))
    assert connected.execute("SELECT FROM jobs") == []
    assert running(connected) == []
    clock._run_if_due(connected.pool, job())
    assert running(connected) == ["full"]


def test_a_slot_whose_kind_of_run_is_under_way_is_taken_and_opens_no_second(connected: Scene) -> None:
    clock._run_if_due(connected.pool, job())
    connected.execute("UPDATE jobs SET slot = slot - interval '1 year'")
    clock._run_if_due(connected.pool, job())
    assert running(connected) == ["full"]
    (row,) = connected.execute("SELECT slot FROM jobs")
    assert row["slot"] > datetime.now(UTC) - 366 * DAY


def test_a_slot_passes_without_a_run_while_zoho_is_not_connected(connected: Scene) -> None:
    connected.execute("UPDATE zoho_connection SET refresh_token = NULL")
    clock._run_if_due(connected.pool, job())
    assert running(connected) == []


def test_a_recent_run_waits_for_the_first_full_one(connected: Scene) -> None:
    connected.execute("UPDATE reconciliation_runs SET state = 'failed', error = 'x'")
    for kind in ("full", "recent"):
        clock._run_if_due(connected.pool, job(kind))
    assert running(connected) == ["full"]
