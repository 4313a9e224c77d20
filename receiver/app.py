"""Builds the web process: routes, what they share, and its beginning and end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import psycopg
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from processors import logs, sentry
from processors.errors import ConfigurationError
from processors.messaging.broker import broker_for
from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store import database, timetable
from processors.store.database import AWAY, AsyncPool, Pool
from processors.store.timetable import BEAT_EVERY
from processors.workflows.alerting import EVERY, Alerting
from receiver.api import app as api
from receiver.console import app as console
from receiver.cookies import BoundedCookies
from receiver.health import Health
from receiver.intake import Intake
from receiver.protocol import raise_descriptor_limit
from receiver.rejections import Rejections
from receiver.shapes import Shapes
from receiver.webhooks import Webhooks
from receiver.zoho import LazyZoho

# One records deliveries, one marks them as published and counts rejections. Readiness has a pool of its own, so have
# metrics with alerts, and so have people and programs: none keeps the others waiting.
_INTAKE_CONNECTIONS = 2
_HEALTH_CONNECTIONS = 1
_MONITOR_CONNECTIONS = 1
_VISITOR_CONNECTIONS = 3
_POOL_TIMEOUT_SECONDS = 2.0
# After the 12 s that uvicorn gives to requests (Procfile), so that both stay below the 25 s that this project promises.
_EXIT_WITHIN = timedelta(seconds=10)

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Resources:
    intake_pool: AsyncPool
    health_pool: Pool
    monitor_pool: Pool
    visitor_pool: Pool
    zoho: LazyZoho
    intake: Intake
    rejections: Rejections
    shapes: Shapes
    alerting: Alerting


class _Web(Starlette):
    """Starlette, which deliveries pass by: its middleware and router would be a tenth of what one costs.

    They are routes of it, too, for whoever uses another method than theirs.
    """

    def __init__(
        self,
        deliveries: Sequence[Route],
        *,
        routes: Sequence[BaseRoute],
        lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    ) -> None:
        super().__init__(routes=[*deliveries, *routes], middleware=[Middleware(BoundedCookies)], lifespan=lifespan)
        self._direct = {(method, route.path): route.app for route in deliveries for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = self._direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        # What an endpoint raises is a bug, which uvicorn answers with 500 and logs.
        await (direct or super().__call__)(scope, receive, send)


def create_app() -> Starlette:
    """Build the app for uvicorn's `--factory`, from the environment.

    Raises:
        SystemExit: a setting is wrong or missing; its text is one line for each.
    """
    try:
        settings = Settings.load("DATABASE_URL", "REDIS_URL", "ZOHO_WEBHOOK_SECRETS")
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None
    logs.configure(settings.log_format, settings.log_level, process="web")
    # uvicorn set its loggers up before calling this; its lines go through our formatter instead.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    sentry.start(settings, process="web")
    raise_descriptor_limit()
    app = build_app(settings, exit_within=_EXIT_WITHIN)
    # What was imported stays: the garbage collector need not look at it again and again (a tenth of web's time).
    gc.collect()
    gc.freeze()
    return app


def build_app(settings: Settings, *, exit_within: timedelta | None = None) -> Starlette:
    """Build the app from settings that name a database, a Redis and a webhook secret.

    `exit_within` lets the kernel end the process so long after its shutdown began, whatever hangs by then.
    """
    assert settings.database_url, "the caller checks that it is there"
    publisher = Publisher(broker_for(settings))
    intake_pool = database.async_pool(
        settings.database_url, size=_INTAKE_CONNECTIONS, name="web intake", timeout_seconds=_POOL_TIMEOUT_SECONDS
    )
    sync_pool = partial(database.sync_pool, settings.database_url, is_checked=True)
    health_pool = sync_pool(size=_HEALTH_CONNECTIONS, name="web health")
    monitor_pool = sync_pool(size=_MONITOR_CONNECTIONS, name="web monitors")
    visitor_pool = sync_pool(size=_VISITOR_CONNECTIONS, name="web visitors")
    zoho = LazyZoho(visitor_pool, settings)
    resources = _Resources(
        intake_pool,
        health_pool,
        monitor_pool,
        visitor_pool,
        zoho,
        Intake(intake_pool, publisher),
        Rejections(intake_pool),
        Shapes(intake_pool),
        Alerting(monitor_pool, settings),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with _running(resources):
            yield
            if exit_within:
                signal.setitimer(signal.ITIMER_REAL, exit_within.total_seconds())

    return _Web(
        Webhooks(settings, resources.intake, resources.rejections, resources.shapes).routes(),
        routes=[
            *Health(settings, health_pool, monitor_pool, publisher).routes(),
            *console.routes(settings, visitor_pool, publisher, zoho),
            *api.routes(settings, visitor_pool, publisher, zoho),
        ],
        lifespan=lifespan,
    )


@contextlib.asynccontextmanager
async def _running(resources: _Resources) -> AsyncIterator[None]:
    # Postgres may be away at the start: then deliveries are answered 503 until it is back.
    await resources.intake_pool.open(wait=False)
    resources.health_pool.open(wait=False)
    resources.monitor_pool.open(wait=False)
    resources.visitor_pool.open(wait=False)
    resources.intake.start()
    work = [
        resources.rejections.run(),
        resources.shapes.run(),
        _beat(resources.intake_pool),
        _alert(resources.alerting),
    ]
    background = [asyncio.create_task(each) for each in work]
    _log.info("process.started")
    try:
        yield
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        # At once: while Postgres is away, each waits for a connection until its time is over.
        await asyncio.gather(resources.intake.close(), resources.rejections.write(), resources.shapes.write())
        await resources.intake_pool.close()
        resources.zoho.close()
        await asyncio.to_thread(resources.health_pool.close)
        await asyncio.to_thread(resources.monitor_pool.close)
        await asyncio.to_thread(resources.visitor_pool.close)
        _log.info("process.stopped")


async def _alert(alerting: Alerting) -> None:
    while True:
        await asyncio.sleep(EVERY.total_seconds())
        try:
            await asyncio.to_thread(alerting.look_if_due)
        except AWAY as error:
            _log.debug("postgres.lost", error=str(error))
        except Exception:  # noqa: BLE001 - the next look may go better
            _log.exception("alerts.failed")


async def _beat(pool: AsyncPool) -> None:
    name = timetable.process_name("web")
    try:
        while True:
            # Away, or not migrated yet.
            with contextlib.suppress(psycopg.Error):
                async with pool.connection() as connection:
                    await timetable.beat_async(connection, name, "web")
            await asyncio.sleep(BEAT_EVERY.total_seconds())
    finally:
        with contextlib.suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(1), pool.connection() as connection:
                await timetable.leave_async(connection, name)
