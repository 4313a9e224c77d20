"""A web process for the whole package, with an empty database and an empty Redis for each test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import redis

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.store.database import Pool
from receiver import health, rejections, shapes, throttle
from tests.conftest import ENCRYPTION_KEY
from tests.receiver.serving import Rows, Web, settings
from tests.receiver.visitors import SESSION_SECRET, Browser, person

Serve = Callable[..., Web]
Visit = Callable[..., Browser]


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


@contextlib.contextmanager
def _shared(postgres: LocalPostgres, redis_server: LocalRedis, **environ: str) -> Iterator[Web]:
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # What one test had refused or sampled must not be counted during another.
            patch.setattr(rejections, "_EVERY_SECONDS", 3_600.0)
            patch.setattr(shapes, "_EVERY_SECONDS", 3_600.0)
            web = stack.enter_context(Web(settings(postgres.database_url("mirror"), redis_server.url, **environ)))
        yield web


@pytest.fixture(scope="package")
def _shared_web(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[Web]:
    with _shared(postgres, redis_server) as web:
        yield web


@pytest.fixture
def web(
    _shared_web: Web,
    database_url: str,  # noqa: ARG001 - both are emptied
    redis_url: str,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Web:
    """One that many tests share: what was refused in one of them must not count in the next."""
    monkeypatch.setattr(throttle, "_WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(health, "_METRICS_KEPT_SECONDS", 0.0)
    return _shared_web


@pytest.fixture
def serve(database_url: str, redis_url: str) -> Iterator[Serve]:
    """Start more web processes, with settings of their own."""
    with contextlib.ExitStack() as stack:

        def start(**environ: str) -> Web:
            urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url} | environ
            return stack.enter_context(Web(settings(urls.pop("DATABASE_URL"), urls.pop("REDIS_URL"), **urls)))

        yield start


@pytest.fixture(scope="package")
def _shared_console(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[Web]:
    with _shared(postgres, redis_server, SESSION_SECRET=SESSION_SECRET, ENCRYPTION_KEYS=ENCRYPTION_KEY) as web:
        yield web


@pytest.fixture
def console(_shared_console: Web, database_url: str, redis_url: str) -> Web:  # noqa: ARG001 - both are emptied
    """A web process whose console is on."""
    return _shared_console


@pytest.fixture
def visit(console: Web) -> Iterator[Visit]:
    """Open browsers; without another process they visit the shared one."""
    with contextlib.ExitStack() as stack:

        def browser(web: Web = console, **headers: str) -> Browser:
            return stack.enter_context(Browser(web, **headers))

        yield browser


@pytest.fixture
def operator(visit: Visit, pool: Pool) -> Browser:
    """Somebody who is signed in and may act."""
    browser = visit()
    assert browser.sign_in(person(pool, "olga", "operator")).status_code == 303
    return browser


@pytest.fixture
def viewer(visit: Visit, pool: Pool) -> Browser:
    """Somebody who is signed in and only sees."""
    browser = visit()
    assert browser.sign_in(person(pool, "vera", "viewer")).status_code == 303
    return browser
