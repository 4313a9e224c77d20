"""Zoho is asked for items in few calls, whoever asks, and what is wrong with one item stops no other."""

from __future__ import annotations

from decimal import Decimal

import pytest

from processors.store.audit import Requester
from processors.workflows import operations
from processors.workflows.fetching import MOST_TOGETHER, Asking
from simulator import Fault
from tests.workflows.runs_scene import LIST, Shop
from tests.workflows.scene import thin

BY = Requester("cli", "tester")


def details(shop: Shop) -> int:
    """Count the calls for several items at once."""
    return sum(url.path.endswith("/itemdetails") for url in shop.line.asked)


def wait_for_details(shop: Shop, item_ids: list[str]) -> list[int]:
    events = [shop.changed(thin(item_id)) for item_id in item_ids]
    shop.apply(*events)
    return events


def test_five_hundred_thin_deliveries_cost_five_calls(shop: Shop) -> None:
    ids = shop.stock(500)
    events = wait_for_details(shop, ids)
    shop.fetch(events[0])
    assert set(shop.outcomes(events)) == {"created"}
    assert (details(shop), len(shop.line.asked)) == (5, 5)
    assert shop.differences() == {}


def test_one_thin_delivery_costs_one_call_for_one_item(shop: Shop) -> None:
    ids = shop.stock(3)
    event = wait_for_details(shop, ids[:1])
    shop.fetch(*event)
    assert [url.path for url in shop.line.asked] == [f"{LIST}/{ids[0]}"]
    assert shop.outcomes(event) == ["created"]


def test_dead_items_among_many_are_found_in_few_calls_and_keep_no_other(shop: Shop) -> None:
    ids = shop.stock(100)
    shop.complete()
    shop.line.forget()
    dead = [ids[3], ids[50], ids[51]]
    shop.remove(dead)
    shop.edit([item_id for item_id in ids if item_id not in dead], "9.99")
    events = wait_for_details(shop, ids)
    shop.fetch(*events)
    outcomes = dict(zip(ids, shop.outcomes(events), strict=True))
    assert {outcomes.pop(item_id) for item_id in dead} == {"tombstoned"}
    assert set(outcomes.values()) == {"updated"}
    assert len(shop.line.asked) <= 45


def test_an_item_that_cannot_be_used_fails_only_its_own_event(shop: Shop) -> None:
    ids = shop.stock(20)
    events = wait_for_details(shop, ids)

    def spoil(_path: str, said: object) -> object:
        for item in said.get("items", []) if isinstance(said, dict) else []:
            if item["item_id"] == ids[7]:
                item["name"] = item["status"] = None
        return said

    shop.line.answers = spoil
    shop.fetch(*events)
    assert shop.event(events[7])["error_class"] == "ItemUnusable"
    assert [shop.event(event)["state"] for event in events].count("processed") == 19


def test_where_several_at_once_are_refused_each_is_asked_for_by_itself(shop: Shop) -> None:
    ids = shop.stock(4)
    shop.at_zoho.faults.add(Fault("*/itemdetails", status=500))
    events = wait_for_details(shop, ids)
    shop.fetch(*events)
    assert set(shop.outcomes(events)) == {"created"}


def test_what_an_answer_leaves_out_is_asked_for_again(shop: Shop) -> None:
    ids = shop.stock(10)

    def leave_out(_path: str, said: object) -> object:
        if isinstance(said, dict) and "items" in said:
            said["items"] = said["items"][:4]
        return said

    shop.line.answers = leave_out
    asked = [each.item_id for batch in Asking(shop.pool, shop.client).each(ids) for each in batch]
    assert sorted(asked) == sorted(ids)


def test_people_who_fetch_many_items_cost_few_calls_and_are_told_of_each(shop: Shop) -> None:
    ids = shop.stock(30)
    shop.complete()
    shop.line.forget()
    shop.edit(ids[:3])
    told = operations.fetch_items(shop.pool, shop.client, ids, BY)
    assert [each.item_id for each in told] == ids
    assert [each.outcome for each in told] == ["updated"] * 3 + ["unchanged"] * 27
    assert len(shop.line.asked) == 1
    assert len(shop.execute("SELECT id FROM audit_log WHERE action = 'item.fetched'")) == 30


def test_a_row_that_is_written_while_zoho_answers_is_asked_for_again(shop: Shop) -> None:
    ids = shop.stock(3)
    shop.complete()
    shop.line.forget()
    shop.edit(ids)
    meddled: list[int] = []

    def meddle() -> None:
        if not meddled:
            meddled.append(1)
            shop.execute("UPDATE products SET revision = revision + 1 WHERE zoho_item_id = %(id)s", id=ids[1])

    shop.line.before_item_call = meddle
    told = operations.fetch_items(shop.pool, shop.client, ids, BY)
    assert [each.outcome for each in told] == ["updated"] * 3
    assert len(shop.line.asked) == 2
    (row,) = shop.execute("SELECT price FROM products WHERE zoho_item_id = %(id)s", id=ids[1])
    assert row["price"] == Decimal("1.23")


@pytest.mark.parametrize("count", [1, 99, 100, 101])
def test_no_call_asks_for_more_than_zoho_is_known_to_give(shop: Shop, count: int) -> None:
    ids = shop.stock(count)
    sizes = [len(batch) for batch in Asking(shop.pool, shop.client).each(ids)]
    assert sum(sizes) == count
    assert max(sizes) <= MOST_TOGETHER
    assert len(sizes) == -(-count // MOST_TOGETHER)
