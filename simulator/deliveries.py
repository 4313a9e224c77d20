"""Webhook deliveries: workflow rules notice a change, background threads carry the bodies out.

Nothing here promises order, as nothing at Zoho does: several threads send at once, and faults drop,
repeat, delay or reorder. The log tells what became of each delivery.
"""

from __future__ import annotations

import heapq
import ipaddress
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import count
from random import Random
from typing import Final, Literal, TypeAlias
from urllib.parse import urlencode, urlsplit

import httpx

from simulator import bodies, shapes
from simulator.bodies import BodyFormat
from simulator.catalogue import ItemEvent
from simulator.clock import Clock, system_clock
from simulator.identity import WEBHOOK_SECRET, Organization
from simulator.items import Item
from simulator.signatures import SIGNATURE_HEADER, SignatureEncoding, sign

_SECRET: Final = re.compile(r"[A-Za-z0-9]{12,50}")
_MOST_KEPT: Final = 10_000
_NOW: Final = 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A workflow rule with its webhook: which events go where, in which form.

    `secret` is 12 to 50 letters and digits, or None for a webhook that is not secured. `query` pairs
    go into the URL and into the signature.
    """

    name: str
    events: frozenset[ItemEvent]
    path: str
    method: Literal["POST", "PUT", "DELETE"] = "POST"
    body_format: BodyFormat = BodyFormat.DEFAULT
    secret: str | None = WEBHOOK_SECRET
    encoding: SignatureEncoding = SignatureEncoding.HEX
    multipart_signs_pairs: bool = True
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Hold the secret to the rule that Zoho's form enforces."""
        if self.secret is not None and not _SECRET.fullmatch(self.secret):
            raise ValueError("Zoho takes secrets of 12 to 50 letters and digits")


