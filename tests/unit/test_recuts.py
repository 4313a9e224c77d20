"""Whoever saw one signed delivery can write it anew without the secret, and it says the same then, or nothing."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.errors import BodyUnreadable
from processors.zoho import payloads, signatures
from processors.zoho.items import Fields
from processors.zoho.signatures import Pair, Signed

SECRET = "mysecretkey12"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=B"
TYPES = (JSON, "", "text/plain", FORM, MULTIPART, f"{FORM}; signed=raw")

Request = tuple[bytes, str, bytes]
"""Body, content type, query string."""


Read = tuple[str, Fields] | None


def admit(request: Request, signature: str) -> tuple[Signed | None, Read]:
    """Return what is signed and what it says, as the receiver does; None where it is refused or unreadable."""
    body, content_type, query = request
    form = payloads.form_of(body, content_type)
    fields: list[Pair] = []
    if form == "multipart":
        try:
            fields = payloads.multipart_pairs(body, content_type)
        except BodyUnreadable:
            fields = []
    signed = signatures.verify(signature, [SECRET], body=body, query=query, form=form, multipart_fields=fields)
    if signed is None:
        return None, None
    if signed.keeps_plus:
        query = query.replace(b"+", b"%2B")
        body = body.replace(b"+", b"%2B") if form == "form" else body
    if signed.is_raw and form == "form" and body.strip():
        content_type = payloads.signed_as_it_is(content_type)
    try:
        return signed, payloads.read_certain(body, content_type, query)
    except BodyUnreadable:
        return signed, None


def is_the_same(read: Read, original: Read) -> bool:
    """Tell whether a reading says nothing that the original does not, which may be nothing but the id."""
    if read is None or original is None:
        return read is None
    return read == original or read == (original[0], {"item_id": original[0]})


def multipart(pairs: list[Pair]) -> bytes:
    parts = (f'--B\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in pairs)
    return ("".join(parts) + "--B--\r\n").encode()


WORDS = (
    "item_id",
    "composite_item_id",
    "name",
    "rate",
    "sku",
    "status",
    "JSONString",
    "item",
    "data",
    "organization_id",
)
TEXTS = st.sampled_from(
    ["Corporate 5", "x", "item_id5", "name item_id5x", "a=1&item_id=5&b", "rate9", 'JSONString{"item_id":"5"}x', "unit",
     '{"item_id": "5"}', '","item_id":"5","x":"', "+", "a+b c%2B"]
)  # fmt: skip
ITEMS = st.fixed_dictionaries(
    {"item_id": st.just("77"), "name": TEXTS},
    optional={
        "rate": st.sampled_from(["9", "12.50"]),
        "sku": TEXTS,
        "status": st.just("active"),
        "notes": TEXTS,
        "last_modified_time": st.just("2026-10-05T21:32:21+0530"),
        "vendor": st.just({"item_id": "5", "rate": 1}),
    },
)


@st.composite
def cuts(draw: st.DrawFn, text: str) -> Request:
    """Cut a signed text into a query string, a form and a raw body, at words more often than elsewhere."""
    found = [found.span() for word in (*WORDS, "[a-z]") for found in re.finditer(word, text)]
    found += [(0, length) for length in (0, 1, 2, *map(len, WORDS)) if length <= len(text)]
    ends = [len(text), *(start for start, _ in found), text.find("{")]
    end = draw(st.just(len(text)) | st.sampled_from(ends))
    signed, rest = (text, "") if end < 0 else (text[:end], text[end:])
    spans = [draw(st.sampled_from([span for span in found if span[0] == 0]))]
    for start, stop in sorted(draw(st.lists(st.sampled_from(found), min_size=1, max_size=20))):
        # Others are not in the order in which keys are signed.
        if spans[-1][1] <= start and stop <= len(signed) and signed[slice(*spans[-1])] <= signed[start:stop]:
            spans.append((start, stop))
    bounds = [start for start, _ in spans[1:]] + [len(signed)]
    pairs = [(signed[s:e], signed[e:bound]) for (s, e), bound in zip(spans, bounds, strict=True) if s < len(signed)]
    pairs = draw(st.permutations(pairs))
    how = draw(st.just(0) | st.integers(0, len(pairs)))
    query = urlencode(pairs[:how], quote_via=draw(st.sampled_from([quote, quote_plus]))).encode()
    content_type = draw(st.sampled_from([FORM, MULTIPART]) | st.sampled_from(TYPES))
    written = {FORM: urlencode(pairs[how:]).encode(), MULTIPART: multipart(pairs[how:])}
    body = written[content_type] if not rest and content_type in written else rest.encode()
    return draw(st.sampled_from([body, body.replace(b"%2B", b"+")])), content_type, query


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Request]:
    """A delivery as Zoho may send it, and the text that is signed."""
    item: dict[str, Any] = draw(ITEMS)
    content = json.dumps(draw(st.sampled_from([{"item": item}, item, {"event_type": "x", "data": item}])))
    asked: list[Pair] = draw(st.lists(st.tuples(st.sampled_from(["a", "z", "token"]), TEXTS), max_size=2))
    query = urlencode(asked).encode()
    match draw(st.sampled_from(["json", "form", "fields"])):
        case "json":
            signed = "".join(key + value for key, value in sorted(asked)) + content
            return signed, (content.encode(), JSON, query)
        case "form":
            pairs = [("JSONString", content)]
        case _:
            pairs = [(key, value) for key, value in item.items() if isinstance(value, str)]
    signed = "".join(key + value for key, value in sorted([*pairs, *asked]))
    return signed, (urlencode(pairs).encode(), FORM, query)


@settings(max_examples=600)
@given(st.data(), requests())
def test_no_cut_of_a_signed_delivery_says_something_else(data: st.DataObject, sent: tuple[str, Request]) -> None:
    text, request = sent
    signature = signatures.sign(SECRET, body=text.encode())
    signed, original = admit(request, signature)
    assert signed is not None
    again = data.draw(cuts(text))

    cut, read = admit(again, signature)

    assert is_the_same(read, original), (again, read, original)
    assert cut is None or cut.text.strip() == signed.text.strip()


TIMES = ("last_modified_time", "2026-10-05T21:32:21+0530")
NAMED = '{"item": {"item_id": "77", "name": "%s"}}'
HIDDEN = json.dumps('JSONString{"item_id":"5"}x')[1:-1]


@pytest.mark.parametrize(
    ("sent", "again"),
    [
        (
            [("item_id", "77"), TIMES, ("name", "Corporate 5"), ("status", "active")],
            [("item_id", "77"), TIMES, ("name", "Corpo"), ("rate", " 5"), ("status", "active")],
        ),
        (
            [("item_id", "77"), TIMES, ("name", "A"), ("notes", "B"), ("rate", "1"), ("status", "active")],
            [("item_id", "77"), TIMES, ("name", "AnotesB"), ("rate", "1"), ("status", "active")],
        ),
        (
            [("item_id", "77"), ("name", "x item_id5")],
            [("i", "tem_id77name"), ("x ", ""), ("item_id", "5")],
        ),
        (
            [("JSONString", NAMED % "item_id5x")],
            [("J", 'SONString{"item": {"item_id": "77", "name": "'), ("item_id", "5"), ("x", '"}}')],
        ),
        (
            [("JSONString", NAMED % HIDDEN)],
            [
                ("J", 'SONString{"item": {"item_id": "77", "name": "'),
                ("JSONString", HIDDEN.removeprefix("JSONString").removesuffix("x")),
                ("x", '"}}'),
            ],
        ),
        (
            [("item_id", "77"), TIMES, ("name", "A"), ("rate", "1"), ("rate", "2"), ("status", "active")],
            [("item_id", "77"), TIMES, ("name", "A"), ("rate", "2"), ("rate", "1"), ("status", "active")],
        ),
    ],
)
def test_a_moved_border_between_key_and_value_changes_nothing(sent: list[Pair], again: list[Pair]) -> None:
    signature = signatures.sign(SECRET, pairs=sent)
    signed, original = admit((urlencode(sent).encode(), FORM, b""), signature)
    assert signed is not None

    for content_type, body in ((FORM, urlencode(again).encode()), (MULTIPART, multipart(again))):
        _, read = admit((body, content_type, b""), signature)
        assert is_the_same(read, original)


def test_of_a_forms_fields_nothing_is_certain_but_the_item() -> None:
    pairs = [("item_id", "77"), TIMES, ("name", "Ärmel"), ("rate", "9.50"), ("sku", "N-1"), ("status", "active")]
    _, read = admit((urlencode(pairs).encode(), FORM, b""), signatures.sign(SECRET, pairs=pairs))
    assert read == ("77", {"item_id": "77"})


J = '{"item": {"item_id": "77", "name": "x", "vendor": {"item_id": "5"}, "rate": 9}}'


@pytest.mark.parametrize(
    ("query", "body", "content_type"),
    [
        ("", {"": J}, FORM),
        ("", {J: ""}, FORM),
        ("", {J[:10]: J[10:]}, FORM),
        ("", {"": J[:-3], J[-3:]: ""}, MULTIPART),
        (f"={quote(J)}", "", JSON),
        (f"{quote(J)}", "", FORM),
        (f"{quote(J[:9])}", J[9:], JSON),
        (f"={quote(J[:50])}", J[50:], JSON),
    ],
)
def test_a_signed_json_body_is_not_read_as_pairs(query: str, body: str | dict[str, str], content_type: str) -> None:
    pairs = list(body.items()) if isinstance(body, dict) else []
    written = multipart(pairs) if content_type == MULTIPART else urlencode(pairs).encode()
    content = body.encode() if isinstance(body, str) else written

    assert admit((content, content_type, query.encode()), signatures.sign(SECRET, body=J.encode())) == (None, None)


def test_a_plus_sign_is_read_as_it_was_signed() -> None:
    """Otherwise a name could be changed by not encoding it."""
    content = '{"item": {"item_id": "77", "name": "a+b"}}'
    signature = signatures.sign(SECRET, pairs=[("JSONString", content)])
    for written in (quote(content), quote(content).replace("%2B", "+")):
        signed, read = admit((f"JSONString={written}".encode(), FORM, b""), signature)
        assert signed is not None
        assert read == ("77", {"item_id": "77", "name": "a+b"})


def test_raw_bytes_that_are_signed_are_never_read_as_a_form() -> None:
    """A form's value may hold what looks like pairs; sent as it was signed, it would be cut at them."""
    sent = b"item_id=77&name=x%26item_id%3D5%26rate%3D9"
    signature = signatures.sign(SECRET, pairs=[("item_id", "77"), ("name", "x&item_id=5&rate=9")])
    assert admit((sent, FORM, b""), signature)[1] is None, "item_id in a value makes it uncertain"
    signed, read = admit((b"item_id77namex&item_id=5&rate=9", FORM, b""), signature)
    assert (signed is not None, read) == (True, None)
