"""A flood of refused deliveries is refused in fewer words; what is signed rightly is let in from anywhere."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest

from processors.zoho import signatures
from receiver import throttle
from receiver.throttle import MOST_REFUSED, Throttle
from tests.receiver.conftest import Serve
from tests.receiver.serving import FORM, ITEMS, JSON, Rows, Web, head, item, signed


def refuse(web: Web, count: int, **headers: str) -> list[int]:
    given = {"Content-Type": JSON, **headers}
    return [web.client.post(ITEMS, content=item(), headers=given).status_code for _ in range(count)]


def test_a_sender_of_many_refused_deliveries_is_throttled_but_never_what_is_signed(
    rows: Rows, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    web = serve()
    assert refuse(web, MOST_REFUSED + 20) == [401] * MOST_REFUSED + [429] * 20
    answer = web.client.post(ITEMS, content=item(), headers={"Content-Type": JSON})
    assert answer.headers["Retry-After"] == "60"
    assert web.deliver(item()).status_code == 200
    wrong = signed(item(), secret="anotherSecret1234")
    assert web.client.post(ITEMS, content=item(), headers=wrong).status_code == 429
    assert web.deliver(item("7")).status_code == 200
    web.stop()
    assert len(rows.events()) == 2
    assert rows.rejections() == {
        ("changed", "signature_absent"): MOST_REFUSED + 21,
        ("changed", "signature_mismatch"): 1,
    }
    assert caplog.text.count("delivery.rejected") == MOST_REFUSED
    assert caplog.text.count("sender.throttled") == 1


def test_a_throttled_sender_is_refused_before_its_body_is_read(rows: Rows, serve: Serve) -> None:
    web = serve()
    refuse(web, MOST_REFUSED + 1)
    with web.connect() as connection:
        connection.sendall(head(Content_Type=JSON, Content_Length="1000"))
        assert b" 429 " in connection.recv(4096).split(b"\r\n")[0]
    assert rows.events() == []


def test_other_senders_are_not_throttled(serve: Serve) -> None:
    web = serve(TRUSTED_PROXIES="1")
    refuse(web, MOST_REFUSED + 1, **{"X-Forwarded-For": "203.0.113.7"})
    assert refuse(web, 1, **{"X-Forwarded-For": "203.0.113.7"}) == [429]
    assert refuse(web, 1, **{"X-Forwarded-For": "203.0.113.8"}) == [401]
    assert refuse(web, 1, **{"X-Forwarded-For": "203.0.113.8, 203.0.113.7"}) == [429], "the proxy's word counts"


def test_an_ipv6_network_is_one_sender() -> None:
    known = Throttle()
    for number in range(MOST_REFUSED + 1):
        known.count(f"2001:db8::{number:x}")
    assert known.is_throttled("2001:db8::ffff")
    assert not known.is_throttled("2001:db8:1::1")


def test_it_is_over_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(throttle, "monotonic", lambda: now)
    known = Throttle()
    for _ in range(MOST_REFUSED + 1):
        known.count("203.0.113.7")
    assert known.is_active
    assert known.is_throttled("203.0.113.7")
    now += 60
    assert not known.is_active
    assert not known.is_throttled("203.0.113.7")
    assert known.count("203.0.113.7") == 1


def test_a_flood_from_many_addresses_takes_no_more_room_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_MOST_SENDERS", 100)
    known = Throttle()
    for number in range(1000):
        known.count(f"10.0.{number // 256}.{number % 256}")
    known.count("x" * 100_000)
    assert len(known._senders) == 100
    assert max(map(len, known._senders)) <= 100


def test_large_forms_of_a_throttled_sender_do_not_keep_others_waiting(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are verified one at a time, in a line of their own, and none of it in the event loop."""
    web = serve(TRUSTED_PROXIES="1")
    flooding, other = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
    refuse(web, MOST_REFUSED + 1, **flooding)
    verify, begun, is_over = signatures.verify, threading.Event(), threading.Event()

    def stall(signature: str, *given: Any, **named: Any) -> Any:
        if signature == "ab" * 32:
            begun.set()
            assert is_over.wait(20)
        return verify(signature, *given, **named)

    monkeypatch.setattr(signatures, "verify", stall)
    pairs = [("JSONString", item("77", description="x" * 3_000).decode())]
    body = urlencode(pairs).encode()
    unsigned = {signatures.HEADER: "ab" * 32, "Content-Type": FORM, **flooding}
    with ThreadPoolExecutor(3) as senders:
        refused = [senders.submit(web.client.post, ITEMS, content=body, headers=unsigned) for _ in range(3)]
        assert begun.wait(20)
        headers = {**signed(b"", pairs=pairs, content_type=FORM), **other}
        assert web.client.post(ITEMS, content=body, headers=headers).status_code == 200
        assert web.deliver(item()).status_code == 200
        is_over.set()
    assert {answer.result().status_code for answer in refused} == {429}
