"""Every body format and envelope leads to the item, and what leads nowhere says why."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.errors import BodyUnreadable
from processors.zoho.items import time_of
from processors.zoho.payloads import (
    form_of,
    identify,
    is_taken,
    multipart_pairs,
    organisations_of,
    read_certain,
    read_item,
)

ID = "4100000000000012345"
ITEM = {"item_id": ID, "name": "Widget, “blue” & ü", "rate": 12.5}
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=B"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _part(head: str, value: bytes) -> bytes:
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


def _field(name: str, value: bytes) -> bytes:
    return _part(f'Content-Disposition: form-data; name="{name}"', value)


def _multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


def _reason(body: bytes, content_type: str = JSON, query: bytes = b"") -> str:
    with pytest.raises(BodyUnreadable) as caught:
        read_item(body, content_type, query)
    return str(caught.value)


ENVELOPES: dict[str, Any] = {
    "item": {"item": ITEM},
    "item beside others": {"event_type": "item.edited", "organization_id": "1", "entity_id": ID, "item": ITEM},
    "JSONString": {"JSONString": json.dumps({"item": ITEM})},
    "JSONString of the bare item": {"JSONString": json.dumps(ITEM)},
    "JSONString with its quotes escaped twice": {
        "JSONString": json.dumps({"item": {"item_id": ID}}).replace('"', '\\"')
    },
    "JSONString in JSONString": {"JSONString": json.dumps({"JSONString": json.dumps({"item": ITEM})})},
    "JSONString that is an object": {"JSONString": {"item": ITEM}},
    "composite_item": {"composite_item": {**ITEM, "composite_item_id": ID}},
    "composite_item by its own id": {"composite_item": {"composite_item_id": ID, "name": "Set"}},
    "item as text": {"item": json.dumps(ITEM)},
    "wrapper of item": {"event_type": "x", "data": {"item": ITEM}},
    "wrapper of the bare item": {"event_type": "x", "data": ITEM},
    "wrapper of JSONString": {"payload": {"JSONString": json.dumps({"item": ITEM})}},
    "wrapper of composite_item": {"data": {"composite_item": ITEM}},
    "wrapper in a wrapper": {"event": {"payload": {"item": ITEM}}},
    "bare item": ITEM,
    "id as a number": {"item": {**ITEM, "item_id": int(ID)}},
    "id with spaces around": {"item": {**ITEM, "item_id": f" {ID}\n"}},
    "null item beside a good one": {"item": None, "composite_item": ITEM},
}


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_each_envelope_leads_to_the_item(envelope: object) -> None:
    item_id, fields = read_item(_json(envelope), JSON, b"")

    assert (item_id, fields["item_id"]) == (ID, ID)


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_each_envelope_may_be_the_text_of_a_form_field(envelope: object) -> None:
    text = json.dumps(envelope)

    assert read_item(urlencode({"x": "1", "JSONString": text}).encode(), FORM, b"")[0] == ID
    assert read_item(_multipart(_field("x", b"1"), _field("JSONString", text.encode())), MULTIPART, b"")[0] == ID


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (urlencode(ITEM).encode(), FORM),
        (urlencode(ITEM).encode(), f"{FORM}; charset=UTF-8"),
        (_multipart(*(_field(key, str(value).encode()) for key, value in ITEM.items())), MULTIPART),
        (_json({"item": ITEM}), ""),
        (_json({"item": ITEM}), "application/json;charset=UTF-8"),
        (b"\xef\xbb\xbf" + _json({"item": ITEM}), JSON),
        (b" \n" + json.dumps({"item": ITEM}, ensure_ascii=False).encode() + b"\n", JSON),
    ],
)
def test_each_format_carries_the_fields(body: bytes, content_type: str) -> None:
    item_id, fields = read_item(body, content_type, b"")

    assert item_id == ID
    assert fields["name"] == ITEM["name"]
    assert Decimal(fields["rate"]) == Decimal("12.5")


def test_numbers_keep_every_digit() -> None:
    _, fields = read_item(b'{"item": {"item_id": 92233720368547758071, "rate": 0.1000000000000000000001}}', JSON, b"")

    assert fields["item_id"] == "92233720368547758071"
    assert fields["rate"] == Decimal("0.1000000000000000000001")


def test_the_item_of_an_item_is_not_mistaken_for_something_inside_it() -> None:
    inside = {"preferred_vendor": {"item_id": "1"}, "item": {"item_id": "2"}, "item_id": ID}

    assert read_item(_json({"other": 1, "item": inside}), JSON, b"")[0] == ID
    assert "item_id" in _reason(_json({"item": {"name": "x", "vendor": {"item_id": "1"}}}))


LINE = {"item_id": "7", "line_item_id": "8", "rate": 9}
FOREIGN: dict[str, tuple[Any, str]] = {
    "item inside": ({"invoice": {"invoice_id": "1", "item": {**ITEM, "rate": 9}}}, "invoice"),
    "lines inside": ({"salesorder": {"line_items": [LINE]}}, "salesorder"),
    "a module nobody knows": ({"cm_gadget": {"item": ITEM}}, "cm_gadget"),
    "an item id inside": ({"inventory_adjustment": {"item_id": ID}}, "inventory_adjustment"),
    "JSONString inside": ({"bill": {"JSONString": json.dumps({"item": ITEM})}}, "bill"),
    "in JSONString": ({"JSONString": json.dumps({"invoice": {"item": ITEM}})}, "invoice"),
    "in a wrapper": ({"event_type": "x", "data": {"invoice": {"item": ITEM}}}, "invoice"),
    "as a wrapper": ({"event_type": "x", "data": {"invoice_id": "1", "item_id": ID}}, "invoice"),
    "told by the event": ({"event_type": "sales_order.created", "data": {"item": ITEM}}, "salesorder"),
    "told by the module": ({"module": "Invoices", "item": ITEM}, "invoices"),
    "beside the item": ({"package": {"package_id": "1"}, "item": ITEM}, "package"),
    "bare": ({"purchaseorder_id": "1", "item_id": ID}, "purchaseorder"),
    "a bare line": (LINE, "line_item"),
    "a line as an item": ({"item": LINE}, "line_item"),
    "an item of an invoice": ({"item": {**ITEM, "invoice_id": "1"}}, "invoice"),
    "a line in a wrapper": ({"event_type": "x", "data": {"composite_item": json.dumps(LINE)}}, "line_item"),
    "a group": ({"item_group": {"items": [ITEM]}}, "item_group"),
}


@pytest.mark.parametrize(("document", "module"), FOREIGN.values(), ids=FOREIGN)
def test_an_item_in_the_document_of_another_module_is_not_read_and_the_module_is_named(
    document: object, module: str
) -> None:
    for body, content_type in (
        (_json(document), JSON),
        (urlencode({"JSONString": json.dumps(document)}).encode(), FORM),
    ):
        reason = _reason(body, content_type)
        assert reason.startswith(_EXPECTED)
        assert f"a document of the module {module}. A workflow rule of that module calls this address" in reason
        with pytest.raises(BodyUnreadable):
            identify(body, content_type, b"")


@pytest.mark.parametrize("nothing", ["", None, 0])
def test_an_item_that_names_no_document_is_an_item(nothing: object) -> None:
    body = _json({"item": {**ITEM, "invoice_id": nothing}})

    assert read_item(body, JSON, b"")[0] == identify(body, JSON, b"")[0] == ID


def test_a_list_of_items_sends_nobody_to_the_rules_of_another_module() -> None:
    assert "module" not in _reason(_json({"items": [ITEM]}))


def test_the_fields_of_another_modules_document_are_no_item() -> None:
    assert "the module invoice" in _reason(b"invoice_id=1&item_id=7&rate=9", FORM)


def test_the_fields_of_a_form_are_read_and_only_the_item_is_certain() -> None:
    body = b"item_id=7&name=Widget&rate=9"
    assert read_item(body, FORM, b"")[1] == {"item_id": "7", "name": "Widget", "rate": "9"}
    assert read_certain(body, FORM, b"") == ("7", {"item_id": "7"})
    assert read_certain(b"", "", body) == ("7", {"item_id": "7"})
    for certain, content_type in ((_json({"item": ITEM}), JSON), (_json({"item": ITEM}), FORM)):
        assert read_certain(certain, content_type, b"")[1]["name"] == ITEM["name"]


@pytest.mark.parametrize(
    "body",
    [
        b"item_id=7&item_id=8",
        b"item_id=7&composite_item_id=8",
        b"item_id=7&name=item_id8",
        b"item_id=7a",
        b"item_id=%D9%A7",
        b"JSONString={}&JSONString={}",
        b"item_id=7&name=JSONString",
        b"A=JSONString&JSONString=%7B%22item_id%22%3A%227%22%7D",
    ],
)
def test_a_form_that_may_be_of_several_items_is_of_none(body: bytes) -> None:
    _reason(body, FORM)


ORGANISATIONS: dict[str, tuple[bytes, str, bytes, set[str]]] = {
    "none": (_json({"item": ITEM}), JSON, b"", set()),
    "envelope": (_json({"organization_id": "10", "item": ITEM}), JSON, b"", {"10"}),
    "envelope, as a number": (_json({"organization_id": 10, "item": ITEM}), JSON, b"", {"10"}),
    "wrapper": (_json({"data": {"organization_id": "10", "item": ITEM}}), JSON, b"", {"10"}),
    "JSONString": (_json({"JSONString": json.dumps({"organization_id": "10", "item": ITEM})}), JSON, b"", {"10"}),
    "query": (_json({"item": ITEM}), JSON, b"a=1&organization_id=10", {"10"}),
    "query, cut elsewhere": (_json({"item": ITEM}), JSON, b"organization_i=d10", {"10"}),
    "query alone": (b"", "", b"item_id=7&organization_id=10", {"10"}),
    "form": (b"item_id=7&organization_id=10", FORM, b"", {"10"}),
    "form beside JSONString": (b"organization_id=10&JSONString=%7B%22item_id%22%3A%227%22%7D", FORM, b"", {"10"}),
    "both": (_json({"organization_id": "10", "item": ITEM}), JSON, b"organization_id=11", {"10", "11"}),
    "a placeholder": (_json({"organization_id": "${ORG}", "item": ITEM}), JSON, b"organization_id=$", set()),
    "of the item": (_json({"item": {**ITEM, "organization_id": "10"}}), JSON, b"", set()),
}


@pytest.mark.parametrize(("body", "content_type", "query", "named"), ORGANISATIONS.values(), ids=ORGANISATIONS)
def test_the_organisation_is_read_that_a_delivery_names_beside_its_item(
    body: bytes, content_type: str, query: bytes, named: set[str]
) -> None:
    assert organisations_of(body, content_type, query) == named


def test_a_delivery_without_a_body_names_the_item_in_its_query() -> None:
    for body in (b"", b" \r\n"):
        assert read_item(body, "", b"item_id=" + ID.encode())[0] == ID
        assert read_item(body, FORM, b"x=&composite_item_id=" + ID.encode())[0] == ID


def test_a_content_type_decides_how_a_body_is_read_that_does_not_look_like_json() -> None:
    assert form_of(b"a=1", "") == form_of(b"a=1", "APPLICATION/JSON ;charset=x") == "json"
    assert form_of(b"a=1", FORM.upper()) == "form"
    assert form_of(b"a=1", MULTIPART) == "multipart"
    for content_type in ("", JSON, FORM, MULTIPART, "text/plain", "\x00"):
        for body in (b"{}", b" \r\n{", b"\xef\xbb\xbf\n[", b"{a=1&b"):
            assert form_of(body, content_type) == "json"
    for other in ("text/plain", "json", "application/json+x", "application/ld+json", "\x00", "*/*"):
        assert form_of(b"a=1", other) == "json"
        assert not is_taken(other)
    assert all(map(is_taken, ("", JSON, FORM, MULTIPART, f"{JSON};charset=UTF-8")))


_EXPECTED = 'the body should hold an item, as in {"item": {"item_id": "…"}}; '
_NO_ID = "item.item_id should be digits without a zero in front, at most 20; got "


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", JSON, _EXPECTED + "it is empty"),
        (b"  \n", FORM, _EXPECTED + "it is empty"),
        (b"nonsense", JSON, "the body is not valid JSON: "),
        (b'{"item": {"item_id": "1"', JSON, "the body is not valid JSON: "),
        (b"\xff\xfe\x00", JSON, "the body is not valid JSON: "),
        ('{"item": {}}'.encode("utf-16"), JSON, "the body is not valid JSON: "),
        (b"[" * 100_000, JSON, "the body is nested too deeply to be an item"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON, "the body is nested too deeply to be an item"),
        (b'{"a":' * 800 + b'"\\u0000"' + b"}" * 800, JSON, "the body is nested too deeply to be an item"),
        (b"null", JSON, _EXPECTED + "got None"),
        (b"17", JSON, _EXPECTED + "got 17"),
        (b'"text"', JSON, _EXPECTED + "got 'text'"),
        (b"[]", JSON, _EXPECTED + "got a list of 0"),
        (b'[{"item_id": "1"}]', JSON, _EXPECTED + "got a list of 1"),
        (b"{}", JSON, _EXPECTED + "got an object with no keys"),
        (b'{"invoice": {"invoice_id": "1"}, "x": 1}', JSON, _EXPECTED + "got an object with the keys invoice, x"),
        (b'{"item": [1]}', JSON, _EXPECTED + "got an object with the keys item"),
        (b'{"item": "{}"}', JSON, _NO_ID + "'nothing'"),
        (b'{"item": {}}', JSON, _NO_ID + "'nothing'"),
        (b'{"item": {"item_id": ""}}', JSON, _NO_ID + "''"),
        (b'{"item": {"item_id": null}}', JSON, _NO_ID + "None"),
        (b'{"item": {"item_id": true}}', JSON, _NO_ID + "True"),
        (b'{"item": {"item_id": [1]}}', JSON, _NO_ID + "a list of 1"),
        (b'{"item": {"item_id": {"a": 1}}}', JSON, _NO_ID + "an object with the keys a"),
        (b'{"item": {"item_id": 1.5}}', JSON, _NO_ID + "Decimal('1.5')"),
        (b'{"item": {"item_id": 1e400}}', JSON, _NO_ID + "Decimal('1E+400')"),
        (b'{"item": {"item_id": "../../x"}}', JSON, _NO_ID + "'../../x'"),
        (b'{"item": {"item_id": "' + b"1" * 65 + b'"}}', JSON, _NO_ID + "'" + "1" * 59 + "…"),
        (b"a=1&b=2", FORM, _EXPECTED + "got an object with the keys a, b"),
        (b"JSONString=nonsense", FORM, _EXPECTED + "got an object with the keys JSONString"),
        (b"&".join([b"a=1"] * 101), FORM, "the form has more than 100 fields"),
        (b"nonsense", MULTIPART, "the body is not valid multipart/form-data: "),
        (b"--B\r\n", "multipart/form-data", "the body is not valid multipart/form-data: No boundary given"),
        (_multipart(_part("X: y", b"1")), MULTIPART, "the body is not valid multipart/form-data: "),
        (_multipart(*[_field("a", b"1")] * 101), MULTIPART, "the form has more than 100 fields"),
        (
            _multipart(*[_part('Content-Disposition: form-data; name="a"; filename="f"', b"1")] * 101),
            MULTIPART,
            "the form has more than 100 fields",
        ),
    ],
)
def test_a_body_without_an_item_is_refused_with_a_reason_a_person_understands(
    body: bytes, content_type: str, reason: str
) -> None:
    found = _reason(body, content_type)

    assert found.startswith(reason)
    assert len(found) < 500
    assert found.isprintable()


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (b'{"\\u0000": {"it\\u0000em": 1}}', JSON, b""),
        (b'{"item": {"item_id": "\\u0000"}}', JSON, b""),
        (b'{"\\ud800": "\\udc00"}', JSON, b""),
        (b"%00=%00", FORM, b""),
        (_multipart(_field("\x00", b"\x00")), MULTIPART, b""),
        (b"", "", b"%00=1"),
        (b"", "", b"item_id=%00%20"),
        (b"", "", b"%ED%A0%80=%ff"),
    ],
)
def test_nothing_that_postgres_refuses_reaches_a_reason_or_an_id(body: bytes, content_type: str, query: bytes) -> None:
    try:
        found = read_item(body, content_type, query)[0]
    except BodyUnreadable as error:
        found = str(error)

    assert "\x00" not in found
    found.encode()


@pytest.mark.parametrize(
    "number", [b"1e400", b"-1e400", b"1e9999999999999999999", b"1e-9999999999999999999", b"0e999999999"]
)
def test_an_absurd_number_costs_its_field_and_not_the_item(number: bytes) -> None:
    assert read_item(b'{"item": {"item_id": "1", "rate": ' + number + b"}}", JSON, b"")[0] == "1"


def test_multipart_fields_keep_their_order_and_files_are_not_among_them() -> None:
    body = _multipart(
        _field("b", "ü".encode()),
        _part('Content-Disposition: form-data; name="f"; filename="f.txt"', b"x"),
        _field("a", b""),
        _field("b", b"\xff"),
    )

    assert multipart_pairs(body, MULTIPART) == [("b", "ü"), ("a", ""), ("b", "\ufffd")]


def test_the_parser_of_multipart_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its warnings quote what was sent, also by those who have no secret."""
    caplog.set_level(logging.DEBUG)
    for body, content_type in (
        (b"secret", MULTIPART),
        (b"secret", "multipart/form-data"),
        (
            _multipart(_part('Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: secret', b"")),
            MULTIPART,
        ),
    ):
        try:
            multipart_pairs(body, content_type)
        except BodyUnreadable:
            continue

    assert caplog.records == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["item", "item_id", "JSONString", "composite_item", "data"]) | st.text(), inner, max_size=4
        )
    ),
    max_leaves=20,
)
content_types = st.sampled_from(
    [JSON, FORM, MULTIPART, "", "multipart/form-data", "multipart/form-data; boundary=\xff"]
)


