"""The Items API: what it answers, whom it refuses, and how it misbehaves on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from simulator import (
    CLIENT_ID,
    CLIENT_SECRET,
    ORGANIZATION_ID,
    REFRESH_TOKEN,
    USER_EMAIL,
    Catalogue,
    Fault,
    Limits,
    ManualClock,
    Organization,
    Zoho,
    create_app,
    in_process,
)
from simulator.request_log import LoggedRequest, RequestLog
from simulator.wire import zoho_time

API = "/inventory/v1/"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def zoho(clock: ManualClock) -> Zoho:
    return Zoho(Catalogue.generate(450, clock=clock), clock=clock)


@pytest.fixture
def anyone(zoho: Zoho) -> Iterator[httpx.Client]:
    with in_process.client(zoho) as client:
        yield client


@pytest.fixture
def client(anyone: httpx.Client, zoho: Zoho) -> httpx.Client:
    anyone.headers["Authorization"] = f"Zoho-oauthtoken {_access_token(zoho)}"
    anyone.params = httpx.QueryParams(organization_id=ORGANIZATION_ID)
    return anyone


def _access_token(zoho: Zoho) -> str:
    form = {"grant_type": "refresh_token", "refresh_token": REFRESH_TOKEN}
    return zoho.tokens.grant({**form, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}).access_token


def _refusal(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["code"]


def test_a_sweep_sees_every_item_once(client: httpx.Client, zoho: Zoho) -> None:
    seen: list[str] = []
    page, has_more = 0, True
    while has_more:
        page += 1
        body = client.get(f"{API}items", params={"page": page, "sort_column": "created_time"}).json()
        assert (body["code"], body["message"]) == (0, "success")
        seen += [item["item_id"] for item in body["items"]]
        has_more = body["page_context"]["has_more_page"]
    assert page == 3
    assert len(seen) == 450
    assert set(seen) == {item.item_id for item in zoho.catalogue.all()}


def test_the_page_context_has_no_total(client: httpx.Client) -> None:
    context = client.get(f"{API}items").json()["page_context"]
    assert context == {
        "page": 1,
        "per_page": 200,
        "has_more_page": True,
        "report_name": "Items",
        "applied_filter": "Status.All",
        "custom_fields": [],
        "sort_column": "name",
        "sort_order": "A",
    }


def test_no_page_is_longer_than_two_hundred(client: httpx.Client) -> None:
    body = client.get(f"{API}items", params={"per_page": 1000}).json()
    assert len(body["items"]) == body["page_context"]["per_page"] == 200


def test_pages_are_live_so_an_edit_moves_items_between_them(
    client: httpx.Client, zoho: Zoho, clock: ManualClock
) -> None:
    """An item edited during a sweep by modified time pushes another one past the reader."""
    parameters = {"sort_column": "last_modified_time", "per_page": "10"}
    first = client.get(f"{API}items", params={**parameters, "page": "1"}).json()["items"]
    unread = client.get(f"{API}items", params={**parameters, "page": "2"}).json()["items"][0]
    clock.advance()
    zoho.catalogue.edit(first[0]["item_id"], description="moved")
    second = client.get(f"{API}items", params={**parameters, "page": "2"}).json()["items"]
    assert unread["item_id"] not in {item["item_id"] for item in second}


def test_the_modified_filter_and_its_search_criteria(client: httpx.Client, zoho: Zoho, clock: ManualClock) -> None:
    moment = zoho_time(clock())
    clock.advance()
    item = zoho.catalogue.create("Newest", rate=Decimal("360.00"))
    response = client.get(f"{API}items", params={"last_modified_time": moment, "sort_order": "D"})
    assert [element["item_id"] for element in response.json()["items"]] == [item.item_id]
    assert '"rate":360.00,' in response.text
    context = response.json()["page_context"]
    assert "custom_fields" not in context
    assert context["search_criteria"][0]["search_text"] == moment


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=x",
        "per_page=-1",
        "sort_column=nonsense",
        "sort_order=up",
        "filter_by=Status.Odd",
        "last_modified_time=2026-10-05T21:32:21+0530",  # the + is a space: it was not encoded
        "last_modified_time=2026-10-05T21:32:21%2B05:30",
    ],
)
def test_a_value_zoho_cannot_read_is_code_2(client: httpx.Client, query: str) -> None:
    client.params = httpx.QueryParams()  # they would replace the query that is written out below
    response = client.get(f"{API}items?organization_id={ORGANIZATION_ID}&{query}")
    assert _refusal(response) == (400, 2)


def test_a_parameter_zoho_does_not_know_is_silently_ignored(client: httpx.Client) -> None:
    everything = client.get(f"{API}items").json()
    assert client.get(f"{API}items", params={"modified_since": "2026"}).json() == everything


@pytest.mark.parametrize("status", ["Active", "Inactive"])
def test_status_filters_keep_their_items(client: httpx.Client, status: str) -> None:
    items = client.get(f"{API}items", params={"filter_by": f"Status.{status}"}).json()["items"]
    assert {item["status"] for item in items} == {status.lower()}


@pytest.mark.parametrize("kind", ["Inventory", "SalesAndPurchases", "Service", "NonInventory"])
def test_item_type_filters_find_something(client: httpx.Client, kind: str) -> None:
    assert client.get(f"{API}items", params={"filter_by": f"ItemType.{kind}"}).json()["items"]


def test_an_item_by_id_and_its_absence(client: httpx.Client, zoho: Zoho) -> None:
    item = zoho.catalogue.create("Mug")
    body = client.get(f"{API}items/{item.item_id}").json()
    assert (body["code"], body["item"]["item_id"]) == (0, item.item_id)
    zoho.catalogue.delete(item.item_id)
    assert _refusal(client.get(f"{API}items/{item.item_id}")) == (404, 1002)
    assert _refusal(client.get(f"{API}items/mug")) == (404, 5)


def test_one_dead_id_fails_the_whole_itemdetails_call(client: httpx.Client, zoho: Zoho) -> None:
    ids = [item.item_id for item in zoho.catalogue.all()[:3]]
    body = client.get(f"{API}itemdetails", params={"item_ids": ",".join(ids)}).json()
    assert [item["item_id"] for item in body["items"]] == ids
    zoho.catalogue.delete(ids[1])
    assert _refusal(client.get(f"{API}itemdetails", params={"item_ids": ",".join(ids)})) == (404, 1002)
    assert _refusal(client.get(f"{API}itemdetails")) == (400, 2)


def test_the_organisation_names_its_zone_and_currency(client: httpx.Client) -> None:
    (organization,) = client.get(f"{API}organizations").json()["organizations"]
    (currency,) = client.get(f"{API}settings/currencies").json()["currencies"]
    assert organization["organization_id"] == ORGANIZATION_ID
    assert organization["time_zone"] == "Asia/Calcutta"
    assert organization["currency_code"] == currency["currency_code"] == "INR"


def test_unknown_paths_and_methods_are_refused_in_zohos_shape(client: httpx.Client) -> None:
    assert _refusal(client.get(f"{API}nonsense")) == (404, 5)
    assert _refusal(client.delete(f"{API}items")) == (405, 37)


def test_only_a_living_token_with_zohos_own_scheme_is_let_in(
    client: httpx.Client, zoho: Zoho, clock: ManualClock
) -> None:
    token = client.headers["Authorization"].split()[1]
    del client.headers["Authorization"]
    assert _refusal(client.get(f"{API}items")) == (401, 57)
    bearer = {"Authorization": f"Bearer {token}"}
    assert _refusal(client.get(f"{API}items", headers=bearer)) == (401, 57)
    zohos = {"Authorization": f"Zoho-oauthtoken {token}"}
    assert client.get(f"{API}items", headers=zohos).status_code == 200
    clock.advance(timedelta(hours=1))
    assert _refusal(client.get(f"{API}items", headers=zohos)) == (401, 14)
    assert zoho.requests.count(f"{API}items", status=401) == 3


@pytest.mark.parametrize("path", ["items", "items/1", "itemdetails", "settings/currencies"])
def test_a_wrong_or_missing_organisation_is_not_authorised(client: httpx.Client, path: str) -> None:
    client.params = httpx.QueryParams()
    assert _refusal(client.get(f"{API}{path}")) == (401, 57)
    assert _refusal(client.get(f"{API}{path}", params={"organization_id": "1"})) == (401, 57)


def test_the_organisation_may_be_named_in_a_header(client: httpx.Client) -> None:
    client.params = httpx.QueryParams()
    header = {"X-com-zoho-inventory-organizationid": ORGANIZATION_ID}
    assert client.get(f"{API}items", headers=header).status_code == 200
    assert client.get(f"{API}organizations").status_code == 200


def test_a_token_opens_only_what_its_scopes_name(client: httpx.Client, zoho: Zoho) -> None:
    code = zoho.tokens.issue_code(frozenset({"ZohoInventory.items.READ"}))
    form = {"grant_type": "authorization_code", "code": code}
    grant = zoho.tokens.grant({**form, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET})
    client.headers["Authorization"] = f"Zoho-oauthtoken {grant.access_token}"
    assert client.get(f"{API}items").status_code == 200
    assert _refusal(client.get(f"{API}organizations")) == (401, 57)


def test_the_hundred_and_first_request_of_a_minute_is_refused(client: httpx.Client, clock: ManualClock) -> None:
    for _ in range(100):
        assert client.get(f"{API}organizations").status_code == 200
        clock.advance(timedelta(milliseconds=500))
    response = client.get(f"{API}organizations")
    assert _refusal(response) == (429, 44)
    assert "Retry-After" not in response.headers
    clock.advance(timedelta(seconds=60))
    assert client.get(f"{API}organizations").status_code == 200


def test_whoever_keeps_calling_while_blocked_stays_blocked(
    client: httpx.Client, zoho: Zoho, clock: ManualClock
) -> None:
    zoho.limits.per_minute = 3
    for _ in range(3):
        client.get(f"{API}organizations")
    for _ in range(10):
        clock.advance(timedelta(seconds=15))
        assert _refusal(client.get(f"{API}organizations")) == (429, 44)
    clock.advance(timedelta(seconds=60))
    assert client.get(f"{API}organizations").status_code == 200


def test_the_days_budget_ends_with_the_organisations_day(client: httpx.Client, zoho: Zoho, clock: ManualClock) -> None:
    zoho.limits.per_day = 2
    zoho.limits.retry_after_seconds = 60
    for _ in range(2):
        assert client.get(f"{API}organizations").status_code == 200
    response = client.get(f"{API}organizations")
    assert _refusal(response) == (429, 45)
    assert response.headers["Retry-After"] == "60"
    clock.advance(timedelta(hours=3))  # 21:32 in the organisation's zone becomes the next day
    zoho.tokens.access_token_lifetime = timedelta(days=1)
    client.headers["Authorization"] = f"Zoho-oauthtoken {_access_token(zoho)}"
    assert client.get(f"{API}organizations").status_code == 200


def test_too_many_requests_at_once_is_code_1070(zoho: Zoho) -> None:
    zoho.limits.concurrent = 2
    zoho.faults.add(Fault(f"{API}organizations", latency_seconds=0.1))
    headers = {"Authorization": f"Zoho-oauthtoken {_access_token(zoho)}"}

    async def call_together() -> list[int]:
        transport = httpx.ASGITransport(create_app(zoho))
        async with httpx.AsyncClient(transport=transport, base_url="http://zoho", headers=headers) as client:
            responses = await asyncio.gather(*(client.get(f"{API}organizations") for _ in range(4)))
            again = await client.get(f"{API}organizations")
        return [*sorted(response.json()["code"] for response in responses), again.json()["code"]]

    assert asyncio.run(call_together()) == [0, 0, 1070, 1070, 0]
    assert zoho.limits.most_at_once == 2


def test_without_limits_nothing_is_refused() -> None:
    limits = Limits.none()
    assert not any(limits.enter() for _ in range(20_000))


def test_a_fault_strikes_after_some_requests_and_so_often(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault(f"{API}items", after=1, times=2, status=503, code=1000))
    statuses = [client.get(f"{API}items").status_code for _ in range(5)]
    assert statuses == [200, 503, 503, 200, 200]
    assert zoho.requests.count(f"{API}items", status=503) == 2


def test_a_fault_can_be_about_one_page_and_leave_other_paths_alone(client: httpx.Client, zoho: Zoho) -> None:
    fault = Fault(f"{API}items", query={"page": "2"}, status=429, code=44, headers={"Retry-After": "7"})
    zoho.faults.add(fault)
    assert client.get(f"{API}items").status_code == 200
    response = client.get(f"{API}items", params={"page": 2})
    assert _refusal(response) == (429, 44)
    assert response.headers["Retry-After"] == "7"
    zoho.faults.remove(fault)
    assert client.get(f"{API}items", params={"page": 2}).status_code == 200


def test_a_fault_by_chance_strikes_some(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault("*", method="GET", share=0.5, status=500))
    statuses = {client.get(f"{API}organizations").status_code for _ in range(40)}
    assert statuses == {200, 500}


def test_a_fault_can_answer_any_body(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault("/inventory/*", status=502, body="<h1>Bad Gateway</h1>"))
    assert client.get(f"{API}items").text == "<h1>Bad Gateway</h1>"


def test_a_truncated_answer_is_whole_to_http_and_broken_to_json(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault(f"{API}items", truncate=True))
    response = client.get(f"{API}items")
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        response.json()


def test_a_dropped_connection_gives_no_answer(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault(f"{API}items", drop_connection=True, times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(f"{API}items")
    assert client.get(f"{API}items").status_code == 200


def test_ignored_filters_return_everything_with_code_0(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault(f"{API}items", ignore_filters=True))
    parameters = {"filter_by": "Status.Inactive", "last_modified_time": "2099-01-01T00:00:00+0000"}
    body = client.get(f"{API}items", params=parameters).json()
    assert (body["code"], len(body["items"])) == (0, 200)


def test_a_page_can_be_empty_and_its_context_can_lie(client: httpx.Client, zoho: Zoho) -> None:
    zoho.faults.add(Fault(f"{API}items", empty_page=True, times=1), Fault(f"{API}items", has_more_page=False))
    empty = client.get(f"{API}items").json()
    assert (empty["items"], empty["page_context"]["has_more_page"]) == ([], False)
    lying = client.get(f"{API}items").json()
    assert (len(lying["items"]), lying["page_context"]["has_more_page"]) == (200, False)
    zoho.faults.clear()
    assert client.get(f"{API}items").json()["page_context"]["has_more_page"] is True


def test_the_request_log_keeps_what_was_asked(client: httpx.Client, zoho: Zoho) -> None:
    client.get(f"{API}items", params={"page": 3})
    client.get("/simulator/state")
    (logged,) = zoho.requests.all()
    assert (logged.method, logged.path, logged.status) == ("GET", f"{API}items", 200)
    assert "page=3" in logged.query
    assert zoho.calls(f"{API}*") == zoho.calls() == 1
    zoho.requests.clear()
    assert zoho.calls() == 0


def test_the_busiest_minute_is_any_sixty_seconds() -> None:
    log, start = RequestLog(), datetime(2026, 10, 5, 12, tzinfo=UTC)
    for second in (0, 59, 60, 61, 118, 119, 121, 300):
        log.add(LoggedRequest(start + timedelta(seconds=second), "GET", "/a", "", 200, 1.0))
    assert log.most_within(timedelta(seconds=60), "/a") == 4
    assert log.most_within(timedelta(seconds=60), "/b") == 0


def test_the_users_other_organisations_are_listed_after_the_default_one(client: httpx.Client, zoho: Zoho) -> None:
    zoho.other_organizations = (Organization("60099", "Second Shop"),)
    listed = client.get(f"{API}organizations").json()["organizations"]
    assert [(each["organization_id"], each["is_default_org"]) for each in listed] == [
        (ORGANIZATION_ID, True),
        ("60099", False),
    ]


def test_another_organisation_answers_for_its_settings_but_has_no_items(client: httpx.Client, zoho: Zoho) -> None:
    zoho.other_organizations = (Organization("60099", "Second Shop"),)
    other = {"organization_id": "60099"}
    assert client.get(f"{API}users/me", params=other).status_code == 200
    assert _refusal(client.get(f"{API}items", params=other)) == (401, 57)


def test_the_user_is_told_to_who_may_read_settings(client: httpx.Client) -> None:
    assert client.get(f"{API}users/me").json()["user"]["email"] == USER_EMAIL
    client.headers["Authorization"] = "Zoho-oauthtoken 1000.unknown"
    assert _refusal(client.get(f"{API}users/me")) == (401, 14)
