"""What the processes of the mirror do together: one refresh, one quota, one breaker, and nothing held by the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import httpx
import pytest

from processors.errors import BudgetSpent
from processors.store.database import Connection, Pool
from processors.zoho.client import ZohoClient
from processors.zoho.limiter import Limiter
from processors.zoho.oauth import TokenSource
from simulator import Fault, Zoho
from tests.zoho.support import (
    PATIENCE_SECONDS,
    Caller,
    environment,
    expire_token,
    in_threads,
    let_pass,
    settings,
    slow_accounts,
)

NOW = timedelta()
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def callers() -> Iterator[list[Caller]]:
    """Four other processes, used by one test after the other."""
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller()) for _ in range(4)]
        for caller in callers:
            assert caller.answer() == "ready"
        yield callers


def _limiter(pool: Pool, *, per_minute: int = 90, concurrent: int = 4) -> Limiter:
    return Limiter(pool, per_minute=per_minute, per_day=2000, concurrent=concurrent)


def _call(limiter: Limiter, *, status: int = 200, code: int = 0) -> None:
    with limiter.call("item", patience=NOW) as call:
        call.status, call.code = status, code


def _wait(limiter: Limiter) -> timedelta:
    with pytest.raises(BudgetSpent) as caught:
        _call(limiter)
    return caught.value.retry_after


def test_four_processes_with_an_expired_token_cause_one_refresh(
    pool: Pool, database_url: str, callers: list[Caller], zoho: Zoho, zoho_url: str, connection: Connection
) -> None:
    environ = environment(DATABASE_URL=database_url, ZOHO_ACCOUNTS_URL=zoho_url)
    with httpx.Client() as http:
        TokenSource(pool, settings(ZOHO_ACCOUNTS_URL=zoho_url), http).access_token()
    expire_token(connection)
    for caller in callers:
        caller.tell("token", environ, threads=2)
    values = {value for caller in callers for value in caller.answer()}
    assert zoho.token_refreshes == 2
    assert zoho.calls("/oauth/v2/token") == 2
    assert [zoho.tokens.scopes_of(value) is not None for value in values] == [True]


def test_an_expired_token_is_one_refresh_among_all_processes_and_threads(
    pool: Pool, database_url: str, callers: list[Caller], zoho: Zoho, zoho_url: str
) -> None:
    item_id = zoho.catalogue.all()[0].item_id
    environ = environment(DATABASE_URL=database_url, ZOHO_ACCOUNTS_URL=zoho_url, ZOHO_API_URL="")
    with ZohoClient(pool, settings(ZOHO_ACCOUNTS_URL=zoho_url, ZOHO_API_URL="")) as client:
        client.item(item_id)
    zoho.tokens.expire_access_tokens()
    zoho.faults.add(Fault("/oauth/v2/token", latency_seconds=0.1))
    for caller in callers:
        caller.tell("item", environ, item_id=item_id, threads=2)
    assert [caller.answer() for caller in callers] == [[item_id, item_id]] * 4
    assert zoho.token_refreshes == 2
    assert zoho.calls("/oauth/v2/token") == 2
    assert zoho.limits.most_at_once <= 4


def test_the_others_wait_for_the_result_of_the_one_who_asks(
    pool: Pool, callers: list[Caller], database_url: str
) -> None:
    with slow_accounts() as accounts, httpx.Client() as http:
        environ = environment(DATABASE_URL=database_url, ZOHO_ACCOUNTS_URL=accounts.url)
        callers[0].tell("token", environ)
        assert accounts.arrived.wait(PATIENCE_SECONDS)
        tokens = TokenSource(pool, settings(ZOHO_ACCOUNTS_URL=accounts.url), http)
        waiting = _when_somebody_waits_for_the_lock(pool, accounts.may_answer.set)
        values = in_threads([tokens.access_token, waiting])
        assert [values[0].value] == callers[0].answer() == ["1000.slow.1"]
        assert accounts.calls == 1


def test_a_process_that_is_killed_while_it_refreshes_frees_the_lock(pool: Pool, database_url: str) -> None:
    with slow_accounts() as accounts, httpx.Client() as http, Caller() as caller:
        assert caller.answer() == "ready"
        caller.tell("token", environment(DATABASE_URL=database_url, ZOHO_ACCOUNTS_URL=accounts.url))
        assert accounts.arrived.wait(PATIENCE_SECONDS)
        caller.kill()
        accounts.may_answer.set()
        started = time.monotonic()
        tokens = TokenSource(pool, settings(ZOHO_ACCOUNTS_URL=accounts.url), http)
        assert tokens.access_token().value == "1000.slow.2"
        assert time.monotonic() - started < 5


def _when_somebody_waits_for_the_lock(pool: Pool, act: Callable[[], None]) -> Callable[[], None]:
    def watch() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        with pool.connection() as connection:
            while time.monotonic() < deadline:
                waits = "SELECT FROM pg_locks WHERE NOT granted"
                if connection.execute(waits).rowcount:
                    act()
                    return
        raise AssertionError("nobody waited for the lock")

    return watch


def test_the_fifth_call_waits_until_one_of_four_is_over(pool: Pool, callers: list[Caller], database_url: str) -> None:
    for caller in callers:
        caller.tell("hold", environment(DATABASE_URL=database_url))
    assert [caller.answer() for caller in callers] == ["holding"] * 4
    assert _wait(_limiter(pool)) <= SECOND
    is_waiting = threading.Event()

    def sleep(seconds: float) -> None:
        is_waiting.set()
        time.sleep(seconds)

    fifth = Limiter(pool, per_minute=90, per_day=2000, concurrent=4, sleep=sleep)

    def call_patiently() -> str:
        with fifth.call("item", patience=timedelta(seconds=PATIENCE_SECONDS)) as call:
            call.status = 200
            return "admitted"

    def release() -> None:
        assert is_waiting.wait(PATIENCE_SECONDS)
        callers[0].say("")
        assert callers[0].answer() == "released"

    assert in_threads([call_patiently, release]) == ["admitted", None]
    for caller in callers[1:]:
        caller.say("")
        assert caller.answer() == "released"


def test_processes_share_one_minute(pool: Pool, callers: list[Caller], database_url: str) -> None:
    environ = environment(DATABASE_URL=database_url, ZOHO_REQUESTS_PER_MINUTE="21")
    for caller in callers:
        caller.tell("spend", environ, tries=15)
    assert sum(caller.answer() for caller in callers) == 21
    assert _wait(_limiter(pool, per_minute=21)) > NOW


def test_the_call_of_a_killed_process_stops_counting_after_a_minute(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    limiter = _limiter(pool, concurrent=1)
    with Caller() as caller:
        assert caller.answer() == "ready"
        caller.tell("hold", environment(DATABASE_URL=database_url))
        assert caller.answer() == "holding"
        caller.kill()
    let_pass(connection, timedelta(seconds=50))
    _wait(limiter)
    let_pass(connection, timedelta(seconds=11))
    _call(limiter)


def test_the_breaker_is_shared_by_all_processes_and_says_why(
    pool: Pool, callers: list[Caller], database_url: str
) -> None:
    limiter = _limiter(pool)
    _call(limiter, status=429, code=44)
    for caller in callers:
        caller.tell("spend", environment(DATABASE_URL=database_url), tries=3)
    assert [caller.answer() for caller in callers] == [0] * 4
    with pytest.raises(BudgetSpent, match="breaker is open: Zoho answered 429 with code 44") as caught:
        _call(limiter)
    assert timedelta(seconds=30) < caught.value.retry_after <= timedelta(seconds=61)
