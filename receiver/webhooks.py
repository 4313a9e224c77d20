"""The two webhook routes: verify, find the item, record, answer.

In this order: the size of the body while it streams in, the sender's network, the content type, the signature over the
raw bytes. Until then nothing is parsed and nothing is kept but a count. After it everything is kept: what cannot be
read becomes a dead event, for a person to look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from time import perf_counter

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from processors import logs
from processors.errors import BodyUnreadable, DeliveryRejected
from processors.settings import Settings
from processors.store.inbox import Delivery, Kind
from processors.zoho import items, payloads, signatures
from receiver.intake import InboxUnavailable, Intake
from receiver.proxies import client_address
from receiver.rejections import Rejections

# A body that takes longer than this comes from no webhook engine.
_BODY_SECONDS = 15.0
# What has not arrived after so long gives way where there is no room for others.
_ARRIVES_WITHIN_SECONDS = 1.0
_PARTING_SECONDS = 1.0
_PARTING_BYTES = 2 * 1024 * 1024
_RETRY_AFTER_SECONDS = 5
_BUSY = 503
_QUICKLY_VERIFIED_BYTES = 32 * 1024
# All bodies from their first byte to their commit, signed or not: a flood of large ones is turned away, not kept.
_MOST_BYTES_AT_ONCE = 64 * 1024 * 1024

_log = logs.get(__name__)


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


@dataclass(slots=True, eq=False)
class Room:
    """What one body takes of the memory for all of them, from its first byte until it is committed or refused."""

    buffers: _Buffers
    since: float
    deadline: asyncio.Timeout
    taken: int = 0
    is_given_up: bool = False


class _Buffers:
    """How much of this process's memory the bodies take that are on their way in, or wait for their commit.

    Where it is full, the body gives way that has been arriving for longest: what a webhook sends arrives at once, and
    bodies that never end must not keep it out.
    """

    def __init__(self) -> None:
        self._bytes = 0
        # In the order of their beginning.
        self._arriving: dict[Room, None] = {}

    @contextlib.asynccontextmanager
    async def body(self) -> AsyncIterator[Room]:
        """Give the room of one body, which is free again at the end of the block.

        Raises:
            DeliveryRejected: there is none, or the body took too long to arrive.
        """
        try:
            async with asyncio.timeout(_BODY_SECONDS) as deadline:
                room = Room(self, asyncio.get_running_loop().time(), deadline)
                self._arriving[room] = None
                try:
                    yield room
                finally:
                    self._forget(room)
        except TimeoutError:
            message = f"the body did not arrive within {_BODY_SECONDS:.0f} seconds"
            raise DeliveryRejected(408, "slow", message) from None

    def keep_arrived(self, room: Room) -> None:
        """Let a body that is whole stay, however long it has to wait for its commit."""
        self._arriving.pop(room, None)
        if not room.deadline.expired():
            room.deadline.reschedule(None)

    def take(self, mine: Room, size: int) -> None:
        """Take room for a chunk, before it is kept.

        Raises:
            DeliveryRejected: there is none.
        """
        while self._bytes + size > _MOST_BYTES_AT_ONCE or mine.is_given_up:
            oldest = next(iter(self._arriving), mine)
            age = asyncio.get_running_loop().time() - oldest.since
            if mine.is_given_up or oldest is mine or age < _ARRIVES_WITHIN_SECONDS:
                message = "too much is being received at once, please send this again"
                raise DeliveryRejected(503, "busy", message)
            oldest.is_given_up = True
            oldest.deadline.reschedule(asyncio.get_running_loop().time())
            self._forget(oldest)
        mine.taken += size
        self._bytes += size

    def _forget(self, body: Room) -> None:
        self._arriving.pop(body, None)
        self._bytes -= body.taken
        body.taken = 0


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The routes and what they work with."""

    settings: Settings
    intake: Intake
    rejections: Rejections
    _large_bodies: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    _buffers: _Buffers = field(default_factory=_Buffers)

    def routes(self) -> list[Route]:
        """Return the routes: the path says what happened, since Zoho's bodies do not."""
        return [
            Route("/webhooks/zoho/items", self.changed, methods=["POST", "PUT"]),
            Route("/webhooks/zoho/items/deleted", self.deleted, methods=["POST", "PUT", "DELETE"]),
        ]

    async def changed(self, request: Request) -> Response:
        """Receive from the created and the edited rule."""
        return await self._receive(request, "changed")

    async def deleted(self, request: Request) -> Response:
        """Receive from the deleted rule."""
        return await self._receive(request, "deleted")

    async def _receive(self, request: Request, kind: Kind) -> Response:
        started = perf_counter()
        try:
            async with self._buffers.body() as room:
                delivery = await self._admit(request, kind, room)
                recorded = await self.intake.record(delivery)
        except DeliveryRejected as rejected:
            self.rejections.count(kind, rejected.reason)
            _log.warning(
                "delivery.rejected",
                route=kind,
                reason=rejected.reason,
                status=rejected.status,
                client=client_address(request, self.settings.trusted_proxies),
            )
            answer = _PartingResponse if rejected.status in (408, 413, 503) else JSONResponse
            headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if rejected.status == _BUSY else None
            return answer({"error": str(rejected)}, rejected.status, headers=headers)
        except ClientDisconnect:
            _log.warning("delivery.broken_off", route=kind)
            return Response(status_code=400)
        except InboxUnavailable as error:
            _log.warning("delivery.deferred", route=kind, item_id=delivery.item_id, error=str(error))
            return JSONResponse(
                {"error": "the inbox is not available, please send this again"},
                503,
                headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
            )
        _log.info(
            "delivery.recorded",
            event_id=recorded.event_id,
            item_id=delivery.item_id,
            kind=kind,
            state=recorded.state,
            reason=delivery.unreadable,
            duration_ms=round((perf_counter() - started) * 1000, 1),
        )
        return JSONResponse({"event_id": recorded.event_id, "state": recorded.state})

    async def _admit(self, request: Request, kind: Kind, room: Room) -> Delivery:
        """Read and verify a request.

        Raises:
            DeliveryRejected: it is answered 4xx.
        """
        body = await _read(request, self.settings.webhook_max_bytes, room)
        room.buffers.keep_arrived(room)
        self._check_network(request)
        content_type = request.headers.get("Content-Type", "")
        query: bytes = request.scope["query_string"]
        if len(body) <= _QUICKLY_VERIFIED_BYTES:
            self._check_signature(request, body, content_type, query)
        else:
            # Decoding a large form takes long, and anybody can send one: beside the loop, and one at a time.
            check = partial(self._check_signature, request, body, content_type, query)
            await to_thread.run_sync(check, limiter=self._large_bodies)
        item_id, is_dated, unreadable = None, False, None
        try:
            item_id, fields = payloads.read_item(body, content_type, query)
            is_dated = items.is_dated(fields)
        except BodyUnreadable as error:
            unreadable = str(error)
        # As in read_item: where there is no body, the query string says what happened.
        content = body if body.strip() else query
        return Delivery(
            kind=kind,
            item_id=item_id,
            body=body,
            content_type=content_type,
            query_string=query,
            fingerprint=hashlib.sha256(kind.encode() + b"\0" + content).digest(),
            is_dated=is_dated,
            unreadable=unreadable,
        )

    def _check_network(self, request: Request) -> None:
        allowed = self.settings.webhook_allowed_networks
        if not allowed:
            return
        try:
            address = ip_address(client_address(request, self.settings.trusted_proxies))
        except ValueError:
            address = None
        # An IPv4 sender may arrive on an IPv6 socket.
        address = getattr(address, "ipv4_mapped", None) or address
        if address is None or not any(address in network for network in allowed):
            message = "deliveries from this network are not accepted"
            raise DeliveryRejected(403, "network", message)

    def _check_signature(self, request: Request, body: bytes, content_type: str, query: bytes) -> None:
        form = payloads.form_of(content_type)
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if form is None or encoding != "identity":
            message = "the body should be application/json, application/x-www-form-urlencoded or multipart/form-data"
            raise DeliveryRejected(415, "content_type", message)
        signature = request.headers.get(signatures.HEADER)
        if not signature:
            message = f"the header {signatures.HEADER} is missing; tick “I want to secure this webhook” in Zoho"
            raise DeliveryRejected(401, "signature_absent", message)
        fields: list[signatures.Pair] = []
        if form == "multipart":
            # Zoho may sign the raw body; if it did, the reason is found again, and kept, when the item is read.
            with contextlib.suppress(BodyUnreadable):
                fields = payloads.multipart_pairs(body, content_type)
        secrets = [secret.get_secret_value() for secret in self.settings.zoho_webhook_secrets]
        if not signatures.verify(signature, secrets, body=body, query=query, form=form, multipart_fields=fields):
            message = f"{signatures.HEADER} does not fit the body under any secret of ZOHO_WEBHOOK_SECRETS"
            raise DeliveryRejected(401, "signature_mismatch", message)


async def _read(request: Request, most: int, room: Room) -> bytes:
    """Read the body, and no more of it than `most` bytes, into its room."""
    too_large = DeliveryRejected(413, "size", f"the body is larger than {most} bytes")
    length = request.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > most:
            raise too_large
        room.buffers.take(room, len(chunk))
        body += chunk
    return bytes(body)
