"""Access tokens: where they come from, how they rest, and how seldom the accounts server is asked."""

from __future__ import annotations

import base64
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
import respx
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processors.errors import NotConnected, TokenThrottled, WorkError, ZohoUnavailable
from processors.settings import Settings
from processors.store import database, zoho_connection
from processors.store.database import Connection, Pool
from processors.zoho.oauth import AccessToken, TokenSource
from simulator import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, Zoho
from tests.zoho.support import (
    KEYS,
    PATIENCE_SECONDS,
    TOKEN_URL,
    answering,
    expire_token,
    in_threads,
    let_pass,
    settings,
)

THROTTLED = {
    "error_description": "You have made too many requests continuously. Please try again after some time.",
    "error": "Access Denied",
    "status": "failure",
}
MINUTE = timedelta(minutes=1)


def _given_tokens(router: respx.MockRouter, *tokens: dict[str, Any]) -> None:
    answers = [httpx.Response(200, json={"expires_in": 3600, **token}) for token in tokens]
    router["token"].side_effect = answers


def _sent(router: respx.MockRouter) -> dict[str, list[str]]:
    return parse_qs(router["token"].calls.last.request.content.decode())


def _calls(router: respx.MockRouter) -> int:
    count: int = router["token"].call_count
    return count


def _dump(connection: Connection) -> str:
    rows = connection.execute("SELECT zoho_connection::text AS row FROM zoho_connection").fetchall()
    return " ".join(row["row"] for row in rows)


# Seeding and storage


def test_the_first_token_comes_from_the_configured_refresh_token(tokens: TokenSource, router: respx.MockRouter) -> None:
    assert tokens.access_token().value == "1000.first"
    assert _sent(router) == {
        "grant_type": ["refresh_token"],
        "refresh_token": [REFRESH_TOKEN],
        "client_id": [CLIENT_ID],
        "client_secret": [CLIENT_SECRET],
    }


def test_parameters_travel_in_the_body_and_never_in_the_address(tokens: TokenSource, router: respx.MockRouter) -> None:
    tokens.access_token()
    request = router["token"].calls.last.request
    assert str(request.url) == TOKEN_URL
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_a_good_token_is_used_by_later_calls_and_other_processes(
    pool: Pool, connected: Settings, http: httpx.Client, router: respx.MockRouter
) -> None:
    assert {TokenSource(pool, connected, http).access_token().value for _ in range(3)} == {"1000.first"}
    assert _calls(router) == 1


def test_an_unchanged_setting_does_not_undo_a_connection_made_since(
    pool: Pool, connected: Settings, http: httpx.Client, router: respx.MockRouter, connection: Connection
) -> None:
    _given_tokens(router, {"access_token": "1000.a", "refresh_token": "1000.newer"}, {"access_token": "1000.b"})
    TokenSource(pool, connected, http).access_token()
    expire_token(connection)
    TokenSource(pool, connected, http).access_token()
    assert _sent(router)["refresh_token"] == ["1000.newer"]


def test_a_changed_setting_replaces_the_connection_and_its_refusals(
    pool: Pool, http: httpx.Client, router: respx.MockRouter
) -> None:
    router["token"].respond(json={"error": "invalid_code"})
    with pytest.raises(NotConnected):
        TokenSource(pool, settings(), http).access_token()
    router["token"].respond(json={"access_token": "1000.second", "expires_in": 3600})
    changed = settings(ZOHO_REFRESH_TOKEN="1000.changed")
    assert TokenSource(pool, changed, http).access_token().value == "1000.second"
    assert _sent(router)["refresh_token"] == ["1000.changed"]


def test_a_corrected_client_does_not_wait_for_what_the_wrong_one_earned(
    pool: Pool, http: httpx.Client, router: respx.MockRouter
) -> None:
    router["token"].respond(json={"error": "invalid_client"})
    with pytest.raises(NotConnected):
        TokenSource(pool, settings(ZOHO_CLIENT_SECRET="wrong"), http).access_token()
    router["token"].respond(json={"access_token": "1000.second", "expires_in": 3600})
    assert TokenSource(pool, settings(), http).access_token().value == "1000.second"


