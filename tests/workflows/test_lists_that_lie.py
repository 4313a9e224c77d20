"""What Zoho's list says of its length is not believed: a short page is no end, and later nights cost no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from processors.store.runs import Run
from simulator import Fault
from tests.workflows.runs_scene import LIST, SECOND, Shop
from tests.zoho.support import let_pass

HIDDEN = range(375, 400)
LIES = {
    "the truth": Fault(LIST, hidden_positions=tuple(HIDDEN)),
    "short pages are the last": Fault(LIST, hidden_positions=tuple(HIDDEN), short_pages_end=True),
    "every page is the last": Fault(LIST, hidden_positions=tuple(HIDDEN), has_more_page=False),
    "no page is the last": Fault(LIST, hidden_positions=tuple(HIDDEN), has_more_page=True),
}
EVERY_LIE = pytest.mark.parametrize("fault", LIES.values(), ids=LIES)


def hidden_ids(shop: Shop, positions: Sequence[int]) -> set[str]:
    ids = shop.ids()
    return {ids[position] for position in positions if position < len(ids)}


def is_quiet(run: Run) -> bool:
    return (run.created, run.updated, run.deleted, run.missed, run.suspects, run.failed) == (0, 0, 0, 0, 0, 0)


@EVERY_LIE
def test_an_empty_mirror_gets_all_that_is_shown_in_one_run_and_the_next_nights_are_quiet(
    shop: Shop, fault: Fault
) -> None:
    shop.stock(531)
    shop.at_zoho.faults.add(fault)
    first = shop.complete()
    assert (first.created, shop.line.item_calls()) == (506, 0)
    assert shop.differences() == dict.fromkeys(hidden_ids(shop, HIDDEN), "is missing")
    assert first.api_calls <= 20
    for _night in range(2):
        shop.line.forget()
        run = shop.complete()
        assert is_quiet(run)
        assert (run.seen, shop.causes(run), run.certified_items, shop.line.item_calls()) == (506, {}, 506, 0)
        assert run.api_calls <= (7 if fault.has_more_page else 3)


@EVERY_LIE
def test_what_stands_behind_the_gap_is_compared_every_night(shop: Shop, fault: Fault) -> None:
    ids = shop.stock(531)
    shop.at_zoho.faults.add(fault)
    shop.complete()
    shop.edit([ids[100], ids[450]])
    new = shop.add(3)
    run = shop.complete()
    assert (run.updated, run.created, run.deleted, shop.buried()) == (2, 3, 0, 0)
    assert not shop.differences().keys() & {ids[100], ids[450], *new}


def test_a_full_page_in_the_middle_that_says_it_is_the_last_is_none(shop: Shop) -> None:
    shop.stock(531)
    shop.at_zoho.faults.add(Fault(LIST, query={"page": "1"}, has_more_page=False))
    assert (shop.complete().created, shop.differences()) == (531, {})
    for _night in range(2):
        run = shop.complete()
        assert (is_quiet(run), run.api_calls) == (True, 3)


def test_pages_of_which_nothing_is_shown_are_passed_over(shop: Shop) -> None:
    hidden = range(200, 850)
    shop.stock(1_000)
    shop.at_zoho.faults.add(Fault(LIST, hidden_positions=tuple(hidden)))
    first = shop.complete()
    assert first.created == 350
    run = shop.complete()
    assert is_quiet(run)
    assert run.api_calls < first.api_calls < 25
    assert shop.differences() == dict.fromkeys(hidden_ids(shop, hidden), "is missing")


@pytest.mark.parametrize("count", [200, 400, 600])
def test_full_pages_to_the_very_end_cost_no_call_more_once_a_complete_run_is_known(shop: Shop, count: int) -> None:
    shop.stock(count)
    shop.complete()
    shop.line.forget()
    shop.complete()
    assert shop.line.pages() == list(range(1, count // 200 + 1))


def test_known_items_that_become_hidden_are_looked_up_and_the_second_run_is_complete(shop: Shop) -> None:
    """The first one says why it is not."""
    ids = shop.stock(531)
    shop.complete()
    shop.at_zoho.faults.add(Fault(LIST, hidden_positions=tuple(range(300, 400))))
    first = shop.run()
    assert (first.state, first.error_class, shop.buried()) == ("partial", "ListUntrustworthy", 0)
    assert "If the next full run finds the same" in (first.error or "")
    shop.edit([ids[350]])
    for _night in range(2):
        run = shop.complete()
        assert (run.missed, run.deleted, shop.differences()) == (100, 0, {})
        assert run.api_calls <= 20


def test_deletions_among_items_that_are_hidden_are_still_held_for_an_operator(shop: Shop) -> None:
    ids = shop.stock(400)
    shop.complete()
    shop.at_zoho.faults.add(Fault(LIST, hidden_positions=tuple(range(200, 300))))
    shop.run()
    # Of the items that no page shows, some are gone.
    shop.remove(ids[210:240])
    run = shop.run()
    assert shop.buried() == 0
    assert run.state == "held"
    assert "30 of 400 products are missing" in (run.error or "")
    assert run.missed > 60


def test_a_list_that_is_cut_short_for_good_is_partial_once_and_then_goes_by_the_items(shop: Shop) -> None:
    shop.stock(650)
    shop.complete()
    for page in range(2, 40):
        shop.at_zoho.faults.add(Fault(LIST, query={"page": f"{page}"}, empty_page=True, has_more_page=False))
    ended = []
    for _night in range(4):
        shop.line.forget()
        ended.append(shop.run())
        assert len(shop.line.asked) < 40
        with shop.pool.connection() as connection:
            let_pass(connection, timedelta(minutes=5))
    assert [run.state for run in ended] == ["partial", "partial", "complete", "complete"]
    assert "show no item in common" in (ended[0].error or "")
    assert (shop.buried(), shop.differences()) == (0, {})


# The end, as it may be written


ENDS = [
    "204",
    "",
    '{"code": 0}',
    '{"code": "0", "message": "success"}',
    '{"code": 0, "items": null}',
    '{"code": 0, "items": {}}',
    '{"code": 0, "items": []}',
    '{"code": 0, "items": [], "page_context": null}',
]


@pytest.mark.parametrize("end", ENDS)
def test_an_end_has_many_spellings(shop: Shop, end: str) -> None:
    shop.stock(390)
    shop.at_zoho.faults.add(Fault(LIST, end=end))
    assert (shop.complete().created, shop.differences()) == (390, {})
    shop.remove(shop.ids()[-1:])
    assert shop.complete().deleted == 1
    assert is_quiet(shop.complete())


@pytest.mark.parametrize("body", ["<html>Request limit reached</html>", '{"code": 0, "items": [{"ite', '{"code": 57}'])
def test_what_cannot_be_read_is_no_end(shop: Shop, body: str) -> None:
    shop.stock(531)
    shop.at_zoho.faults.add(Fault(LIST, after=2, status=200, body=body))
    run = shop.open()
    for _try in range(8):
        run = shop.work(run)
        shop.make_run_due(run)
    assert run.state in ("running", "partial")
    assert run.error


# Recent runs


def with_times(change: Callable[[dict[str, Any]], Any]) -> Callable[[str, Any], Any]:
    def answers(path: str, said: Any) -> Any:
        if path == "/items":
            for item in said["items"]:
                change(item)
        return said

    return answers


def in_one_second(shop: Shop, count: int, ago: timedelta) -> None:
    shop.stock(0)
    shop.clock.shift = -ago
    shop.clock.stand_at(shop.clock().replace(microsecond=0))
    moment = shop.clock()
    for number in range(count):
        shop.clock.stand_at(moment)
        shop.catalogue.create(f"Item {number}", webhook=False)
    shop.clock.shift = timedelta()


@pytest.mark.parametrize("ago", [timedelta(), timedelta(minutes=2), timedelta(hours=2), timedelta(weeks=6)])
def test_thousands_of_one_second_do_not_make_every_recent_run_read_them_all(shop: Shop, ago: timedelta) -> None:
    in_one_second(shop, 900, ago)
    shop.complete()
    for _run in range(2):
        assert shop.complete("recent").api_calls == 1
    new = shop.ids()[:2]
    shop.clock.shift = 2 * SECOND
    shop.edit(new)
    run = shop.complete("recent")
    assert (run.updated, run.api_calls, shop.differences()) == (2, 1, {})


@pytest.mark.parametrize("spoil", ["bare date", "none", "empty", "in the future"])
def test_times_that_order_nothing_do_not_make_every_recent_run_read_everything(shop: Shop, spoil: str) -> None:
    ids = shop.stock(450)
    if spoil == "in the future":
        shop.clock.shift = timedelta(days=300)
        shop.edit(ids[:3])
        shop.clock.shift = timedelta()
    else:
        changes: dict[str, Callable[[dict[str, Any]], Any]] = {
            "bare date": lambda item: item.update(last_modified_time=item["last_modified_time"][:10]),
            "none": lambda item: item.pop("last_modified_time"),
            "empty": lambda item: item.update(last_modified_time=""),
        }
        shop.line.answers = with_times(changes[spoil])
    full = shop.complete()
    assert full.watermark == full.started_at
    for _run in range(2):
        assert shop.complete("recent").api_calls == 1
