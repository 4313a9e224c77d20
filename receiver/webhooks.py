"""The two webhook routes: verify, find the item, record, answer.

In this order: the size of the body while it streams in, the sender's network, the signature. It decides, and the
content type only tells how what is not JSON was signed. Until then nothing is kept but a count, and what is read is
little and is read a fixed number of times. After it everything is kept: what cannot be read becomes a dead event, for a
person to look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Self

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from processors import logs, senders
from processors.errors import BodyUnreadable, DeliveryRejected
from processors.settings import Settings
from processors.store.inbox import Delivery, Kind, Recorded
from processors.zoho import payloads, signatures
from processors.zoho.signatures import BodyForm, Signed
from receiver.intake import InboxUnavailable, Intake
from receiver.proxies import client_address
from receiver.rejections import Rejections
from receiver.shapes import Sample, Shapes
from receiver.throttle import MOST_REFUSED, Throttle

# A body that takes longer than this comes from no webhook engine.
_BODY_SECONDS = 15.0
# What has not arrived after so long gives way where there is no room for others.
_ARRIVES_WITHIN_SECONDS = 1.0
_PARTING_SECONDS = 1.0
_PARTING_BYTES = 2 * 1024 * 1024
_RETRY_AFTER_SECONDS = 5
_BUSY = 503
_TOO_MANY = 429
_THROTTLED_SECONDS = 60
# Who is refused so often for these is no webhook: nothing of it was signed.
_OF_STRANGERS = (401, 403, 415, _TOO_MANY)
# Verified in the event loop: hashing so many bytes takes microseconds, as does decoding so many of pairs, and sorting
# so many. (A hundred pairs take milliseconds, however short they are.)
_QUICKLY_HASHED_BYTES = 32 * 1024
_QUICKLY_DECODED_BYTES = 2 * 1024
_QUICKLY_SORTED_PAIRS = 10
# All bodies from their first byte to their commit, signed or not: a flood of large ones is turned away, not kept.
_MOST_BYTES_AT_ONCE = 64 * 1024 * 1024

# `check` sends a body without a signature, too, to see it refused.
_CHECK = "check"
_SIGNATURE_HEADER = signatures.HEADER.lower().encode()
_encode = msgspec.json.Encoder().encode


class _Checked(Exception):
    """It was not Zoho: `check` looks whether a signed delivery arrives; nothing is recorded."""


class _PartingResponse(JSONResponse):
    """An answer to a request whose body was not read to its end: nothing else can come over that connection.

    Closed at once, with more on its way, it would be reset, and the sender might never see the answer. So a little of
    the rest is awaited, and thrown away.
    """

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PARTING_SECONDS):
                left, more = _PARTING_BYTES, True
                while more and left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    more = message.get("more_body", False)
        await send({"type": "http.response.body"})


class Room:
    """What one body takes of the memory for all of them, from its first byte until it is committed or refused.

    As a block, it ends with `DeliveryRejected` where the body takes too long to arrive, or gives way to others. (It is
    `asyncio.timeout` without a timer for each delivery.)
    """

    __slots__ = ("_buffers", "_cancelling", "_task", "is_given_up", "since", "taken")

    def __init__(self, buffers: _Buffers) -> None:
        """Take no room yet."""
        self._buffers = buffers
        self.taken = 0
        self.is_given_up = False

    def __enter__(self) -> Self:
        """Begin to arrive."""
        task = asyncio.current_task()
        assert task, "requests are answered in tasks"
        loop = task.get_loop()
        self._task, self._cancelling = task, task.cancelling()
        self.since = loop.time()
        self._buffers.await_body(self, loop)
        return self

    def take(self, size: int) -> None:
        """Take room for a chunk, before it is kept.

        Raises:
            DeliveryRejected: there is none.
        """
        self._buffers.make_room(self, size)
        self.taken += size

    def arrive(self) -> None:
        """Stay, now that the body is whole, however long it has to wait for its commit."""
        self._buffers.arriving.pop(self, None)

    def give_up(self) -> None:
        """End the block where it waits."""
        self.is_given_up = True
        self._buffers.free(self)
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Be free again."""
        self._buffers.free(self)
        if self.is_given_up and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            message = f"the body did not arrive within {_BODY_SECONDS:.0f} seconds"
            raise DeliveryRejected(408, "slow", message) from None


