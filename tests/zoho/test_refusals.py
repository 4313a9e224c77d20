"""Whom a refusal is charged to: the item, or this installation; and what all processes then do together."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
import respx

from processors.errors import (
    BudgetSpent,
    MustWait,
    NotAuthorised,
    RefusalUnexplained,
    WorkError,
    ZohoAway,
    ZohoRefused,
    ZohoUnavailable,
)
from processors.store import api_calls
from processors.store.api_calls import Breaker
from processors.store.database import Connection, Pool
from processors.zoho import answers
from processors.zoho.client import ZohoClient
from processors.zoho.limiter import MOST_UNUSABLE
from tests.zoho.support import API, in_threads, let_pass, settings

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
OF_THE_INSTALLATION = [(400, 6041), (400, 103001), (402, 9055), (402, None), (400, 4), (403, None), (200, 6041)]
LIMIT_PAGE = "<html><body><h1>Request limit reached</h1></body></html>"


class Work:
    """What Zoho answers to the mirror's own work, and how often it was asked."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.asked: list[str] = []
        self.refused: dict[str, tuple[int, int | None]] = {}
        """By item id; "" stands for everything."""
        router.get(url__startswith=f"{API}/inventory/v1/item").mock(side_effect=self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        item_id = request.url.path.rpartition("/")[2]
        self.asked.append(item_id)
        refused = self.refused.get(item_id) or self.refused.get("")
        if refused:
            return httpx.Response(refused[0], json={"code": refused[1], "message": "No."})
        return httpx.Response(200, json={"code": 0, "item": {"item_id": item_id}, "items": []})


@pytest.fixture
def work(router: respx.MockRouter) -> Work:
    return Work(router)


def error_of(client: ZohoClient, item_id: str) -> type[Exception] | None:
    """Ask for an item; return what is raised."""
    try:
        client.item(item_id)
    except WorkError as error:
        return type(error)
    return None


def breaker(connection: Connection) -> Breaker:
    found = api_calls.breaker(connection)
    assert found is not None
    return found


def know(connection: Connection, item_id: str) -> None:
    """Let the mirror have a product that Zoho gave once."""
    connection.execute("INSERT INTO products (zoho_item_id) VALUES (%s)", (item_id,))


# What no item is to blame for


@pytest.mark.parametrize(("status", "code"), OF_THE_INSTALLATION)
def test_one_refusal_of_the_installation_stops_all_calls_of_all_processes(
    client: ZohoClient,
    pool: Pool,
    http: httpx.Client,
    work: Work,
    router: respx.MockRouter,
    status: int,
    code: int | None,
) -> None:
    work.refused[""] = (status, code)
    other = ZohoClient(pool, settings(), http)
    for number in range(50):
        with pytest.raises(NotAuthorised) as caught:
            (client, other)[number % 2].item(f"{number + 1}")
        assert caught.value.retry_after > timedelta(seconds=50)
    assert (len(work.asked), router["organizations"].call_count, router["token"].call_count) == (1, 1, 1)


def test_a_single_call_finds_out_at_growing_intervals_and_a_good_answer_ends_it(
    client: ZohoClient, connection: Connection, work: Work, router: respx.MockRouter
) -> None:
    work.refused[""] = (400, 6041)
    passed, times = timedelta(), list[timedelta]()
    while passed < 2 * HOUR:
        before = len(work.asked)
        assert error_of(client, "1") is NotAuthorised
        if len(work.asked) > before:
            times.append(passed)
        let_pass(connection, timedelta(seconds=20))
        passed += timedelta(seconds=20)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len([at for at in times if at < HOUR]) <= 8
    assert gaps == sorted(gaps)
    assert max(gaps) <= timedelta(minutes=16)
    # The rest costs nothing for each probe.
    assert (router["organizations"].call_count, router["token"].call_count) == (1, 3)
    work.refused.clear()
    let_pass(connection, 16 * MINUTE)
    assert [error_of(client, item_id) for item_id in "123"] == [None] * 3
    assert api_calls.breaker(connection) is None


def test_the_breaker_tells_since_when_what_was_said_and_which_organisations_there_are(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    work.refused[""] = (400, 6041)
    assert error_of(client, "1") is NotAuthorised
    let_pass(connection, 90 * timedelta(seconds=1))
    assert error_of(client, "2") is NotAuthorised
    told = breaker(connection)
    assert told.cause == "installation"
    assert "400, code 6041, 'No.'" in told.reason
    assert told.age > 80 * timedelta(seconds=1)
    assert told.organization_id == settings().zoho_organization_id
    assert told.organizations == "60001 (Shop), 60002 (Other)"


def test_another_organisation_is_not_refused_for_what_this_one_was(
    client: ZohoClient, pool: Pool, http: httpx.Client, connection: Connection, work: Work
) -> None:
    work.refused[""] = (400, 6041)
    assert error_of(client, "1") is NotAuthorised
    work.refused.clear()
    assert error_of(client, "1") is NotAuthorised
    mended = ZohoClient(pool, settings(ZOHO_ORGANIZATION_ID="60001"), http)
    assert error_of(mended, "1") is None
    assert api_calls.breaker(connection) is None


def test_a_person_who_looks_is_answered_by_zoho_and_opens_the_way(
    client: ZohoClient, pool: Pool, http: httpx.Client, connection: Connection, work: Work
) -> None:
    work.refused[""] = (402, 9055)
    assert error_of(client, "1") is NotAuthorised
    person = ZohoClient(pool, settings(), http, is_persons=True)
    before = breaker(connection)
    assert error_of(person, "2") is NotAuthorised
    assert breaker(connection).closed_for <= before.closed_for
    work.refused.clear()
    assert error_of(person, "2") is None
    assert error_of(client, "1") is None


def test_what_is_refused_besides_the_mirrors_own_work_stops_nothing(
    client: ZohoClient, router: respx.MockRouter
) -> None:
    """Setting webhooks up takes a scope that most connections have not."""
    Work(router)
    refused = router.get(url__startswith=f"{API}/inventory/v1/settings/")
    for status, code in [(401, 57), (403, None), (400, 6041), (400, 9999), (500, None), (500, None)]:
        refused.respond(status, json={"code": code})
        with pytest.raises(WorkError):
            client.settings_list("webhooks")
        assert error_of(client, "1") is None


def test_what_works_besides_the_mirrors_own_work_opens_nothing(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    work.refused[""] = (400, 6041)
    assert error_of(client, "1") is NotAuthorised
    let_pass(connection, 2 * MINUTE)
    assert len(client.organisations()) == 2
    assert breaker(connection).cause == "installation"


def test_no_code_is_the_items_and_the_installations() -> None:
    tables = [
        set(answers.NO_SUCH_RECORD),
        set(answers.OF_THE_INSTALLATION),
        set(answers.QUOTA),
        set(answers.UNAUTHORISED),
    ]
    assert len(set.union(*tables)) == sum(len(table) for table in tables)


# Refusals that nobody knows


def test_one_refused_item_is_tried_again_and_stops_no_other(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    work.refused["1"] = (400, 9999)
    assert error_of(client, "1") is RefusalUnexplained
    assert error_of(client, "2") is None
    assert api_calls.breaker(connection) is None


def test_a_good_answer_for_another_item_in_between_proves_that_it_was_the_items(client: ZohoClient, work: Work) -> None:
    work.refused["1"] = (400, 9999)
    assert [error_of(client, item_id) for item_id in "121"] == [RefusalUnexplained, None, ZohoRefused]


def test_a_list_in_between_proves_nothing_of_an_item(client: ZohoClient, work: Work) -> None:
    work.refused["1"] = (400, 9999)
    assert error_of(client, "1") is RefusalUnexplained
    client.item_page(page=1, per_page=200, sort_column="created_time", run_id=None)
    assert error_of(client, "1") is RefusalUnexplained


def test_what_is_refused_twice_in_a_row_for_different_items_is_refused_for_all(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    work.refused[""] = (400, 9999)
    raised = [error_of(client, f"{number}") for number in range(1, 51)]
    assert raised == [RefusalUnexplained] + [NotAuthorised] * 49
    assert len(work.asked) == 2
    work.refused.clear()
    let_pass(connection, 2 * MINUTE)
    assert error_of(client, "7") is None


def test_one_item_refused_again_and_again_is_not_refused_for_all(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    work.refused["1"] = (400, 9999)
    assert {error_of(client, "1") for _ in range(5)} == {RefusalUnexplained}
    assert api_calls.breaker(connection) is None


def test_an_item_that_zoho_gave_once_decides_whether_two_refusals_are_for_all(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    know(connection, "77")
    work.refused |= {"1": (400, 9999), "2": (400, 9999)}
    assert [error_of(client, item_id) for item_id in "12"] == [RefusalUnexplained, ZohoRefused]
    assert work.asked == ["1", "2", "77"]
    assert api_calls.breaker(connection) is None
    work.refused[""] = (400, 9999)
    assert [error_of(client, item_id) for item_id in "345"] == [RefusalUnexplained, NotAuthorised, NotAuthorised]
    assert work.asked[3:] == ["3", "4", "77"]


def test_after_a_repair_no_item_is_charged_with_what_was_refused_to_all(
    client: ZohoClient, connection: Connection, work: Work
) -> None:
    work.refused[""] = (400, 9999)
    for number in range(1, 20):
        error_of(client, f"{number}")
        let_pass(connection, MINUTE)
    work.refused.clear()
    let_pass(connection, 16 * MINUTE)
    assert {error_of(client, f"{number}") for number in range(1, 20)} == {None}


# Answers that cannot be used


@pytest.mark.parametrize(
    "answer",
    [
        {"html": "<h1>maintenance</h1>"},
        {"content": b""},
        {"json": {}},
        {"status_code": 500, "json": {"code": 1000}},
        {"status_code": 502, "html": "Bad gateway"},
        {"status_code": 404, "html": "<h1>Not found</h1>"},
        {"status_code": 404, "json": {"code": 0}},
    ],
    ids=str,
)
def test_several_unusable_answers_in_a_row_stop_all_processes_for_a_while(
    client: ZohoClient,
    pool: Pool,
    http: httpx.Client,
    connection: Connection,
    router: respx.MockRouter,
    answer: dict[str, Any],
) -> None:
    route = router.get(url__startswith=f"{API}/inventory/v1/items/").respond(**answer)
    other = ZohoClient(pool, settings(), http)
    raised = [error_of((client, other)[number % 2], f"{number + 1}") for number in range(50)]
    assert raised == [ZohoUnavailable] * (MOST_UNUSABLE - 1) + [ZohoAway] * (51 - MOST_UNUSABLE)
    assert route.call_count == MOST_UNUSABLE
    assert breaker(connection).cause == "unusable"
    for passed in range(12):
        let_pass(connection, 5 * MINUTE)
        assert error_of(client, f"{passed}") is ZohoAway
    assert route.call_count <= MOST_UNUSABLE + 12
    route.respond(json={"code": 0, "item": {}})
    let_pass(connection, 16 * MINUTE)
    assert error_of(client, "1") is None
    assert api_calls.breaker(connection) is None


def test_a_usable_answer_in_between_begins_the_count_anew(client: ZohoClient, router: respx.MockRouter) -> None:
    good = httpx.Response(200, json={"code": 0, "item": {}})
    gone = httpx.Response(404, json={"code": 1002})
    bad = [httpx.Response(500)] * (MOST_UNUSABLE - 1)
    router.get(url__startswith=f"{API}/inventory/v1/items/").mock(side_effect=[*bad, good, *bad, gone, *bad])
    raised = [error_of(client, "1") for _ in range(3 * MOST_UNUSABLE - 1)]
    assert set(raised) == {None, ZohoUnavailable}


def test_a_network_that_is_away_counts_as_well(
    client: ZohoClient, connection: Connection, router: respx.MockRouter
) -> None:
    router.get(url__startswith=f"{API}/inventory/v1/items/").mock(side_effect=httpx.ConnectError("no route"))
    assert [error_of(client, "1") for _ in range(MOST_UNUSABLE)][-1] is ZohoAway
    assert "no route" in breaker(connection).reason


@pytest.mark.parametrize("status", [200, 503])
def test_a_page_that_says_the_limit_is_reached_is_the_quota(
    client: ZohoClient, connection: Connection, router: respx.MockRouter, status: int
) -> None:
    route = router.get(url__startswith=f"{API}/inventory/v1/items/").respond(status, html=LIMIT_PAGE)
    for item_id in "123":
        with pytest.raises(BudgetSpent) as caught:
            client.item(item_id)
        assert caught.value.retry_after > timedelta(seconds=55)
    assert route.call_count == 1
    told = breaker(connection)
    assert told.cause == "quota"
    assert "Request limit reached" in told.reason


def test_an_item_that_speaks_of_a_limit_is_an_item(client: ZohoClient, router: respx.MockRouter) -> None:
    body = {"code": 0, "item": {"item_id": "1", "description": "Request limit reached"}}
    router.get(url__startswith=f"{API}/inventory/v1/items/").respond(json=body)
    assert client.item("1") == body["item"]


def test_calls_under_way_together_are_one_strike(client: ZohoClient, connection: Connection, work: Work) -> None:
    work.refused[""] = (400, 6041)
    raised = in_threads([lambda number=number: client.item(f"{number}") for number in range(1, 5)])  # type: ignore[misc]
    assert all(isinstance(error, MustWait) for error in raised)
    assert breaker(connection).closed_for <= MINUTE