def test_without_a_refresh_token_nothing_is_called(pool: Pool, http: httpx.Client, router: respx.MockRouter) -> None:
    with pytest.raises(NotConnected, match="no refresh token"):
        TokenSource(pool, settings(ZOHO_REFRESH_TOKEN=""), http).access_token()
    assert _calls(router) == 0


def test_without_keys_nothing_is_called(pool: Pool, http: httpx.Client, router: respx.MockRouter) -> None:
    with pytest.raises(NotConnected, match="ENCRYPTION_KEYS"):
        TokenSource(pool, settings(ZOHO_REFRESH_TOKEN="", ENCRYPTION_KEYS=""), http).access_token()
    assert _calls(router) == 0


def test_no_text_of_a_token_rests_in_the_table(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    _given_tokens(router, {"access_token": "1000.access.secret", "refresh_token": "1000.refresh.secret"})
    tokens.access_token()
    dump = _dump(connection)
    for secret in ("1000.access.secret", "1000.refresh.secret", REFRESH_TOKEN, CLIENT_SECRET):
        for shape in (secret, secret.encode().hex(), base64.b64encode(secret.encode()).decode()):
            assert shape not in dump


def test_a_refusal_that_repeats_a_secret_is_kept_without_it(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    router["token"].respond(json={"error": f"invalid_code {REFRESH_TOKEN}", "error_description": CLIENT_SECRET * 20})
    with pytest.raises(NotConnected) as caught:
        tokens.access_token()
    for text in (str(caught.value), _dump(connection)):
        assert "invalid_code" in text
        assert REFRESH_TOKEN not in text
        assert CLIENT_SECRET not in text


def test_a_new_key_in_front_reads_what_the_old_one_wrote_and_takes_it_over(
    pool: Pool, http: httpx.Client, router: respx.MockRouter, connection: Connection
) -> None:
    first, second, _ = KEYS
    TokenSource(pool, settings(), http).access_token()
    both = TokenSource(pool, settings(ENCRYPTION_KEYS=f"{second},{first}"), http)
    assert both.access_token().value == "1000.first"
    expire_token(connection)
    both.access_token()
    assert _calls(router) == 2
    # After one refresh the old key can go: the refresh token was written anew as well.
    alone = TokenSource(pool, settings(ENCRYPTION_KEYS=second), http)
    alone.access_token()
    expire_token(connection)
    assert alone.access_token().value == "1000.first"


def test_the_order_of_keys_does_not_matter_for_reading(pool: Pool, http: httpx.Client) -> None:
    TokenSource(pool, settings(), http).access_token()
    for keys in (KEYS, KEYS[::-1], [KEYS[1], KEYS[0]]):
        source = TokenSource(pool, settings(ENCRYPTION_KEYS=",".join(keys)), http)
        assert source.access_token().value == "1000.first"


def test_tokens_of_an_unknown_key_wait_for_a_person_and_say_so(
    pool: Pool, http: httpx.Client, router: respx.MockRouter
) -> None:
    TokenSource(pool, settings(), http).access_token()
    with pytest.raises(NotConnected, match="ENCRYPTION_KEYS: none of its keys") as caught:
        TokenSource(pool, settings(ENCRYPTION_KEYS=KEYS[2]), http).access_token()
    assert caught.value.retry_after >= MINUTE
    assert _calls(router) == 1


# Expiry


def test_a_token_is_refreshed_five_minutes_before_it_expires(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    _given_tokens(router, {"access_token": "1000.a"}, {"access_token": "1000.b"})
    tokens.access_token()
    let_pass(connection, timedelta(minutes=54, seconds=50))
    assert tokens.access_token().value == "1000.a"
    let_pass(connection, timedelta(seconds=15))
    assert tokens.access_token().value == "1000.b"


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (1800, 1800),
        ("1800", 1800),
        (3_600_000, 3600),
        (10**30, 3600),
        (1e300, 3600),
        (None, 3600),
        ("", 3600),
        ("soon", 3600),
        ([], 3600),
        (True, 3600),
        (0, 0),
        (-5, 0),
    ],
)
def test_an_odd_lifetime_is_never_taken_for_more_than_an_hour(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection, expires_in: object, seconds: int
) -> None:
    _given_tokens(router, {"access_token": "1000.a", "expires_in": expires_in})
    assert tokens.access_token().value == "1000.a"
    good_for = zoho_connection.read(connection).good_for
    assert good_for is not None
    assert seconds - PATIENCE_SECONDS < good_for.total_seconds() <= seconds


def test_an_answer_without_a_lifetime_is_good_for_an_hour(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    router["token"].respond(json={"access_token": "1000.a"})
    tokens.access_token()
    let_pass(connection, timedelta(minutes=50))
    tokens.access_token()
    assert _calls(router) == 1


def test_near_its_end_a_token_still_serves_while_the_endpoint_is_left_alone(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    tokens.access_token()
    let_pass(connection, timedelta(minutes=56))
    router["token"].respond(400, json=THROTTLED)
    with pytest.raises(TokenThrottled):
        tokens.access_token()
    assert tokens.access_token().value == "1000.first"
    assert _calls(router) == 2
    let_pass(connection, timedelta(minutes=4))
    connection.execute("UPDATE zoho_connection SET refresh_allowed_at = now() + interval '5 minutes'")
    with pytest.raises(TokenThrottled):
        tokens.access_token()


def test_a_refresh_token_that_comes_with_an_answer_replaces_the_old_one(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    _given_tokens(
        router,
        {"access_token": "1000.a", "refresh_token": "1000.replaced"},
        {"access_token": "1000.b", "refresh_token": ""},
        {"access_token": "1000.c"},
    )
    used = []
    for _ in range(3):
        tokens.access_token()
        used += _sent(router)["refresh_token"]
        expire_token(connection)
    assert used == [REFRESH_TOKEN, "1000.replaced", "1000.replaced"]


def test_the_api_host_of_an_answer_is_remembered_until_another_is_named(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    _given_tokens(
        router,
        {"access_token": "1000.a", "api_domain": "https://www.zohoapis.in/"},
        {"access_token": "1000.b"},
        {"access_token": "1000.c", "api_domain": 7},
        {"access_token": "1000.d", "api_domain": "https://www.zohoapis.eu"},
    )
    domains = []
    for _ in range(4):
        first, again = tokens.access_token(), tokens.access_token()
        assert first == again
        domains.append(zoho_connection.read(connection).api_domain)
        expire_token(connection)
        let_pass(connection, MINUTE)
    assert domains == [*["https://www.zohoapis.in"] * 3, "https://www.zohoapis.eu"]


# Refusals


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {"error": "invalid_code"}, NotConnected),
        (200, {"error": "invalid_client"}, NotConnected),
        (200, {"error": "invalid_client_secret"}, NotConnected),
        (400, {"error": "invalid_client"}, NotConnected),
        (401, {"error": "invalid_client"}, NotConnected),
        (200, {"error": None}, NotConnected),
        (200, {}, NotConnected),
        (200, [], NotConnected),
        (200, {"access_token": ""}, NotConnected),
        (200, {"access_token": None}, NotConnected),
        (200, {"access_token": 17}, NotConnected),
        (200, {"access_token": "1000.with\nnewline"}, NotConnected),
        (200, {"access_token": "1000.übel"}, NotConnected),
        (200, THROTTLED, TokenThrottled),
        (400, THROTTLED, TokenThrottled),
        (400, {"error": "Access Denied"}, TokenThrottled),
        (429, {}, TokenThrottled),
        (500, {"error": "general_error"}, ZohoUnavailable),
        (503, {}, ZohoUnavailable),
    ],
)
def test_an_answer_without_a_token_is_an_error_whatever_its_status(
    tokens: TokenSource, router: respx.MockRouter, status: int, body: object, error: type[WorkError]
) -> None:
    router["token"].respond(status, json=body)
    with pytest.raises(error) as caught:
        tokens.access_token()
    assert type(caught.value) is error
    assert "newline" not in str(caught.value)
    with pytest.raises(TokenThrottled, match="left alone"):
        tokens.access_token()
    assert _calls(router) == 1


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("dropped"),
        httpx.Response(200, content=b'{"access_token": "1000.a", "expi'),
        httpx.Response(502, html="<h1>Bad gateway</h1>"),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b"[" * 100_000),
    ],
)
def test_no_readable_answer_means_unavailable(
    tokens: TokenSource, router: respx.MockRouter, failure: httpx.Response | Exception
) -> None:
    router["token"].side_effect = [failure]
    with pytest.raises(ZohoUnavailable):
        tokens.access_token()
    with pytest.raises(TokenThrottled):
        tokens.access_token()


