"""A Dramatiq consumer that Redis wakes, in place of one that polls, and that sits out an absence of Redis.

Dramatiq's own consumer looks for messages less and less often, up to once a second, so a message to an idle worker
waits half a second on average. This one blocks in `BLMOVE queue queue 1 LEFT LEFT`: moving the head of the list onto
itself takes nothing and keeps the order, but returns the moment a message is there. What fetches, acknowledges and
recovers messages is still Dramatiq's Lua script, and publishers know nothing of it.

The class it extends is private to Dramatiq. Importing this module fails, with an ImportError, where that class is not
the one known here; the broker then stays with Dramatiq's own.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import redis
from dramatiq import MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import compute_backoff
from dramatiq.errors import ConnectionClosed

logger = logging.getLogger(__name__)

_BLOCK_SECONDS = 1  # below the socket's time-out, and no longer than a worker that stops should wait
_POLL_MS = 50  # where the server has no BLMOVE (Redis before 6.2): a few per cent of a core for half the wait


class Outage:
    """Says once that Redis went away, and once that it came back; shared by all consumers of a broker."""

    def __init__(self) -> None:
        """Begin with a Redis that is there."""
        self._lock = threading.Lock()
        self._since: float | None = None

    def begins(self, error: Exception) -> None:
        """Note that a call failed."""
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                logger.warning("Redis is away, trying until it answers: %s", error)

    def ends(self) -> None:
        """Note that a call succeeded."""
        if self._since is None:  # the usual case, without the lock
            return
        with self._lock:
            if self._since is not None:
                logger.info("Redis is back after %.1f s", time.monotonic() - self._since)
                self._since = None


class BlockingConsumer(_RedisConsumer):
    """Consumes one queue; see the module's text.

    While Redis is away it returns no messages instead of raising, for Dramatiq would throw the consumer away, log a
    critical error and wait 3 s, again and again. An acknowledgement that fails is kept and made later, for Dramatiq
    would hold the worker's thread until Redis took it, trying every 5 s.
    """

    broker: RedisBroker

    def __init__(self, broker: RedisBroker, queue_name: str, prefetch: int, timeout: int, outage: Outage) -> None:
        """Take Dramatiq's arguments (`timeout` in milliseconds) and the outage shared with the other consumers."""
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]  # not annotated there
        self._key = f"{broker.namespace}:{queue_name}"
        self._outage = outage
        self._room = threading.Event()
        self._unsettled: deque[Callable[[], None]] = deque()
        # Delay queues are not worth a blocked connection: nothing here delays messages.
        self._polls = queue_name.endswith(".DQ")
        self._longest_pause_ms = timeout

    def __next__(self) -> MessageProxy | None:
        """Return the next message, or None after about a second, or when it is worth asking again."""
        if not self.message_cache:
            try:
                self._settle()
                self._refill()
            except (redis.RedisError, ConnectionClosed) as error:
                self._outage.begins(error)
                self._pause()
        if not self.message_cache:
            return None
        message: MessageProxy | None = super().__next__()  # type: ignore[no-untyped-call]  # not annotated there
        return message

    def ack(self, message: MessageProxy) -> None:
        """Report a message as done, later if Redis is away."""
        self._settle_or_keep(partial(super().ack, message))

    def nack(self, message: MessageProxy) -> None:
        """Report a message as failed, later if Redis is away."""
        self._settle_or_keep(partial(super().nack, message))

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Give messages back that were taken but not begun.

        Raises:
            ConnectionClosed: Redis is away. Dramatiq's own consumer lets Redis's error through, which breaks off the
                worker's shutdown.
        """
        try:
            super().requeue(messages)  # type: ignore[no-untyped-call]  # not annotated there
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # not annotated there

    def _settle_or_keep(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except (redis.RedisError, ConnectionClosed) as error:  # the latter is not raised for redis.TimeoutError
            self._outage.begins(error)
            self._unsettled.append(settle)
        finally:
            self._room.set()

    def _settle(self) -> None:
        while self._unsettled:
            self._unsettled[0]()
            self._unsettled.popleft()

    def _refill(self) -> None:
        self._room.clear()  # before looking, so that a message settled meanwhile is not slept over
        room = self.prefetch - self.outstanding_message_count
        if room <= 0:
            self._room.wait(self.timeout / 1000)
            return
        fetched: list[bytes | None] = self.broker.do_fetch(self.queue_name, room)
        self._outage.ends()
        # An id whose message is gone: Redis was flushed between the two.
        self.message_cache = [data for data in fetched if data is not None]
        if not fetched:
            self._wait_for_a_message()

    def _wait_for_a_message(self) -> None:
        if self._polls:
            self._pause()
            return
        self.misses = 0
        try:
            self.broker.client.blmove(self._key, self._key, _BLOCK_SECONDS, "LEFT", "LEFT")
        except redis.ResponseError as error:
            if not _is_unsupported(error):
                raise
            logger.warning("Redis cannot wake the worker for %s, polling instead: %s", self.queue_name, error)
            self._polls = True
            self._longest_pause_ms = _POLL_MS

    def _pause(self) -> None:
        self.misses, pause_ms = compute_backoff(self.misses, max_backoff=self._longest_pause_ms)
        time.sleep(pause_ms / 1000)


def _is_unsupported(error: redis.ResponseError) -> bool:
    return isinstance(error, redis.exceptions.NoPermissionError) or str(error).lower().startswith("unknown command")


def differences(consumer: type[Any]) -> list[str]:
    """Return how a consumer class differs from the one `BlockingConsumer` extends; empty means not at all."""
    expected = {
        "__init__": ["self", "broker", "queue_name", "prefetch", "timeout"],
        "__next__": ["self"],
        "ack": ["self", "message"],
        "nack": ["self", "message"],
        "requeue": ["self", "messages"],
    }
    found = []
    for method, parameters in expected.items():
        if not hasattr(consumer, method) or list(inspect.signature(getattr(consumer, method)).parameters) != parameters:
            found.append(f"{method}({', '.join(parameters)})")
    if found:
        return found
    sample = consumer(None, "queue", 2, 1000)
    attributes = {"message_cache": [], "queued_message_ids": set(), "misses": 0, "outstanding_message_count": 0}
    attributes |= {"broker": None, "queue_name": "queue", "prefetch": 2, "timeout": 1000}
    return [f"{name} = {value!r}" for name, value in attributes.items() if getattr(sample, name, ...) != value]


if _found := differences(_RedisConsumer):
    raise ImportError(f"Dramatiq's Redis consumer lacks {', '.join(_found)}")
