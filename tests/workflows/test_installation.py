"""What Zoho refuses to the installation, and silence, cost no event and no run anything but time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from processors.workflows import insights
from simulator import Fault
from tests.workflows.runs_scene import LIST, Shop
from tests.workflows.scene import thin

EVENTS = 50
WORK = "/inventory/v1/item*"
"""The list, single items, and several at once."""
DETAILS = Fault("*/itemdetails", status=400, code=98765)
INSTALLATION = {
    "wrong organisation": Fault(WORK, status=400, code=6041, message="This user is not associated with the CompanyID"),
    "trial over": Fault(WORK, status=400, code=103001, message="Your trial is over"),
    "subscription over": Fault(WORK, status=402, code=9055, message="Your subscription is over"),
    "organisation invalid": Fault(WORK, status=400, code=4, message="Invalid value passed for organization_id"),
    "not authorised": Fault(WORK, status=401, code=57, message="You are not authorized"),
    "firewall": Fault(WORK, status=403, body="<html>Forbidden</html>"),
    "unheard of": Fault(WORK, status=400, code=98765, message="Not today"),
}
UNUSABLE = {
    "limit page": Fault(WORK, status=200, body="<html><h1>Request limit reached</h1></html>"),
    "page": Fault(WORK, status=200, body="<html><h1>Sorry</h1></html>"),
    "500": Fault(WORK, status=500),
    "bare 404": Fault(WORK, status=404, body=""),
}


def wait_for_details(shop: Shop, count: int = EVENTS) -> list[int]:
    """Record deliveries that only Zoho can settle, and find that out."""
    ids = shop.stock(count)
    events = [shop.changed(thin(item_id)) for item_id in ids]
    shop.apply(*events)
    return events


def states(shop: Shop) -> dict[str, int]:
    rows = shop.execute("SELECT state, count(*) AS count FROM events GROUP BY state")
    return {row["state"]: row["count"] for row in rows}


def causes(shop: Shop) -> list[str]:
    with shop.pool.connection() as connection:
        return [problem.cause for problem in insights.problems(insights.overview(connection))]


@pytest.mark.parametrize("fault", [*INSTALLATION.values(), *UNUSABLE.values()], ids=[*INSTALLATION, *UNUSABLE])
def test_fifty_events_and_a_run_wait_with_a_handful_of_calls_and_finish_by_themselves(shop: Shop, fault: Fault) -> None:
    events = wait_for_details(shop)
    shop.at_zoho.faults.add(fault)
    run = shop.open()
    for _round in range(4):
        shop.make_due()
        shop.fetch(*events)
        shop.make_run_due(run)
        now = shop.work(run)
        assert now.state == "running"
    assert states(shop) == {"recorded": EVENTS}
    assert sum(row["failures"] for row in shop.execute("SELECT failures FROM events")) <= 4
    assert len(shop.line.asked) <= 8
    assert shop.at_zoho.token_refreshes <= 2
    assert "zoho.closed" in causes(shop) or fault is UNUSABLE["limit page"]

    shop.at_zoho.faults.clear()
    shop.let_pass(run, timedelta(minutes=16))
    shop.execute("UPDATE events SET claimable_at = claimable_at - interval '25 minutes'")
    shop.fetch(*events)
    assert states(shop) == {"processed": EVENTS}
    assert shop.finish(run).state == "complete"
    assert "zoho.closed" not in causes(shop)


def test_what_waits_is_worked_on_as_soon_as_zoho_answers_again(shop: Shop) -> None:
    events = wait_for_details(shop)
    shop.at_zoho.faults.add(INSTALLATION["subscription over"])
    shop.fetch(*events)
    run = shop.open()
    shop.work(run)
    shop.at_zoho.faults.clear()
    shop.let_pass(run, timedelta(minutes=2))
    shop.make_run_due(run)
    shop.work(run)
    waiting = shop.execute("SELECT count(*) AS count FROM events WHERE claimable_at > now()")
    assert waiting == [{"count": 0}]
    shop.fetch(*events)
    assert states(shop) == {"processed": EVENTS}


def test_one_item_that_zoho_refuses_dies_and_no_other(shop: Shop) -> None:
    events = wait_for_details(shop, 10)
    bad = shop.event(events[0])["item_id"]
    shop.at_zoho.faults.add(Fault(f"{LIST}/{bad}", status=400, code=98765))
    shop.at_zoho.faults.add(DETAILS)
    shop.fetch(*events)
    assert states(shop) == {"recorded": 1, "processed": 9}
    assert shop.event(events[0])["error_class"] == "RefusalUnexplained"
    shop.make_due()
    shop.fetch(*events)
    assert states(shop) == {"dead": 1, "processed": 9}
    assert shop.event(events[0])["error_class"] == "ZohoRefused"


def test_two_items_that_zoho_refuses_are_told_from_an_installation_by_one_that_it_gives(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    events = [shop.changed(thin(item_id)) for item_id in ids[:2]]
    shop.apply(*events)
    for item_id in ids[:2]:
        shop.at_zoho.faults.add(Fault(f"{LIST}/{item_id}", status=400, code=98765))
    shop.at_zoho.faults.add(DETAILS)
    for _try in range(3):
        shop.make_due()
        shop.fetch(*events)
    assert states(shop) == {"dead": 2}
    assert causes(shop)[0] != "zoho.closed"


def test_a_run_passes_over_an_item_that_zoho_refuses_and_is_complete(shop: Shop) -> None:
    ids = shop.stock(50)
    shop.complete()
    for item_id in ids[3:5]:
        shop.alter(item_id, "price = 99")
        shop.at_zoho.faults.add(Fault(f"{LIST}/{item_id}", status=400, code=98765))
    shop.at_zoho.faults.add(DETAILS)
    run = shop.run()
    assert (run.state, run.failed) == ("complete", 2)
    assert len(shop.dead_events()) == 2


def test_the_problem_names_what_was_said_and_both_organisations(shop: Shop) -> None:
    events = wait_for_details(shop, 3)
    shop.at_zoho.faults.add(INSTALLATION["wrong organisation"])
    shop.fetch(*events)
    with shop.pool.connection() as connection:
        found = [p for p in insights.problems(insights.overview(connection)) if p.cause == "zoho.closed"]
    (problem,) = found
    assert "code 6041, 'This user is not associated with the CompanyID'" in problem.what
    assert f"the organisation is {shop.at_zoho.organization.organization_id}" in problem.what
    for each in shop.at_zoho.organizations:
        assert f"{each.organization_id} ({each.name})" in problem.what