class _Buffers:
    """How much of this process's memory the bodies take that are on their way in, or wait for their commit.

    Where it is full, the body gives way that has been arriving for longest: what a webhook sends arrives at once, and
    bodies that never end must not keep it out.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self.arriving: dict[Room, None] = {}
        """In the order of their beginning."""
        self._is_timed = False

    def await_body(self, room: Room, loop: asyncio.AbstractEventLoop) -> None:
        """Let a body begin to arrive; it is given up if that takes too long."""
        self.arriving[room] = None
        if not self._is_timed:
            self._time(loop)

    def _time(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer, for the oldest: nearly all have arrived long before theirs would be over.
        oldest = next(iter(self.arriving), None)
        self._is_timed = oldest is not None
        if oldest is not None:
            loop.call_at(oldest.since + _BODY_SECONDS, self._give_up_late, loop)

    def _give_up_late(self, loop: asyncio.AbstractEventLoop) -> None:
        late = loop.time() - _BODY_SECONDS
        for room in [room for room in self.arriving if room.since <= late]:
            room.give_up()
        self._time(loop)

    def make_room(self, mine: Room, size: int) -> None:
        """Count `size` bytes more.

        Raises:
            DeliveryRejected: they have no room, and nobody has to give way.
        """
        while self._bytes + size > _MOST_BYTES_AT_ONCE:
            oldest = next(iter(self.arriving), mine)
            age = asyncio.get_running_loop().time() - oldest.since
            if oldest is mine or age < _ARRIVES_WITHIN_SECONDS:
                message = "too much is being received at once, please send this again"
                raise DeliveryRejected(503, "busy", message)
            oldest.give_up()
        self._bytes += size

    def free(self, room: Room) -> None:
        """Forget a body."""
        self.arriving.pop(room, None)
        self._bytes -= room.taken
        room.taken = 0


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The routes and what they work with."""

    settings: Settings
    intake: Intake
    rejections: Rejections
    shapes: Shapes
    _large_bodies: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    # Tenths of seconds each in the line of the large ones would be too long for one that takes milliseconds.
    _many_pairs: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    # Of senders who had much refused: those wait for each other, and nobody else for them.
    _doubtful_bodies: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    _buffers: _Buffers = field(default_factory=_Buffers)
    _throttle: Throttle = field(default_factory=Throttle)
    # Bound once: for each line it would cost as much as writing it.
    _log: FilteringBoundLogger = field(default_factory=lambda: logs.get(__name__).bind())

    def routes(self) -> list[Route]:
        """Return the routes: the path says what happened, since Zoho's bodies do not."""
        return [
            Route("/webhooks/zoho/items", _Endpoint(self, "changed"), methods=["POST", "PUT"]),
            Route("/webhooks/zoho/items/deleted", _Endpoint(self, "deleted"), methods=["POST", "PUT", "DELETE"]),
        ]

    async def receive(self, request: _Request, kind: Kind) -> ASGIApp:
        """Return the answer to a delivery that came by the route of the rule `kind`."""
        started = perf_counter()
        try:
            if self._throttle.is_active:
                self._refuse_early(request)
            with Room(self._buffers) as room:
                delivery = await self._admit(request, kind, room)
                recorded = await self.intake.record(delivery)
        except DeliveryRejected as rejected:
            return self._refuse(request, kind, rejected)
        except _Checked:
            self._log.info("delivery.checked", route=kind)
            return JSONResponse({"event_id": None, "state": "checked"})
        except ClientDisconnect:
            self._log.warning("delivery.broken_off", route=kind)
            return Response(status_code=400)
        except InboxUnavailable as error:
            self._log.warning("delivery.deferred", route=kind, item_id=delivery.item_id, error=str(error))
            return JSONResponse(
                {"error": "the inbox is not available, please send this again"},
                503,
                headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
            )
        self._log.info(
            "delivery.recorded",
            event_id=recorded.event_id,
            item_id=delivery.item_id,
            kind=kind,
            state=recorded.state,
            reason=delivery.unreadable,
            duration_ms=round((perf_counter() - started) * 1000, 1),
        )
        return _Recorded(recorded)

    def _refuse(self, request: _Request, kind: Kind, rejected: DeliveryRejected) -> ASGIApp:
        client = self._client(request)
        if rejected.reason != _CHECK:
            self.rejections.count(kind, rejected.reason)
        status, refused = rejected.status, 0
        if status in _OF_STRANGERS:
            refused = self._throttle.count(client)
            status = _TOO_MANY if refused > MOST_REFUSED else status
        if status != _TOO_MANY:
            self._log.warning("delivery.rejected", route=kind, reason=rejected.reason, status=status, client=client)
        elif refused == MOST_REFUSED + 1:
            self._log.warning("sender.throttled", route=kind, reason=rejected.reason, client=client, refused=refused)
        answer = _PartingResponse if status in (408, 413, _TOO_MANY, _BUSY) else JSONResponse
        wait = {_BUSY: _RETRY_AFTER_SECONDS, _TOO_MANY: _THROTTLED_SECONDS}.get(status)
        return answer({"error": str(rejected)}, status, headers={"Retry-After": str(wait)} if wait else None)

    def _refuse_early(self, request: _Request) -> None:
        """Refuse a throttled sender without a signature before the body is read; a signed one may be Zoho.

        Raises:
            DeliveryRejected: that is so.
        """
        signature = request.header(_SIGNATURE_HEADER)
        if signatures.encoding_of(signature) is None and self._throttle.is_throttled(self._client(request)):
            message = f"too much from this address was refused; {signatures.HEADER} should be an HMAC-SHA256"
            raise DeliveryRejected(_TOO_MANY, "signature_malformed" if signature else "signature_absent", message)

    async def _admit(self, request: _Request, kind: Kind, room: Room) -> Delivery:
        """Read and verify a request.

        Raises:
            DeliveryRejected: it is answered 4xx.
            _Checked: there is nothing to record.
        """
        body = await _read(request, self.settings.webhook_max_bytes, room)
        room.arrive()
        if self.settings.webhook_allowed_networks:
            self._check_network(request)
        content_type = request.header(b"content-type")
        query: bytes = request.scope["query_string"]
        form = payloads.form_of(body, content_type)
        if _is_quickly_verified(body, query, form):
            signed = self._check_signature(request, body, content_type, query, form)
        else:
            # It takes long, and anybody can send such a one: beside the loop, and one at a time.
            is_doubtful = self._throttle.is_active and self._throttle.is_throttled(self._client(request))
            line = self._many_pairs if len(body) <= _QUICKLY_HASHED_BYTES else self._large_bodies
            limiter = self._doubtful_bodies if is_doubtful else line
            check = partial(self._check_signature, request, body, content_type, query, form)
            signed = await to_thread.run_sync(check, limiter=limiter)
        # Kept so that whoever reads it later reads what was signed, and nothing else.
        if signed.keeps_plus:
            query = query.replace(b"+", b"%2B")
            body = body.replace(b"+", b"%2B") if form == "form" else body
        if signed.is_raw and form == "form" and body.strip():
            content_type = payloads.signed_as_it_is(content_type)
        item_id, is_dated, unreadable = None, False, None
        try:
            item_id, is_dated = payloads.identify(body, content_type, query)
            if self.shapes.wants(kind):
                encoding = signatures.encoding_of(request.header(_SIGNATURE_HEADER))
                self.shapes.keep(Sample(kind, encoding or "hex", signed.secret, body, content_type, query))
        except BodyUnreadable as error:
            if body == payloads.CHECK:
                raise _Checked from None
            unreadable = str(error)
        return Delivery(
            kind=kind,
            item_id=item_id,
            body=body,
            content_type=content_type,
            query_string=query,
            fingerprint=hashlib.sha256(kind.encode() + b"\0" + signed.text.strip()).digest(),
            is_dated=is_dated,
            unreadable=unreadable,
        )

    def _client(self, request: _Request) -> str:
        return client_address(HTTPConnection(request.scope), self.settings.trusted_proxies) or "unknown"

    def _check_network(self, request: _Request) -> None:
        address = senders.address_of(self._client(request))
        if address is None or not any(address in network for network in self.settings.webhook_allowed_networks):
            message = "deliveries from this network are not accepted"
            raise DeliveryRejected(403, "network", message)

    def _check_signature(
        self, request: _Request, body: bytes, content_type: str, query: bytes, form: BodyForm
    ) -> Signed:
        """Return what is signed, and by which secret.

        Raises:
            DeliveryRejected: nothing is.
        """
        encoding = request.header(b"content-encoding")
        if encoding.lower() not in ("", "identity"):
            message = f"Content-Encoding should be absent or identity, got {encoding[:40]}: the body is read as it is"
            raise DeliveryRejected(415, "content_type", message)
        signature = request.header(_SIGNATURE_HEADER)
        signed = self._signed(signature, body, content_type, query, form) if signature else None
        if signed is not None:
            return signed
        refused = _unsigned(signature, body)
        if payloads.is_taken(content_type) or refused.reason == _CHECK:
            raise refused
        expected = "application/json, application/x-www-form-urlencoded or multipart/form-data"
        raise DeliveryRejected(415, "content_type", f"the body should be {expected}, or be signed; {refused}")

    def _signed(self, signature: str, body: bytes, content_type: str, query: bytes, form: BodyForm) -> Signed | None:
        fields: list[signatures.Pair] = []
        if form == "multipart" and signatures.encoding_of(signature) is not None:
            # Zoho may sign the raw body; if it did, the reason is found again, and kept, when the item is read.
            with contextlib.suppress(BodyUnreadable):
                fields = payloads.multipart_pairs(body, content_type)
        secrets = [secret.get_secret_value() for secret in self.settings.zoho_webhook_secrets]
        return signatures.verify(signature, secrets, body=body, query=query, form=form, multipart_fields=fields)


