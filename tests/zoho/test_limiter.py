"""The quota of all processes together: minute, day, calls at once, and the breaker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processors.errors import BudgetSpent
from processors.store import api_calls
from processors.store.api_calls import Limits, Purpose
from processors.store.database import Connection, Pool
from processors.zoho.limiter import Limiter
from tests.zoho.support import PATIENCE_SECONDS, in_threads, let_pass

NOW = timedelta()
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def _limiter(pool: Pool, *, per_minute: int = 90, per_day: int = 2000, concurrent: int = 4) -> Limiter:
    return Limiter(pool, per_minute=per_minute, per_day=per_day, concurrent=concurrent)


@pytest.fixture
def limiter(pool: Pool) -> Limiter:
    return _limiter(pool)


def _call(limiter: Limiter, purpose: Purpose = "item", *, status: int | None = 200, code: int | None = 0) -> timedelta:
    """Make one call at once; return for how long the breaker closed."""
    with limiter.call(purpose, patience=NOW) as call:
        call.status, call.code = status, code
    return call.retry_after or timedelta()


def _made(limiter: Limiter, tries: int, purpose: Purpose = "item") -> int:
    made = 0
    for _ in range(tries):
        try:
            _call(limiter, purpose)
            made += 1
        except BudgetSpent:
            pass
    return made


def _wait(limiter: Limiter, purpose: Purpose = "item") -> timedelta:
    with pytest.raises(BudgetSpent) as caught:
        _call(limiter, purpose)
    return caught.value.retry_after


def _is_about(actual: timedelta, expected: timedelta, slack: timedelta = timedelta(seconds=5)) -> bool:
    return expected - slack <= actual <= expected + slack


def _strikes(connection: Connection) -> int:
    row = connection.execute("SELECT strikes FROM api_gate").fetchone()
    assert row is not None
    strikes: int = row["strikes"]
    return strikes


# Minute and day


def test_a_minute_holds_as_many_calls_as_allowed(pool: Pool, connection: Connection) -> None:
    limiter = _limiter(pool, per_minute=5)
    assert _made(limiter, 7) == 5
    assert _is_about(_wait(limiter), MINUTE)
    let_pass(connection, timedelta(seconds=50))
    assert _made(limiter, 2) == 0
    let_pass(connection, timedelta(seconds=11))
    assert _made(limiter, 7) == 5


def test_a_call_counts_until_a_minute_after_its_end(pool: Pool, connection: Connection) -> None:
    limiter = _limiter(pool, per_minute=1)
    with limiter.call("item", patience=NOW) as call:
        let_pass(connection, timedelta(seconds=40))
        call.status = 200
    let_pass(connection, timedelta(seconds=50))
    assert _is_about(_wait(limiter), timedelta(seconds=10))
    let_pass(connection, timedelta(seconds=11))
    assert _made(limiter, 2) == 1


def test_a_day_holds_as_many_calls_as_allowed(pool: Pool, connection: Connection) -> None:
    limiter = _limiter(pool, per_day=6)
    assert _made(limiter, 3) == 3
    let_pass(connection, 10 * HOUR)
    assert _made(limiter, 5) == 3
    assert _is_about(_wait(limiter), 14 * HOUR)
    let_pass(connection, 14 * HOUR + SECOND)
    assert _made(limiter, 5) == 3


@pytest.mark.parametrize("failed", [None, 500, 401, 404])
def test_a_call_that_failed_counts_all_the_same(pool: Pool, failed: int | None) -> None:
    limiter = _limiter(pool, per_minute=1)
    _call(limiter, status=failed)
    _wait(limiter)


def test_a_call_ended_by_an_exception_is_over(pool: Pool) -> None:
    limiter = _limiter(pool, concurrent=1)
    for _ in range(3):
        with pytest.raises(MemoryError), limiter.call("item", patience=NOW):
            raise MemoryError


def test_who_asks_while_another_is_admitted_stands_in_line_and_counts_that_call(pool: Pool) -> None:
    limits = Limits(per_minute=1, per_day=10, concurrent=10)
    second: list[api_calls.Admission] = []

    def ask() -> None:
        with pool.connection() as connection:
            second.append(api_calls.admit(connection, "item", limits))

    with pool.connection() as first:
        with first.transaction():
            assert api_calls.admit(first, "item", limits).call_id is not None
            thread = threading.Thread(target=ask, daemon=True)
            thread.start()
            _wait_until_somebody_waits(pool)
        thread.join(PATIENCE_SECONDS)
    assert [admission.call_id for admission in second] == [None]


def _wait_until_somebody_waits(pool: Pool) -> None:
    statement = "SELECT FROM pg_locks WHERE NOT granted"
    deadline = time.monotonic() + PATIENCE_SECONDS
    with pool.connection() as connection:
        while connection.execute(statement).fetchone() is None:
            assert time.monotonic() < deadline, "nobody stands in line"
            connection.execute("SELECT pg_sleep(0.005)")


def test_standing_in_line_and_being_admitted_are_one_transaction(connection: Connection) -> None:
    admitted = api_calls.admit(connection, "item", Limits(1, 10, 10)).call_id
    # Who locks a row leaves his number there.
    statement = "SELECT gate.xmax = call.xmin AS is_one FROM api_gate AS gate, api_calls AS call WHERE id = %s"
    assert connection.execute(statement, [admitted]).fetchall() == [{"is_one": True}]


@pytest.mark.parametrize(("limit", "sweeps"), [(1, 1), (2, 1), (4, 3), (10, 8)])
def test_a_sweep_leaves_a_reserve_of_the_minute_to_single_items(pool: Pool, limit: int, sweeps: int) -> None:
    limiter = _limiter(pool, per_minute=limit)
    assert _made(limiter, limit + 1, "sweep") == sweeps
    assert _made(limiter, limit + 1, "item") == limit - sweeps


def test_a_sweep_leaves_a_reserve_of_the_day_to_single_items(pool: Pool, connection: Connection) -> None:
    limiter = _limiter(pool, per_day=10)
    assert _made(limiter, 11, "sweep") == 8
    let_pass(connection, timedelta(minutes=2))
    assert _made(limiter, 11, "sweep") == 0
    assert _made(limiter, 11, "item") == 2
    assert _wait(limiter, "sweep") >= _wait(limiter, "item")


def test_a_sweep_leaves_one_of_the_calls_at_once_to_single_items(pool: Pool) -> None:
    limiter = _limiter(pool, concurrent=3)
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(limiter.call("sweep", patience=NOW))
        _wait(limiter, "sweep")
        running.enter_context(limiter.call("item", patience=NOW))
        _wait(limiter, "item")


def test_single_items_may_use_what_sweeps_leave_and_more(pool: Pool) -> None:
    limiter = _limiter(pool, per_minute=10)
    assert _made(limiter, 9, "item") == 9
    assert _made(limiter, 1, "sweep") == 0


@dataclass
class _Observed:
    """What Zoho may have seen of one call: something between its start and its end, and never for over a minute."""

    started: float
    ended: float | None = None
    id: int | None = None

    def is_running(self, now: float) -> bool:
        return (self.ended is None or self.ended > now) and now < self.started + 60

    def last_seen(self, now: float) -> float:
        return min(now if self.ended is None else self.ended, self.started + 60)

    def last_counted(self, now: float) -> float:
        """The same as Postgres knows it: one that was reported late counts from the report."""
        return self.started + 60 if self.ended is None else max(self.ended, self.last_seen(now))


@dataclass
class _World:
    connection: Connection
    limits: Limits
    skipped: float = 0.0
    calls: list[_Observed] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() + self.skipped

    def skip(self, seconds: float) -> None:
        let_pass(self.connection, timedelta(seconds=seconds))
        self.skipped += seconds

    def start(self) -> None:
        admission = api_calls.admit(self.connection, "item", self.limits)
        now = self.now()
        running = sum(call.is_running(now) for call in self.calls)
        if admission.call_id is None:
            assert admission.retry_after is not None
            assert admission.retry_after > NOW
            counted = sum(call.last_counted(now) > now - 61 for call in self.calls)
            assert counted >= self.limits.per_minute or running >= self.limits.concurrent
        else:
            assert sum(call.last_seen(now) > now - 60 for call in self.calls) < self.limits.per_minute
            assert running < self.limits.concurrent
            self.calls.append(_Observed(now, id=admission.call_id))

    def finish(self, number: int) -> None:
        running = [call for call in self.calls if call.ended is None]
        if running:
            call = running[number % len(running)]
            assert call.id is not None
            api_calls.finish(self.connection, call.id, status=200, code=0, opens=["quota"])
            call.ended = self.now()

    def kill(self, number: int) -> None:
        """End its process: Zoho may go on seeing the call, and nobody will report its end."""
        running = [call for call in self.calls if call.ended is None]
        if running:
            call = running[number % len(running)]
            call.ended = call.started + 60


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(
        st.one_of(
            st.just(("start", 0)),
            st.just(("start", 0)),
            st.tuples(st.sampled_from(["finish", "kill"]), st.integers(0, 9)),
            st.tuples(st.just("skip"), st.integers(1, 70)),
        ),
        min_size=10,
        max_size=60,
    ),
)
def test_any_60_seconds_hold_at_most_the_limit(
    connection: Connection, per_minute: int, concurrent: int, steps: list[tuple[str, int]]
) -> None:
    """However calls start, end, hang and die: counted from Zoho's side, a call until its end."""
    connection.execute("TRUNCATE api_calls")
    world = _World(connection, Limits(per_minute, 2000, concurrent))
    for step, number in steps:
        match step:
            case "start":
                world.start()
            case "finish":
                world.finish(number)
            case "kill":
                world.kill(number)
            case _:
                world.skip(number)
    # However full the windows are, they empty.
    world.skip(121)
    assert api_calls.admit(connection, "item", world.limits).call_id is not None


