"""The Dramatiq broker, the same one in every process: its middleware by name, and how its consumers wait."""

from __future__ import annotations

import logging
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from dramatiq import Broker, Consumer, Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage, Retries, ShutdownNotifications, TimeLimit

from processors.messaging.redis import connect
from processors.settings import Settings

logger = logging.getLogger(__name__)

NAMESPACE = "zoho-mirror"
# Of pika; seconds.
_PATIENCE = {"connection_attempts": "1", "socket_timeout": "2", "stack_timeout": "4", "blocked_connection_timeout": "4"}
_LONGEST_RUN_OF_AN_ACTOR = timedelta(minutes=10)

# A killed worker's messages come back after so long. Dramatiq's defaults (a minute, and then a chance of 1 in 1000 with
# each look at the queue) come to ten minutes on average; looking each time costs nothing that could be measured.
_HEARTBEAT_TIMEOUT_MS = 15_000
_MAINTENANCE_EVERY_TIME = 1_000_000
# Dramatiq's dead letters are of no use here: what is dead is a row in `events`.
_DEAD_MESSAGE_TTL_MS = 3_600_000


class _WakingBroker(RedisBroker):
    # Dramatiq asks Redis for this number (about 4000, in any Redis) under a lock of the whole process. With Redis away
    # the callers of a web process would queue up behind that lock, each for its own time-out.
    _max_unpack_size_val = 500  # type: ignore[assignment]  # inferred there from None, the value before asking

    def __init__(self, client: redis.Redis, middleware: list[Middleware], namespace: str) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # Dramatiq leaves it unannotated
            client=client,
            middleware=middleware,
            namespace=namespace,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_MS,
            maintenance_chance=_MAINTENANCE_EVERY_TIME,
            dead_message_ttl=_DEAD_MESSAGE_TTL_MS,
        )
        try:
            # Here, because it fails where Dramatiq's private class is not the one known.
            from processors.messaging.consumer import BlockingConsumer, Outage  # noqa: PLC0415
        except ImportError as difference:
            logger.warning("workers poll Redis once a second: %s", difference)
            self._consumer_class: type[BlockingConsumer] | None = None
        else:
            self._consumer_class = BlockingConsumer
            self._outage = Outage()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """Return a consumer of the queue that Redis wakes, or Dramatiq's own where that is not known well enough."""
        if self._consumer_class is None:
            return super().consume(queue_name, prefetch, timeout)
        return self._consumer_class(self, queue_name, prefetch, timeout, self._outage)

    def close(self) -> None:
        """Close the connections to Redis; the next call opens new ones."""
        self.client.close()


def build_broker(
    url: str,
    *,
    verify_tls: bool,
    namespace: str = NAMESPACE,
    time_limit: timedelta = _LONGEST_RUN_OF_AN_ACTOR,
) -> RedisBroker:
    """Return a broker for the Redis at `url`, without connecting yet; `set_broker` is left to the caller.

    `namespace` begins the name of every key. An actor that runs for longer than `time_limit` gets
    `dramatiq.middleware.TimeLimitExceeded` raised in it, at the next line of Python: a blocking call is not cut short,
    so the limit must exceed every time-out inside.
    """
    return _WakingBroker(connect(url, verify_tls=verify_tls), _middleware(time_limit), namespace)


def broker_for(settings: Settings) -> Broker:
    """Return the broker that the settings name, without connecting yet: RabbitMQ by `BROKER_URL`, or else Redis."""
    if settings.broker_url is not None:
        return build_rabbitmq_broker(settings.broker_url.get_secret_value())
    return build_broker(settings.redis_url or "", verify_tls=settings.redis_tls_verify)


def build_rabbitmq_broker(url: str, *, time_limit: timedelta = _LONGEST_RUN_OF_AN_ACTOR) -> Broker:
    """Return a broker for the RabbitMQ at `url`, without connecting yet; its consumers are woken by RabbitMQ itself.

    Parameters of pika may stand in the URL; what is not there is set so that nobody waits long for a RabbitMQ that
    hangs.
    """
    # Its client is not needed where Redis is the broker.
    from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415

    parts = urlsplit(url)
    query = urlencode(_PATIENCE | dict(parse_qsl(parts.query)))
    broker: Broker = RabbitmqBroker(
        url=parts._replace(query=query).geturl(), confirm_delivery=True, middleware=_middleware(time_limit)
    )
    return broker


def _middleware(time_limit: timedelta) -> list[Middleware]:
    return [
        TimeLimit(time_limit=time_limit.total_seconds() * 1000),
        ShutdownNotifications(notify_shutdown=False),
        # Retrying is the inbox's business. Without this middleware a message whose actor raised would count as done.
        Retries(max_retries=0),
        CurrentMessage(),
    ]
