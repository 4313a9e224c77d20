"""Webhooks, list rows and answers, as Zoho shapes them: in any order they leave the same row, raw included."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import field_table
from processors.store.products import Current, Product
from processors.workflows import merging
from processors.workflows.merging import FetchNeeded, Write
from processors.zoho import items, keys
from simulator import identity, shapes, wire
from simulator.items import CustomField, Item

ITEM = "4100000000000012345"
START = datetime(2026, 10, 5, 16, 2, 21, tzinfo=UTC)
LATER = START + timedelta(minutes=1)

Kind = Literal["webhook", "list row", "request"]


@dataclass(frozen=True)
class Message:
    """What reaches the mirror: a body, or somebody's request to ask Zoho, which has none."""

    kind: Kind
    body: items.Body | None = None


def webhook(item: Item) -> Message:
    return Message("webhook", items.read_body(as_sent(shapes.webhook_item(item, identity.Organization()))))


def list_row(item: Item) -> Message:
    return Message("list row", items.read_body(as_sent(shapes.list_element(item)), is_listed=True))


def as_sent(shape: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = items.read_json(wire.dumps(shape))
    return fields


def version(second: int, name: str, rate: Decimal, customs: tuple[str, str], stock: Decimal | None) -> Item:
    return Item(
        item_id=ITEM,
        name=name,
        created_time=START,
        last_modified_time=START + timedelta(seconds=second),
        rate=rate,
        custom_fields=tuple(
            CustomField(f"410000000000000099{number}", f"cf_{number}", str(number), "string", value)
            for number, value in enumerate(customs)
            if value
        ),
        track_inventory=stock is not None,
        stock_on_hand=stock or Decimal(0),
    )


VERSIONS = st.lists(
    st.builds(
        version,
        st.integers(0, 2),
        st.sampled_from(["Mug", "Cup", "Jar"]),
        st.sampled_from([Decimal("12.50"), Decimal(13)]),
        st.tuples(st.sampled_from(["", "x", "y"]), st.sampled_from(["", "z"])),
        st.sampled_from([None, Decimal("7.0"), Decimal("8.5")]),
    ),
    min_size=1,
    max_size=4,
    # Two edits of one second differ in a column, so that Zoho is asked.
    unique_by=lambda item: (item.last_modified_time, item.name),
)


@st.composite
def histories(draw: st.DrawFn, kinds: list[Kind]) -> tuple[list[Message], list[Message], Item]:
    """What the mirror hears, in two orders, the second with copies; and what Zoho answers whenever it is asked."""
    versions = sorted(draw(VERSIONS), key=lambda item: item.last_modified_time)
    heard = [
        _message(kind, item)
        for item in versions
        for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3, unique=True))
    ]
    copies = draw(st.lists(st.sampled_from(heard), max_size=3))
    return draw(st.permutations(heard)), draw(st.permutations(heard + copies)), versions[-1]


def _message(kind: Kind, item: Item) -> Message:
    match kind:
        case "webhook":
            return webhook(item)
        case "list row":
            return list_row(item)
        case "request":
            return Message("request")


def row_after(messages: Iterable[Message], answer: Item) -> Product:
    product = None
    for message in messages:
        product = hear(product, message, answer)
    assert product is not None
    return product


def hear(row: Product | None, message: Message, answer: Item) -> Product | None:
    current = Current(row, 0 if row is None else 1, 0, written_at=LATER)
    decided: merging.Decision
    if message.body is None:
        decided = FetchNeeded("somebody asked")
    elif message.kind == "list row":
        decided = merging.decide_listed(current, ITEM, message.body, LATER)
    else:
        decided = merging.decide_change(current, ITEM, message.body)
    if isinstance(decided, FetchNeeded):
        answered = merging.read_answer(ITEM, as_sent(shapes.detail(answer)), LATER)
        decided = merging.decide_answer(current, answered, message.body if message.kind == "webhook" else None)
    return decided.product if isinstance(decided, Write) else row


def told(product: Product) -> dict[str, Any]:
    return {
        "content": product.content,
        "zoho_last_modified_at": product.zoho_last_modified_at,
        "deleted_at": product.deleted_at,
        "raw": product.raw,
    }


@settings(max_examples=200, deadline=None)
@given(histories(["webhook", "request"]))
def test_any_order_of_webhooks_and_answers_leaves_the_same_row_also_within_one_second(
    history: tuple[list[Message], list[Message], Item],
) -> None:
    one, other, newest = history
    assert told(row_after(one, newest)) == told(row_after(other, newest))


@settings(max_examples=200, deadline=None)
@given(histories(["webhook", "request", "list row"]))
def test_any_order_with_list_rows_leaves_the_same_row_once_zoho_was_asked(
    history: tuple[list[Message], list[Message], Item],
) -> None:
    one, other, newest = history
    asked = Message("request")
    assert told(row_after([*one, asked], newest)) == told(row_after([*other, asked], newest))


def test_what_zoho_answers_voids_the_twins_and_custom_fields_of_another_edit_of_that_second() -> None:
    first = version(0, "Mug", Decimal("12.50"), ("x", ""), Decimal(7))
    second = version(0, "Cup", Decimal(13), ("", ""), None)
    for heard in ([webhook(first), webhook(second)], [webhook(second), webhook(first)]):
        product = row_after(heard, second)
        assert product.raw["rate_formatted"] == "₹13.00"
        assert (product.raw["custom_fields"], product.raw["custom_field_hash"]) == ([], {})
        assert [key for key in product.raw if key.startswith("cf_")] == []
        assert product.raw["committed_stock"] == ""


def test_a_twin_of_a_price_that_only_details_carry_goes_with_it() -> None:
    product = row_after(
        [webhook(version(0, "Mug", Decimal("12.50"), ("", ""), None))], version(0, "", Decimal(0), ("", ""), None)
    )
    newer = {
        "item_id": ITEM,
        "name": "Mug",
        "status": "active",
        "rate": 13,
        "last_modified_time": "2026-10-05T16:03:00Z",
    }
    after = hear(product, Message("webhook", items.read_body(newer)), version(9, "", Decimal(0), ("", ""), None))
    assert after is not None
    assert not {"sales_rate", "sales_rate_formatted", "pricebook_rate_formatted", "rate_formatted"} & after.raw.keys()


def test_the_time_of_the_answer_is_kept_with_those_of_the_keys() -> None:
    item = version(0, "Mug", Decimal(1), ("", ""), None)
    assert row_after([Message("request"), webhook(item)], item).answered_at == item.last_modified_time
    assert row_after([webhook(item)], item).answered_at is None


@pytest.mark.parametrize("key", field_table.MAPPED)
def test_no_key_that_fills_a_column_belongs_to_another(key: str) -> None:
    """A body without it leaves the column alone."""
    assert keys.owners(key) == ()