CHANGED_RULE: Final = Rule(
    name="items created or edited",
    events=frozenset({ItemEvent.CREATED, ItemEvent.EDITED}),
    path="/webhooks/zoho/items",
)
DELETED_RULE: Final = Rule(
    name="items deleted",
    events=frozenset({ItemEvent.DELETED}),
    path="/webhooks/zoho/items/deleted",
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a delivery counts as failed, and what follows. Zoho documents neither: by default, nothing."""

    attempts: int = 1
    pause: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class DeliveryFault:
    """Something that befalls deliveries.

    They are `dropped`; or `repeated`, `copies` more of them at once; or `delayed` by `delay`; or
    `reordered`: held until another delivery has been answered, or for `delay` if none is.

    Applies to the events in `events` (None: all), after the first `after` deliveries, to the next
    `times` (None: to all), and of those to a `share` by chance.
    """

    kind: Literal["dropped", "repeated", "delayed", "reordered"]
    events: frozenset[ItemEvent] | None = None
    after: int = 0
    times: int | None = None
    share: float = 1.0
    delay: timedelta = timedelta(seconds=2)
    copies: int = 1


class DeliveryState(StrEnum):
    """Where a delivery stands. `waiting` and `sending` are the ones that are not over."""

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"
    OVER_LIMIT = "over_limit"


@dataclass(slots=True)
class Delivery:
    """One delivery and what became of it.

    `status` is the HTTP status of the last attempt, None where no answer came; `duration` is that of
    the last attempt. `repeats` is the id of the delivery that this one has the body of.
    """

    id: int
    item_id: str
    event: ItemEvent
    rule: str
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    queued_at: datetime
    state: DeliveryState = DeliveryState.WAITING
    status: int | None = None
    attempts: int = 0
    sent_at: datetime | None = None
    answered_at: datetime | None = None
    duration: timedelta | None = None
    error: str | None = None
    repeats: int | None = None


_Due: TypeAlias = tuple[float, int, int, Delivery]
"""When on the monotonic clock, in which turn, after how many attempts, what."""


@dataclass(slots=True)
class _ArmedFault:
    fault: DeliveryFault
    seen: int = 0


@dataclass(slots=True)
class _Fate:
    is_dropped: bool = False
    is_held: bool = False
    delay: timedelta = timedelta(0)
    copies: list[int] = field(default_factory=list)


class Deliveries:
    """Sends the rules' webhooks to `base_url`, which must be on this machine; None sends nothing.

    `rules`, `retry` and `daily_limit` (webhook calls a day; the surplus is lost) may be assigned to.
    Threads start with the first delivery and end with `close`.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        rules: Sequence[Rule] = (CHANGED_RULE, DELETED_RULE),
        organization: Organization | None = None,
        retry: RetryPolicy | None = None,
        daily_limit: int | None = None,
        senders: int = 8,
        clock: Clock = system_clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.rules = list(rules)
        self.retry = retry or RetryPolicy()
        self.daily_limit = daily_limit
        self.base_url = base_url
        self._organization = organization or Organization()
        self._senders = senders
        self._clock = clock
        self._random = Random(0)
        self._transport = transport
        self._faults: list[_ArmedFault] = []
        self._ids = count(1)
        self._turns = count()
        self._log: deque[Delivery] = deque(maxlen=_MOST_KEPT)
        self._changed = threading.Condition()
        self._ended: Counter[DeliveryState] = Counter()
        self._due: list[_Due] = []
        self._held: list[Delivery] = []
        self._paused: list[Delivery] | None = None
        self._under_way = 0
        self._draining = 0
        self._day: date | None = None
        self._today = 0
        self._threads: list[threading.Thread] = []
        self._client: httpx.Client | None = None
        self._is_closing = False

    @property
    def base_url(self) -> str | None:
        """Where the receiver listens: scheme, host and port.

        Raises:
            ValueError: on assignment of an address that is not this machine's.
        """
        return self._base_url

    @base_url.setter
    def base_url(self, url: str | None) -> None:
        if url is not None:
            _require_loopback(url)
        self._base_url = url

    def fire(self, event: ItemEvent, item: Item) -> list[Delivery]:
        """Queue what each rule that notices `event` sends about `item` as it is now."""
        if self.base_url is None:
            return []
        deliveries: list[Delivery] = []
        for rule in self.rules:
            if event in rule.events:
                deliveries += self.send(rule, event, item)
        return deliveries

    def send(self, rule: Rule, event: ItemEvent, item: Item) -> list[Delivery]:
        """Queue one rule's delivery about `item`, and whatever repeats a fault makes of it.

        Raises:
            ValueError: no `base_url` to send to.
        """
        delivery = self._prepare(rule, event, item)
        with self._changed:
            if self._is_over_daily_limit():
                self._end(delivery, DeliveryState.OVER_LIMIT)
                self._log.append(delivery)
                return [delivery]
            fate = self._fate(event)
            deliveries = [delivery, *(self._copy(delivery) for _ in range(sum(fate.copies)))]
            self._log.extend(deliveries)
            for each in deliveries:
                self._queue(each, fate)
        return [replace(each) for each in deliveries]

    def repeat(self, delivery: Delivery) -> Delivery:
        """Send a delivery's very bytes once more; return the new delivery."""
        with self._changed:
            copy = self._copy(delivery)
            self._log.append(copy)
            self._queue(copy, _Fate())
        return replace(copy)

    def disturb(self, *faults: DeliveryFault) -> None:
        """Put faults in force, counting from now."""
        with self._changed:
            self._faults.extend(_ArmedFault(fault) for fault in faults)

    def calm(self) -> None:
        """Take all faults out of force."""
        with self._changed:
            self._faults.clear()

    def pause(self) -> None:
        """Keep what is fired from now on, until `resume`."""
        with self._changed:
            if self._paused is None:
                self._paused = []

    def resume(self, order: Callable[[list[Delivery]], Iterable[Delivery]] = list) -> None:
        """Send what was kept, one after the other's start, in the order that `order` makes of it.

        With `senders=1` the receiver gets them in exactly that order.
        """
        with self._changed:
            kept, self._paused = self._paused or [], None
            for delivery in order(kept):
                self._push(delivery, _NOW)

    def drain(self, timeout: float = 30.0) -> None:
        """Wait until everything queued is over; whatever was held or put off goes out at once.

        What `pause` keeps stays where it is.

        Raises:
            TimeoutError: `timeout` seconds were not enough.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._draining += 1
            try:
                self._due = [(_NOW, turn, attempts, delivery) for _, turn, attempts, delivery in self._due]
                heapq.heapify(self._due)
                self._held.clear()
                self._changed.notify_all()
                while self._due or self._under_way:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        left = len(self._due) + self._under_way
                        raise TimeoutError(f"{left} deliveries are not over after {timeout} s")
            finally:
                self._draining -= 1

    def log(self) -> list[Delivery]:
        """Return the latest 10,000 deliveries as they stand, oldest first."""
        with self._changed:
            return [replace(delivery) for delivery in self._log]

    @property
    def counts(self) -> Counter[DeliveryState]:
        """How many deliveries ended in each state since the beginning."""
        with self._changed:
            return self._ended.copy()

    def close(self) -> None:
        """Forget what is queued, let attempts under way end, stop the threads. May be used again after."""
        with self._changed:
            self._is_closing = True
            self._due.clear()
            self._held.clear()
            self._changed.notify_all()
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()
        with self._changed:
            self._is_closing = False
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _prepare(self, rule: Rule, event: ItemEvent, item: Item) -> Delivery:
        if self.base_url is None:
            raise ValueError("deliveries need a base_url")
        if event is ItemEvent.DELETED:
            payload = {"item": shapes.deleted_item(item)}
        else:
            payload = {"item": shapes.webhook_item(item, self._organization)}
        body = bodies.encode(
            rule.body_format,
            payload,
            event_type=f"item.{event}",
            organization_id=self._organization.organization_id,
            multipart_signs_pairs=rule.multipart_signs_pairs,
        )
        headers = {"Content-Type": body.content_type, **dict(rule.headers)}
        if rule.secret is not None:
            headers[SIGNATURE_HEADER] = sign(
                rule.secret,
                query=rule.query,
                form=body.form,
                raw=body.signed_raw,
                encoding=rule.encoding,
            )
        query = f"?{urlencode(rule.query)}" if rule.query else ""
        return Delivery(
            id=next(self._ids),
            item_id=item.item_id,
            event=event,
            rule=rule.name,
            method=rule.method,
            url=f"{self.base_url.rstrip('/')}{rule.path}{query}",
            headers=headers,
            body=body.content,
            queued_at=system_clock(),
        )

    def _copy(self, delivery: Delivery) -> Delivery:
        return Delivery(
            id=next(self._ids),
            item_id=delivery.item_id,
            event=delivery.event,
            rule=delivery.rule,
            method=delivery.method,
            url=delivery.url,
            headers=delivery.headers,
            body=delivery.body,
            queued_at=system_clock(),
            repeats=delivery.id,
        )

    def _is_over_daily_limit(self) -> bool:
        today = self._clock().astimezone(self._organization.time_zone).date()
        if today != self._day:
            self._day, self._today = today, 0
        self._today += 1
        return self.daily_limit is not None and self._today > self.daily_limit

    def _fate(self, event: ItemEvent) -> _Fate:
        fate = _Fate()
        for armed in self._faults:
            fault = armed.fault
            if fault.events is not None and event not in fault.events:
                continue
            armed.seen += 1
            if armed.seen <= fault.after:
                continue
            if fault.times is not None and armed.seen > fault.after + fault.times:
                continue
            if fault.share < 1 and self._random.random() >= fault.share:
                continue
            match fault.kind:
                case "dropped":
                    fate.is_dropped = True
                case "repeated":
                    fate.copies.append(fault.copies)
                case "delayed":
                    fate.delay = max(fate.delay, fault.delay)
                case "reordered":
                    fate.is_held = True
                    fate.delay = max(fate.delay, fault.delay)
        return fate

    def _queue(self, delivery: Delivery, fate: _Fate) -> None:
        if fate.is_dropped:
            self._end(delivery, DeliveryState.DROPPED)
        elif self._paused is not None:
            self._paused.append(delivery)
        else:
            if fate.is_held:
                self._held.append(delivery)
            self._push(delivery, time.monotonic() + fate.delay.total_seconds() if fate.delay else _NOW)

    def _push(self, delivery: Delivery, due_at: float) -> None:
        due_at = _NOW if self._draining else due_at
        heapq.heappush(self._due, (due_at, next(self._turns), delivery.attempts, delivery))
        if not self._threads and not self._is_closing:
            self._start()
        self._changed.notify_all()

    def _start(self) -> None:
        limits = httpx.Limits(max_connections=self._senders, max_keepalive_connections=self._senders)
        # The environment's proxies must not come between two programs on one machine.
        self._client = httpx.Client(limits=limits, trust_env=False, transport=self._transport)
        self._threads = [
            threading.Thread(target=self._work, args=(self._client,), name=f"delivery-{number}", daemon=True)
            for number in range(self._senders)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, client: httpx.Client) -> None:
        while (delivery := self._take()) is not None:
            self._attempt(client, delivery)

    def _take(self) -> Delivery | None:
        with self._changed:
            while not self._is_closing:
                if not self._due:
                    self._changed.wait()
                    continue
                seconds_left = self._due[0][0] - time.monotonic()
                if seconds_left > 0:
                    self._changed.wait(seconds_left)
                    continue
                _, _, attempts, delivery = heapq.heappop(self._due)
                if delivery.attempts == attempts:
                    delivery.state = DeliveryState.SENDING
                    delivery.attempts += 1
                    delivery.sent_at = system_clock()
                    self._under_way += 1
                    return delivery
                # Held, and sent already because another delivery was answered meanwhile.
                self._changed.notify_all()
            return None

    def _attempt(self, client: httpx.Client, delivery: Delivery) -> None:
        started = time.perf_counter()
        status: int | None = None
        error: str | None = None
        try:
            response = client.request(
                delivery.method,
                delivery.url,
                headers=delivery.headers,
                content=delivery.body,
                timeout=self.retry.timeout.total_seconds(),
            )
            status = response.status_code
        except httpx.HTTPError as failure:
            error = f"{type(failure).__name__}: {failure}"
        duration = timedelta(seconds=time.perf_counter() - started)
        with self._changed:
            self._under_way -= 1
            delivery.status, delivery.error, delivery.duration = status, error, duration
            if status is not None:
                delivery.answered_at = system_clock()
            if status is not None and httpx.codes.is_success(status):
                self._end(delivery, DeliveryState.DELIVERED)
            elif delivery.attempts < self.retry.attempts and not self._is_closing:
                delivery.state = DeliveryState.WAITING
                self._push(delivery, time.monotonic() + self.retry.pause.total_seconds())
            else:
                self._end(delivery, DeliveryState.FAILED)
            overtaken, self._held = [held for held in self._held if held is not delivery], []
            for held in overtaken:
                self._push(held, _NOW)
            self._changed.notify_all()

    def _end(self, delivery: Delivery, state: DeliveryState) -> None:
        delivery.state = state
        self._ended[state] += 1


def _require_loopback(url: str) -> None:
    host = urlsplit(url).hostname or ""
    if host != "localhost" and not _is_loopback(host):
        raise ValueError(f"{url} is not on this machine: the simulator sends webhooks to loopback only")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
