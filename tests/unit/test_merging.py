"""Whatever order bodies arrive in, the same columns remain; where none decides, Zoho is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import field_table
from processors.errors import ItemUnusable
from processors.field_table import Content
from processors.store.products import Current, Product
from processors.workflows import merging
from processors.workflows.merging import Decision, FetchNeeded, Settled, Write
from processors.zoho import items

ITEM = "4100000000000012345"
START = datetime(2026, 10, 5, 12, tzinfo=UTC)
NOTHING = Current(None, 0, 0)
ASKED_AT = START + timedelta(hours=1)


def time_of(second: int) -> str:
    return (START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S+0000")


def fields(second: int = 0, **changed: Any) -> dict[str, Any]:
    full = {
        "item_id": ITEM,
        "name": "Mug",
        "sku": "MUG",
        "description": "Big",
        "rate": Decimal("12.50"),
        "stock_on_hand": Decimal("7.0"),
        "status": "active",
        "category_id": "1",
        "category_name": "Kitchen",
        "brand": "Hearthline",
        "unit": "pcs",
        "available_stock": Decimal("6.0"),
        "actual_available_stock": Decimal("5.0"),
        "group_id": "7",
        "group_name": "Mugs",
        "track_inventory": True,
        "last_modified_time": time_of(second),
    }
    return {**full, **changed}


def body(second: int = 0, *, without: Iterable[str] = (), **changed: Any) -> items.Body:
    left_out = set(without)
    return items.read_body({k: value for k, value in fields(second, **changed).items() if k not in left_out})


def known(product: Product | None, *, absences: int = 0) -> Current:
    return Current(product, 0 if product is None else 1, absences)


def row(*bodies: items.Body) -> Product:
    """Give the row that these bodies leave; each of them must be applied."""
    product: Product | None = None
    for each in bodies:
        decided = merging.decide_change(known(product), ITEM, each)
        assert isinstance(decided, Write), decided
        product = decided.product
    assert product is not None
    return product


def row_after(product: Product, said: items.Body) -> Product:
    return changed(merging.decide_change(known(product), ITEM, said))


def changed(decided: Decision | Settled | Write) -> Product:
    assert isinstance(decided, Write), decided
    return decided.product


def outcome(decided: Decision) -> str:
    return "fetch" if isinstance(decided, FetchNeeded) else decided.outcome


# What has to be the same whatever happened.


def mapped(product: Product | None) -> tuple[Content, datetime | None, bool] | None:
    return None if product is None else (product.content, product.zoho_last_modified_at, product.deleted_at is None)


SPARE = ("sku", "description", "stock_on_hand", "category_id", "category_name", "brand", "unit", "track_inventory")
TEXTS = st.sampled_from(["", "a", "b"])
BODIES_OF_ONE_ITEM = st.lists(
    st.fixed_dictionaries(
        {
            "second": st.integers(0, 5),
            "without": st.sets(st.sampled_from([*SPARE, "name", "rate", "status"]), max_size=6),
            "name": TEXTS,
            "sku": TEXTS,
            "description": TEXTS,
            "brand": TEXTS,
            "rate": st.sampled_from([Decimal("1.0"), Decimal("2.50"), "", "odd"]),
            "stock_on_hand": st.sampled_from([Decimal(1), Decimal("-2.5"), ""]),
            "status": st.sampled_from(["active", "inactive"]),
            "track_inventory": st.booleans(),
        }
    ),
    min_size=1,
    max_size=6,
    # No two bodies of one second differ, though one may say less than the other.
).map(lambda drawn: list({each["second"]: each for each in drawn}.values()))


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[items.Body], list[items.Body]]:
    told: list[dict[str, Any]] = draw(BODIES_OF_ONE_ITEM)
    for each in told:
        if not each["track_inventory"]:
            each["stock_on_hand"] = ""
    bodies = [body(**each) for each in told]
    thinner = [
        body(**{**each, "without": draw(st.sets(st.sampled_from(SPARE)))}) for each in told if draw(st.booleans())
    ]
    fuller = [body(**{**each, "without": ()}) for each in told if draw(st.booleans())]
    every = bodies + thinner + fuller
    return draw(st.permutations(every)), draw(
        st.permutations(every + draw(st.lists(st.sampled_from(every), max_size=4)))
    )


def applied(bodies: Iterable[items.Body], product: Product | None = None) -> Product | None:
    for each in bodies:
        decided = merging.decide_change(known(product), ITEM, each)
        if isinstance(decided, FetchNeeded):
            assert each.missing, f"fetched without need: {decided.reason}"
        elif isinstance(decided, Write):
            product = decided.product
    return product


@given(orders())
def test_any_order_and_any_copies_leave_the_same_columns(both: tuple[list[items.Body], list[items.Body]]) -> None:
    one, other = (applied(order) for order in both)
    assert mapped(one) == mapped(other)


@given(orders())
def test_the_columns_are_the_projection_of_the_newest_value_of_each_key(
    both: tuple[list[items.Body], list[items.Body]],
) -> None:
    product = applied(both[0])
    usable = sorted((each for each in both[0] if not each.missing), key=lambda each: str(each.modified_at))
    newest: dict[str, Any] = {}
    for each in usable:
        newest |= each.fields
    if product is None:
        assert not usable
        return
    assert product.zoho_last_modified_at == usable[-1].modified_at
    assert {key: product.raw.get(key) for key in field_table.MAPPED} == {
        key: newest.get(key) for key in field_table.MAPPED
    }
    assert product.content == items.content_of(newest)


@given(orders())
def test_applying_everything_again_changes_nothing(both: tuple[list[items.Body], list[items.Body]]) -> None:
    product = applied(both[0])
    for each in both[0]:
        decided = merging.decide_change(known(product), ITEM, each)
        assert isinstance(decided, FetchNeeded) or decided.outcome in {"unchanged", "stale"}
        assert not isinstance(decided, Write) or mapped(decided.product) == mapped(product)
    assert mapped(applied(both[0], product)) == mapped(product)


@given(orders(), st.integers(0, 6))
def test_zohos_answer_ends_the_same_whenever_it_comes(
    both: tuple[list[items.Body], list[items.Body]], position: int
) -> None:
    # The item as Zoho has it is at least as new as every delivery.
    answer = body(9, name="from Zoho")
    ends = set()
    for order in both:
        before = applied(order[:position])
        decided = merging.decide_fetched(known(before), ITEM, answer, ASKED_AT)
        assert isinstance(decided, Write)
        ends.add(mapped(applied(order[position:], decided.product)))
    assert ends == {mapped(row(answer))}


def test_a_full_body_of_an_unknown_item_creates_it() -> None:
    decided = merging.decide_change(NOTHING, ITEM, body())
    assert isinstance(decided, Write)
    assert decided.outcome == "created"
    assert decided.product.content == body().content
    assert decided.changes["price"] == (None, "12.50")
    assert "deleted_at" not in decided.changes


def test_a_newer_body_updates_and_lists_only_what_changed() -> None:
    decided = merging.decide_change(known(row(body(0))), ITEM, body(1, rate=Decimal("13.00")))
    assert isinstance(decided, Write)
    assert (decided.outcome, decided.changes) == ("updated", {"price": ("12.50", "13.00")})


def test_a_price_that_is_only_written_differently_is_no_change() -> None:
    decided = merging.decide_change(known(row(body(0))), ITEM, body(1, rate=Decimal("12.5")))
    assert isinstance(decided, Write)
    assert decided.changes == {}


def test_a_stale_body_changes_nothing() -> None:
    decided = merging.decide_change(known(row(body(5))), ITEM, body(4, name="Old", rate=1))
    assert decided == Settled("stale")


def test_a_stale_body_costs_no_call_even_where_it_is_thin() -> None:
    decided = merging.decide_change(known(row(body(5))), ITEM, body(4, without=["rate", "status"]))
    assert decided == Settled("stale")


@pytest.mark.parametrize("key", SPARE)
def test_a_body_without_a_key_leaves_its_column_alone(key: str) -> None:
    before = row(body(0))
    after = row(body(0), body(1, without=[key], name="New"))
    assert after.content == replace(before.content, name="New")


@pytest.mark.parametrize("key", ["sku", "description", "rate", "stock_on_hand", "category_id", "brand", "unit"])
def test_empty_text_empties_the_column(key: str) -> None:
    after = row(body(0), body(1, **{key: ""}))
    assert all(getattr(after.content, column) is None for column in field_table.MAPPED[key])


def test_an_empty_name_is_kept_as_the_name() -> None:
    assert row(body(0), body(1, name="")).content.name == ""


def test_an_older_body_fills_in_what_newer_ones_did_not_carry() -> None:
    product = row(body(5, without=["description"]), body(3, description="Small", name="Old"))
    assert (product.content.description, product.content.name) == ("Small", "Mug")
    assert product.zoho_last_modified_at == START + timedelta(seconds=5)
    assert product.older_keys == {"description": START + timedelta(seconds=3)}


@pytest.mark.parametrize("key", field_table.NEEDED)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_body_that_lacks_what_is_needed_causes_a_fetch(key: str, is_known: bool) -> None:
    current = known(row(body(0))) if is_known else NOTHING
    decided = merging.decide_change(current, ITEM, body(1, without=[key]))
    assert isinstance(decided, FetchNeeded)
    assert key in decided.reason


CONFLICTS: list[Mapping[str, Any]] = [
    {"name": "Cup"},
    {"rate": Decimal("12.51")},
    {"rate": ""},
    {"stock_on_hand": Decimal("6.0")},
    {"stock_on_hand": Decimal("7.5")},
    {"status": "inactive"},
    {"sku": ""},
    {"track_inventory": False, "without": ["stock_on_hand"]},
]


@pytest.mark.parametrize("said", CONFLICTS)
def test_different_content_at_the_same_second_causes_a_fetch(said: Mapping[str, Any]) -> None:
    assert outcome(merging.decide_change(known(row(body(0))), ITEM, body(0, **said))) == "fetch"


def test_different_content_of_one_second_causes_a_fetch_even_where_only_an_older_key_shows_it() -> None:
    product = row(body(0), body(5, without=["description"]))
    assert outcome(merging.decide_change(known(product), ITEM, body(0, description="Small"))) == "fetch"
    assert outcome(merging.decide_change(known(product), ITEM, body(0, name="Cup"))) == "stale"


def test_the_same_content_at_the_same_second_is_unchanged() -> None:
    current = known(row(body(0)))
    assert merging.decide_change(current, ITEM, body(0)) == Settled("unchanged")
    assert merging.decide_change(current, ITEM, body(0, rate="12.5")) == Settled("unchanged")


def test_a_richer_body_of_the_same_second_is_kept_without_being_a_change() -> None:
    decided = merging.decide_change(known(row(body(0))), ITEM, body(0, cf_colour="Red"))
    assert isinstance(decided, Write)
    assert (decided.outcome, decided.changes) == ("unchanged", {})
    assert decided.product.raw["cf_colour"] == "Red"


def test_zohos_answer_wins_at_the_same_second() -> None:
    product = changed(merging.decide_fetched(known(row(body(0))), ITEM, body(0, name="Cup", rate=1), ASKED_AT))
    assert (product.content.name, product.content.price) == ("Cup", Decimal(1))
    assert outcome(merging.decide_change(known(product), ITEM, body(0, name="Cup", rate=1))) == "unchanged"


def test_zohos_answer_without_some_keys_erases_nothing() -> None:
    answer = body(1, without=["description", "brand"], name="Cup")
    product = changed(merging.decide_fetched(known(row(body(0))), ITEM, answer, ASKED_AT))
    assert product.content == replace(body(0).content, name="Cup")


@pytest.mark.parametrize("key", ["name", "status"])
def test_an_answer_without_name_or_status_is_unusable(key: str) -> None:
    with pytest.raises(ItemUnusable, match=key):
        merging.decide_fetched(NOTHING, ITEM, body(without=[key]), ASKED_AT)


def test_an_answer_without_a_time_or_a_rate_is_used() -> None:
    answer = body(without=["last_modified_time", "rate"])
    product = changed(merging.decide_fetched(NOTHING, ITEM, answer, ASKED_AT))
    assert (product.zoho_last_modified_at, product.content.price) == (None, None)
    # Any body with a time is newer than one without.
    product = changed(merging.decide_change(known(product), ITEM, body(0, without=["brand"])))
    assert product.zoho_last_modified_at == START
    assert product.content == body(0).content
    after = changed(
        merging.decide_fetched(known(row(body(0))), ITEM, body(without=["last_modified_time"], name="Cup"), ASKED_AT)
    )
    assert (after.zoho_last_modified_at, after.content.name) == (START, "Cup")


def test_a_change_of_a_tombstoned_item_is_checked_with_zoho() -> None:
    buried = known(replace(row(body(0)), deleted_at=START))
    assert outcome(merging.decide_change(buried, ITEM, body(1))) == "fetch"
    assert outcome(merging.decide_change(buried, ITEM, body(0))) == "fetch"
    assert outcome(merging.decide_change(buried, ITEM, body(-1))) == "stale"
    assert outcome(merging.decide_change(buried, ITEM, body(1, without=["rate"]))) == "fetch"


def test_zohos_answer_brings_a_tombstoned_item_back() -> None:
    buried = known(replace(row(body(0)), deleted_at=START))
    for answer in (body(0), body(5), body(-5)):
        decided = merging.decide_fetched(buried, ITEM, answer, ASKED_AT)
        assert isinstance(decided, Write)
        assert decided.outcome == "updated"
        assert decided.product.deleted_at is None
        assert decided.changes == {"deleted_at": (START.isoformat(), None)}


def test_a_404_buries_the_row_and_leaves_a_tombstone_alone() -> None:
    product = row(body(0))
    decided = merging.decide_absent(known(product), START)
    assert isinstance(decided, Write)
    assert (decided.outcome, decided.changes) == ("tombstoned", {"deleted_at": (None, START.isoformat())})
    assert decided.product == replace(product, deleted_at=START)
    # The tombstone is written once more, as it is: its revision tells older answers that they are.
    again = merging.decide_absent(known(decided.product), START + timedelta(1))
    assert again == Write("unchanged", decided.product, {})
    assert merging.decide_absent(NOTHING, START) == Settled("gone")


def test_a_deletion_buries_the_row_and_keeps_its_content() -> None:
    product = row(body(0))
    decided = merging.decide_deleted(known(product), START)
    assert isinstance(decided, Write)
    assert decided.outcome == "tombstoned"
    assert decided.product == replace(product, deleted_at=START)
    assert merging.decide_deleted(known(decided.product), START) == Write("unchanged", decided.product, {})


def test_a_deletion_before_the_creation_makes_the_creation_ask_zoho() -> None:
    assert merging.decide_deleted(NOTHING, START) == Settled("gone")
    assert outcome(merging.decide_change(known(None, absences=1), ITEM, body())) == "fetch"


def test_a_deletion_reported_before_the_newest_change_is_checked_with_zoho() -> None:
    current = known(row(body(5)))
    assert outcome(merging.decide_deleted(current, START)) == "fetch"


def test_a_deletion_of_an_item_that_came_back_is_checked_with_zoho() -> None:
    # It carries no time: it may be the old one, delivered once more.
    assert outcome(merging.decide_deleted(known(row(body(0)), absences=1), START)) == "fetch"


def test_stock_of_an_item_no_longer_tracked_is_dropped_in_any_order() -> None:
    tracked = body(0)
    untracked = body(5, without=["stock_on_hand"], track_inventory=False)
    late = body(3, stock_on_hand=Decimal(99))
    for order in ([tracked, untracked], [untracked, tracked], [tracked, untracked, late], [late, untracked, tracked]):
        product = applied(order)
        assert product is not None
        assert (product.content.stock_on_hand, product.content.stock_quantity) == (None, None)
        # The body of that second once more says nothing new, and a later one without a figure brings none back.
        again = body(7, without=["stock_on_hand"])
        assert row_after(product, again).content.stock_on_hand is None
        assert applied([*order, tracked], product) == product


def test_stock_absent_from_a_body_of_a_tracked_item_is_left_alone() -> None:
    assert row(body(0), body(5, without=["stock_on_hand"])).content.stock_quantity == 7


def test_a_display_twin_does_not_outlive_its_value() -> None:
    product = row(body(0, rate_formatted="₹12.50"), body(1, rate=13))
    assert "rate_formatted" not in product.raw


def test_zohos_answer_of_the_same_second_drops_the_stock_of_an_item_no_longer_tracked() -> None:
    answer = body(0, without=["stock_on_hand"], track_inventory=False)
    product = changed(merging.decide_fetched(known(row(body(0))), ITEM, answer, ASKED_AT))
    assert (product.content.stock_on_hand, product.content.stock_quantity) == (None, None)


def test_stock_that_a_body_gives_is_kept_whatever_else_it_says() -> None:
    assert row(body(0, track_inventory=False)).content.stock_quantity == 7


# Bare dates: the documentation prints them, captures do not.

DAY = "2026-10-05"


def test_a_body_with_a_bare_date_creates_without_a_call() -> None:
    product = row(body(last_modified_time=DAY))
    assert product.zoho_last_modified_at == datetime(2026, 10, 5, tzinfo=UTC)
    assert merging.decide_change(known(product), ITEM, body(last_modified_time=DAY)) == Settled("unchanged")


@pytest.mark.parametrize("known_at", [DAY, time_of(0), "2026-10-05T02:00:00+0530", "2026-10-05T23:00:00-0800"])
@pytest.mark.parametrize("said_at", [DAY, time_of(0), "2026-10-05T02:00:00+0530", "2026-10-05T23:00:00-0800"])
def test_two_changes_of_one_day_are_left_to_zoho_where_one_has_no_hour(known_at: str, said_at: str) -> None:
    product = row(body(last_modified_time=known_at))
    decided = merging.decide_change(known(product), ITEM, body(last_modified_time=said_at, name="Cup"))
    if DAY in {known_at, said_at}:
        assert outcome(decided) == "fetch"


@pytest.mark.parametrize(("known_at", "said_at"), [(DAY, time_of(0)), (time_of(0), DAY), (DAY, DAY)])
def test_a_bare_date_of_another_day_orders_like_any_time(known_at: str, said_at: str) -> None:
    known_at = known_at.replace("10-05", "10-09")
    old, new = body(last_modified_time=said_at, name="Old"), body(last_modified_time=known_at, name="New")
    assert outcome(merging.decide_change(known(row(new)), ITEM, old)) == "stale"
    assert outcome(merging.decide_change(known(row(old)), ITEM, new)) == "updated"


@pytest.mark.parametrize("row_at", [DAY, time_of(0), "2026-10-05T02:00:00+0530"])
@pytest.mark.parametrize("answer_at", [DAY, time_of(0), "2026-10-05T02:00:00+0530"])
def test_zohos_answer_wins_on_the_day_of_a_bare_date(row_at: str, answer_at: str) -> None:
    if DAY not in {row_at, answer_at}:
        return
    product = row(body(last_modified_time=row_at))
    answer = body(last_modified_time=answer_at, name="Cup")
    after = changed(merging.decide_fetched(known(product), ITEM, answer, ASKED_AT))
    assert after.content.name == "Cup"
    if answer_at != DAY:
        # Now the hour is known, and the next change of that day is in order.
        assert after.zoho_last_modified_at == answer.modified_at
        second = "2026-10-05T02:00:01+0530" if "02:00" in answer_at else time_of(1)
        assert outcome(merging.decide_change(known(after), ITEM, body(last_modified_time=second))) == "updated"


def test_a_bare_date_on_a_tombstone_is_checked_with_zoho() -> None:
    buried = known(replace(row(body(last_modified_time=DAY)), deleted_at=START))
    assert outcome(merging.decide_change(buried, ITEM, body(last_modified_time=DAY))) == "fetch"


# The whole row, with its raw body


CUSTOMS = ("cf_colour", "cf_size")
KINDS = st.sampled_from(
    ["webhook", "webhook with an array only", "webhook without custom fields", "answer", "list row"]
)


@dataclass(frozen=True)
class Version:
    """What the item is from a second on."""

    second: int
    rate: Decimal
    customs: tuple[str, ...]
    """The value of each custom field; empty: it has none."""
    empties_are_listed: bool

    def told(self, kind: str) -> items.Body:
        values = dict(zip(CUSTOMS, self.customs, strict=True))
        told = fields(self.second, rate=self.rate)
        flat = {key: value for key, value in values.items() if value or self.empties_are_listed}
        entries = [{"api_name": key, "value": value} for key, value in flat.items()]
        if kind == "list row":
            # Nothing that fills no column is the same in a list.
            told |= (
                flat | {f"{key}_unformatted": value for key, value in flat.items()} | {"item_name": f"L{self.second}"}
            )
            return items.read_body(told, is_listed=True)
        told |= {"sales_rate": self.rate, "source": f"of {self.second}"} if kind == "answer" else {}
        if kind.startswith("webhook"):
            told |= {"rate_formatted": f"${self.rate}", "created_by": f"user {self.second}"}
        if kind != "webhook without custom fields":
            told |= {"custom_fields": entries}
        if kind in ("webhook", "answer"):
            told |= {"custom_field_hash": flat}
        if kind == "webhook":
            told |= flat | {f"{key}_formatted": value for key, value in flat.items()}
        return items.read_body(told)


VERSIONS = st.lists(
    st.builds(
        Version,
        st.integers(0, 5),
        st.sampled_from([Decimal(1), Decimal("2.50")]),
        st.tuples(*[st.sampled_from(["", "a", "b"])] * len(CUSTOMS)),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda version: version.second,
)


@st.composite
def tellings(draw: st.DrawFn) -> tuple[list[items.Body], list[items.Body]]:
    told = [
        version.told(kind)
        for version in draw(VERSIONS)
        for kind in draw(st.lists(KINDS, min_size=1, max_size=3, unique=True))
    ]
    copies = draw(st.lists(st.sampled_from(told), max_size=3))
    return draw(st.permutations(told)), draw(st.permutations(told + copies))


def whole_row(bodies: Iterable[items.Body]) -> Product | None:
    product, now = None, datetime.now(UTC)
    for each in bodies:
        current = replace(known(product), written_at=now)
        if each.is_listed:
            decided = merging.decide_listed(current, ITEM, each, now)
        else:
            decided = merging.decide_change(current, ITEM, each)
        assert not isinstance(decided, FetchNeeded)
        product = decided.product if isinstance(decided, Write) else product
    return product


@settings(max_examples=400, deadline=None)
@given(tellings())
def test_any_order_of_webhooks_answers_and_list_rows_leaves_the_same_row_with_its_raw(
    both: tuple[list[items.Body], list[items.Body]],
) -> None:
    one, other = (whole_row(order) for order in both)
    assert one is not None
    assert other is not None
    assert one == other


@given(tellings())
def test_what_was_merged_once_is_not_written_again(both: tuple[list[items.Body], list[items.Body]]) -> None:
    product = whole_row(both[0])
    assert product is not None
    for each in both[0]:
        if each.modified_at == product.zoho_last_modified_at:
            current = replace(known(product), written_at=datetime.now(UTC))
            decide = merging.decide_change if not each.is_listed else None
            decided = (
                decide(current, ITEM, each) if decide else merging.decide_listed(current, ITEM, each, datetime.now(UTC))
            )
            assert decided == Settled("unchanged")


@pytest.mark.parametrize("emptied", ["an empty array", "an empty hash", "an array without it"])
@pytest.mark.parametrize("first", ["set", "emptied"])
def test_an_emptied_custom_field_is_gone_in_every_spelling_whichever_body_comes_first(emptied: str, first: str) -> None:
    spellings = {"cf_a": "x", "cf_a_formatted": "x", "cf_a_unformatted": "x"}
    entry = {"api_name": "cf_a", "value": "x"}
    filled = body(0, **spellings, custom_fields=[entry], custom_field_hash={"cf_a": "x"})
    other = {"api_name": "cf_b", "value": "y"}
    ways: dict[str, dict[str, Any]] = {
        "an empty array": {"custom_fields": []},
        "an empty hash": {"custom_field_hash": {}},
        "an array without it": {"custom_fields": [other]},
    }
    without = ways[emptied]
    bodies = [filled, body(1, **without)]
    product = whole_row(bodies if first == "set" else bodies[::-1])
    assert product is not None
    customs = {key: value for key, value in product.raw.items() if key.startswith("c") and "cat" not in key}
    assert customs == without


def test_prices_that_only_details_carry_do_not_outlive_the_rate() -> None:
    detail = body(0, sales_rate=Decimal("12.50"), pricebook_rate=Decimal("12.50"))
    for bodies in ([detail, body(1, rate=Decimal(13))], [body(1, rate=Decimal(13)), detail]):
        product = whole_row(bodies)
        assert product is not None
        assert not {"sales_rate", "pricebook_rate"} & product.raw.keys()


def test_keys_of_a_list_give_way_to_the_first_webhook_and_never_cost_a_write_after_it() -> None:
    listed = items.read_body(fields(0, item_name="Mug", image_document_id="77"), is_listed=True)
    product = whole_row([listed])
    assert product is not None
    assert (product.is_listed, product.raw["item_name"]) == (True, "Mug")
    product = whole_row([listed, body(0)])
    assert product is not None
    assert (product.is_listed, "item_name" in product.raw) == (False, False)
    now = datetime.now(UTC)
    current = replace(known(product), written_at=now)
    assert merging.decide_listed(current, ITEM, listed, now) == Settled("unchanged")