def test_an_impossible_accounts_address_is_no_crash(pool: Pool, http: httpx.Client) -> None:
    with pytest.raises(ZohoUnavailable):
        TokenSource(pool, settings(ZOHO_ACCOUNTS_URL="http://accounts.test:port"), http).access_token()


def test_the_endpoint_is_left_alone_for_a_growing_while_up_to_half_an_hour(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    router["token"].respond(400, json=THROTTLED)
    waits = []
    for _ in range(8):
        with pytest.raises(TokenThrottled) as caught:
            tokens.access_token()
        waits.append(round(caught.value.retry_after.total_seconds()))
        let_pass(connection, caught.value.retry_after)
        let_pass(connection, timedelta(minutes=10))
    assert waits == [60, 120, 240, 480, 960, 1800, 1800, 1800]
    router["token"].respond(json={"access_token": "1000.back", "expires_in": 3600})
    assert tokens.access_token().value == "1000.back"
    # A success closes the account: the next refusal costs the first wait again.
    router["token"].respond(400, json=THROTTLED)
    expire_token(connection)
    with pytest.raises(TokenThrottled) as caught:
        tokens.access_token()
    assert caught.value.retry_after == MINUTE


def test_whoever_finds_the_endpoint_left_alone_is_told_for_how_long_and_why(
    tokens: TokenSource, router: respx.MockRouter
) -> None:
    router["token"].respond(json={"error": "invalid_code"})
    with pytest.raises(NotConnected):
        tokens.access_token()
    with pytest.raises(TokenThrottled, match="invalid_code") as caught:
        tokens.access_token()
    assert timedelta(seconds=5) < caught.value.retry_after <= timedelta(seconds=15)


class Timeline:
    """Counts calls to the token endpoint by a clock that Postgres believes in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._skipped = timedelta()
        self.calls: list[float] = []

    def now(self) -> float:
        return time.monotonic() + self._skipped.total_seconds()

    def skip(self, span: timedelta) -> None:
        let_pass(self._connection, span)
        self._skipped += span

    def most_within(self, seconds: float) -> int:
        return max((sum(at - seconds < other <= at for other in self.calls) for at in self.calls), default=0)


ANSWERS = {
    "good": httpx.Response(200, json={"access_token": "1000.good", "expires_in": 3600}),
    "short": httpx.Response(200, json={"access_token": "1000.short", "expires_in": 1}),
    "refused": httpx.Response(200, json={"error": "invalid_code"}),
    "throttled": httpx.Response(400, json=THROTTLED),
    "broken": httpx.Response(500, text="?"),
}


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 45),  # seconds that pass before
            st.sampled_from([*ANSWERS, "crash"]),
            st.sampled_from(["fresh", "rejects", "expired", "reseeded"]),
        ),
        min_size=15,
        max_size=50,
    )
)
def test_the_endpoint_is_never_called_more_than_3_times_in_30_seconds_nor_9_times_in_10_minutes(
    pool: Pool, connection: Connection, steps: list[tuple[int, str, str]]
) -> None:
    connection.execute("TRUNCATE token_calls")
    connection.execute("DELETE FROM zoho_connection")
    connection.execute("INSERT INTO zoho_connection DEFAULT VALUES")
    timeline = Timeline(connection)
    answer = ""

    def endpoint(_: httpx.Request) -> httpx.Response:
        timeline.calls.append(timeline.now())
        if answer == "crash":
            raise MemoryError
        return ANSWERS[answer]

    with httpx.Client(transport=httpx.MockTransport(endpoint)) as http:
        tokens, last = TokenSource(pool, settings(), http), None
        for number, (seconds, answer, how) in enumerate(steps):  # noqa: B007 - the endpoint reads it
            timeline.skip(timedelta(seconds=seconds))
            if how == "expired":
                expire_token(connection)
            if how == "reseeded":
                tokens = TokenSource(pool, settings(ZOHO_REFRESH_TOKEN=f"1000.seed.{number}"), http)
            for _ in range(3):
                with suppress(WorkError, MemoryError):
                    last = tokens.access_token(rejected=last if how == "rejects" else None)
    assert timeline.most_within(30) <= 3
    assert timeline.most_within(600) <= 9


def test_a_call_that_was_never_answered_is_on_record(
    tokens: TokenSource, router: respx.MockRouter, connection: Connection
) -> None:
    """As when the process is killed, or Postgres goes away, while the endpoint thinks."""
    router["token"].side_effect = MemoryError
    for _ in range(5):
        with pytest.raises((MemoryError, TokenThrottled)):
            tokens.access_token()
    assert _calls(router) == 3
    let_pass(connection, timedelta(seconds=45))
    router["token"].side_effect = None
    assert tokens.access_token().value == "1000.first"


def test_old_calls_are_forgotten(tokens: TokenSource, connection: Connection) -> None:
    for _ in range(4):
        tokens.access_token()
        expire_token(connection)
        let_pass(connection, timedelta(hours=2))
    assert connection.execute("SELECT count(*) FROM token_calls").fetchone() == {"count": 1}


# A token that the API rejects


def test_a_rejected_token_is_replaced_once_for_all_who_hold_it(tokens: TokenSource, router: respx.MockRouter) -> None:
    _given_tokens(router, {"access_token": "1000.a"}, {"access_token": "1000.b"})
    old = tokens.access_token()
    assert [tokens.access_token(rejected=old).value for _ in range(5)] == ["1000.b"] * 5
    assert _calls(router) == 2


def test_a_rejected_token_is_not_handed_out_again_while_the_endpoint_is_left_alone(
    tokens: TokenSource, router: respx.MockRouter
) -> None:
    old = tokens.access_token()
    router["token"].respond(400, json=THROTTLED)
    for _ in range(3):
        with pytest.raises(TokenThrottled):
            tokens.access_token(rejected=old)
    assert _calls(router) == 2


def test_a_token_does_not_show_itself() -> None:
    assert "1000.secret" not in repr(AccessToken("1000.secret", "https://www.zohoapis.com", "1"))


# Many at once


def test_eight_threads_with_an_expired_token_cause_one_refresh(
    pool: Pool, connected: Settings, connection: Connection, router: respx.MockRouter, http: httpx.Client
) -> None:
    _given_tokens(router, {"access_token": "1000.a"}, {"access_token": "1000.b"})
    tokens = TokenSource(pool, connected, http)
    tokens.access_token()
    expire_token(connection)
    assert {token.value for token in in_threads([tokens.access_token] * 8)} == {"1000.b"}
    assert _calls(router) == 2


def test_threads_that_wait_for_a_refresh_hold_none_of_the_pools_connections(
    database_url: str, connected: Settings, http: httpx.Client, router: respx.MockRouter
) -> None:
    with database.sync_pool(database_url, size=2, name="tests") as pool:
        tokens = TokenSource(pool, connected, http)
        assert {token.value for token in in_threads([tokens.access_token] * 8)} == {"1000.first"}
    assert _calls(router) == 1


def test_who_waits_too_long_for_the_lock_is_told_to_come_back(pool: Pool) -> None:
    with pool.connection() as holder, holder.transaction():
        zoho_connection.lock(holder)
        with pool.connection() as waiter:
            waiter.execute("SET statement_timeout = 50")
            try:
                with pytest.raises(TokenThrottled), waiter.transaction():
                    zoho_connection.lock(waiter)
            finally:
                waiter.execute(f"SET statement_timeout = {database.STATEMENT_TIMEOUT_MS}")


def test_whole_flow_an_hour_of_work_costs_one_token(pool: Pool, zoho: Zoho, zoho_url: str) -> None:
    with httpx.Client() as http:
        tokens = TokenSource(pool, settings(ZOHO_ACCOUNTS_URL=zoho_url), http)
        first = tokens.access_token()
        with pool.connection() as connection:
            assert zoho_connection.read(connection).api_domain == zoho_url
        with answering(respx.MockRouter()) as nobody:
            again = TokenSource(pool, settings(ZOHO_ACCOUNTS_URL=zoho_url), nobody).access_token()
    assert again == first
    assert zoho.token_refreshes == 1
