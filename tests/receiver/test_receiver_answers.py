"""Every answer of the two webhook routes, and what a refused delivery leaves behind: a count."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import threading
import time
from asyncio import selector_events
from urllib.parse import urlencode

import httpx
import psycopg
import pytest

from processors.errors import BodyUnreadable
from processors.zoho import signatures
from processors.zoho.payloads import read_item
from receiver import webhooks
from tests.receiver.conftest import Serve
from tests.receiver.serving import (
    DELETED,
    FORM,
    ITEMS,
    JSON,
    MULTIPART,
    OLDER_SECRET,
    SECRET,
    Rows,
    Web,
    head,
    id_of,
    item,
    multipart,
    part,
    read_all,
    read_answer,
    signed,
)

ROUTES = [(ITEMS, "POST"), (ITEMS, "PUT"), (DELETED, "POST"), (DELETED, "PUT"), (DELETED, "DELETE")]


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_a_signed_delivery_is_recorded_and_answered_with_its_event(
    web: Web, rows: Rows, path: str, method: str
) -> None:
    answer = web.deliver(item("4100000000000012345"), path=path, method=method)

    event = rows.only_event()
    assert (answer.status_code, answer.json()) == (200, {"event_id": event["id"], "state": "recorded"})
    assert event["kind"] == ("deleted" if path == DELETED else "changed")
    assert (event["item_id"], event["body"]) == ("4100000000000012345", item("4100000000000012345"))
    assert (event["content_type"], event["outcome"], event["attempts"]) == (JSON, None, 0)


@pytest.mark.parametrize(
    ("path", "method"), [(ITEMS, "GET"), (ITEMS, "DELETE"), (ITEMS, "PATCH"), (DELETED, "GET"), (DELETED, "OPTIONS")]
)
def test_other_methods_are_refused_with_the_list_of_the_right_ones(web: Web, path: str, method: str) -> None:
    answer = web.client.request(method, path, content=item(), headers=signed(item()))

    assert answer.status_code == 405
    allowed = {"POST", "PUT"} | ({"DELETE"} if path == DELETED else set())
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_an_unsigned_delivery_stores_nothing_but_a_count(rows: Rows, serve: Serve, path: str, method: str) -> None:
    web = serve()
    for _ in range(3):
        answer = web.client.request(method, path, content=item(), headers={"Content-Type": JSON})
        assert answer.status_code == 401
        assert signatures.HEADER in answer.json()["error"]
    web.stop()

    assert rows.events() == []
    assert rows.rejections() == {("deleted" if path == DELETED else "changed", "signature_absent"): 3}


def test_a_wrong_signature_is_refused_and_nothing_is_stored(rows: Rows, serve: Serve) -> None:
    right = signatures.sign(SECRET, body=item())
    wrong = [
        signatures.sign("anotherSecret1234", body=item()),
        signatures.sign(SECRET, body=item() + b" "),
        signatures.sign(SECRET, body=b""),
        right[:-1],
        right + "00",
        "z" * 64,
        "0" * 64,
        "t=1,v=" + right,
        "sha256=" + right,
        SECRET,
        "=",
        "ÿ" * 64,
        "a" * 20_000,
    ]
    web = serve()
    for signature in wrong:
        headers = {signatures.HEADER.encode(): signature.encode("latin-1"), b"Content-Type": JSON.encode()}
        answer = web.client.post(ITEMS, content=item(), headers=headers)
        assert answer.status_code == 401
        assert SECRET not in answer.text
        assert OLDER_SECRET not in answer.text
    web.stop()

    assert rows.events() == []
    assert rows.rejections() == {
        ("changed", "signature_mismatch"): 4,
        ("changed", "signature_malformed"): len(wrong) - 4,
    }


def test_an_empty_signature_is_an_absent_one(web: Web) -> None:
    answer = web.client.post(ITEMS, content=item(), headers={signatures.HEADER: ""})

    assert answer.status_code == 401
    assert "missing" in answer.json()["error"]


@pytest.mark.parametrize("secret", [SECRET, OLDER_SECRET])
def test_each_secret_is_good_while_secrets_are_rotated(web: Web, secret: str) -> None:
    assert web.client.post(ITEMS, content=item(), headers=signed(item(), secret=secret)).status_code == 200


def test_a_signature_may_be_written_in_hex_or_base64(web: Web) -> None:
    digest = bytes.fromhex(signatures.sign(SECRET, body=item()))
    encoded = base64.b64encode(digest).decode()
    for written in (digest.hex(), digest.hex().upper(), encoded, encoded.rstrip("=")):
        assert web.client.post(ITEMS, content=item(), headers={signatures.HEADER: written}).status_code == 200


def test_the_query_string_is_part_of_what_is_signed(web: Web) -> None:
    path, pairs = (
        f"{ITEMS}?subscription_id=90343&name=b%C3%A4sic+x",
        [("subscription_id", "90343"), ("name", "bäsic x")],
    )

    assert web.deliver(item(), path=path, pairs=pairs).status_code == 200
    assert web.deliver(item(), path=path).status_code == 401
    assert web.deliver(item(), path=ITEMS, pairs=pairs).status_code == 401


def test_a_multipart_body_may_be_signed_by_its_fields_or_as_a_whole(web: Web) -> None:
    body = multipart(part("JSONString", item()), part("a", "ü".encode()))
    by_fields = signed(b"", pairs=[("JSONString", item().decode()), ("a", "ü")], content_type=MULTIPART)

    assert web.client.post(ITEMS, content=body, headers=by_fields).json()["state"] == "recorded"
    assert web.deliver_multipart(body).json()["state"] == "duplicate"
    assert web.client.post(ITEMS, content=body[:-6] + b"x--B--", headers=by_fields).status_code == 401


OTHER_TYPES = (
    "text/plain",
    "text/html; charset=UTF-8",
    "application/hal+json",
    "application/octet-stream",
    "application/xml",
    "application/json, text/plain",
    FORM,
    f"{FORM};charset=ISO-8859-1",
    MULTIPART,
    "multipart/mixed",
    "*/*",
    "json",
    ";;=",
)


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \r\n\t", b"\r\n\xef\xbb\xbf "])
def test_signed_json_is_read_whatever_type_is_written_over_it(
    web: Web, rows: Rows, content_type: str, before: bytes
) -> None:
    body = before + item("77", name="A&B=50% +1")

    assert web.deliver(body, content_type=content_type).json()["state"] == "recorded"
    event = rows.only_event()
    assert (event["item_id"], event["error"], event["body"]) == ("77", None, body)
    _, fields = read_item(event["body"], event["content_type"], event["query_string"])
    assert fields["name"] == "A&B=50% +1"


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("body", [b"<item/>", b"a=1&item_id=77&b", b"{", b'"', b"--B"])
def test_what_is_signed_and_cannot_be_read_is_a_dead_event_whatever_its_type(
    web: Web, rows: Rows, content_type: str, body: bytes
) -> None:
    answer = web.deliver(body, content_type=content_type)

    event = rows.only_event()
    assert answer.json() == {"event_id": event["id"], "state": "dead"}
    with pytest.raises(BodyUnreadable):
        read_item(event["body"], event["content_type"], event["query_string"])


def test_what_is_not_signed_and_has_another_type_is_refused_for_its_type(rows: Rows, serve: Serve) -> None:
    others = ("text/plain", "application/xml", "application/jsonx", "*/*", "json", "multipart/mixed")
    web = serve()
    for content_type in others:
        answer = web.client.post(ITEMS, content=item(), headers=signed(b"other", content_type=content_type))
        assert answer.status_code == 415
    for content_type in (JSON, FORM, MULTIPART):
        headers = signed(b"other", content_type=content_type)
        assert web.client.post(ITEMS, content=item(), headers=headers).status_code == 401
    web.stop()

    assert "application/json" in answer.json()["error"]
    assert rows.events() == []
    assert rows.rejections() == {("changed", "content_type"): len(others), ("changed", "signature_mismatch"): 3}


def test_a_compressed_body_is_refused_as_a_type_that_is_not_read(web: Web) -> None:
    headers = {**signed(item()), "Content-Encoding": "gzip"}

    refused = web.client.post(ITEMS, content=item(), headers=headers)
    assert (refused.status_code, "Content-Encoding" in refused.text, "gzip" in refused.text) == (415, True, True)
    headers["Content-Encoding"] = "identity"
    assert web.client.post(ITEMS, content=item(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/json;charset=UTF-8", "Application/JSON ; x=y", "application/json", None, ""]
)
def test_a_body_is_json_with_a_charset_and_without_any_type(web: Web, rows: Rows, content_type: str | None) -> None:
    assert web.deliver(item("77"), content_type=content_type).status_code == 200
    assert rows.only_event()["item_id"] == "77"


_NETWORKS = "10.1.0.0/16,2001:db8::/32"


@pytest.mark.parametrize(
    ("proxies", "senders"),
    [
        # Nobody is trusted: the header means nothing, and the sender is 127.0.0.1.
        (0, {None: False, "10.1.2.3": False}),
        # One proxy, as on Heroku: what it wrote is last; what stands before it was sent by anybody.
        (
            1,
            {
                None: False,
                "10.1.2.3": True,
                "2001:db8::7": True,
                "::ffff:10.1.2.3": True,
                "10.1.2.3, 192.0.2.1": False,
                "10.1.2.3,10.1.2.3, 192.0.2.1": False,
                "192.0.2.1, 10.1.2.3": True,
                "10.1.2.3,": False,
                "nonsense": False,
                "10.1.2.3/16": False,
            },
        ),
        # Two proxies: the last but one is the sender.
        (
            2,
            {
                "10.1.2.3": False,
                "10.1.2.3, 192.0.2.9": True,
                "10.1.2.3, 192.0.2.1, 192.0.2.9": False,
                "192.0.2.1, 10.1.2.3": False,
            },
        ),
    ],
)
def test_only_the_allowed_networks_may_deliver_and_the_header_cannot_be_forged(
    rows: Rows, serve: Serve, proxies: int, senders: dict[str | None, bool]
) -> None:
    web = serve(WEBHOOK_ALLOWED_NETWORKS=_NETWORKS, TRUSTED_PROXIES=str(proxies))
    for number, (forwarded, is_allowed) in enumerate(senders.items()):
        body = item(str(number))
        headers = signed(body) | ({} if forwarded is None else {"X-Forwarded-For": forwarded})
        answer = web.client.post(ITEMS, content=body, headers=headers)
        assert answer.status_code == (200 if is_allowed else 403), forwarded
    web.stop()

    allowed = sum(senders.values())
    assert len(rows.events()) == allowed
    assert rows.rejections() == {("changed", "network"): len(senders) - allowed}


def test_the_header_of_the_proxy_may_come_in_several_lines(serve: Serve) -> None:
    web = serve(WEBHOOK_ALLOWED_NETWORKS=_NETWORKS, TRUSTED_PROXIES="1")
    forged_first = [("X-Forwarded-For", "10.1.2.3"), ("X-Forwarded-For", "192.0.2.1")]
    for lines, status in ((forged_first, 403), (forged_first[::-1], 200)):
        answer = web.client.post(ITEMS, content=item(), headers=[*signed(item()).items(), *lines])
        assert answer.status_code == status


def test_the_network_is_looked_at_before_the_signature(serve: Serve) -> None:
    web = serve(WEBHOOK_ALLOWED_NETWORKS="10.0.0.0/8")

    assert web.client.post(ITEMS, content=item()).status_code == 403
    assert serve(WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8").deliver(item()).status_code == 200


def test_a_body_of_the_largest_size_is_taken_and_one_byte_more_is_not(rows: Rows, serve: Serve) -> None:
    web = serve(WEBHOOK_MAX_BYTES="2000")
    largest = item(description="x" * (2_000 - len(item(description=""))))
    assert len(largest) == 2_000

    assert web.deliver(largest).status_code == 200
    too_large = web.deliver(largest + b" ")
    chunked = web.client.post(ITEMS, content=itertools.repeat(b"x" * 100, 21), headers=signed(b"x" * 2_100))
    web.stop()

    assert (too_large.status_code, chunked.status_code) == (413, 413)
    assert "2000 bytes" in too_large.json()["error"]
    assert len(rows.events()) == 1
    assert rows.rejections() == {("changed", "size"): 2}


def test_a_body_that_announces_to_be_too_large_is_refused_before_it_is_sent(web: Web) -> None:
    with web.connect() as connection:
        connection.sendall(head(Content_Length=str(2 * 1024 * 1024), Expect="100-continue"))
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (413, "close")
        assert read_all(connection) == b""


def test_a_body_that_turns_out_to_be_too_large_is_not_read_to_its_end(web: Web) -> None:
    """It says nothing of its length, and would never end."""
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with web.connect() as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        try:
            while sent < 100 * 1024 * 1024:
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 20 * 1024 * 1024
    assert web.is_alive()


def test_the_end_of_a_body_that_is_too_large_is_not_waited_for(web: Web) -> None:
    with web.connect() as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"100001\r\n" + b"x" * 0x100001)
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (413, "close")


@pytest.mark.parametrize("path", [ITEMS, DELETED])
def test_two_mebibytes_are_too_much_and_their_sender_sees_the_answer(web: Web, path: str) -> None:
    """A connection that is closed while more comes in is reset, and the answer may be lost."""
    for _ in range(20):
        assert web.deliver(b"x" * 2 * 1024 * 1024, path=path).status_code == 413


def test_a_body_that_comes_too_slowly_is_given_up(rows: Rows, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_BODY_SECONDS", 0.3)
    web = serve()
    with web.connect() as connection:
        connection.sendall(head(Content_Length="100") + b"{")
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert b"did not arrive" in body
        assert read_all(connection) == b""
    web.stop()
    assert rows.rejections() == {("changed", "slow"): 1}


def test_each_of_many_slow_bodies_is_given_up_when_its_own_time_is_over(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_BODY_SECONDS", 0.4)
    web = serve()
    with contextlib.ExitStack() as stack:
        begun = []
        for _ in range(4):
            connection = stack.enter_context(web.connect())
            begun.append((time.monotonic(), connection))
            connection.sendall(head(Content_Length="100") + b"{")
            # Whoever is quick in the meantime changes nothing for them; each of these takes its time, too.
            for number in range(20):
                assert web.deliver(item(str(number))).status_code == 200
        for since, connection in begun:
            assert read_answer(connection)[0] == 408
            assert time.monotonic() - since >= 0.4


def test_a_body_that_comes_in_single_bytes_is_read(web: Web, rows: Rows) -> None:
    body = item("77")
    with web.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head(Content_Length=str(len(body)), **signed(body)))
        for byte in body:
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[0] == 200
    assert rows.only_event()["item_id"] == "77"


def test_a_slow_sender_holds_up_nobody_else(web: Web) -> None:
    with web.connect() as slow:
        slow.sendall(head(Content_Length="100") + b"{")
        for number in range(20):
            assert web.deliver(item(str(number))).status_code == 200


def test_a_connection_serves_one_delivery_after_another(web: Web, rows: Rows) -> None:
    """Also after a refusal, and with the next request on its way already."""
    good = head(Content_Length=str(len(item())), **signed(item())) + item()
    unsigned = head(Content_Length=str(len(item()))) + item()
    with web.connect() as connection:
        for request, status in ((good, 200), (unsigned, 401), (head("/nowhere", method="GET"), 404), (good, 200)):
            connection.sendall(request)
            assert read_answer(connection)[0] == status
    answers = web.exchange(good + unsigned + good + head(method="GET", Connection="close"))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"401", b"200", b"405"]
    assert len(rows.events()) == 1


def test_a_sender_that_breaks_off_disturbs_nobody(web: Web, rows: Rows) -> None:
    """Whether within its head, within its body, or before it has its answer."""
    whole = head(Content_Length=str(len(item("gone"))), **signed(item("gone"))) + item("gone")
    for request in (whole[:30], whole[:-5], whole):
        for _ in range(5):
            with web.connect() as connection:
                connection.sendall(request)
    assert web.deliver(item("next")).status_code == 200

    assert {event["item_id"] for event in rows.events()} <= {id_of("gone"), id_of("next")}
    assert {event["state"] for event in rows.events()} <= {"recorded", "queued"}
    assert len(rows.events()) <= 2


def test_a_graceful_stop_finishes_what_was_taken(rows: Rows, serve: Serve) -> None:
    web = serve()
    answers: list[httpx.Response] = []
    with psycopg.connect(rows.url) as connection:
        connection.execute("LOCK TABLE events")
        senders = [
            threading.Thread(target=lambda number=number: answers.append(web.deliver(item(str(number)))))
            for number in range(10)
        ]
        for sender in senders:
            sender.start()
        rows.wait_for_a_lock()
        web.begin_to_stop()
        connection.rollback()
    for sender in senders:
        sender.join(10)
    web.stop()

    assert [answer.status_code for answer in answers] == [200] * 10
    assert len(rows.events()) == 10
    assert {event["state"] for event in rows.events()} == {"queued"}


def test_a_form_is_signed_by_its_pairs_together_with_those_of_the_query(web: Web, rows: Rows) -> None:
    pairs = [("JSONString", item("77").decode()), ("a", "ü + ö"), ("empty", ""), ("a", "again")]
    body = urlencode(pairs).encode()
    headers = signed(b"", pairs=[*pairs, ("b", "1")], content_type=f"{FORM};charset=UTF-8")

    assert web.client.post(f"{ITEMS}?b=1", content=body, headers=headers).status_code == 200
    assert web.client.post(f"{ITEMS}?b=2", content=body, headers=headers).status_code == 401
    assert web.client.post(ITEMS, content=body, headers=headers).status_code == 401
    assert rows.only_event()["item_id"] == "77"


def test_an_answer_is_sent_by_one_system_call(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    sent, send = [], transport.write

    def write(self: object, data: bytes) -> None:
        sent.append(bytes(data))
        send(self, data)

    monkeypatch.setattr(transport, "write", write)
    assert web.deliver(item()).status_code == 200
    (whole,) = [each for each in sent if each.startswith(b"HTTP/1.1 200")]
    assert whole.endswith(b'"state":"recorded"}')
