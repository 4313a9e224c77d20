"""Whatever an authenticated sender writes is kept; what is bad never gives a 5xx and never stops the process."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.zoho import payloads, signatures
from processors.zoho.signatures import Signed
from receiver import webhooks
from tests.receiver.serving import (
    DELETED,
    FORM,
    ITEMS,
    JSON,
    MULTIPART,
    Rows,
    Web,
    eventually,
    head,
    item,
    multipart,
    part,
    signed,
)

_TEXT = item("77").decode()

FORMATS: dict[str, Callable[[Web], httpx.Response]] = {
    "json": lambda web: web.deliver(item("77")),
    "json, composite": lambda web: web.deliver(b'{"composite_item": {"composite_item_id": 77}}'),
    "json, wrapper": lambda web: web.deliver(b'{"event_type": "x", "data": {"item": {"item_id": "77"}}}'),
    "json, JSONString": lambda web: web.deliver(json.dumps({"JSONString": _TEXT}).encode()),
    "form, JSONString": lambda web: web.deliver_form([("JSONString", _TEXT), ("a", "1 + 1")]),
    "form, fields": lambda web: web.deliver_form([("name", "ü €"), ("item_id", "77"), ("sku", "")]),
    "multipart, JSONString": lambda web: web.deliver_multipart(multipart(part("JSONString", _TEXT.encode()))),
    "multipart, fields": lambda web: web.deliver_multipart(multipart(part("item_id", b"77"), part("name", b"x"))),
}


@pytest.mark.parametrize("send", FORMATS.values(), ids=FORMATS)
def test_each_format_is_recorded_as_an_event_of_its_item(
    web: Web, rows: Rows, send: Callable[[Web], httpx.Response]
) -> None:
    answer = send(web)

    assert (answer.status_code, answer.json()["state"]) == (200, "recorded")
    event = rows.only_event()
    assert (event["item_id"], event["error"]) == ("77", None)


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", JSON, 'the body should hold an item, as in {"item": {"item_id": "…"}}; it is empty'),
        (b"<item/>", JSON, "the body is not valid JSON: JSON is malformed: invalid character (byte 0)"),
        (b'{"item": {"item_id": ""}}', JSON, "item.item_id should be digits"),
        (b'{"invoice": {}}', JSON, "the body should hold an item"),
        (b"[" * 1_000_000, JSON, "the body is nested too deeply to be an item"),
        (b"junk", MULTIPART, "the body is not valid multipart/form-data"),
    ],
)
@pytest.mark.parametrize("path", [ITEMS, DELETED])
def test_what_cannot_be_read_is_a_dead_event_with_its_reason(
    web: Web, rows: Rows, path: str, body: bytes, content_type: str, reason: str
) -> None:
    answer = web.deliver(body, path=path, content_type=content_type)

    event = rows.only_event()
    assert (answer.status_code, answer.json()) == (200, {"event_id": event["id"], "state": "dead"})
    assert (event["state"], event["item_id"], event["error_class"]) == ("dead", None, "BodyUnreadable")
    assert event["error"].startswith(reason)
    assert (event["body"], event["content_type"]) == (body, content_type)


def test_an_unreadable_form_is_a_dead_event_too(web: Web, rows: Rows) -> None:
    assert web.deliver_form([("JSONString", "nonsense")]).json()["state"] == "dead"
    assert "JSONString" in rows.only_event()["error"]


def test_a_deletion_without_a_body_names_its_item_in_the_query(web: Web, rows: Rows) -> None:
    pairs = [("item_id", "77")]
    answer = web.deliver(b"", path=f"{DELETED}?item_id=77", method="DELETE", pairs=pairs, content_type=None)

    assert answer.json()["state"] == "recorded"
    event = rows.only_event()
    assert (event["kind"], event["item_id"], event["query_string"]) == ("deleted", "77", b"item_id=77")


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
AWKWARD = [
    b'{"item": {"item_id": "1", "rate": 1e400}}',
    b'{"item": {"item_id": "1", "rate": 1e9999999999999999999}}',
    b'{"item": {"item_id": 1e9999999999999999999}}',
    b'{"item": {"item_id": ' + b"9" * 5_000 + b"}}",
    b'{"item": {"item_id": "1", "rate": ' + b"9" * 500_000 + b".5}}",
    b'{"item": {"item_id": "1", "name": "\\u0000"}}',
    b'{"item": {"item_id": "1\\u0000"}}',
    b'{"item": {"item_id": "1", "name": "\\ud83d"}}',
    b'{"item": {"item_id": "\\udc00"}}',
    b'{"\\u0000\\ud800": 1}',
    b'{"item": {"item_id": "1", "name": "\x00"}}',
    b'{"item": {"item_id": "1", "name": "\xed\xa0\x80"}}',
    b'{"item": {"item_id": "1", "rate": NaN, "x": [Infinity, -Infinity]}}',
    b'{"item": {"item_id": {"item_id": ["1"]}, "name": [], "status": {}, "rate": true}}',
    b'{"item": {"item_id": "1", "item_id": "2"}}',
    b'{"JSONString": "' + b"[" * 500_000 + b'"}',
    b"[" * 1_000_000,
    DEEP,
    DEEP.replace(b"1", b'"\\u0000"').replace(b":1", b":"),
    b'{"a":' * 800 + b'"\\ud800"' + b"}" * 800,
    b"\x00" * 1_000,
    os.urandom(1024 * 1024),
]


def test_awkward_bodies_are_kept_when_they_are_signed_and_refused_when_not(web: Web, rows: Rows) -> None:
    for body in AWKWARD:
        for content_type in (JSON, MULTIPART):
            answer = web.deliver(body, content_type=content_type)
            assert (answer.status_code, set(answer.json())) == (200, {"event_id", "state"}), body[:60]
        assert web.client.post(DELETED, content=body).status_code == 401
        for content_type in (JSON, FORM, MULTIPART):
            wrong = signed(b"other", content_type=content_type)
            assert web.client.post(ITEMS, content=body, headers=wrong).status_code == 401
        assert web.client.get("/health/live").status_code == 200

    assert {event["body"] for event in rows.events()} == set(AWKWARD)
    assert {event["state"] for event in rows.events()} <= {"recorded", "queued", "dead"}


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("item_id=%00", [("item_id", "\x00")]),
        ("a=%ED%A0%80&item_id=%FF", [("a", "\ufffd\ufffd\ufffd"), ("item_id", "\ufffd")]),
        ("&&a=&", [("a", "")]),
        ("item_id=1;item_id=2", [("item_id", "1;item_id=2")]),
        ("a=%zz%", [("a", "%zz%")]),
        ("a=" + "b" * 1_900, [("a", "b" * 1_900)]),
    ],
)
def test_awkward_query_strings_are_kept(web: Web, rows: Rows, query: str, pairs: list[tuple[str, str]]) -> None:
    for method, body in (("DELETE", b""), ("POST", item())):
        answer = web.deliver(body, path=f"{DELETED}?{query}", method=method, pairs=pairs)
        assert answer.status_code == 200
    assert len(rows.events()) == 2


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("%00=1", [("\x00", "1")]),
        ("=1", [("", "1")]),
        ("%7B%22a=1", [('{"a', "1")]),
        ("1=1", [("1", "1")]),
        ("a=" + "b" * 2_000, [("a", "b" * 2_000)]),
    ],
)
def test_a_query_string_that_no_rule_of_zoho_sends_is_refused(
    web: Web, rows: Rows, query: str, pairs: list[tuple[str, str]]
) -> None:
    assert web.deliver(item(), path=f"{ITEMS}?{query}", pairs=pairs).status_code == 401
    assert rows.events() == []


def test_forms_with_a_huge_number_of_fields_are_turned_away(web: Web, rows: Rows) -> None:
    for body in (b"a=1&" * 200_000, b"&" * 1_000_000, b"a&" * 500_000, b"%41" * 300_000):
        assert web.client.post(ITEMS, content=body, headers=signed(b"x", content_type=FORM)).status_code == 401
    assert web.deliver_form([("a", "1")] * 101).status_code == 401
    assert rows.events() == []
    assert web.deliver_form([("a", "1")] * 100).json()["state"] == "dead"


def test_malformed_multipart_is_kept_when_it_is_signed_and_refused_when_not(web: Web) -> None:
    good = multipart(part("item_id", b"1"))
    file = b'--B\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n1\r\n'
    bodies = [
        b"",
        b"--B",
        b"--B--",
        b"--B\r\n",
        b"\r\n" * 100_000,
        good[:-6],
        good[: len(good) // 2],
        good + os.urandom(1_000),
        good.replace(b"form-data", b"attachment"),
        good.replace(b'"item_id"', b'"' + b'\\"' * 10_000 + b'"'),
        b"--B\r\n" + b"A: b\r\n" * 100_000 + b"\r\n--B--\r\n",
        multipart(part("a", b"!!!", b"\r\nContent-Transfer-Encoding: base64")),
        multipart(part("a", b"=GG", b"\r\nContent-Transfer-Encoding: quoted-printable")),
        multipart(part("a", b"x", b"\r\nContent-Transfer-Encoding: \x00\xff")),
        multipart(*[part("a", b"1")] * 15_000),
        multipart(*[file] * 10_000),
        part("a", b"\r\n--" * 200_000),
    ]
    for body in bodies:
        for boundary in ("B", "", '"', "x" * 300, "B; boundary=C", "\u00ff"):
            content_type = f"multipart/form-data; boundary={boundary}".encode("latin-1")
            for text, status in ((body, 200), (b"other" + body, 401)):
                headers = {k.encode(): v.encode() for k, v in signed(text, content_type=None).items()}
                answer = web.client.post(ITEMS, content=body, headers={**headers, b"Content-Type": content_type})
                assert answer.status_code == status, (body[:60], boundary)
    assert web.is_alive()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /webhooks/zoho/items HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        head(Content_Length="-1"),
        head(Content_Length="nine"),
        head(Content_Length="9" * 30, Connection="close"),
        head(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\n",
        head(Transfer_Encoding="chunked") + b"zz\r\n",
        head(Transfer_Encoding="gzip, chunked", Connection="close") + b"0\r\n\r\n",
        head(Content_Length="0", Content_Type="a\x00b", Connection="close"),
        head(Content_Length="0", Content_Type="\x01\x7f\xff", Connection="close"),
        head(Content_Length="0", X_Zoho_Webhook_Signature="\xff" * 64, Connection="close"),
        head(Content_Length="0", X_Forwarded_For="\xff,,;", Connection="close"),
        head(Content_Length="0", Upgrade="websocket", Connection="Upgrade, close"),
        head(ITEMS + "/%00%ff", Content_Length="0", Connection="close"),
        head(ITEMS + "?\xff\x80=%", Content_Length="0", Connection="close"),
        head("//webhooks/zoho/items", Content_Length="0", Connection="close"),
        head("/../etc/passwd", method="GET", Connection="close"),
        head(method="POST" * 10, Content_Length="0", Connection="close"),
        head(Content_Length="0", Connection="close", **{f"X_{n}": "y" for n in range(2_000)}),
    ],
)
def test_awkward_requests_never_get_a_5xx_and_stop_nothing(web: Web, request_bytes: bytes) -> None:
    with web.connect() as connection:
        connection.settimeout(0.5)
        connection.sendall(request_bytes)
        try:
            answer = connection.recv(65536)
        except (TimeoutError, ConnectionResetError):
            answer = b""
    assert not re.match(rb"HTTP/1\.1 5", answer), answer
    assert web.is_alive()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["item", "item_id", "JSONString", "rate", "name", "data"]), inner, max_size=4)
    ),
    max_leaves=15,
)
_bodies = st.binary(max_size=300) | _json.map(lambda value: json.dumps(value).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    _bodies,
    st.sampled_from([ITEMS, DELETED]),
    st.sampled_from(["POST", "PUT"]),
    st.sampled_from([JSON, MULTIPART, "multipart/form-data", "", None, "application/json; charset=utf-16"]),
)
def test_any_signed_body_is_kept(web: Web, body: bytes, path: str, method: str, content_type: str | None) -> None:
    answer = web.deliver(body, path=path, method=method, content_type=content_type)

    assert answer.status_code == 200
    # Hypothesis knows the constants of the source, the body of `check` among them.
    states = {"checked"} if body == payloads.CHECK else {"recorded", "dead", "duplicate"}
    assert answer.json()["state"] in states


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.from_regex(r"[a-z]\w{0,20}", fullmatch=True), st.text(max_size=20)), max_size=8))
def test_any_signed_form_is_kept(web: Web, pairs: list[tuple[str, str]]) -> None:
    query = urlencode(pairs[:2])
    path = f"{DELETED}?{query}" if query else DELETED
    body = urlencode(pairs[2:]).encode()
    answer = web.client.put(path, content=body, headers=signed(b"", pairs=pairs, content_type=FORM))

    assert answer.status_code == 200


_header = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=100),
    _header,
    _header,
    st.text("abc%=&+;012 \xff".replace(" ", ""), max_size=40).map(lambda q: q),
)
def test_anything_unsigned_is_refused(web: Web, body: bytes, content_type: str, signature: str, query: str) -> None:
    headers = {
        b"Content-Type": content_type.encode("latin-1"),
        b"X-Zoho-Webhook-Signature": signature.encode("latin-1"),
    }
    answer = web.client.post(f"{ITEMS}?{query}", content=body, headers=headers)

    assert answer.status_code in {401, 415}


def test_after_all_that_the_next_delivery_is_recorded_and_published(web: Web, rows: Rows) -> None:
    assert web.deliver(item("next")).json()["state"] == "recorded"
    eventually(lambda: rows.only_event()["state"] == "queued")


MANY = "&".join(f"k{number}={number}" for number in range(11))


@pytest.mark.parametrize(
    ("query", "body", "content_type", "is_quick"),
    [
        ("", b'{"item": {}}', JSON, True),
        ("a=1&b=2", b'{"item": {}}', JSON, True),
        ("", b"a=1&b=2", FORM, True),
        (MANY, b'{"item": {}}', JSON, False),
        ("", MANY.encode(), FORM, False),
        ("a=1&b=2", MANY.encode()[:-5], FORM, False),
        ("a=" + "%41" * 700, b'{"item": {}}', JSON, False),
        ("", b"a=" + b"%41" * 700, FORM, False),
        ("", b'{"item": "' + b"x" * 33_000 + b'"}', JSON, False),
    ],
)
def test_what_takes_long_to_verify_keeps_the_loop_from_nothing(
    web: Web, monkeypatch: pytest.MonkeyPatch, query: str, body: bytes, content_type: str, is_quick: bool
) -> None:
    in_loop: list[bool] = []

    def verify(*given: Any, **named: Any) -> Signed | None:
        in_loop.append(asyncio._get_running_loop() is not None)
        return signatures.verify(*given, **named)

    monkeypatch.setattr(webhooks, "signatures", SimpleNamespace(**vars(signatures) | {"verify": verify}))
    headers = {signatures.HEADER: "0" * 64, "Content-Type": content_type}

    assert web.client.post(f"{ITEMS}?{query}", content=body, headers=headers).status_code == 401
    assert in_loop == [is_quick]
