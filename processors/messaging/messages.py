"""Queue and actor names, and the one way to send work: by name, so that no publisher imports an actor."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import redis
from dramatiq import Broker, Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import BrokerError

from processors import redaction
from processors.errors import PublishFailed

# Three queues, each with threads of its own: work that calls Zoho may wait for its quota, and other work must not wait
# for that; a run takes minutes, and single items must not wait for that either.
EVENTS_QUEUE: Final = "events"
FETCHES_QUEUE: Final = "fetches"
RUNS_QUEUE: Final = "runs"
QUEUES: Final = (EVENTS_QUEUE, FETCHES_QUEUE, RUNS_QUEUE)

APPLY_EVENTS: Final = "apply_events"
FETCH_ITEMS: Final = "fetch_items"
RECONCILE: Final = "reconcile"

# After a failure the broker is left alone for so long, and callers are turned away at once.
_REST_SECONDS = 1.0
# More than an attempt can take: while one caller finds out whether it is back, the others are turned away.
_ATTEMPT_SECONDS = 5.0


class Publisher:
    """Sends work through a broker; safe to share between threads.

    A broker that is away costs one caller about 2 s now and then, and the others nothing.
    """

    def __init__(self, broker: Broker) -> None:
        """Publish through `broker`."""
        self._broker = broker
        self._lock = threading.Lock()
        self._failing = False
        self._resting_until = 0.0
        self._away: tuple[type[Exception], ...] = (redis.RedisError, BrokerError, OSError)
        if not isinstance(broker, RedisBroker):
            # Its client is not imported where Redis is the broker.
            from pika.exceptions import AMQPError  # noqa: PLC0415

            self._away = (*self._away, AMQPError)

    @property
    def broker_name(self) -> str:
        """Redis or RabbitMQ."""
        return "Redis" if isinstance(self._broker, RedisBroker) else "RabbitMQ"

    def publish_events(self, event_ids: Sequence[int]) -> None:
        """Ask for these events to be applied, in one message; no ids, no message.

        Raises:
            PublishFailed: the broker did not say that it has the message. It may have it nevertheless.
        """
        if event_ids:
            self._publish(EVENTS_QUEUE, APPLY_EVENTS, list(event_ids))

    def publish_fetches(self, event_ids: Sequence[int]) -> None:
        """Ask for the items of these events to be fetched from Zoho, in one message; no ids, no message.

        Raises:
            PublishFailed: the broker did not say that it has the message. It may have it nevertheless.
        """
        if event_ids:
            self._publish(FETCHES_QUEUE, FETCH_ITEMS, list(event_ids))

    def publish_run(self, run_id: int) -> None:
        """Ask for this reconciliation run to be worked on.

        Raises:
            PublishFailed: the broker did not say that it has the message. It may have it nevertheless.
        """
        self._publish(RUNS_QUEUE, RECONCILE, run_id)

    def queue_sizes(self) -> dict[str, int]:
        """Return, by queue, how many messages no worker has taken yet.

        Raises:
            PublishFailed: the broker did not answer.
        """
        with self._answering():
            if isinstance(self._broker, RedisBroker):
                return {queue: self._broker.client.llen(f"{self._broker.namespace}:{queue}") for queue in QUEUES}
            return self._rabbitmq_sizes()

    def _rabbitmq_sizes(self) -> dict[str, int]:
        broker: Any = self._broker
        sizes = {}
        try:
            for queue in QUEUES:
                # Queues that nobody has used yet are not there.
                broker.declare_queue(queue, ensure=True)
                sizes[queue], *_ = broker.get_queue_message_counts(queue)
        except self._away:
            # This thread's connection is of no use any more; the next look opens another.
            del broker.connection
            raise
        return sizes

    def _publish(self, queue: str, actor: str, argument: object) -> None:
        with self._answering():
            self._broker.enqueue(Message(queue_name=queue, actor_name=actor, args=(argument,), kwargs={}, options={}))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._lock:
            now = time.monotonic()
            if now < self._resting_until:
                raise PublishFailed(f"{self.broker_name} failed a moment ago and is being left alone")
            if self._failing:
                self._resting_until = now + _ATTEMPT_SECONDS
        try:
            yield
        except self._away as error:
            with self._lock:
                self._failing = True
                self._resting_until = time.monotonic() + _REST_SECONDS
            # What RabbitMQ's client says may hold the address with its password.
            reason = redaction.reason(error) if isinstance(error, redis.RedisError) else type(error).__name__
            raise PublishFailed(f"{self.broker_name} did not answer: {reason}") from error
        if self._failing:
            with self._lock:
                self._failing = False
                self._resting_until = 0.0
