"""A recent run finds what was modified since the watermark, usually with one call, and promises no more than it saw."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from processors.store.database import encode_json
from processors.store.runs import RECENT_OVERLAP, Run
from simulator import Fault
from tests.workflows.runs_scene import LIST, SECOND, Shop

FILTER_IGNORED = Fault(LIST, ignore_filters=True)


def after_a_full_run(shop: Shop, count: int) -> tuple[list[str], datetime]:
    """Let the mirror know a whole catalogue; return the ids and the watermark, and count calls from here on."""
    ids = shop.stock(count)
    watermark = shop.complete().watermark
    assert watermark is not None
    shop.line.forget()
    return ids, watermark


def written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S+0000")


def test_a_recent_run_is_one_call_for_what_was_modified_since_the_watermark(shop: Shop) -> None:
    ids, watermark = after_a_full_run(shop, 250)
    shop.edit(ids[:3])
    shop.add(2)
    run = shop.complete("recent")
    assert shop.differences() == {}
    assert (run.created, run.updated, run.deleted, run.api_calls) == (2, 3, 0, 1)
    (call,) = shop.line.list_calls()
    assert (call["last_modified_time"], call["page"]) == (written(watermark - RECENT_OVERLAP), "1")
    assert (call["sort_column"], call["sort_order"]) == ("last_modified_time", "D")
    assert shop.line.item_calls() == 0
    assert shop.causes(run) == {"no_delivery": 5}
    assert run.webhooks == "dead"


def test_a_recent_run_that_finds_nothing_writes_nothing(shop: Shop) -> None:
    after_a_full_run(shop, 50)
    before = shop.rows()
    run = shop.complete("recent")
    assert (run.api_calls, run.created, run.updated, shop.causes(run)) == (1, 0, 0, {})
    assert shop.rows() == before


def test_a_change_that_was_delivered_is_found_and_left_alone(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 50)
    shop.edit(ids[:3])
    shop.settle(*(shop.deliver(shop.catalogue.get(item_id)) for item_id in ids[:3]))
    before = shop.rows()
    run = shop.complete("recent")
    assert (run.seen >= 3, run.updated, run.webhooks, shop.causes(run)) == (True, 0, "delivering", {})
    assert shop.rows() == before


@pytest.mark.parametrize("spoiled", ["first", "last"])
def test_an_item_that_cannot_be_read_stops_no_recent_run_wherever_it_stands(shop: Shop, spoiled: str) -> None:
    ids, _ = after_a_full_run(shop, 30)
    shop.edit(ids[:3])
    shop.at_zoho.faults.add(FILTER_IGNORED)

    def spoil(_path: str, answer: Any) -> bytes:
        # Its time is fine; its name is no UTF-8.
        item = answer["items"][0 if spoiled == "first" else -1]
        return encode_json(answer).replace(encode_json(item["name"]), b'"\xff"')

    shop.line.answers = spoil
    run = shop.finish(shop.open("recent"))
    assert (run.state, run.failed, run.updated) == ("complete", 1, 2 if spoiled == "first" else 3)


def test_what_zoho_shows_late_is_found_within_the_overlap(shop: Shop) -> None:
    """Its time lies before the watermark, which another item moved on."""
    ids, watermark = after_a_full_run(shop, 50)
    shop.clock.stand_at(watermark + timedelta(hours=1))
    shop.edit(ids[:1])
    watermark = shop.complete("recent").watermark or watermark
    assert watermark == shop.catalogue.get(ids[0]).last_modified_time
    shop.clock.stand_at(watermark - RECENT_OVERLAP + 2 * SECOND)
    shop.edit(ids[1:2])
    run = shop.complete("recent")
    assert (run.updated, run.watermark, shop.differences()) == (1, watermark, {})


@pytest.mark.parametrize("is_inclusive", [True, False], ids=["inclusive", "exclusive"])
def test_whether_zohos_filter_takes_its_own_second_makes_no_difference(shop: Shop, is_inclusive: bool) -> None:
    shop.at_zoho.filter_is_inclusive = is_inclusive
    ids, watermark = after_a_full_run(shop, 50)
    # The watermark's own second, and the first one that is asked for; other items have it already.
    for second, item_id in ((watermark, ids[0]), (watermark - RECENT_OVERLAP + SECOND, ids[1])):
        shop.clock.stand_at(second)
        shop.edit([item_id])
    shop.complete("recent")
    assert shop.differences() == {}


def test_an_ignored_filter_makes_the_run_stop_at_the_watermark_by_itself(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 650)
    shop.at_zoho.faults.add(FILTER_IGNORED)
    shop.edit(ids[:3])
    run = shop.complete("recent")
    assert (run.updated, shop.line.pages(), shop.differences()) == (3, [1], {})
    shop.line.forget()
    shop.clock.shift = timedelta(minutes=6)
    shop.edit(ids[100:350], price="4.50")
    run = shop.complete("recent")
    assert (run.updated, len(shop.line.pages()), shop.differences()) == (250, 2, {})


def test_an_ignored_filter_and_an_ignored_order_make_the_run_read_everything(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 450)

    def ask_for_anything(request: httpx.Request) -> httpx.Request:
        url = request.url.copy_remove_param("last_modified_time").copy_set_param("sort_column", "name")
        return httpx.Request(request.method, url, headers=request.headers)

    shop.line.asks = ask_for_anything
    shop.edit(ids[::10])
    run = shop.complete("recent")
    assert (run.updated, run.seen, shop.differences()) == (45, 450, {})


def test_many_changes_are_read_page_by_page(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 650)
    shop.edit(ids[:450])
    run = shop.complete("recent")
    assert (run.updated, run.api_calls, shop.differences()) == (450, 3, {})


def test_edits_during_the_run_lose_nothing_that_was_edited_before_it(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 450)
    edited = ids[:430]
    shop.edit(edited)
    moved = {edited[0], edited[-1], edited[215]}

    def edit_again() -> None:
        shop.clock.shift = 2 * SECOND
        shop.edit(moved, price="9.99")

    shop.line.before_list_call[2] = edit_again
    run = shop.complete("recent")
    assert shop.differences().keys() <= moved
    # What moved to the front, behind the reading, is not promised.
    assert run.watermark is not None
    assert run.watermark <= run.started_at
    shop.complete("recent")
    assert shop.differences() == {}


@pytest.mark.parametrize("count", [3, 40])
def test_deletions_during_the_run_lose_no_other_item(shop: Shop, count: int) -> None:
    ids, _ = after_a_full_run(shop, 450)
    shop.edit(ids)
    newest_first = [item.item_id for item in sorted(shop.catalogue.all(), key=lambda item: item.item_id, reverse=True)]
    shop.line.before_list_call[2] = lambda: shop.remove(newest_first[:count])
    shop.complete("recent")
    assert shop.differences() == dict.fromkeys(newest_first[:count], "is not in Zoho")


def test_deletions_are_not_inferred(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 50)
    shop.edit(ids[:5])
    shop.remove(ids[:40])
    run = shop.complete("recent")
    assert (run.deleted, run.suspects, shop.buried(), shop.line.item_calls()) == (0, 0, 0, 0)


def test_a_row_altered_here_is_repaired_where_its_item_was_modified_lately(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 50)
    shop.edit(ids[:1])
    shop.complete("recent")
    shop.alter(ids[0], "price = 99")
    run = shop.complete("recent")
    assert (shop.causes(run), shop.differences()) == ({"altered_here": 1}, {})


# The watermark


def watermark_of(run: Run) -> datetime:
    assert run.watermark is not None
    return run.watermark


def test_the_watermark_stays_where_nothing_new_was_shown(shop: Shop) -> None:
    _, watermark = after_a_full_run(shop, 50)
    for _time in range(2):
        assert watermark_of(shop.complete("recent")) == watermark


def test_the_watermark_moves_to_the_newest_modification_that_was_shown(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 50)
    shop.clock.shift = -timedelta(minutes=20)
    shop.edit(ids[:2])
    watermark = watermark_of(shop.complete("recent"))
    assert watermark == shop.catalogue.get(ids[0]).last_modified_time
    shop.line.forget()
    shop.complete("recent")
    (call,) = shop.line.list_calls()
    assert call["last_modified_time"] == written(watermark - RECENT_OVERLAP)


def test_the_watermark_does_not_follow_a_clock_of_zohos_that_is_ahead(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 50)
    shop.clock.shift = timedelta(hours=1)
    shop.edit(ids[:2])
    run = shop.complete("recent")
    assert (watermark_of(run), shop.differences()) == (run.started_at, {})
    shop.clock.shift = timedelta()
    shop.edit(ids[2:3])
    shop.complete("recent")
    assert shop.differences() == {}


def test_a_list_that_shows_nothing_moves_no_watermark(shop: Shop) -> None:
    ids, watermark = after_a_full_run(shop, 50)
    shop.edit(ids[:2])
    shop.at_zoho.faults.add(Fault(LIST, empty_page=True, has_more_page=False))
    assert watermark_of(shop.complete("recent")) == watermark
    shop.at_zoho.faults.clear()
    shop.complete("recent")
    assert shop.differences() == {}


@pytest.mark.parametrize(("after", "state"), [(0, "failed"), (1, "partial")])
def test_a_run_that_ends_incomplete_moves_no_watermark(shop: Shop, after: int, state: str) -> None:
    ids, watermark = after_a_full_run(shop, 450)
    shop.edit(ids[:430])
    shop.at_zoho.faults.add(Fault(LIST, after=after, status=400))
    run = shop.run("recent")
    assert (run.state, run.watermark) == (state, None)
    shop.at_zoho.faults.clear()
    run = shop.complete("recent")
    assert (run.modified_since, shop.differences()) == (watermark - RECENT_OVERLAP, {})


def test_what_is_modified_while_pages_are_read_is_asked_for_by_the_next_run(shop: Shop) -> None:
    """Both before and behind the place that the reading has reached."""
    ids, _ = after_a_full_run(shop, 450)
    shop.line.forget()

    def edit() -> None:
        shop.clock.shift = SECOND
        shop.edit([ids[0], ids[-1]])

    shop.line.before_list_call[2] = edit
    full = shop.complete()
    assert shop.differences().keys() == {ids[0]}
    assert watermark_of(full) <= full.started_at
    shop.complete("recent")
    assert shop.differences() == {}


def test_without_a_watermark_everything_is_read(shop: Shop) -> None:
    ids = shop.stock(450)
    run = shop.complete("recent")
    assert all("last_modified_time" not in call for call in shop.line.list_calls())
    assert (run.modified_since, run.created, shop.differences()) == (None, 450, {})
    assert shop.causes(run) == {"first_load": 450}
    assert watermark_of(run) == max(shop.catalogue.get(item_id).last_modified_time for item_id in ids)


def test_a_recent_run_does_not_stand_in_for_a_full_one(shop: Shop) -> None:
    shop.stock(50)
    shop.complete("recent")
    full = shop.open()
    assert full.known_since is None
    assert shop.finish(full).state == "complete"


def test_one_bad_item_stops_no_other(shop: Shop) -> None:
    ids, _ = after_a_full_run(shop, 50)
    shop.edit(ids[:5])

    def spoil(path: str, said: Any) -> Any:
        if path == "/items":
            said["items"] = [
                {key: value for key, value in item.items() if key != "item_id" or item["item_id"] != ids[2]}
                for item in said["items"]
            ]
        return said

    shop.line.answers = spoil
    for _time in range(2):
        assert shop.complete("recent").failed == 1
    assert len(shop.dead_events()) == 1
    assert shop.differences().keys() == {ids[2]}