def _is_quickly_verified(body: bytes, query: bytes, form: BodyForm) -> bool:
    """Tell whether the event loop may wait for it."""
    if len(body) > _QUICKLY_HASHED_BYTES:
        return False
    if form == "json":
        return not query or _are_few(query)
    return len(body) <= _QUICKLY_DECODED_BYTES and _are_few(query + b"&" + body)


def _are_few(pairs: bytes) -> bool:
    return len(pairs) <= _QUICKLY_DECODED_BYTES and pairs.count(b"&") < _QUICKLY_SORTED_PAIRS


def _unsigned(signature: str, body: bytes) -> DeliveryRejected:
    if not signature:
        message = f"the header {signatures.HEADER} is missing; tick “I want to secure this webhook” in Zoho"
        return DeliveryRejected(401, _CHECK if body == payloads.CHECK else "signature_absent", message)
    if signatures.encoding_of(signature) is None:
        message = f"{signatures.HEADER} should be an HMAC-SHA256 in hex or base64"
        return DeliveryRejected(401, "signature_malformed", message)
    message = f"{signatures.HEADER} does not fit the body under any secret of ZOHO_WEBHOOK_SECRETS"
    return DeliveryRejected(401, "signature_mismatch", message)


class _Request:
    """One request, its headers looked up once."""

    __slots__ = ("_headers", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        # Of a header that is there twice, the first counts.
        self._headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def header(self, name: bytes) -> str:
        """Return a header by its name in lower case; "" where it is not there."""
        return self._headers.get(name, b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One of the two routes, as an ASGI application: Starlette's own objects would cost more than verifying."""

    webhooks: Webhooks
    kind: Kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.webhooks.receive(_Request(scope, receive), self.kind)
        await answer(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The answer to what is committed."""

    recorded: Recorded

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        body = _encode({"event_id": self.recorded.event_id, "state": self.recorded.state})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _read(request: _Request, most: int, room: Room) -> bytes:
    """Read the body, and no more of it than `most` bytes, into its room."""
    too_large = f"the body is larger than {most} bytes"
    length = request.header(b"content-length")
    if length.isdecimal() and int(length[:20]) > most:
        raise DeliveryRejected(413, "size", too_large)
    kept = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        if len(kept) + len(chunk) > most:
            raise DeliveryRejected(413, "size", too_large)
        room.take(len(chunk))
        if not message.get("more_body", False):
            # Most bodies are there as a whole, and are not copied.
            return bytes(kept + chunk) if kept else chunk
        kept += chunk
