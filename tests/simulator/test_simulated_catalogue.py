"""The catalogue behind the simulator: ids, times, order, and what rules get to know."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from simulator import Catalogue, Editor, ItemEvent, ManualClock, NoSuchItem
from simulator.catalogue import SORT_KEYS, Change, PageQuery
from simulator.wire import zoho_time


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def catalogue(clock: ManualClock) -> Catalogue:
    return Catalogue.generate(300, clock=clock)


def test_ids_are_nineteen_digits_beyond_what_a_float_can_hold(catalogue: Catalogue) -> None:
    ids = [item.item_id for item in catalogue.all()]
    assert len(set(ids)) == 300
    assert all(len(item_id) == 19 and item_id.isdigit() and int(item_id) > 2**53 for item_id in ids)


def test_the_same_seed_gives_the_same_catalogue(clock: ManualClock) -> None:
    assert Catalogue.generate(50, seed=7, clock=clock).all() == Catalogue.generate(50, seed=7, clock=clock).all()
    assert Catalogue.generate(50, seed=7, clock=clock).all() != Catalogue.generate(50, seed=8, clock=clock).all()


def test_a_generated_catalogue_has_the_untidiness_of_real_ones() -> None:
    items = Catalogue.generate(2_000).all()
    skus = [item.sku for item in items if item.sku]
    tracked = [item for item in items if item.track_inventory]
    assert any(item.sku == "" for item in items)
    assert len(set(skus)) < len(skus)
    assert any(item.stock_on_hand < 0 for item in tracked)
    assert any(item.stock_on_hand % 1 for item in tracked)
    assert 0 < len(tracked) < len(items)
    assert {-int(item.rate.as_tuple().exponent) for item in items} == {0, 1, 2, 3}
    assert {item.status for item in items} == {"active", "inactive"}
    assert any(item.is_combo_product for item in items)
    assert any(item.custom_fields for item in items)
    assert any(not item.description.isascii() for item in items)
    assert len({item.created_time for item in items}) < len(items)
    assert any(item.last_modified_time > item.created_time for item in items)


def test_two_edits_within_one_second_share_a_modified_time(clock: ManualClock) -> None:
    catalogue = Catalogue(clock=clock)
    item = catalogue.create("Mug", rate=Decimal("9.50"))
    first = catalogue.edit(item.item_id, rate=Decimal("9.60"))
    clock.advance(timedelta(milliseconds=600))
    second = catalogue.edit(item.item_id, rate=Decimal("9.70"))
    clock.advance(timedelta(milliseconds=600))
    third = catalogue.edit(item.item_id, rate=Decimal("9.80"))
    assert first.last_modified_time == second.last_modified_time < third.last_modified_time


def test_times_are_in_the_organisations_zone_without_a_colon() -> None:
    catalogue = Catalogue(clock=ManualClock(datetime(2026, 10, 5, 16, 2, 21, 999_999, tzinfo=UTC)))
    assert zoho_time(catalogue.create("Mug").created_time) == "2026-10-05T21:32:21+0530"


def test_a_stock_movement_moves_the_modified_time_but_no_rule_notices(catalogue: Catalogue, clock: ManualClock) -> None:
    changes: list[Change] = []
    catalogue.on_change(changes.append)
    item = catalogue.create("Mug", track_inventory=True, stock_on_hand=Decimal(7))
    clock.advance()
    moved = catalogue.adjust_stock(item.item_id, Decimal(-2))
    assert moved.stock_on_hand == 5
    assert moved.last_modified_time > item.last_modified_time
    assert [(change.event, change.webhook) for change in changes] == [
        (ItemEvent.CREATED, True),
        (ItemEvent.EDITED, False),
    ]


def test_a_deleted_item_is_gone_until_it_is_restored(catalogue: Catalogue, clock: ManualClock) -> None:
    item = catalogue.create("Mug")
    catalogue.delete(item.item_id)
    assert item.item_id not in catalogue
    assert catalogue.deleted_ids() == [item.item_id]
    for action in (catalogue.get, catalogue.edit, catalogue.delete):
        with pytest.raises(NoSuchItem):
            action(item.item_id)
    clock.advance()
    restored = catalogue.restore(item.item_id)
    assert restored.last_modified_time > item.last_modified_time
    assert catalogue.get(item.item_id) == restored
    with pytest.raises(NoSuchItem):
        catalogue.restore(item.item_id)


@pytest.mark.parametrize("sort_column", SORT_KEYS)
@pytest.mark.parametrize("descending", [False, True])
def test_pages_stay_in_order_while_items_are_edited(
    catalogue: Catalogue, sort_column: str, *, descending: bool
) -> None:
    """The order is kept by moving single entries; it must equal sorting everything anew."""
    editor = Editor(catalogue, seed=3)
    for _ in range(60):
        catalogue.page(PageQuery(sort_column=sort_column))
        editor.step()
    pages = [
        catalogue.page(PageQuery(page=number, per_page=70, sort_column=sort_column, descending=descending))
        for number in range(1, 6)
    ]
    listed = [item for items, _ in pages for item in items]
    key = SORT_KEYS[sort_column]
    expected = sorted(catalogue.all(), key=lambda item: (key(item), item.item_id), reverse=descending)
    assert listed == expected
    assert [has_more for _, has_more in pages] == [True, True, True, True, False]


@pytest.mark.parametrize("sort_column", ["last_modified_time", "name"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("inclusive", [False, True])
def test_the_modified_filter_keeps_its_own_second_only_when_inclusive(
    catalogue: Catalogue, clock: ManualClock, sort_column: str, *, descending: bool, inclusive: bool
) -> None:
    at_the_second = catalogue.create("At the second")
    moment = at_the_second.last_modified_time
    clock.advance()
    after = catalogue.create("After")
    items, _ = catalogue.page(
        PageQuery(sort_column=sort_column, descending=descending, modified_after=moment, inclusive=inclusive)
    )
    expected = {after.item_id} | ({at_the_second.item_id} if inclusive else set())
    assert {item.item_id for item in items} == expected


def test_a_page_that_ends_exactly_at_the_end_has_no_more(catalogue: Catalogue) -> None:
    assert catalogue.page(PageQuery(page=3, per_page=100))[1] is False
    assert catalogue.page(PageQuery(page=4, per_page=100)) == ([], False)


def test_edits_from_many_threads_leave_the_order_whole(catalogue: Catalogue) -> None:
    editors = [Editor(catalogue, seed=seed) for seed in range(4)]

    def work(editor: Editor) -> None:
        for _ in range(100):
            editor.step()
            catalogue.page(PageQuery(sort_column="rate"))

    threads = [threading.Thread(target=work, args=(editor,)) for editor in editors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed, has_more = catalogue.page(PageQuery(sort_column="rate", per_page=10_000))
    assert not has_more
    assert listed == sorted(catalogue.all(), key=lambda item: (item.rate, item.item_id))


def test_the_editor_does_everything_a_shop_does_and_keeps_its_size(catalogue: Catalogue) -> None:
    editor = Editor(catalogue, seed=1)
    kinds = {editor.step() for _ in range(500)}
    assert kinds == {
        "repriced", "counted", "described", "sold", "toggled", "renamed", "created", "deleted",
    }  # fmt: skip
    assert 250 < len(catalogue) < 350


def test_the_editor_stocks_an_empty_shop() -> None:
    catalogue = Catalogue()
    assert Editor(catalogue).step() == "created"
    assert catalogue.pick(Random(1)).name
