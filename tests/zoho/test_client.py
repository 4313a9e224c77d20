"""Calls to Zoho's API: what each status and code means, and what a 401 costs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import respx

from processors.errors import (
    BudgetSpent,
    NotAuthorised,
    NotConnected,
    RefusalUnexplained,
    TokenThrottled,
    WorkError,
    ZohoUnavailable,
)
from processors.store.database import Connection, Pool
from processors.zoho.client import ZohoClient
from simulator import ORGANIZATION_ID, Fault, Zoho
from tests.zoho.support import API, answering, expire_token, in_threads, let_pass, settings

ITEM_URL = f"{API}/inventory/v1/items/4100000000000020007"
ITEM_ID = "4100000000000020007"


@pytest.fixture
def item(router: respx.MockRouter) -> respx.Route:
    """How Zoho answers for the item: with success, unless the test says otherwise."""
    return router.get(url__startswith=f"{API}/inventory/v1/items/").respond(
        json={"code": 0, "message": "success", "item": {"item_id": ITEM_ID}}
    )


@pytest.fixture
def simulated(pool: Pool, zoho_url: str) -> Iterator[ZohoClient]:
    with ZohoClient(pool, settings(ZOHO_ACCOUNTS_URL=zoho_url, ZOHO_API_URL="")) as client:
        yield client


def test_a_call_carries_token_and_organisation(client: ZohoClient, item: respx.Route) -> None:
    assert client.item(ITEM_ID) == {"item_id": ITEM_ID}
    request = item.calls.last.request
    assert str(request.url) == f"{ITEM_URL}?organization_id={ORGANIZATION_ID}"
    assert request.headers["Authorization"] == "Zoho-oauthtoken 1000.first"


@pytest.mark.parametrize(
    ("item_id", "path"),
    [
        ("1/../2", b"1%2F%2E%2E%2F2"),
        ("..", b"%2E%2E"),
        ("1?a=b#c", b"1%3Fa%3Db%23c"),
        ("50% ü", b"50%25%20%C3%BC"),
    ],
)
def test_an_item_id_cannot_leave_its_place_in_the_path(
    client: ZohoClient, item: respx.Route, item_id: str, path: bytes
) -> None:
    client.item(item_id)
    assert item.calls.last.request.url.raw_path.split(b"?")[0] == b"/inventory/v1/items/" + path


def test_the_api_host_that_came_with_the_token_is_called(
    pool: Pool, router: respx.MockRouter, http: httpx.Client
) -> None:
    router["token"].respond(json={"access_token": "1000.a", "api_domain": "https://www.zohoapis.in"})
    told = router.get(host="www.zohoapis.in").respond(json={"code": 0, "item": {}})
    assert ZohoClient(pool, settings(ZOHO_API_URL=""), http).item("1") == {}
    assert told.called


def test_a_configured_api_host_wins(
    pool: Pool, router: respx.MockRouter, http: httpx.Client, item: respx.Route
) -> None:
    router["token"].respond(json={"access_token": "1000.a", "api_domain": "https://www.zohoapis.in"})
    ZohoClient(pool, settings(), http).item("1")
    assert item.called


def test_without_either_the_data_centre_decides(pool: Pool, router: respx.MockRouter, http: httpx.Client) -> None:
    told = router.get(host="www.zohoapis.eu").respond(json={"code": 0, "item": {}})
    ZohoClient(pool, settings(ZOHO_API_URL="", ZOHO_DATA_CENTER="eu"), http).item("1")
    assert told.called


def test_no_digit_of_a_number_or_an_id_is_lost(client: ZohoClient, item: respx.Route) -> None:
    item.respond(
        content=b'{"code":0,"item":{"item_id":4100000000000020007,"group_id":"4815000000044208123",'
        b'"rate":19.990000000000000001,"stock_on_hand":123456789012345678901234567890.10}}'
    )
    assert client.item(ITEM_ID) == {
        "item_id": 4100000000000020007,
        "group_id": "4815000000044208123",
        "rate": Decimal("19.990000000000000001"),
        "stock_on_hand": Decimal("123456789012345678901234567890.10"),
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, 1002), (404, 5), (200, 1002), (400, 1002), (404, "1002"), (404, 2006), (400, 2006)],
    ids=str,
)
def test_a_record_that_does_not_exist_is_none(
    client: ZohoClient, item: respx.Route, status: int, code: int | str
) -> None:
    item.respond(status, json={"code": code, "message": "Item does not exist."})
    assert client.item(ITEM_ID) is None


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, 0, ZohoUnavailable),
        (404, None, ZohoUnavailable),
        (404, 9999, ZohoUnavailable),
        (200, 1000, ZohoUnavailable),
        (200, 2, ZohoUnavailable),
        (200, -1, ZohoUnavailable),
        (500, 1000, ZohoUnavailable),
        (500, 1002, ZohoUnavailable),
        (502, None, ZohoUnavailable),
        (503, 0, ZohoUnavailable),
        (400, 2, RefusalUnexplained),
        (400, 1001, RefusalUnexplained),
        (405, 37, RefusalUnexplained),
        (402, None, NotAuthorised),
        (402, 9055, NotAuthorised),
        (400, 6041, NotAuthorised),
        (200, 6041, NotAuthorised),
        (400, 103001, NotAuthorised),
        (400, 4, NotAuthorised),
        (404, 4, ZohoUnavailable),
        (500, 45, BudgetSpent),
        (429, 43, BudgetSpent),
        (400, 43, BudgetSpent),
        (200, 10**12, ZohoUnavailable),
        (400, "9" * 5000, RefusalUnexplained),
        (400, "4294967296", RefusalUnexplained),
        (200, {}, ZohoUnavailable),
    ],
)
def test_status_and_code_together_decide_what_is_raised(
    client: ZohoClient, item: respx.Route, status: int, code: object, error: type[WorkError]
) -> None:
    item.respond(status, json={"code": code, "message": "for a reason"})
    with pytest.raises(error) as caught:
        client.item(ITEM_ID)
    assert type(caught.value) is error
    assert item.call_count == 1


def test_an_error_says_what_was_answered_for_which_path(client: ZohoClient, item: respx.Route) -> None:
    item.respond(400, json={"code": 2, "message": "Invalid value passed for x"})
    with pytest.raises(RefusalUnexplained, match=rf"400, code 2, 'Invalid value passed for x' for /items/{ITEM_ID}"):
        client.item(ITEM_ID)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, html="<h1>Not found</h1>"),
        httpx.Response(404, content=b""),
        httpx.Response(404, json=[]),
        httpx.Response(200, content=b'{"code":0,"item":{"item_id":"41'),
        httpx.Response(200, content=b""),
        httpx.Response(200, json=[1, 2]),
        httpx.Response(200, json="text"),
        httpx.Response(200, json=None),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"code": 0}),
        httpx.Response(200, json={"code": 0, "item": []}),
        httpx.Response(200, json={"code": 0, "item": None}),
        httpx.Response(200, content=b'{"code":' + b"[" * 100_000),
        httpx.Response(302, headers={"Location": "http://elsewhere.test/"}),
        httpx.DecodingError("no gzip"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("dropped"),
        httpx.ReadError("dropped"),
    ],
)
def test_what_is_no_answer_of_zohos_says_nothing_of_the_item(
    client: ZohoClient, item: respx.Route, answer: httpx.Response | Exception
) -> None:
    item.side_effect = [answer]
    with pytest.raises(ZohoUnavailable):
        client.item(ITEM_ID)


def test_an_impossible_api_address_is_no_crash(pool: Pool, router: respx.MockRouter, http: httpx.Client) -> None:
    router["token"].respond(json={"access_token": "1000.a"})
    with pytest.raises(ZohoUnavailable):
        ZohoClient(pool, settings(ZOHO_API_URL="https://api.test:port"), http).item("1")


@pytest.mark.parametrize(
    ("status", "code", "at_least", "at_most"),
    [
        (429, 44, 60, 62),
        (200, 44, 60, 62),
        (400, 44, 60, 62),
        (429, 45, 0, 86_400),
        (429, 1070, 1, 10),
        (429, None, 60, 62),
        (429, 7, 60, 62),
    ],
)
def test_a_spent_quota_closes_the_way_for_every_later_call(
    client: ZohoClient, item: respx.Route, status: int, code: int | None, at_least: int, at_most: int
) -> None:
    item.respond(status, json={"code": code, "message": "blocked"})
    with pytest.raises(BudgetSpent, match="quota") as caught:
        client.item(ITEM_ID)
    assert at_least <= caught.value.retry_after.total_seconds() <= at_most
    if code not in (45, 1070):
        with pytest.raises(BudgetSpent, match=f"breaker is open: Zoho answered {status} with code {code}"):
            client.item(ITEM_ID)
        assert item.call_count == 1


@pytest.mark.parametrize("body", [b"<h1>Too many requests</h1>", b"[]", b""])
def test_too_many_requests_is_understood_without_json(client: ZohoClient, item: respx.Route, body: bytes) -> None:
    item.respond(429, content=body)
    with pytest.raises(BudgetSpent):
        client.item(ITEM_ID)
    with pytest.raises(BudgetSpent):
        client.item(ITEM_ID)
    assert item.call_count == 1


@pytest.mark.parametrize(
    ("header", "at_least", "at_most"),
    [
        ("300", 299, 301),
        ("0", 60, 62),
        ("-1", 60, 62),
        ("1.5", 60, 62),
        ("9" * 5000, 60, 62),
        ("999999999", 86_000, 86_401),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 60, 62),
        ("\u00b2", 60, 62),
    ],
)
def test_a_retry_after_is_honoured_but_never_shortens_the_wait(
    client: ZohoClient, item: respx.Route, header: str, at_least: int, at_most: int
) -> None:
    item.respond(429, headers=[(b"Retry-After", header.encode("latin-1"))], json={"code": 44})
    with pytest.raises(BudgetSpent) as caught:
        client.item(ITEM_ID)
    assert at_least <= caught.value.retry_after.total_seconds() <= at_most


# 401


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"code": 14, "message": "Invalid value passed for authtoken."}),
        httpx.Response(401, json={"code": 57, "message": "You are not authorized"}),
        httpx.Response(401, json={}),
        httpx.Response(401, html="<h1>Unauthorized</h1>"),
        httpx.Response(400, json={"code": 14}),
        httpx.Response(200, json={"code": 57}),
    ],
)
def test_an_unauthorised_call_costs_one_refresh_and_one_more_try(
    client: ZohoClient, router: respx.MockRouter, item: respx.Route, answer: httpx.Response
) -> None:
    router["token"].side_effect = [
        httpx.Response(200, json={"access_token": f"1000.{name}", "expires_in": 3600}) for name in ("old", "new")
    ]
    item.side_effect = [answer, httpx.Response(200, json={"code": 0, "item": {"name": "Mug"}})]
    assert client.item(ITEM_ID) == {"name": "Mug"}
    sent = [call.request.headers["Authorization"].split()[1] for call in item.calls]
    assert sent == ["1000.old", "1000.new"]
    assert router["token"].call_count == 2


def test_still_unauthorised_with_a_fresh_token_waits_for_a_person(
    client: ZohoClient, router: respx.MockRouter, item: respx.Route
) -> None:
    names = iter(range(100))
    router["token"].side_effect = lambda _: httpx.Response(
        200, json={"access_token": f"1000.{next(names)}", "expires_in": 3600}
    )
    item.respond(401, json={"code": 57, "message": "You are not authorized"})
    with pytest.raises(NotAuthorised, match="ZOHO_ORGANIZATION_ID") as caught:
        client.item(ITEM_ID)
    assert caught.value.retry_after >= timedelta(seconds=59)
    assert (item.call_count, router["token"].call_count) == (2, 2)
    for _ in range(20):
        with pytest.raises((NotAuthorised, TokenThrottled)):
            client.item(ITEM_ID)
    assert (item.call_count, router["token"].call_count) == (2, 2)


@pytest.mark.parametrize("answer", [{"json": {"code": 1, "message": "no"}}, {"text": "<html>Forbidden"}])
def test_a_forbidden_call_waits_for_a_person_and_costs_no_refresh(
    client: ZohoClient, item: respx.Route, router: respx.MockRouter, answer: dict[str, Any]
) -> None:
    item.respond(403, **answer)
    with pytest.raises(NotAuthorised):
        client.item(ITEM_ID)
    assert (item.call_count, router["token"].call_count) == (1, 1)


def test_a_wrong_organisation_never_locks_the_refresh_token_out(
    pool: Pool, connection: Connection, zoho: Zoho, zoho_url: str
) -> None:
    wrong = settings(ZOHO_ACCOUNTS_URL=zoho_url, ZOHO_API_URL="", ZOHO_ORGANIZATION_ID="1")
    with ZohoClient(pool, wrong) as client:
        for _ in range(40):
            with pytest.raises((NotAuthorised, TokenThrottled)):
                client.item(ITEM_ID)
            let_pass(connection, timedelta(seconds=14))
    assert zoho.calls("/oauth/v2/token") <= 9


def test_a_refused_refresh_token_waits_for_a_person(client: ZohoClient, router: respx.MockRouter) -> None:
    router["token"].respond(json={"error": "invalid_code"})
    with pytest.raises(NotConnected):
        client.item(ITEM_ID)


# Whole flows, on real sockets


def test_an_item_comes_as_zoho_has_it(simulated: ZohoClient, zoho: Zoho) -> None:
    mug = zoho.catalogue.create("Mug", rate=Decimal("360.00"))
    fields = simulated.item(mug.item_id)
    assert fields is not None
    assert (fields["item_id"], fields["name"], str(fields["rate"])) == (mug.item_id, "Mug", "360.00")


@pytest.mark.parametrize("item_id", ["9999999999999999999", "no-such-item"])
def test_an_item_that_zoho_does_not_know_is_none(simulated: ZohoClient, item_id: str) -> None:
    assert simulated.item(item_id) is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("*/items/*", drop_connection=True), ZohoUnavailable),
        (Fault("*/items/*", truncate=True), ZohoUnavailable),
        (Fault("*/items/*", status=500), ZohoUnavailable),
        (Fault("*/items/*", status=404, body="<h1>404</h1>"), ZohoUnavailable),
        (Fault("*/items/*", status=429, code=44, headers={"Retry-After": "90"}), BudgetSpent),
        (Fault("*/items/*", status=400, code=2), RefusalUnexplained),
        (Fault("/oauth/*", drop_connection=True), ZohoUnavailable),
        (Fault("/oauth/*", truncate=True), ZohoUnavailable),
        (Fault("/oauth/*", status=200, body='{"error":"invalid_client"}'), NotConnected),
    ],
)
def test_a_fault_is_an_error_of_its_kind_and_the_next_call_goes_well(
    simulated: ZohoClient, zoho: Zoho, connection: Connection, fault: Fault, error: type[WorkError]
) -> None:
    item_id = zoho.catalogue.all()[0].item_id
    zoho.faults.add(fault)
    with pytest.raises(error):
        simulated.item(item_id)
    zoho.faults.clear()
    let_pass(connection, timedelta(minutes=2))
    assert simulated.item(item_id) is not None


def test_zohos_own_limits_are_never_reached(pool: Pool, zoho: Zoho, zoho_url: str) -> None:
    zoho.limits.per_minute, zoho.limits.concurrent = 30, 3
    zoho.faults.add(Fault("*/items/*", latency_seconds=0.01))
    item_id = zoho.catalogue.all()[0].item_id
    chosen = settings(
        ZOHO_ACCOUNTS_URL=zoho_url,
        ZOHO_API_URL="",
        ZOHO_REQUESTS_PER_MINUTE="30",
        ZOHO_CONCURRENT_REQUESTS="3",
    )
    with ZohoClient(pool, chosen) as one, ZohoClient(pool, chosen) as other:
        results = in_threads([lambda: _fetch_until_spent(one, item_id), lambda: _fetch_until_spent(other, item_id)] * 3)
    assert sum(results) == 30
    assert zoho.requests.count("*/items/*", status=429) == 0


def _fetch_until_spent(client: ZohoClient, item_id: str) -> int:
    for fetched in range(100):
        try:
            assert client.item(item_id) is not None
        except BudgetSpent:
            return fetched
    raise AssertionError("the limit was not kept")


def test_the_token_is_not_refreshed_for_each_call(simulated: ZohoClient, zoho: Zoho, connection: Connection) -> None:
    item_id = zoho.catalogue.all()[0].item_id
    for _ in range(5):
        simulated.item(item_id)
    expire_token(connection)
    simulated.item(item_id)
    assert zoho.token_refreshes == 2


def test_a_database_that_was_never_connected_calls_nothing(
    pool: Pool, router: respx.MockRouter, item: respx.Route
) -> None:
    with answering(router) as http, pytest.raises(NotConnected):
        ZohoClient(pool, settings(ZOHO_REFRESH_TOKEN=""), http).item(ITEM_ID)
    assert not item.called
