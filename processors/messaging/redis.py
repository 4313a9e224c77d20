"""How every process talks to Redis: impatiently, because nothing that matters waits there."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

# What a caller waits for a Redis that hangs. Blocking commands must block for less.
SOCKET_TIMEOUT_SECONDS = 2.0


def connect(url: str, *, verify_tls: bool) -> redis.Redis:
    """Return a client for a `redis://` or `rediss://` URL, without connecting yet.

    Its calls raise `redis.RedisError` within about 2 seconds, whatever state Redis is in. `verify_tls=False` accepts
    any certificate, which Heroku's self-signed ones need; it means nothing on a plain `redis://` URL.
    """
    # redis-py rejects TLS options on a plain URL, though only when the first connection is made.
    tls = {"ssl_cert_reqs": "none"} if url.startswith("rediss://") and not verify_tls else {}
    return redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
        # One more try finds a new connection where an idle one was closed under us. A Redis that hangs gets none:
        # the default, which retries time-outs too, doubles the wait.
        retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.2), 1, supported_errors=(redis.ConnectionError,)),
        **tls,
    )