@given(
    st.binary(max_size=500)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.lists(st.binary(max_size=40)).map(lambda parts: _multipart(*(b"--B\r\n" + part for part in parts))),
    content_types | st.text(max_size=40),
    st.binary(max_size=60),
)
def test_any_bytes_are_read_or_refused_with_a_reason(body: bytes, content_type: str, query: bytes) -> None:
    try:
        item_id, fields = read_item(body, content_type, query)
    except BodyUnreadable as error:
        item_id, fields = str(error), {}
        assert item_id

    assert "\x00" not in item_id
    item_id.encode()
    assert fields.get("item_id", item_id) == item_id


ODDITIES = st.sampled_from(
    [
        b"",
        b"\xe9",
        b"\\u0000",
        b"\\ud800",
        b"NaN",
        b"[" * 101 + b"]" * 101,
        b'"item_id": 7',
        b'"item": {"item_id": "8"}',
        b'"item": "{\\"item_id\\": \\"9\\"}"',
        b'"x": "\xe9"',
        b'"x": "\\ud800"',
        b'"x": 1e999999',
    ]
)


@given(
    item_id=st.sampled_from(["41", "4100000000000012345", "", " 41 ", "4/1", "x" * 65]) | st.integers() | st.none(),
    modified=st.sampled_from(["2026-10-05T21:32:21+0530", "2026-10-05", "", "soon"]) | st.none() | st.integers(),
    first=ODDITIES,
    last=ODDITIES,
    content_type=st.sampled_from(["application/json", "", "application/x-www-form-urlencoded"]),
)
def test_the_short_way_to_the_item_finds_what_the_long_way_finds(
    item_id: object, modified: object, first: bytes, last: bytes, content_type: str
) -> None:
    inner = b", ".join(
        part
        for part in (first, json.dumps({"item_id": item_id, "last_modified_time": modified})[1:-1].encode(), last)
        if part
    )
    for body in (b'{"item": {%s}}' % inner, b'{"item": {"item_id": "1"}, %s}' % inner, b"{%s}" % inner):
        assert _told(identify, body, content_type) == _told(_read_wholly, body, content_type)


def _read_wholly(body: bytes, content_type: str, query: bytes) -> tuple[str, bool]:
    item_id, fields = read_item(body, content_type, query)
    return item_id, time_of(fields.get("last_modified_time")) is not None


def _told(read: Callable[[bytes, str, bytes], tuple[str, bool]], body: bytes, content_type: str) -> object:
    try:
        return read(body, content_type, b"")
    except BodyUnreadable as error:
        return str(error)
