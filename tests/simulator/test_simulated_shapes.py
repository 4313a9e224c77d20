"""How items look on the wire, in lists, alone and in webhooks."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from simulator import Catalogue, CustomField, Item, ManualClock, SignatureEncoding, sign
from simulator.bodies import BodyFormat, encode
from simulator.shapes import deleted_item, detail, list_element, webhook_item
from simulator.wire import Json, dumps, parse_zoho_time

STOCK_KEYS = {"stock_on_hand", "available_stock", "actual_available_stock", "reorder_level"}
COLOUR = CustomField("4100000000000000999", "cf_colour", "Colour", "string", "Red")
WEIGHT = CustomField("4100000000000000998", "cf_weight_kg", "Weight", "number", Decimal("1.50"))


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(clock=ManualClock())


@pytest.fixture
def mug(catalogue: Catalogue) -> Item:
    return catalogue.create("Mug ☕", rate=Decimal("360.00"), sku="", custom_fields=(COLOUR, WEIGHT))


@pytest.fixture
def tracked(catalogue: Catalogue) -> Item:
    return catalogue.create(
        "Lamp",
        track_inventory=True,
        stock_on_hand=Decimal("42.0"),
        committed_stock=Decimal(1),
        shipped_not_invoiced=Decimal(1),
    )


@pytest.mark.parametrize("text", ["360.00", "5.000000", "0.1", "-3.0", "12345678901234567.89", "0", "7"])
def test_numbers_keep_their_digits_on_the_wire(text: str) -> None:
    assert dumps({"rate": Decimal(text)}) == f'{{"rate":{text}}}'


def test_large_exponents_are_written_out() -> None:
    assert dumps([Decimal("1E+3"), Decimal("1E-7")]) == "[1000,0.0000001]"


def test_text_that_looks_like_a_number_stays_text() -> None:
    value: Json = {"sku": "360.00", "name": 'a\x00"1.5"', "note": "\\u00001.5"}
    assert json.loads(dumps(value)) == value


@pytest.mark.parametrize("text", ["2026-10-05T21:32:21+05:30", "2026-10-05T21:32:21 0530", "2026-10-05", ""])
def test_times_in_any_other_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        parse_zoho_time(text)


def test_stock_keys_exist_only_for_tracked_items(mug: Item, tracked: Item) -> None:
    assert not STOCK_KEYS & set(list_element(mug))
    assert not STOCK_KEYS & set(detail(mug))
    assert set(list_element(tracked)) >= STOCK_KEYS
    assert "committed_stock" not in list_element(tracked)
    assert "committed_stock" in detail(tracked)
    assert list_element(tracked)["reorder_level"] == ""


def test_physical_stock_moves_with_shipments_and_accounting_stock_with_invoices(tracked: Item) -> None:
    shape = detail(tracked)
    assert (shape["stock_on_hand"], shape["available_stock"]) == (42, 42)
    assert (shape["committed_stock"], shape["actual_committed_stock"]) == (1, 0)
    assert shape["actual_available_stock"] == 41


def test_lists_flatten_custom_fields_and_details_nest_them(mug: Item) -> None:
    element, shape = list_element(mug), detail(mug)
    assert element["cf_colour"] == "Red"
    assert element["cf_weight_kg"] == "1.50"
    assert element["cf_weight_kg_unformatted"] == Decimal("1.50")
    assert "custom_fields" not in element
    assert "cf_colour" not in shape
    assert isinstance(shape["custom_fields"], list)
    assert [field["api_name"] for field in shape["custom_fields"]] == ["cf_colour", "cf_weight_kg"]
    assert element["item_name"] == "Mug ☕"
    assert "item_name" not in shape


def test_ids_are_strings(mug: Item) -> None:
    for shape in (list_element(mug), detail(mug)):
        assert all(isinstance(shape[key], str) for key in ("item_id", "group_id", "category_id", "tax_id"))


def test_a_webhook_says_everything_three_times_and_in_no_order(catalogue: Catalogue, mug: Item) -> None:
    shape = webhook_item(mug, catalogue.organization)
    assert list(shape) != sorted(shape)
    assert list(shape)[:3] != list(detail(mug))[:3]
    assert set(detail(mug)) < set(shape)
    assert shape["rate_formatted"] == "₹360.00"
    assert shape["created_time_formatted"] == "05 Oct 2026 09:32 PM"
    assert shape["cf_colour"] == shape["cf_colour_formatted"] == shape["cf_colour_unformatted"] == "Red"
    assert shape["custom_field_hash"]
    assert shape["sku"] == ""


def test_a_webhook_writes_empty_text_for_stock_that_is_not_tracked(catalogue: Catalogue, mug: Item) -> None:
    shape = webhook_item(mug, catalogue.organization)
    assert {shape[key] for key in STOCK_KEYS | {"committed_stock", "asset_value"}} == {""}


def test_the_same_item_gives_the_same_webhook_bytes(catalogue: Catalogue, mug: Item) -> None:
    """Two rules that notice one edit send identical bodies, which receivers must tell apart or not."""
    assert dumps(webhook_item(mug, catalogue.organization)) == dumps(webhook_item(mug, catalogue.organization))


def test_a_delete_carries_only_the_id(mug: Item) -> None:
    assert deleted_item(mug) == {"item_id": mug.item_id}


@pytest.mark.parametrize("body_format", BodyFormat)
def test_each_format_carries_the_item(catalogue: Catalogue, mug: Item, body_format: BodyFormat) -> None:
    payload = {"item": webhook_item(mug, catalogue.organization)}
    body = encode(body_format, payload, event_type="item.edited", organization_id="1")
    assert mug.item_id.encode() in body.content
    assert bool(body.form) != bool(body.signed_raw)
    if not body.form:
        assert body.signed_raw == body.content
        assert isinstance(json.loads(body.content), dict)


def test_the_signature_is_zohos_documented_rule() -> None:
    """The inputs are Zoho's published example; the digests were made with another program."""
    raw = b'{"created_date":"2019-03-06","event_id":"5675"}'
    query = [("subscription_id", "90343"), ("name", "basic")]
    expected = "ec0357bb87b946f9b88f3d80899810913dfbc310ada921e1d1e25575d5f63ee9"
    assert sign("mysecretkey12", query=query, raw=raw) == expected
    assert sign("mysecretkey12", query=query[:1], form=query[1:], raw=raw) == expected
    assert sign("mysecretkey12", query=query, raw=raw, encoding=SignatureEncoding.HEX_UPPER) == expected.upper()
    assert (
        sign("mysecretkey12", raw=b'{"test":true}')
        == "beeba5fe977923913952d4d245be79be8daaea0e1d7c2785731491518b098653"
    )
    base64 = sign("mysecretkey12", raw=b'{"test":true}', encoding=SignatureEncoding.BASE64)
    assert base64 == "vuul/pd5I5E5UtTSRb55vo2q6g4dfCeFcxSRUYsJhlM="
