"""The calls of a run: pages of the list and several items at once, on the run's own account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx
import pytest
import respx

from processors.errors import BudgetSpent, NotAuthorised, RefusalUnexplained, WorkError, ZohoUnavailable
from processors.store.database import Connection, Pool, Row
from processors.zoho.client import ZohoClient
from processors.zoho.items import Fields
from processors.zoho.listing import ListedPage
from simulator import ORGANIZATION_ID, Zoho
from tests.zoho.support import API, forget_answers, let_pass, settings

ITEMS = f"{API}/inventory/v1/items"
DETAILS = f"{API}/inventory/v1/itemdetails"
RUN = 17
SINCE = datetime(2026, 10, 5, 12, 30, 7, 999_999, tzinfo=UTC)


@pytest.fixture
def listed(router: respx.MockRouter) -> respx.Route:
    """How Zoho answers for a page."""
    return router.get(ITEMS).respond(
        json={
            "code": 0,
            "message": "success",
            "items": [{"item_id": "41", "name": "Mug"}, {"item_id": 42, "name": "Cup"}],
            "page_context": {"page": 3, "per_page": 196, "has_more_page": True},
        }
    )


@pytest.fixture
def details(router: respx.MockRouter) -> respx.Route:
    """How Zoho answers for several items."""
    return router.get(DETAILS).respond(
        json={"code": 0, "message": "success", "items": [{"item_id": "42"}, {"item_id": "41", "name": "Mug"}]}
    )


def a_page(client: ZohoClient) -> ListedPage:
    return client.item_page(page=3, per_page=196, sort_column="created_time", run_id=RUN)


def some(client: ZohoClient) -> dict[str, Fields] | None:
    return client.items_by_id(["41", "42"], run_id=RUN)


def one(client: ZohoClient) -> Fields | None:
    return client.item("41", run_id=RUN)


def sent(route: respx.Route) -> dict[str, str]:
    return dict(route.calls.last.request.url.params)


def calls(connection: Connection) -> list[Row]:
    rows: list[Row] = connection.execute(
        "SELECT purpose, run_id, status, code, is_running FROM api_calls ORDER BY id"
    ).fetchall()
    return rows


# A page of the list


def test_a_page_is_asked_for_with_everything_that_makes_it_the_same_page_each_time(
    client: ZohoClient, listed: respx.Route
) -> None:
    a_page(client)
    assert sent(listed) == {
        "page": "3",
        "per_page": "196",
        "filter_by": "Status.All",
        "sort_column": "created_time",
        "sort_order": "A",
        "organization_id": ORGANIZATION_ID,
    }


def test_the_latest_modifications_are_asked_for_by_their_time(client: ZohoClient, listed: respx.Route) -> None:
    client.item_page(
        page=1, per_page=200, sort_column="last_modified_time", descending=True, modified_since=SINCE, run_id=RUN
    )
    assert sent(listed)["sort_column"] == "last_modified_time"
    assert sent(listed)["sort_order"] == "D"
    assert sent(listed)["last_modified_time"] == "2026-10-05T12:30:07+0000"


def test_the_plus_of_a_time_is_no_space_in_the_address(client: ZohoClient, listed: respx.Route) -> None:
    client.item_page(page=1, per_page=200, sort_column="last_modified_time", modified_since=SINCE, run_id=RUN)
    assert b"last_modified_time=2026-10-05T12%3A30%3A07%2B0000" in listed.calls.last.request.url.raw_path


def test_a_time_of_another_zone_is_asked_for_as_the_same_moment(client: ZohoClient, listed: respx.Route) -> None:
    there = SINCE.astimezone(timezone(timedelta(hours=5, minutes=30)))
    client.item_page(page=1, per_page=200, sort_column="last_modified_time", modified_since=there, run_id=RUN)
    assert sent(listed)["last_modified_time"] == "2026-10-05T12:30:07+0000"


def test_a_page_comes_with_its_items_and_what_zoho_says_of_it(client: ZohoClient, listed: respx.Route) -> None:
    page = a_page(client)
    assert [item.item_id for item in page.items] == ["41", "42"]
    assert (page.has_more, page.per_page) == (True, 196)
    assert listed.call_count == 1


def test_an_empty_page_is_a_page(client: ZohoClient, listed: respx.Route) -> None:
    listed.respond(json={"code": 0, "items": [], "page_context": {"has_more_page": False}})
    page = a_page(client)
    assert (page.items, page.has_more) == ((), False)


def test_a_page_without_a_word_on_more_has_more_behind_it_if_it_is_as_full_as_was_asked(
    client: ZohoClient, listed: respx.Route
) -> None:
    listed.respond(json={"code": 0, "items": [{}, {}]})
    assert client.item_page(page=1, per_page=2, sort_column="created_time", run_id=RUN).has_more
    assert not client.item_page(page=1, per_page=3, sort_column="created_time", run_id=RUN).has_more


def test_no_digit_of_a_page_is_lost(client: ZohoClient, listed: respx.Route) -> None:
    listed.respond(content=b'{"code":0,"items":[{"item_id":4100000000000020007,"rate":19.990000000001}]}')
    (item,) = a_page(client).items
    assert item.item_id == "4100000000000020007"
    assert item.read()["rate"] == Decimal("19.990000000001")


# Several items


def test_several_items_are_asked_for_with_one_call(client: ZohoClient, details: respx.Route) -> None:
    assert some(client) == {"41": {"item_id": "41", "name": "Mug"}, "42": {"item_id": "42"}}
    assert sent(details) == {"item_ids": "41,42", "organization_id": ORGANIZATION_ID}
    assert details.call_count == 1


def test_an_id_that_comes_as_a_number_is_the_one_that_was_asked_for(client: ZohoClient, details: respx.Route) -> None:
    details.respond(content=b'{"code":0,"items":[{"item_id":4100000000000020007}]}')
    assert client.items_by_id(["4100000000000020007"], run_id=RUN) == {
        "4100000000000020007": {"item_id": 4100000000000020007}
    }


def test_one_of_several_being_gone_is_none(client: ZohoClient, details: respx.Route) -> None:
    for status, code in [(404, 1002), (404, 5), (400, 1002), (200, 1002)]:
        details.respond(status, json={"code": code, "message": "Item does not exist."})
        assert some(client) is None


def test_what_is_missing_from_the_answer_or_was_not_asked_for_is_not_answered_for(
    client: ZohoClient, details: respx.Route
) -> None:
    answers: list[tuple[list[Any], set[str]]] = [
        ([{"item_id": "41"}], {"41"}),
        ([], set()),
        ([{"item_id": "41"}, {"item_id": "43"}], {"41"}),
        ([{"item_id": "41"}, {"name": "Cup"}, {"item_id": None}, None, 7, []], {"41"}),
    ]
    for items, found in answers:
        details.respond(json={"code": 0, "items": items})
        answer = some(client)
        assert answer is not None
        assert answer.keys() == found


# Status and code

CALLS = [pytest.param(ITEMS, a_page, id="page"), pytest.param(DETAILS, some, id="several")]


ANSWERS = [
    (404, 0, ZohoUnavailable),
    (404, None, ZohoUnavailable),
    (200, 1000, ZohoUnavailable),
    (500, 1000, ZohoUnavailable),
    (502, None, ZohoUnavailable),
    (400, 2, RefusalUnexplained),
    (400, 1001, RefusalUnexplained),
    (405, 37, RefusalUnexplained),
    (403, 1, NotAuthorised),
    (429, 44, BudgetSpent),
    (429, 45, BudgetSpent),
    (429, 1070, BudgetSpent),
    (400, 44, BudgetSpent),
    (200, "45", BudgetSpent),
    (429, None, BudgetSpent),
]


@pytest.mark.parametrize(("url", "call"), CALLS)
def test_status_and_code_together_decide_what_is_raised(
    client: ZohoClient,
    connection: Connection,
    router: respx.MockRouter,
    url: str,
    call: Callable[[ZohoClient], object],
) -> None:
    route = router.get(url)
    raised: list[tuple[int, object, type[Exception]]] = []
    for status, code, _ in ANSWERS:
        route.respond(status, json={"code": code, "message": "for a reason"})
        with pytest.raises(WorkError) as caught:
            call(client)
        raised.append((status, code, type(caught.value)))
        forget_answers(connection)
    assert raised == ANSWERS
    assert route.call_count == len(ANSWERS)


def test_a_list_that_does_not_exist_says_nothing_of_any_item(client: ZohoClient, listed: respx.Route) -> None:
    for code in (5, 1002):
        listed.respond(404, json={"code": code, "message": "does not exist"})
        with pytest.raises(ZohoUnavailable):
            a_page(client)


SPELLED_ENDS = [
    httpx.Response(204),
    httpx.Response(200, content=b""),
    httpx.Response(200, json={"code": 0}),
    httpx.Response(200, json={"code": 0, "items": None}),
    httpx.Response(200, json={"code": 0, "items": {}}),
    httpx.Response(200, json={"code": 0, "items": []}),
]


def test_behind_the_first_page_a_success_without_items_is_the_end(client: ZohoClient, listed: respx.Route) -> None:
    listed.side_effect = iter(SPELLED_ENDS)
    for _ in SPELLED_ENDS:
        page = a_page(client)
        assert (page.items, page.has_more) == ((), False)


def test_on_the_first_page_only_an_array_says_that_there_is_nothing(client: ZohoClient, listed: respx.Route) -> None:
    listed.side_effect = iter(SPELLED_ENDS)
    for _ in SPELLED_ENDS[:-1]:
        with pytest.raises(ZohoUnavailable):
            client.item_page(page=1, per_page=200, sort_column="created_time", run_id=RUN)


def test_nothing_that_was_modified_may_be_spelled_in_every_way(client: ZohoClient, listed: respx.Route) -> None:
    listed.side_effect = iter(SPELLED_ENDS)
    since = datetime(2026, 10, 5, tzinfo=UTC)
    for _ in SPELLED_ENDS:
        found = client.item_page(page=1, per_page=200, sort_column="created_time", modified_since=since, run_id=RUN)
        assert found.items == ()


@pytest.mark.parametrize("content", [b"", b'{"code":0}', b'{"code":0,"items":null}'])
def test_several_items_that_are_not_answered_for_are_not_gone(
    client: ZohoClient, router: respx.MockRouter, content: bytes
) -> None:
    router.get(DETAILS).respond(200, content=content)
    with pytest.raises(ZohoUnavailable):
        some(client)


@pytest.mark.parametrize(("url", "call"), CALLS)
def test_what_is_no_answer_of_zohos_says_nothing_of_the_items(
    client: ZohoClient,
    connection: Connection,
    router: respx.MockRouter,
    url: str,
    call: Callable[[ZohoClient], object],
) -> None:
    answers: list[httpx.Response | Exception] = [
        httpx.Response(200, content=b'{"code":0,"items":[{"item_id":"41'),
        httpx.Response(200, json=[1, 2]),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"code": 0, "items": "none"}),
        httpx.Response(200, json={"code": 0, "items": {"41": {}}}),
        httpx.Response(200, html="<h1>maintenance</h1>"),
        httpx.Response(404, html="<h1>Not found</h1>"),
        httpx.Response(302, headers={"Location": "http://elsewhere.test/"}),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("dropped"),
    ]
    route = router.get(url).mock(side_effect=iter(answers))
    for _ in answers:
        with pytest.raises(ZohoUnavailable):
            call(client)
        forget_answers(connection)
    assert route.call_count == len(answers)


@pytest.mark.parametrize(("url", "call"), CALLS)
def test_an_old_token_costs_one_refresh_and_one_more_try(
    client: ZohoClient, router: respx.MockRouter, url: str, call: Callable[[ZohoClient], object]
) -> None:
    router["token"].side_effect = [
        httpx.Response(200, json={"access_token": f"1000.{name}", "expires_in": 3600}) for name in ("old", "new")
    ]
    answers = [httpx.Response(401, json={"code": 57}), httpx.Response(200, json={"code": 0, "items": []})]
    route = router.get(url).mock(side_effect=answers)
    call(client)
    assert [made.request.headers["Authorization"].split()[1] for made in route.calls] == ["1000.old", "1000.new"]


# The account


@pytest.mark.parametrize("call", [a_page, some, one])
def test_a_runs_calls_are_on_its_account(
    client: ZohoClient,
    router: respx.MockRouter,
    connection: Connection,
    listed: respx.Route,
    details: respx.Route,
    call: Callable[[ZohoClient], object],
) -> None:
    router.get(f"{ITEMS}/41").respond(json={"code": 0, "item": {"item_id": "41"}})
    call(client)
    assert listed.call_count + details.call_count <= 1
    assert calls(connection) == [{"purpose": "sweep", "run_id": RUN, "status": 200, "code": 0, "is_running": False}]


def test_an_items_call_is_on_nobodys_account(
    client: ZohoClient, router: respx.MockRouter, connection: Connection
) -> None:
    router.get(f"{ITEMS}/41").respond(json={"code": 0, "item": {"item_id": "41"}})
    client.item("41")
    assert calls(connection) == [{"purpose": "item", "run_id": None, "status": 200, "code": 0, "is_running": False}]


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (httpx.Response(500, json={"code": 1000}), 500, 1000),
        (httpx.Response(200, content=b'{"code":0,"items":['), 200, None),
        (httpx.ReadTimeout("slow"), None, None),
    ],
)
def test_a_call_that_failed_is_on_the_account_all_the_same(
    client: ZohoClient,
    connection: Connection,
    listed: respx.Route,
    answer: httpx.Response | Exception,
    status: int | None,
    code: int | None,
) -> None:
    listed.side_effect = [answer]
    with pytest.raises(ZohoUnavailable):
        a_page(client)
    assert calls(connection) == [
        {"purpose": "sweep", "run_id": RUN, "status": status, "code": code, "is_running": False}
    ]


def test_both_tries_with_an_old_token_are_on_the_account(
    client: ZohoClient, connection: Connection, listed: respx.Route
) -> None:
    listed.side_effect = [httpx.Response(401, json={"code": 57}), httpx.Response(200, json={"code": 0, "items": []})]
    a_page(client)
    assert [(row["run_id"], row["status"]) for row in calls(connection)] == [(RUN, 401), (RUN, 200)]


@pytest.mark.parametrize("call", [a_page, some, one])
def test_a_sweep_leaves_the_reserve_of_the_minute_to_single_items(
    pool: Pool,
    http: httpx.Client,
    router: respx.MockRouter,
    listed: respx.Route,
    details: respx.Route,
    call: Callable[[ZohoClient], object],
) -> None:
    router.get(f"{ITEMS}/41").respond(json={"code": 0, "item": {"item_id": "41"}})
    client = ZohoClient(pool, settings(ZOHO_REQUESTS_PER_MINUTE="5"), http)
    for _ in range(4):
        call(client)
    made = listed.call_count + details.call_count
    with pytest.raises(BudgetSpent, match="this minute"):
        call(client)
    assert listed.call_count + details.call_count == made
    assert client.item("41") == {"item_id": "41"}
    with pytest.raises(BudgetSpent):
        client.item("41")


def test_a_sweep_leaves_the_reserve_of_the_day_to_single_items(
    pool: Pool, http: httpx.Client, router: respx.MockRouter, connection: Connection, listed: respx.Route
) -> None:
    router.get(f"{ITEMS}/41").respond(json={"code": 0, "item": {"item_id": "41"}})
    client = ZohoClient(pool, settings(ZOHO_REQUESTS_PER_DAY="10"), http)
    for _ in range(8):
        a_page(client)
    let_pass(connection, timedelta(minutes=2))
    with pytest.raises(BudgetSpent, match="this day") as caught:
        a_page(client)
    assert caught.value.retry_after > timedelta(hours=23)
    assert listed.call_count == 8
    assert client.item("41") == {"item_id": "41"}


def test_a_breaker_that_a_sweep_opens_is_closed_to_no_single_item_either(
    client: ZohoClient, router: respx.MockRouter, listed: respx.Route
) -> None:
    item = router.get(f"{ITEMS}/41").respond(json={"code": 0, "item": {"item_id": "41"}})
    listed.respond(429, json={"code": 44})
    with pytest.raises(BudgetSpent):
        a_page(client)
    with pytest.raises(BudgetSpent, match="breaker is open"):
        client.item("41")
    assert not item.called


# On real sockets


def test_the_simulators_list_is_read_as_zoho_has_it(pool: Pool, zoho: Zoho, zoho_url: str) -> None:
    moment = max(item.last_modified_time for item in zoho.catalogue.all())
    with ZohoClient(pool, settings(ZOHO_ACCOUNTS_URL=zoho_url, ZOHO_API_URL="")) as client:
        first, second = (
            client.item_page(page=page, per_page=6, sort_column="created_time", run_id=RUN) for page in (1, 2)
        )
        later = client.item_page(
            page=1,
            per_page=200,
            sort_column="last_modified_time",
            modified_since=moment + timedelta(seconds=1),
            run_id=RUN,
        )
        ids = [item.item_id or "" for item in (*first.items, *second.items)]
        found = client.items_by_id(ids, run_id=RUN)
        nobody = client.items_by_id([*ids, "9999999999999999999"], run_id=RUN)
    assert (first.has_more, first.per_page, second.has_more) == (True, 6, False)
    assert sorted(ids) == sorted(item.item_id for item in zoho.catalogue.all())
    assert later.items == ()
    assert found is not None
    assert list(found) == ids
    assert nobody is None
