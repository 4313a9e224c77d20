"""What the shop sends: every version of every item, in random order, some of it several times, until acknowledged.

Versions of an item are seconds apart and no two have the same price, so that the newest content is known, and a change
that was applied twice can be told from two changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import simulator
from simulator import shapes, wire
from simulator.items import Item

CONNECTIONS = 64
_ORGANIZATION = simulator.Organization()
_FIRST_ITEM_ID = 4_200_000_000_000_000_000
_FIRST_CHANGE = datetime(2026, 1, 1, tzinfo=UTC)
_TEMPLATES = simulator.Catalogue.generate(25, seed=4).all()
_HEAD_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EVENT_ID = re.compile(rb'"event_id": ?(\d+)')
_LONGEST_ANSWER_SECONDS = 10.0
# Of the attempts, so many are broken off by the sender before it saw the answer.
_BROKEN_OFF_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Version:
    """One state of one item."""

    item: int
    number: int

    @property
    def item_id(self) -> str:
        return str(_FIRST_ITEM_ID + self.item)

    def content(self) -> Item:
        template = _TEMPLATES[self.item % len(_TEMPLATES)]
        return Item(
            item_id=self.item_id,
            name=f"{template.name}, item {self.item}, version {self.number}",
            created_time=_FIRST_CHANGE.astimezone(_ORGANIZATION.time_zone),
            last_modified_time=(_FIRST_CHANGE + timedelta(seconds=self.number)).astimezone(_ORGANIZATION.time_zone),
            sku=f"CHAOS-{self.item}",
            description="" if self.number % 3 == 0 else f"Lot {self.number % 2}. {template.description}".strip(),
            rate=Decimal(1_000 + self.number) + Decimal("0.50"),
            brand=template.brand,
            category_id=template.category_id,
            category_name=template.category_name,
            status="inactive" if (self.item + self.number) % 5 == 0 else "active",
            track_inventory=True,
            stock_on_hand=Decimal(self.number % 7) / 2,
            custom_fields=template.custom_fields,
        )

    def body(self) -> bytes:
        return wire.dumps({"item": shapes.webhook_item(self.content(), _ORGANIZATION)}).encode()


def plan(random: Random, *, items: int, deliveries: int) -> list[Version]:
    """Return what is sent, in order; about a fifth of it are copies, some next to the first and some far from it."""
    distinct = max(items, round(deliveries * 0.8))
    numbers = Counter(range(items))
    numbers.update(random.randrange(items) for _ in range(distinct - items))
    versions = [Version(item, number) for item, count in numbers.items() for number in range(1, count + 1)]
    random.shuffle(versions)
    copies = Counter[Version]()
    while copies.total() < deliveries - distinct:
        # Several of one, now and then.
        copies[random.choice(versions)] += min(random.choice((1, 1, 2, 4)), deliveries - distinct - copies.total())
    at_once = {version for version in copies if random.random() < 0.5}
    order = [copy for version in versions for copy in [version] * (1 + copies[version] * (version in at_once))]
    for version in sorted(copies.keys() - at_once, key=lambda version: (version.item, version.number)):
        for _ in range(copies[version]):
            order.insert(random.randint(0, len(order)), version)
    return order


class Sender(threading.Thread):
    """Sends a plan over connections of its own, as far as it is allowed to and as fast as it is told to."""

    def __init__(self, port: int, order: Sequence[Version], seed: int) -> None:
        super().__init__(name="sender", daemon=True)
        self.order = order
        self.allowed = 0
        """How many deliveries may have been begun."""
        self.per_second = 100.0
        self.acknowledged: list[Version] = []
        """Each delivery that was answered 2xx."""
        self.last_event_id = 0
        self.answers = Counter[str]()
        """How attempts ended."""
        self._port = port
        self._random = Random(seed)
        self._is_stopped = False
        self._queue: asyncio.Queue[Version | None]

    def run(self) -> None:
        asyncio.run(self._send_all())

    def allow(self, more: int) -> None:
        self.allowed = min(len(self.order), self.allowed + more)

    def finish(self, timeout: float) -> bool:
        """Send the rest as fast as answers come; tell whether all was acknowledged in time."""
        self.per_second, self.allowed = 1_000_000.0, len(self.order)
        self.join(timeout)
        return not self.is_alive()

    def stop(self) -> None:
        self._is_stopped = True
        self.join(_LONGEST_ANSWER_SECONDS + 1)

    async def _send_all(self) -> None:
        self._queue = asyncio.Queue(1)
        senders = [asyncio.create_task(self._work()) for _ in range(CONNECTIONS)]
        due = time.monotonic()
        for position, version in enumerate(self.order):
            while position >= self.allowed and not self._is_stopped:
                await asyncio.sleep(0.02)
                due = time.monotonic()
            due = max(due + 1 / self.per_second, time.monotonic() - 0.1)
            await asyncio.sleep(due - time.monotonic())
            if self._is_stopped:
                break
            await self._queue.put(version)
        for _ in senders:
            await self._queue.put(None)
        await asyncio.gather(*senders)

    async def _work(self) -> None:
        connection = _Connection(self._port)
        while (version := await self._queue.get()) is not None:
            body = version.body()
            while not self._is_stopped:
                outcome = await self._attempt(connection, body)
                self.answers[outcome] += 1
                if outcome == "200":
                    self.acknowledged.append(version)
                    break
                await asyncio.sleep(self._random.uniform(0.1, 0.6))
        connection.close()

    async def _attempt(self, connection: _Connection, body: bytes) -> str:
        try:
            async with asyncio.timeout(_LONGEST_ANSWER_SECONDS):
                if self._random.random() < _BROKEN_OFF_SHARE:
                    await connection.send_and_break_off(body)
                    return "broken off by the sender"
                status, answer = await connection.exchange(body)
        except TimeoutError:
            connection.close()
            return "no answer in time"
        except ConnectionRefusedError:
            return "refused"
        except (OSError, EOFError):
            connection.close()
            return "cut off"
        event_id = _EVENT_ID.search(answer)
        if status == "200" and event_id:
            self.last_event_id = max(self.last_event_id, int(event_id[1]))
        return status


class _Connection:
    """One HTTP connection that stays open, as long as it can."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, body: bytes) -> tuple[str, bytes]:
        reader, writer = await self._opened()
        writer.write(_request(body))
        head = await reader.readuntil(_HEAD_END)
        status, length = _STATUS.match(head), _LENGTH.search(head)
        assert status is not None, head
        answer = await reader.readexactly(int(length[1]) if length else 0)
        return status[1].decode(), answer

    async def send_and_break_off(self, body: bytes) -> None:
        _, writer = await self._opened()
        writer.write(_request(body))
        await writer.drain()
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].close()
        self._streams = None

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams


def _request(body: bytes) -> bytes:
    signature = simulator.sign(simulator.WEBHOOK_SECRET, raw=body)
    head = (
        "POST /webhooks/zoho/items HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json;charset=UTF-8\r\n"
        f"{simulator.SIGNATURE_HEADER}: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def digests(versions: Sequence[Version]) -> Iterator[tuple[Version, bytes]]:
    """Yield each distinct version with the SHA-256 of its body."""
    for version in dict.fromkeys(versions):
        yield version, hashlib.sha256(version.body()).digest()
