"""The item as Zoho writes it: nothing is refused, nothing is rounded, nothing is guessed."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import field_table
from processors.errors import BodyUnreadable
from processors.store.database import decode_json, encode_json
from processors.zoho import items, payloads
from simulator import Catalogue, CustomField, ManualClock, shapes, wire
from simulator.identity import Organization

FULL = {
    "item_id": "4100000000000020007",
    "name": "Mug",
    "sku": "MUG",
    "description": "",
    "rate": Decimal("9.50"),
    "stock_on_hand": Decimal("7.0"),
    "status": "active",
    "category_id": "",
    "category_name": "",
    "brand": "",
    "unit": "pcs",
    "last_modified_time": "2026-10-05T21:32:21+0530",
    "track_inventory": True,
}


def body(**changed: Any) -> items.Body:
    return items.read_body({**FULL, **changed})


def test_a_full_body_fills_every_column() -> None:
    read = body()
    assert read.content.name == "Mug"
    assert read.content.sku == "MUG"
    assert str(read.content.price) == "9.50"
    assert (read.content.stock_quantity, read.content.stock_on_hand) == (7, Decimal(7))
    assert read.content.is_active
    assert read.modified_at == datetime(2026, 10, 5, 16, 2, 21, tzinfo=UTC)
    assert (read.missing, read.notes, read.is_day_only) == ((), (), False)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("4100000000000012345", "4100000000000012345"),
        (4100000000000012345, "4100000000000012345"),
        (99999999999999999999, "99999999999999999999"),
        ("99999999999999999999", "99999999999999999999"),
        ("\u00a0 7\t", "7"),
        (" 4100000000000012345\n", "4100000000000012345"),
    ],
)
def test_an_id_keeps_every_digit_whether_text_or_number(sent: object, kept: str) -> None:
    assert items.item_id_of(sent) == kept


@pytest.mark.parametrize(
    "sent", ["", " ", None, True, False, [], {}, "a/b", "a?b", "a b", "item-1", "1 2", "-7", "+7", "\0", "7\0", -7]
)
def test_what_cannot_be_an_id_is_none(sent: object) -> None:
    assert items.item_id_of(sent) is None


@pytest.mark.parametrize(
    "sent",
    [
        *("07", "007", "0", "7.0", "7e0", "7E3", "1_000", "1,000", "0x7", "\uff17", "\u0667", "7\u200b", "\ufeff7"),
        *(0, 7.0, 10**20, "1" * 21, Decimal(7), Decimal("7.0"), Decimal("7E+3")),
    ],
)
def test_another_spelling_of_a_number_is_not_a_second_id(sent: object) -> None:
    """Whatever is not as Zoho writes it is refused: it must never make a second row of one item."""
    assert items.item_id_of(sent) is None


@pytest.mark.parametrize("number", ["7.0", "7e0", "7E0", "70e-1", "007", "1e400"])
def test_a_number_of_json_that_is_not_an_integer_is_not_an_id(number: str) -> None:
    for body in (f'{{"item": {{"item_id": {number}}}}}', f'{{"item": {{"item_id": "{number}"}}}}'):
        with pytest.raises(BodyUnreadable):
            payloads.identify(body.encode(), "application/json", b"")


@pytest.mark.parametrize("key", ["item_id", "composite_item_id"])
def test_the_id_of_a_body_keeps_its_digits_through_json(key: str) -> None:
    text = f'{{"item": {{"{key}": 4100000000000012345, "name": "x"}}}}'.encode()
    item_id, fields = payloads.read_item(text, "application/json", b"")
    assert item_id == fields["item_id"] == "4100000000000012345"


@pytest.mark.parametrize("key", ["sku", "description", "rate", "stock_on_hand", "category_id", "brand", "unit"])
def test_empty_text_means_none(key: str) -> None:
    read = body(**{key: ""})
    for column in field_table.MAPPED[key]:
        assert getattr(read.content, column) is None
    assert (read.missing, read.notes) == ((), ())


def test_an_empty_name_is_a_name() -> None:
    read = body(name="")
    assert (read.content.name, read.missing) == ("", ())


@pytest.mark.parametrize("key", field_table.NEEDED)
def test_a_body_without_what_is_needed_says_what_is_missing(key: str) -> None:
    fields = {name: value for name, value in FULL.items() if name != key}
    assert items.read_body(fields).missing == (key,)


@pytest.mark.parametrize(
    ("key", "value"), [("name", None), ("name", ["x"]), ("status", ""), ("last_modified_time", "")]
)
def test_what_is_needed_but_unusable_is_missing(key: str, value: object) -> None:
    assert body(**{key: value}).missing == (key,)


@pytest.mark.parametrize(
    ("sent", "price"),
    [
        ("12.50", "12.50"),
        (" 12.5 ", "12.5"),
        ("5.000000", "5.000000"),
        ("1,234.50", "1234.50"),
        ("1,23,456.50", "123456.50"),
        ("-3", "-3"),
        ("1e3", "1E+3"),
        (360, "360"),
        (Decimal("360.00"), "360.00"),
        (0, "0"),
    ],
)
def test_a_number_may_be_text(sent: object, price: str) -> None:
    read = body(rate=sent)
    assert (str(read.content.price), read.notes) == (price, ())


@pytest.mark.parametrize(
    ("sent", "price"),
    [
        (Decimal("21.630000000000003"), "21.63"),
        (Decimal("0.30000000000000004"), "0.3"),
        (Decimal("99.99999999999999"), "100"),
        (Decimal("1199.9999999999998"), "1200"),
        (Decimal("1E-17"), "0"),
        (Decimal("-5.000000000000001"), "-5"),
        (Decimal("123456789012345678.1000000000000014"), "123456789012345678.1"),
        ("21.630000000000003", "21.63"),
        # As many decimals as a price may have are kept to the last.
        (Decimal("0.123456789012"), "0.123456789012"),
        (Decimal("12.500"), "12.500"),
    ],
)
def test_what_a_binary_fraction_leaves_behind_is_rounded_away(sent: object, price: str) -> None:
    read = body(rate=sent)
    assert (str(read.content.price), read.notes) == (price, ())


@pytest.mark.parametrize(
    "sent",
    [
        "12,50",
        "1,2,3",
        "₹12.50",
        "free",
        "NaN",
        "Infinity",
        True,
        [],
        {"a": 1},
        "1e400",
        Decimal("1E+19"),
        10**30,
        "9" * 5000,
    ],
)
def test_an_odd_price_becomes_null_with_a_note_that_names_field_and_value(sent: object) -> None:
    read = body(rate=sent)
    assert read.content.price is None
    assert read.missing == ()
    assert len(read.notes) == 1
    assert read.notes[0].startswith("rate: ")
    assert "decimal." not in read.notes[0]
    assert len(read.notes[0]) < 120
    assert read.content.name == "Mug"


@pytest.mark.parametrize("key", ["sku", "description", "category_id", "category_name", "brand", "unit"])
@pytest.mark.parametrize("sent", [True, [], {"a": 1}])
def test_an_odd_text_becomes_null_with_a_note(key: str, sent: object) -> None:
    read = body(**{key: sent})
    assert getattr(read.content, field_table.MAPPED[key][0]) is None
    assert len(read.notes) == 1


def test_numbers_where_text_is_expected_are_taken_as_they_are_written() -> None:
    fields = items.read_json(b'{"sku": 111111111111, "brand": 4.50, "category_id": 4100000000000012345}')
    content = items.content_of(fields)
    assert (content.sku, content.brand, content.category_id) == ("111111111111", "4.50", "4100000000000012345")


@pytest.mark.parametrize(
    ("sent", "quantity"),
    [
        ("7.0", 7),
        ("7.9", 7),
        ("-0.5", -1),
        ("-3.0", -3),
        (Decimal("-0.01"), -1),
        (0, 0),
        ("0.999999999999", 0),
        ("2147483647.9", 2147483647),
        (-(2**31), -(2**31)),
    ],
)
def test_stock_is_floored_and_kept_exact_beside(sent: Any, quantity: int) -> None:
    read = body(stock_on_hand=sent)
    assert read.content.stock_quantity == quantity
    assert read.content.stock_on_hand == Decimal(sent)
    assert read.notes == ()


@pytest.mark.parametrize("sent", [2**31, "-2147483648.5", Decimal("1E+18")])
def test_stock_beyond_an_integer_is_kept_exact_with_a_note(sent: Any) -> None:
    read = body(stock_on_hand=sent)
    assert read.content.stock_quantity is None
    assert read.content.stock_on_hand == Decimal(sent)
    assert len(read.notes) == 1


def test_stock_that_is_not_there_is_null() -> None:
    fields = {key: value for key, value in FULL.items() if key != "stock_on_hand"}
    content = items.content_of(fields)
    assert (content.stock_quantity, content.stock_on_hand) == (None, None)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("2026-10-05T21:32:21+0530", datetime(2026, 10, 5, 16, 2, 21, tzinfo=UTC)),
        ("2026-10-05T21:32:21+05:30", datetime(2026, 10, 5, 16, 2, 21, tzinfo=UTC)),
        ("2026-10-05T21:32:21-0800", datetime(2026, 10, 6, 5, 32, 21, tzinfo=UTC)),
        ("2026-10-05T21:32:21Z", datetime(2026, 10, 5, 21, 32, 21, tzinfo=UTC)),
        ("2026-10-05T21:32:21.750+0000", datetime(2026, 10, 5, 21, 32, 21, tzinfo=UTC)),
        ("2026-10-05 21:32:21+0000", datetime(2026, 10, 5, 21, 32, 21, tzinfo=UTC)),
        ("2026-10-05T21:32:21", datetime(2026, 10, 5, 21, 32, 21, tzinfo=UTC)),
        ("2026-10-05", datetime(2026, 10, 5, tzinfo=UTC)),
    ],
)
def test_times_are_read_to_the_second_in_any_zone(sent: str, expected: datetime) -> None:
    read = body(last_modified_time=sent)
    assert (read.modified_at, read.missing) == (expected, ())
    assert read.is_day_only == (sent == "2026-10-05")


@pytest.mark.parametrize("sent", ["yesterday", "2026-13-01", "9999-12-31T23:59:59-0100", 1759680141, True, []])
def test_an_unreadable_time_makes_the_body_thin(sent: object) -> None:
    read = body(last_modified_time=sent)
    assert read.missing == ("last_modified_time",)
    assert read.notes[0].startswith("last_modified_time: expected a time such as")


@pytest.mark.parametrize(("status", "active"), [("active", True), ("inactive", False), ("unheard of", False)])
def test_only_the_status_active_is_active(status: str, active: bool) -> None:
    assert body(status=status).content.is_active is active


def test_unknown_keys_and_all_four_spellings_of_custom_fields_stay_in_the_fields() -> None:
    catalogue = Catalogue(clock=ManualClock())
    weight = CustomField("4100000000000000998", "cf_weight", "Weight", "number", Decimal("1.50"))
    item = catalogue.create("Mug", custom_fields=(weight,))
    text = wire.dumps({"item": shapes.webhook_item(item, Organization()) | {"a_new_key": {"x": [1]}}})
    _, fields = payloads.read_item(text.encode(), "application/json;charset=UTF-8", b"")
    assert fields["cf_weight"] == fields["cf_weight_formatted"] == "1.50"
    assert str(fields["cf_weight_unformatted"]) == "1.50"
    assert fields["custom_field_hash"]["cf_weight"] == "1.50"
    assert fields["custom_fields"][0]["api_name"] == "cf_weight"
    assert fields["a_new_key"] == {"x": [1]}
    assert items.read_body(fields).notes == ()


@pytest.mark.parametrize("is_tracked", [True, False])
def test_list_element_detail_and_webhook_body_read_the_same(is_tracked: bool) -> None:
    catalogue = Catalogue(clock=ManualClock())
    stock = Decimal("-2.5")
    item = catalogue.create("Mug ☕", rate=Decimal("360.00"), track_inventory=is_tracked, stock_on_hand=stock)
    rendered = (shapes.list_element(item), shapes.detail(item), shapes.webhook_item(item, Organization()))
    bodies = [items.read_body(items.read_json(wire.dumps(shape))) for shape in rendered]
    assert len({(read.content, read.modified_at, read.missing, read.notes) for read in bodies}) == 1
    assert bodies[0].content.stock_quantity == (-3 if is_tracked else None)
    assert str(bodies[0].content.price) == "360.00"


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=6) | (
    st.integers(-(10**18), 10**18).flatmap(lambda digits: st.integers(0, 12).map(lambda s: Decimal(digits).scaleb(-s)))
)


@given(DECIMALS, st.booleans())
def test_no_digit_of_a_number_is_lost_between_json_and_column(number: Decimal, as_text: bool) -> None:
    written = f'"{number:f}"' if as_text else f"{number:f}"
    fields = items.read_json(f'{{"rate": {written}, "stock_on_hand": {written}}}')
    content = items.content_of(fields)
    assert format(content.price, "f") == format(content.stock_on_hand, "f")
    assert content.price is not None
    assert content.price.as_tuple() == Decimal(f"{number:f}").as_tuple()
    again = decode_json(encode_json(fields))
    assert again == fields
    assert items.content_of(again).price == content.price


def has_float(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(has_float, value.values()))
    return any(map(has_float, value)) if isinstance(value, list) else isinstance(value, float)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_without_floats_and_can_be_written_again(value: object) -> None:
    read = items.read_json(json.dumps(value))
    assert not has_float(read)
    encode_json(read)


@given(st.dictionaries(st.sampled_from([*field_table.MAPPED, "last_modified_time", "item_id"]), JSON))
def test_whatever_the_fields_hold_a_body_is_read(fields: dict[str, Any]) -> None:
    read = items.read_body(items.read_json(json.dumps(fields)))
    assert isinstance(read.content.name, str)
    assert read.content.stock_quantity is None or isinstance(read.content.stock_quantity, int)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_reading_any_bytes_gives_a_value_or_says_why_not(text: bytes | str) -> None:
    with contextlib.suppress(BodyUnreadable):
        items.read_json(text)


@pytest.mark.parametrize("text", ["1e99999999999999999999", "-1E-99999999999999999999", "1e5000", "0." + "9" * 20_000])
def test_a_number_that_neither_python_nor_postgres_can_hold_is_kept_as_text(text: str) -> None:
    assert items.read_json(f'{{"weight": {text}}}') == {"weight": text}


def test_nul_and_half_emojis_are_replaced_in_keys_and_values() -> None:
    read = items.read_json(b'{"na\\u0000me": "a\\u0000b \\ud83d \\ud83d\\ude00", "list": ["\\udc00"]}')
    assert read == {"na�me": "a�b � 😀", "list": ["�"]}


def test_a_byte_order_mark_and_nan_are_forgiven() -> None:
    assert items.read_json(b'\xef\xbb\xbf{"rate": NaN}') == {"rate": None}


@pytest.mark.parametrize("depth", [102, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('["\\u0000",', "]")])
def test_what_is_nested_too_deeply_is_unreadable(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(BodyUnreadable, match=r"deep|valid JSON"):
        items.read_json(f"{opening * depth}1{closing * depth}")


def test_what_zoho_nests_is_not_too_deep() -> None:
    depth = 99
    assert items.read_json("[" * depth + "]" * depth) is not None
