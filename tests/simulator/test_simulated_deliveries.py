"""Webhook deliveries: what is sent, how it is signed, and what can befall it on the way."""

from __future__ import annotations

import email.message
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from email.parser import BytesParser
from typing import Literal
from urllib.parse import parse_qsl

import httpx
import pytest

from simulator import (
    CHANGED_RULE,
    SIGNATURE_HEADER,
    WEBHOOK_SECRET,
    BodyFormat,
    Catalogue,
    Deliveries,
    Delivery,
    DeliveryFault,
    DeliveryState,
    ItemEvent,
    ManualClock,
    RetryPolicy,
    SignatureEncoding,
    Zoho,
    sign,
)

RECEIVER = "http://127.0.0.1:1"
Answer = Callable[[httpx.Request], httpx.Response]


class Receiver:
    """Takes what is delivered, in order of arrival; `answer` may be replaced."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Answer = lambda _: httpx.Response(200)
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
        return self.answer(request)

    def prices(self) -> list[str]:
        return [str(json.loads(request.content, parse_float=Decimal)["item"]["rate"]) for request in self.requests]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def zoho(receiver: Receiver) -> Iterator[Zoho]:
    """One sender: what goes out in one order arrives in it, so that rules about order can be seen."""
    deliveries = Deliveries(base_url=RECEIVER, senders=1, transport=httpx.MockTransport(receiver))
    zoho = Zoho(Catalogue(clock=ManualClock()), deliveries=deliveries)
    yield zoho
    deliveries.close()


@pytest.fixture
def item_id(zoho: Zoho) -> str:
    return zoho.catalogue.create("Mug", webhook=False, rate=Decimal("1.00")).item_id


def _reprice(zoho: Zoho, item_id: str, *prices: str) -> None:
    for price in prices:
        zoho.catalogue.edit(item_id, rate=Decimal(price))


def test_created_edited_and_deleted_go_to_their_rules_paths(zoho: Zoho, receiver: Receiver) -> None:
    item = zoho.catalogue.create("Mug")
    zoho.catalogue.edit(item.item_id, name="Cup")
    zoho.catalogue.delete(item.item_id)
    zoho.deliveries.drain()
    assert [request.url.path for request in receiver.requests] == [
        "/webhooks/zoho/items",
        "/webhooks/zoho/items",
        "/webhooks/zoho/items/deleted",
    ]
    assert json.loads(receiver.requests[2].content) == {"item": {"item_id": item.item_id}}


def test_a_silent_edit_and_a_stock_movement_deliver_nothing(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    zoho.catalogue.edit(item_id, webhook=False, name="Cup")
    zoho.catalogue.adjust_stock(item_id, Decimal(1))
    zoho.deliveries.drain()
    assert receiver.requests == []


def test_a_delivery_carries_the_item_as_it_was_when_the_rule_noticed(
    zoho: Zoho, receiver: Receiver, item_id: str
) -> None:
    zoho.deliveries.pause()
    _reprice(zoho, item_id, "2.00", "3.00")
    zoho.deliveries.resume()
    zoho.deliveries.drain()
    assert receiver.prices() == ["2.00", "3.00"]


@pytest.mark.parametrize("encoding", SignatureEncoding)
def test_json_is_signed_over_its_raw_bytes(
    zoho: Zoho, receiver: Receiver, item_id: str, encoding: SignatureEncoding
) -> None:
    zoho.deliveries.rules = [replace(CHANGED_RULE, encoding=encoding)]
    zoho.catalogue.edit(item_id, name="Cup ☕")
    zoho.deliveries.drain()
    (request,) = receiver.requests
    assert request.headers[SIGNATURE_HEADER] == sign(WEBHOOK_SECRET, raw=request.content, encoding=encoding)


def test_query_pairs_are_sent_and_signed(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    query = (("shop", "Käse & Brot"), ("env", "test"))
    zoho.deliveries.rules = [replace(CHANGED_RULE, query=query)]
    zoho.catalogue.edit(item_id, name="Cup")
    zoho.deliveries.drain()
    (request,) = receiver.requests
    assert tuple(request.url.params.multi_items()) == query
    expected = sign(WEBHOOK_SECRET, raw=b"envtestshop" + "Käse & Brot".encode() + request.content)
    assert request.headers[SIGNATURE_HEADER] == expected


@pytest.mark.parametrize("body_format", [BodyFormat.FORM_FIELDS, BodyFormat.FORM_JSON_STRING])
def test_forms_are_signed_over_their_decoded_pairs(
    zoho: Zoho, receiver: Receiver, item_id: str, body_format: BodyFormat
) -> None:
    zoho.deliveries.rules = [replace(CHANGED_RULE, body_format=body_format)]
    zoho.catalogue.edit(item_id, name="Cup & Saucer + Spoon")
    zoho.deliveries.drain()
    (request,) = receiver.requests
    pairs = parse_qsl(request.content.decode(), keep_blank_values=True)
    assert request.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
    assert request.headers[SIGNATURE_HEADER] == sign(WEBHOOK_SECRET, form=pairs)
    assert "Cup & Saucer + Spoon" in str(pairs)


@pytest.mark.parametrize("signs_pairs", [True, False])
def test_multipart_is_signed_by_either_reading_of_the_rule(
    zoho: Zoho, receiver: Receiver, item_id: str, *, signs_pairs: bool
) -> None:
    rule = replace(CHANGED_RULE, body_format=BodyFormat.MULTIPART_FIELDS, multipart_signs_pairs=signs_pairs)
    zoho.deliveries.rules = [rule]
    zoho.catalogue.edit(item_id, name="Tasse für zwei")
    zoho.deliveries.drain()
    (request,) = receiver.requests
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + request.content).get_payload()
    assert isinstance(parts, list)
    pairs = [_form_pair(part) for part in parts if isinstance(part, email.message.Message)]
    assert ("name", "Tasse für zwei") in pairs
    expected = sign(WEBHOOK_SECRET, form=pairs) if signs_pairs else sign(WEBHOOK_SECRET, raw=request.content)
    assert request.headers[SIGNATURE_HEADER] == expected


def _form_pair(part: email.message.Message) -> tuple[str, str]:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return str(part.get_param("name", header="Content-Disposition")), content.decode()


def test_the_other_envelopes(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    formats = (
        BodyFormat.JSON_STRING,
        BodyFormat.COMPOSITE_ITEM,
        BodyFormat.WRAPPER,
        BodyFormat.DATA_WRAPPER,
    )
    zoho.deliveries.rules = [replace(CHANGED_RULE, body_format=body_format) for body_format in formats]
    zoho.catalogue.edit(item_id, name="Cup")
    zoho.deliveries.drain()
    in_string, composite, wrapped, in_data = (json.loads(request.content) for request in receiver.requests)
    item = json.loads(in_string["JSONString"])["item"]
    assert item["name"] == "Cup"
    assert composite == {"composite_item": {**item, "composite_item_id": item_id}}
    assert wrapped["item"] == in_data["data"]["item"] == item
    assert wrapped["event_type"] == in_data["event_type"] == "item.edited"


def test_an_unsecured_webhook_is_unsigned_and_a_rule_may_add_headers(
    zoho: Zoho, receiver: Receiver, item_id: str
) -> None:
    zoho.deliveries.rules = [replace(CHANGED_RULE, secret=None, headers=(("X-Static", "token"),), method="PUT")]
    zoho.catalogue.edit(item_id, name="Cup")
    zoho.deliveries.drain()
    (request,) = receiver.requests
    assert SIGNATURE_HEADER not in request.headers
    assert (request.method, request.headers["X-Static"]) == ("PUT", "token")


@pytest.mark.parametrize("secret", ["short", "x" * 51, "with-hyphens-in-it"])
def test_a_secret_zoho_would_not_take_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="12 to 50"):
        replace(CHANGED_RULE, secret=secret)


def test_two_rules_that_notice_one_creation_send_identical_bodies(zoho: Zoho, receiver: Receiver) -> None:
    created = replace(CHANGED_RULE, name="items created", events=frozenset({ItemEvent.CREATED}))
    zoho.deliveries.rules.append(created)
    zoho.catalogue.create("Mug")
    zoho.deliveries.drain()
    first, second = receiver.requests
    assert first.content == second.content


def test_a_dropped_delivery_is_logged_and_never_sent(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    zoho.deliveries.disturb(DeliveryFault("dropped", after=1, times=1))
    _reprice(zoho, item_id, "2.00", "3.00", "4.00")
    zoho.deliveries.drain()
    assert receiver.prices() == ["2.00", "4.00"]
    states = [delivery.state for delivery in zoho.deliveries.log()]
    assert states == [DeliveryState.DELIVERED, DeliveryState.DROPPED, DeliveryState.DELIVERED]


def test_a_repeated_delivery_has_the_same_bytes(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    zoho.deliveries.disturb(DeliveryFault("repeated", copies=2, times=1))
    _reprice(zoho, item_id, "2.00", "3.00")
    zoho.deliveries.drain()
    assert receiver.prices() == ["2.00", "2.00", "2.00", "3.00"]
    log = zoho.deliveries.log()
    assert [delivery.repeats for delivery in log] == [None, log[0].id, log[0].id, None]
    zoho.deliveries.repeat(log[0])
    zoho.deliveries.drain()
    assert receiver.requests[-1].content == receiver.requests[0].content


def test_a_reordered_delivery_comes_after_the_next_one(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    all_arrived = threading.Event()

    def answer(_: httpx.Request) -> httpx.Response:
        if len(receiver.requests) == 2:
            all_arrived.set()
        return httpx.Response(200)

    receiver.answer = answer
    fault = DeliveryFault("reordered", times=1, delay=timedelta(minutes=5))
    zoho.deliveries.disturb(fault)
    _reprice(zoho, item_id, "2.00", "3.00")
    assert all_arrived.wait(5)
    zoho.deliveries.drain()
    assert receiver.prices() == ["3.00", "2.00"]


@pytest.mark.parametrize("kind", ["delayed", "reordered"])
def test_what_is_held_goes_out_when_drained(
    zoho: Zoho, receiver: Receiver, item_id: str, kind: Literal["delayed", "reordered"]
) -> None:
    zoho.deliveries.disturb(DeliveryFault(kind, delay=timedelta(hours=1)))
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain(timeout=5)
    assert receiver.prices() == ["2.00"]


def test_a_delayed_delivery_is_overtaken(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    arrived = threading.Semaphore(0)

    def answer(_: httpx.Request) -> httpx.Response:
        arrived.release()
        return httpx.Response(200)

    receiver.answer = answer
    zoho.deliveries.disturb(DeliveryFault("delayed", times=1, delay=timedelta(milliseconds=150)))
    _reprice(zoho, item_id, "2.00", "3.00")
    assert arrived.acquire(timeout=5)
    assert arrived.acquire(timeout=5)
    assert receiver.prices() == ["3.00", "2.00"]


def test_faults_can_be_about_one_kind_of_event_and_by_chance(zoho: Zoho, receiver: Receiver) -> None:
    zoho.deliveries.disturb(
        DeliveryFault("dropped", events=frozenset({ItemEvent.DELETED})),
        DeliveryFault("dropped", share=0.5),
    )
    items = [zoho.catalogue.create(f"Mug {number}") for number in range(40)]
    for item in items:
        zoho.catalogue.delete(item.item_id)
    zoho.deliveries.drain()
    assert {request.url.path for request in receiver.requests} == {"/webhooks/zoho/items"}
    assert 0 < len(receiver.requests) < 40


def test_what_is_paused_goes_out_in_the_order_asked_for(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    zoho.deliveries.pause()
    _reprice(zoho, item_id, "2.00", "3.00", "4.00")
    zoho.deliveries.drain()
    assert receiver.requests == []
    zoho.deliveries.resume(reversed)
    zoho.deliveries.drain()
    assert receiver.prices() == ["4.00", "3.00", "2.00"]


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_failed_delivery_is_not_tried_again_by_default(
    zoho: Zoho, receiver: Receiver, item_id: str, status: int
) -> None:
    receiver.answer = lambda _: httpx.Response(status)
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain()
    (delivery,) = zoho.deliveries.log()
    assert (delivery.state, delivery.status, delivery.attempts) == (DeliveryState.FAILED, status, 1)
    assert len(receiver.requests) == 1


def test_a_retry_policy_tries_until_it_is_taken(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    zoho.deliveries.retry = RetryPolicy(attempts=3, pause=timedelta(minutes=1))
    receiver.answer = lambda _: httpx.Response(200 if len(receiver.requests) == 3 else 503)
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain()
    (delivery,) = zoho.deliveries.log()
    assert (delivery.state, delivery.status, delivery.attempts) == (DeliveryState.DELIVERED, 200, 3)
    assert receiver.prices() == ["2.00", "2.00", "2.00"]


def test_no_answer_is_logged_with_its_reason(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    receiver.answer = answer
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain()
    (delivery,) = zoho.deliveries.log()
    assert (delivery.state, delivery.status, delivery.answered_at) == (DeliveryState.FAILED, None, None)
    assert delivery.error == "ConnectError: refused"


def test_the_log_tells_when_and_how_long(zoho: Zoho, item_id: str) -> None:
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain()
    (delivery,) = zoho.deliveries.log()
    assert delivery.item_id == item_id
    assert delivery.rule == CHANGED_RULE.name
    assert delivery.sent_at
    assert delivery.answered_at
    assert delivery.queued_at <= delivery.sent_at <= delivery.answered_at
    assert delivery.duration is not None
    assert zoho.deliveries.counts == {DeliveryState.DELIVERED: 1}


def test_what_exceeds_the_days_webhooks_is_lost(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    zoho.deliveries.daily_limit = 2
    _reprice(zoho, item_id, "2.00", "3.00", "4.00")
    zoho.deliveries.drain()
    assert receiver.prices() == ["2.00", "3.00"]
    assert zoho.deliveries.counts[DeliveryState.OVER_LIMIT] == 1


def test_drain_gives_up_in_time(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    answered = threading.Event()

    def answer(_: httpx.Request) -> httpx.Response:
        answered.wait(5)
        return httpx.Response(200)

    receiver.answer = answer
    _reprice(zoho, item_id, "2.00")
    with pytest.raises(TimeoutError, match="1 deliveries"):
        zoho.deliveries.drain(timeout=0.05)
    answered.set()
    zoho.deliveries.drain()


def test_deliveries_work_again_after_close(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain()
    zoho.deliveries.close()
    zoho.deliveries.close()
    _reprice(zoho, item_id, "3.00")
    zoho.deliveries.drain()
    assert receiver.prices() == ["2.00", "3.00"]


def test_nothing_is_sent_beyond_this_machine(zoho: Zoho, receiver: Receiver, item_id: str) -> None:
    for url in ("https://www.zoho.com", "http://10.0.0.1", "http://localhost.example.com"):
        with pytest.raises(ValueError, match="loopback only"):
            zoho.deliveries.base_url = url
    zoho.deliveries.base_url = "http://localhost:8000"
    zoho.deliveries.base_url = "http://[::1]:8000"
    zoho.deliveries.base_url = None
    _reprice(zoho, item_id, "2.00")
    zoho.deliveries.drain()
    assert receiver.requests == []
    with pytest.raises(ValueError, match="base_url"):
        zoho.deliveries.send(CHANGED_RULE, ItemEvent.EDITED, zoho.catalogue.get(item_id))


def test_many_senders_answer_everything(receiver: Receiver) -> None:
    deliveries = Deliveries(base_url=RECEIVER, senders=8, transport=httpx.MockTransport(receiver))
    zoho = Zoho(Catalogue.generate(50), deliveries=deliveries)
    deliveries.disturb(
        DeliveryFault("repeated", share=0.2),
        DeliveryFault("reordered", share=0.2),
        DeliveryFault("delayed", share=0.2, delay=timedelta(milliseconds=20)),
    )
    for item in zoho.catalogue.all():
        _reprice(zoho, item.item_id, *(f"{number}.00" for number in range(1, 21)))
    deliveries.drain()
    log: list[Delivery] = deliveries.log()
    deliveries.close()
    assert {delivery.state for delivery in log} == {DeliveryState.DELIVERED}
    assert len(log) == len(receiver.requests) > 1000
