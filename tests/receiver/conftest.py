"""A web process for the whole package, with an empty database and an empty Redis for each test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import redis

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from processors.runtime.local import LocalPostgres, LocalRedis
from receiver import rejections
from tests.receiver.serving import Rows, Web, settings

Serve = Callable[..., Web]


@pytest.fixture
def redis_url(redis_server: LocalRedis) -> str:
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    """Looks at the queues as every process does."""
    broker = build_broker(redis_url, verify_tls=True)
    yield Publisher(broker)
    broker.close()


@pytest.fixture
def rows(database_url: str) -> Rows:
    return Rows(database_url)


@pytest.fixture(scope="package")
def _shared_web(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[Web]:
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # One test's rejections must not be counted during another.
            patch.setattr(rejections, "_EVERY_SECONDS", 3_600.0)
            web = stack.enter_context(Web(settings(postgres.database_url("mirror"), redis_server.url)))
        yield web


@pytest.fixture
def web(_shared_web: Web, database_url: str, redis_url: str) -> Web:  # noqa: ARG001 - both are emptied
    return _shared_web


@pytest.fixture
def serve(database_url: str, redis_url: str) -> Iterator[Serve]:
    """Start more web processes, with settings of their own."""
    with contextlib.ExitStack() as stack:

        def start(**environ: str) -> Web:
            urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url} | environ
            return stack.enter_context(Web(settings(urls.pop("DATABASE_URL"), urls.pop("REDIS_URL"), **urls)))

        yield start
