"""Pages of Zoho's list: the quick way of reading an item says what the thorough one says; an odd one spoils no page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.errors import BodyUnreadable
from processors.zoho import items, listing
from processors.zoho.listing import ListedItem, ListedPage
from simulator import Catalogue, ManualClock, shapes, wire

ID = "4100000000000012345"


def page(content: str | bytes, *, per_page: int = 200) -> ListedPage:
    envelope = listing.read_envelope(content.encode() if isinstance(content, str) else content)
    assert envelope is not None
    read = listing.read_page(envelope, per_page=per_page)
    assert read is not None
    return read


def only(element: str | bytes) -> ListedItem:
    """Read a page that holds this item alone."""
    text = element.encode() if isinstance(element, str) else element
    (item,) = page(b'{"code":0,"items":[' + text + b'],"page_context":{"has_more_page":false}}').items
    return item


def body(element: str) -> items.Body:
    return only(element).body()


# Envelopes


def test_the_parts_of_an_answer_are_read() -> None:
    envelope = listing.read_envelope(b'{"code":0,"message":"success","items":[],"page_context":{"page":1},"more":[1]}')
    assert envelope == {"code": 0, "message": "success", "items": [], "page_context": {"page": 1}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"<h1>502</h1>",
        b'{"items":[{"item_id":"41',
        b'{"code":0,"items":[}',
        b"\xff",
        pytest.param(b'{"items":' + b"[" * 100_000, id="open"),
    ],
)
def test_what_is_no_json_object_is_no_envelope(content: bytes) -> None:
    assert listing.read_envelope(content) is None


def test_an_item_that_is_nested_too_deeply_does_not_cost_the_others() -> None:
    deep = b'{"item_id":"2","name":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    odd = b'{"item_id":"3","name":"]},[{ \\" \\\\"}'
    content = b'{"code":0,"items": [{"item_id":"1"}, %b ,%b,7],"page_context":{"has_more_page":true}}' % (deep, odd)
    page = listing.read_page(listing.read_envelope(content) or {}, per_page=200)
    assert page is not None
    assert page.has_more
    assert [item.item_id for item in page.items] == ["1", None, "3", None]
    assert page.items[1].raw == deep


def test_an_error_keeps_its_code_and_message() -> None:
    envelope = listing.read_envelope(b'{"code":44,"message":"blocked"}')
    assert envelope is not None
    assert (envelope["code"], envelope["message"]) == (44, "blocked")
    assert listing.read_page(envelope, per_page=200) is None


@pytest.mark.parametrize("found", ["null", "{}", '"none"', "7"])
def test_items_that_are_no_list_are_no_page(found: str) -> None:
    envelope = listing.read_envelope(f'{{"code":0,"items":{found}}}'.encode())
    assert envelope is not None
    assert listing.read_page(envelope, per_page=200) is None


def test_a_byte_order_mark_is_forgiven_and_no_digit_is_lost_by_it() -> None:
    (item,) = page(b'\xef\xbb\xbf{"code":0,"items":[{"item_id":4100000000000012345,"rate":19.990000000001}]}').items
    assert item.item_id == ID
    assert str(item.body().content.price) == "19.990000000001"


# Whether there is more, and of what size the page is


@pytest.mark.parametrize(
    ("told", "has_more"),
    [
        ('{"has_more_page":true}', True),
        ('{"has_more_page":false}', False),
        ('{"has_more_page":"true"}', True),
        ('{"has_more_page":"false"}', False),
    ],
)
@pytest.mark.parametrize("per_page", [1, 200])
def test_whether_there_is_more_is_what_zoho_says(told: str, has_more: bool, per_page: int) -> None:
    assert page(f'{{"items":[{{}}],"page_context":{told}}}', per_page=per_page).has_more is has_more


@pytest.mark.parametrize(
    "context", ["", ',"page_context":null', ',"page_context":[]', ',"page_context":"x"', ',"page_context":{"page":1}']
)
def test_where_zoho_does_not_say_only_a_full_page_may_have_more_behind_it(context: str) -> None:
    content = f'{{"items":[{{}},{{}}]{context}}}'
    assert page(content, per_page=2).has_more
    assert not page(content, per_page=3).has_more


@pytest.mark.parametrize(
    ("told", "per_page"), [('{"per_page":196}', 196), ('{"per_page":"196"}', None), ("{}", None), ("null", None)]
)
def test_the_size_that_zoho_took_is_told_as_a_number_or_unknown(told: str, per_page: int | None) -> None:
    assert page(f'{{"items":[],"page_context":{told}}}').per_page == per_page


# Items


def test_an_item_is_kept_as_the_bytes_it_was_received_as() -> None:
    element = '{ "item_id" : "41", "name":"M\\u00fcg",  "cf_weight": 1.500, "list": [1, {"a": null}] }'
    item = only(element)
    assert item.raw.strip() == element.encode()
    assert item.read() == {
        "item_id": "41",
        "name": "Müg",
        "cf_weight": Decimal("1.500"),
        "list": [1, {"a": None}],
    }


def test_numbers_are_exact() -> None:
    read = body('{"item_id":"1","rate":12.500000000001,"stock_on_hand":1234567890123456.789012}')
    assert str(read.content.price) == "12.500000000001"
    assert str(read.content.stock_on_hand) == "1234567890123456.789012"
    assert read.content.stock_quantity is None
    assert len(read.notes) == 1


@pytest.mark.parametrize("written", [ID, f'"{ID}"', f'" {ID}\\n"'])
def test_an_id_may_be_a_number_and_keeps_every_digit(written: str) -> None:
    item = only(f'{{"item_id":{written},"name":"Mug"}}')
    assert item.item_id == ID
    assert item.read()["item_id"] == ID


@pytest.mark.parametrize("written", ["null", '""', "true", "[]", '"a/b"', "1.5"])
def test_an_item_without_a_usable_id_says_what_it_has_instead(written: str) -> None:
    item = only(f'{{"item_id":{written},"name":"Mug"}}')
    assert item.item_id is None
    with pytest.raises(BodyUnreadable, match="item_id should be"):
        item.read()


def test_an_item_that_lacks_its_id_is_told_apart_from_one_whose_id_is_odd() -> None:
    item = only('{"name":"Mug"}')
    assert item.item_id is None
    with pytest.raises(BodyUnreadable, match="'nothing'"):
        item.read()


@pytest.mark.parametrize("element", ["null", "7", '"41"', "[]", "true", '[{"item_id":"41"}]'])
def test_an_element_that_is_no_object_spoils_no_page(element: str) -> None:
    good = '{"item_id":"41","name":"Mug"}'
    before, odd, after = page(f'{{"items":[{good},{element},{good}],"page_context":{{}}}}').items
    assert (before.item_id, odd.item_id, after.item_id) == ("41", None, "41")
    assert odd.digest is None
    with pytest.raises(BodyUnreadable):
        odd.body()
    with pytest.raises(BodyUnreadable, match="should be an object"):
        odd.read()


@pytest.mark.parametrize(
    "odd", ['{"item_id":"42","name":"\\ud83d"}', '{"item_id":"42","rate":NaN}', '{"item_id":"42","cf":"a\\u0000b"}']
)
def test_what_a_strict_reader_refuses_in_one_item_leaves_the_others_as_they_are(odd: str) -> None:
    good = '{"item_id":4100000000000012345,"rate":19.990000000001,"name":"Mug"}'
    read = page(f'{{"code":0,"items":[{good},{odd}],"page_context":{{"has_more_page":true,"per_page":2}}}}')
    assert (read.has_more, read.per_page) == (True, 2)
    assert [item.item_id for item in read.items] == [ID, "42"]
    assert read.items[0].body() == items.read_body(items.read_json(good), is_listed=True)
    assert read.items[1].body()


@pytest.mark.parametrize("key", ["name", "cf_note", "cf\\u0000"])
def test_an_escaped_nul_never_reaches_a_column_or_the_kept_body(key: str) -> None:
    item = only(f'{{"item_id":"41","{key}":"a\\u0000b"}}')
    assert "\x00" not in item.body().content.name
    assert not any("\x00" in key or "\x00" in str(value) for key, value in item.read().items())


def test_half_an_emoji_is_replaced() -> None:
    content = body('{"item_id":"41","name":"a \\ud83d","brand":"\\ud83d\\ude00"}').content
    assert (content.name, content.brand) == ("a \ufffd", "\U0001f600")


@pytest.mark.parametrize("name", [b'"\xff"', b'"\xed\xa0\xbd"', b'"\xc3"'])
def test_an_item_that_is_no_utf_8_is_unreadable_and_spoils_no_page(name: bytes) -> None:
    good = b'{"item_id":"41","name":"Mug"}'
    envelope = listing.read_envelope(b'{"items":[' + good + b',{"item_id":"42","name":' + name + b"}]}")
    assert envelope is not None, "the whole page is lost for one item"
    read = listing.read_page(envelope, per_page=200)
    assert read is not None
    assert read.items[0].item_id == "41"
    with pytest.raises(BodyUnreadable):
        read.items[1].read()


@pytest.mark.parametrize("depth", [101, 900])
@pytest.mark.parametrize("key", ["name", "cf_note"])
def test_an_item_that_is_nested_too_deeply_spoils_no_page(depth: int, key: str) -> None:
    deep = '{"item_id":"42","' + key + '":' + "[" * depth + "]" * depth + "}"
    envelope = listing.read_envelope(f'{{"items":[{{"item_id":"41"}},{deep}]}}'.encode())
    assert envelope is not None, "the whole page is lost for one item"
    read = listing.read_page(envelope, per_page=200)
    assert read is not None
    assert read.items[0].item_id == "41"
    with pytest.raises(BodyUnreadable):
        read.items[1].read()


def test_the_time_of_creation_is_read_beside_the_body() -> None:
    assert only('{"item_id":"1","created_time":"2026-10-05T21:32:21+0530"}').created_at == datetime(
        2026, 10, 5, 16, 2, 21, tzinfo=UTC
    )
    assert only('{"item_id":"1","created_time":"yesterday"}').created_at is None
    assert only('{"item_id":"1"}').created_at is None


def test_the_simulators_list_reads_as_its_single_items_do() -> None:
    catalogue = Catalogue(clock=ManualClock())
    made = [
        catalogue.create("Mug ☕", rate=Decimal("360.00"), track_inventory=True, stock_on_hand=Decimal("-2.5")),
        catalogue.create("Service", sku="S", status="inactive"),
    ]
    read = page(wire.dumps({"code": 0, "items": [shapes.list_element(item) for item in made]}))
    details = [items.read_body(items.read_json(wire.dumps(shapes.detail(item)))) for item in made]
    bodies = [item.body() for item in read.items]
    assert [(b.content, b.modified_at, b.missing) for b in bodies] == [
        (b.content, b.modified_at, b.missing) for b in details
    ]


# Digests

LISTED: dict[str, Any] = {key: f"its {key}" for key in listing._KEYS}
OF_THE_DIGEST = sorted(LISTED.keys() - {"item_id", "created_time"})


def digest(fields: dict[str, Any]) -> bytes:
    found = only(json.dumps(fields)).digest
    assert found is not None
    return found


@pytest.mark.parametrize("key", OF_THE_DIGEST)
@pytest.mark.parametrize("value", [None, "", "Cup", 1, False])
def test_another_value_has_another_digest_and_so_has_none_at_all(key: str, value: object) -> None:
    changed, without = LISTED | {key: value}, {k: v for k, v in LISTED.items() if k != key}
    assert len({digest(LISTED), digest(changed), digest(without)}) == 3


def test_what_fills_no_column_is_not_part_of_the_digest() -> None:
    """Zoho may write a list anew each time, as with addresses of pictures that expire."""
    reordered = dict(sorted(LISTED.items(), reverse=True))
    assert digest(reordered | {"image_url": "https://…?expires=1", "cf_note": [1]}) == digest(LISTED)


@pytest.mark.parametrize(("one", "other"), [("name", "sku"), ("sku", "description"), ("category_name", "brand")])
def test_a_value_that_moves_to_another_key_changes_the_digest(one: str, other: str) -> None:
    assert digest(LISTED | {one: "x", other: ""}) != digest(LISTED | {one: "", other: "x"})
    first, second = dict(LISTED), dict(LISTED)
    del first[one], second[other]
    assert digest(first | {other: "x"}) != digest(second | {one: "x"})


def test_what_is_too_odd_for_a_glance_has_no_digest() -> None:
    for odd in ('{"item_id":"1","name":"a\\u0000"}', "[]"):
        assert only(odd).digest is None


def test_a_release_that_reads_items_in_another_way_has_other_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(LISTED)
    monkeypatch.setattr(listing, "_READING", hashlib.blake2b(b"another", digest_size=16))
    assert digest(LISTED) != before


# The quick way and the thorough one

TEXTS = st.text(max_size=8) | st.sampled_from(["\x00", "a\x00b", "\ud83d", "\udc00x", "\U0001f600", "é"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from(["12.50", "1,234.50", "2026-10-05", "2026-10-05T21:32:21+0530", "active", "false", 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(listing._KEYS)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=8).map(lambda number: f"{number:f}")
ELEMENTS = st.lists(
    st.tuples(KEYS | TEXTS, VALUES.map(json.dumps) | NUMBERS | st.sampled_from(["1e5000", "-0.0", "1E+3", "NaN"])),
    max_size=12,
).map(lambda pairs: "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs) + "}")


def mapped(fields: items.Fields) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key in listing._KEYS}


@settings(deadline=None, max_examples=400)
@given(ELEMENTS)
@example('{"n\\u0061me":"Mug","name":"Cup","item_id":1,"item_id":"2"}')
@example('{"name":"Cup","n\\u0061me":"Mug","cf":"\\u0000"}')
@example('{"track_inventory":false,"name":"\\ud83d"}')
@example('{"track_inventory":"false","rate":1e5000}')
def test_the_quick_way_reads_what_the_thorough_one_reads(element: str) -> None:
    item = only(element)
    fields = items.read_json(element)
    thorough = items.read_body(fields)
    assert item.item_id == items.item_id_of(fields.get("item_id"))
    assert item.created_at == items.time_of(fields.get("created_time"))
    quick = item.body()
    assert item.modified_at == quick.modified_at
    assert (quick.content, quick.modified_at, quick.is_day_only) == (
        thorough.content,
        thorough.modified_at,
        thorough.is_day_only,
    )
    assert (quick.missing, quick.notes) == (thorough.missing, thorough.notes)
    assert quick.fields == mapped(thorough.fields)
    assert (str(quick.content.price), str(quick.content.stock_on_hand)) == (
        str(thorough.content.price),
        str(thorough.content.stock_on_hand),
    )
    if item.item_id is not None:
        assert item.read() == {**fields, "item_id": item.item_id}


@settings(deadline=None, max_examples=400)
@given(ELEMENTS, ELEMENTS)
@example('{"name":"Cup","name":"Mug"}', '{"name":"Mug","name":"Cup"}')
@example('{"name":"a","sku":"b"}', '{"sku":"b","n\\u0061me":"a"}')
@example('{"name":1,"sku":2}', '{"name":[1,2]}')
@example('{"last_modified_time":"1"}', '{"last_modified_time":1}')
def test_what_has_the_same_digest_reads_the_same(one: str, other: str) -> None:
    first, second = only(one), only(other)
    if first.digest is not None and first.digest == second.digest:
        assert replace(first.body(), fields={}) == replace(second.body(), fields={})


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_whatever_bytes_an_answer_is_it_is_read_or_is_none(content: bytes) -> None:
    envelope = listing.read_envelope(content)
    if envelope is not None:
        listing.read_page(envelope, per_page=200)


@settings(deadline=None)
@given(st.lists(VALUES.map(json.dumps), max_size=4))
def test_whatever_the_elements_are_each_is_an_item_of_its_own(elements: list[str]) -> None:
    read = page('{"items":[' + ",".join(elements) + "]}")
    assert len(read.items) == len(elements)