def test_what_a_refusal_promises_holds(pool: Pool, connection: Connection) -> None:
    """After `retry_after` the call is admitted, and not much earlier."""
    limiter = _limiter(pool, per_minute=3)
    for _ in range(3):
        _call(limiter)
        let_pass(connection, timedelta(seconds=10))
    wait = _wait(limiter)
    let_pass(connection, wait - SECOND)
    assert _made(limiter, 1) == 0
    let_pass(connection, SECOND)
    assert _made(limiter, 2) == 1


# At once


def test_nobody_waits_longer_than_his_patience(pool: Pool) -> None:
    slept: list[float] = []
    limiter = Limiter(pool, per_minute=90, per_day=2000, concurrent=1, sleep=slept.append)
    patience = timedelta(milliseconds=100)
    with (
        limiter.call("item", patience=NOW),
        pytest.raises(BudgetSpent) as caught,
        limiter.call("item", patience=patience),
    ):
        raise AssertionError
    assert slept
    assert max(slept) < 0.1
    assert NOW < caught.value.retry_after < SECOND


# The breaker


@pytest.mark.parametrize("status", [200, 400, 429])
def test_code_44_leaves_zoho_alone_for_at_least_a_minute_and_longer_each_time(
    limiter: Limiter, connection: Connection, status: int
) -> None:
    waits = []
    for _ in range(6):
        closed_for = _call(limiter, status=status, code=44)
        waits.append(round(closed_for.total_seconds()))
        let_pass(connection, closed_for - SECOND)
        assert _wait(limiter) > NOW
        let_pass(connection, SECOND)
    assert waits == [61, 122, 244, 488, 900, 900]


def test_code_45_leaves_zoho_alone_until_the_next_day_and_then_asks_hourly(
    limiter: Limiter, connection: Connection
) -> None:
    before = datetime.now(UTC)
    closed_for = _call(limiter, status=429, code=45)
    midnights = {_midnight_after(before), _midnight_after(datetime.now(UTC))}
    assert any(_is_about(before + closed_for - midnight, NOW) for midnight in midnights)
    waits = []
    for _ in range(3):
        let_pass(connection, closed_for)
        closed_for = _call(limiter, status=429, code=45)
        waits.append(closed_for)
    assert all(_is_about(wait, HOUR) for wait in waits)
    let_pass(connection, closed_for)
    _call(limiter)
    assert _strikes(connection) == 0


def test_code_45_after_another_strike_still_waits_for_the_next_day(limiter: Limiter, connection: Connection) -> None:
    let_pass(connection, _call(limiter, status=429, code=44))
    before = datetime.now(UTC)
    closed_for = _call(limiter, status=429, code=45)
    midnights = {_midnight_after(before), _midnight_after(datetime.now(UTC))}
    assert any(_is_about(before + closed_for - midnight, NOW) for midnight in midnights)


def _midnight_after(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def test_code_1070_leaves_zoho_alone_briefly(limiter: Limiter, connection: Connection) -> None:
    waits = []
    for _ in range(7):
        closed_for = _call(limiter, status=429, code=1070)
        waits.append(round(closed_for.total_seconds()))
        let_pass(connection, closed_for)
    assert waits == [2, 4, 8, 16, 32, 60, 60]


def test_an_unknown_429_is_taken_for_a_spent_minute(limiter: Limiter) -> None:
    assert _is_about(_call(limiter, status=429, code=None), timedelta(seconds=61))


def test_a_retry_after_makes_the_wait_longer(limiter: Limiter) -> None:
    with limiter.call("item", patience=NOW) as call:
        call.status, call.code, call.retry_after = 429, 44, timedelta(minutes=10)
    assert _is_about(_wait(limiter), timedelta(minutes=10))


def test_after_the_breaker_a_single_call_goes_ahead_and_its_success_lets_all_through(
    limiter: Limiter, connection: Connection
) -> None:
    let_pass(connection, _call(limiter, status=429, code=44))
    with limiter.call("item", patience=NOW) as probe:
        assert _wait(limiter) <= SECOND
        assert _wait(limiter, "sweep") <= SECOND
        probe.status, probe.code = 200, 0
    with ExitStack() as running:
        for _ in range(4):
            running.enter_context(limiter.call("item", patience=NOW)).status = 200


@pytest.mark.parametrize("status", [None, 500, 503])
def test_after_the_breaker_no_answer_is_no_success(
    limiter: Limiter, connection: Connection, status: int | None
) -> None:
    let_pass(connection, _call(limiter, status=429, code=44))
    _call(limiter, status=status, code=None)
    with limiter.call("item", patience=NOW) as call:
        _wait(limiter)
        call.status = status


def test_the_probe_of_a_killed_process_blocks_the_way_for_a_minute_only(
    limiter: Limiter, connection: Connection
) -> None:
    let_pass(connection, _call(limiter, status=429, code=44))
    assert api_calls.admit(connection, "item", Limits(90, 2000, 4)).call_id is not None
    _wait(limiter)
    let_pass(connection, timedelta(seconds=61))
    _call(limiter)
    assert _strikes(connection) == 0


def test_calls_that_were_under_way_together_are_one_strike(limiter: Limiter, connection: Connection) -> None:
    with ExitStack() as running:
        for _ in range(4):
            call = running.enter_context(limiter.call("item", patience=NOW))
            call.status, call.code = 429, 44
    assert _strikes(connection) == 1
    assert _is_about(_wait(limiter), timedelta(seconds=61))


def test_a_good_answer_from_before_the_breaker_opened_does_not_close_it(
    limiter: Limiter, connection: Connection
) -> None:
    with limiter.call("item", patience=NOW) as slow:
        closed_for = _call(limiter, status=429, code=44)
        slow.status, slow.code = 200, 0
    with pytest.raises(BudgetSpent, match="code 44"):
        _call(limiter)
    let_pass(connection, closed_for)
    assert round(_call(limiter, status=429, code=44).total_seconds()) == 122


def test_a_lesser_reason_neither_shortens_the_wait_nor_replaces_its_reason(
    limiter: Limiter, connection: Connection
) -> None:
    with limiter.call("item", patience=NOW) as slow:
        closed_for = _call(limiter, status=429, code=44)
        slow.status, slow.code = 429, 1070
    assert closed_for - SECOND < _wait(limiter) <= closed_for
    assert api_calls.usage(connection).closed_because == "Zoho answered 429 with code 44"


# What operators see, and housekeeping


def test_usage_tells_what_the_windows_hold(limiter: Limiter, connection: Connection) -> None:
    assert _made(limiter, 3) == 3
    let_pass(connection, timedelta(minutes=5))
    assert _made(limiter, 2) == 2
    usage = api_calls.usage(connection)
    assert (usage.minute, usage.day, usage.closed_for, usage.closed_because) == (2, 5, NOW, None)
    _call(limiter, status=429, code=44)
    usage = api_calls.usage(connection)
    assert usage.day == 6
    assert _is_about(usage.closed_for, timedelta(seconds=61))


def test_only_calls_that_no_window_holds_are_forgotten(limiter: Limiter, connection: Connection) -> None:
    _call(limiter)
    let_pass(connection, timedelta(hours=20))
    _call(limiter)
    let_pass(connection, timedelta(hours=6))
    api_calls.forget_old(connection)
    assert api_calls.usage(connection).day == 1
    assert connection.execute("SELECT count(*) FROM api_calls").fetchone() == {"count": 1}


def test_threads_of_one_process_keep_the_limits_too(pool: Pool) -> None:
    limiter, at_once, most, lock = _limiter(pool, per_minute=20, concurrent=2), 0, 0, threading.Lock()

    def work() -> int:
        nonlocal at_once, most
        made = 0
        for _ in range(6):
            try:
                with limiter.call("item", patience=SECOND) as call:
                    with lock:
                        at_once += 1
                        most = max(most, at_once)
                    call.status = 200
                    made += 1
                    with lock:
                        at_once -= 1
            except BudgetSpent:
                pass
        return made

    works: list[Callable[[], int]] = [work] * 6
    assert sum(in_threads(works)) == 20
    assert most <= 2
