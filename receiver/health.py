"""Liveness, readiness and metrics, looked up in threads, away from the webhooks' loop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

import psycopg
from anyio import CapacityLimiter, move_on_after, to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from processors.errors import PublishFailed
from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store import schema
from processors.store.database import AWAY, Pool
from processors.workflows import insights
from receiver import metrics

_OK = "ok"
_POSTGRES_AWAY = "no answer; deliveries are answered 503 until it is back"
_BROKER_AWAY = "no answer; deliveries are recorded, and applied by the relay within seconds"
_POOL_SECONDS = 2.0
# Health checks have deadlines of their own: an answer after those is as bad as none. A thread that hangs longer is left
# behind; there are never more of them than connections in the pool.
_SECONDS = 4.0
# Prometheus asks every 15 s or more rarely; whoever asks more often gets the same text again.
_METRICS_KEPT_SECONDS = 5.0

T = TypeVar("T")


class _Shared(Generic[T]):
    """A look into Postgres or the broker, in a thread of its own, that all share who ask while it is under way."""

    def __init__(self, look: Callable[[], T], *, otherwise: T) -> None:
        """Give `otherwise` where the look takes longer than a check may."""
        self._look = look
        self._otherwise = otherwise
        self._thread = CapacityLimiter(1)
        self._under_way: asyncio.Task[T] | None = None
        self._kept = otherwise
        self._kept_at = 0.0

    async def __call__(self, *, kept_seconds: float = 0.0) -> T:
        """Return what the look found, or one found that lately."""
        if self._kept is not self._otherwise and monotonic() - self._kept_at < kept_seconds:
            return self._kept
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._look_in_time())
        return await asyncio.shield(self._under_way)

    async def _look_in_time(self) -> T:
        found = self._otherwise
        with move_on_after(_SECONDS):
            found = await to_thread.run_sync(self._look, abandon_on_cancel=True, limiter=self._thread)
        self._kept, self._kept_at = found, monotonic()
        return found


class Health:
    """The routes and what they look at."""

    def __init__(self, settings: Settings, health_pool: Pool, monitor_pool: Pool, publisher: Publisher) -> None:
        """Take a pool that nothing else uses, for readiness, and the one of monitors."""
        self._settings = settings
        self._health_pool = health_pool
        self._monitor_pool = monitor_pool
        self._publisher = publisher
        self._look_at_database = _Shared(self._database, otherwise=(_POSTGRES_AWAY, "unknown"))
        self._look_at_broker = _Shared(self._broker, otherwise=_BROKER_AWAY)
        self._expose = _Shared(self._exposition, otherwise=None)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/metrics", self.metrics),
        ]

    async def live(self, _request: Request) -> Response:
        """Answer as long as the process can: a restart would not help what `ready` reports."""
        return JSONResponse({"status": _OK})

    async def ready(self, _request: Request) -> Response:
        """Tell whether deliveries can be taken, with the state of each part.

        The broker is a part but no condition: without it deliveries are recorded all the same.
        """
        (postgres, schema), broker = await asyncio.gather(self._look_at_database(), self._look_at_broker())
        parts = {"postgres": postgres, "schema": schema, self._publisher.broker_name.lower(): broker}
        is_ready = postgres == schema == _OK
        status = _OK if is_ready and broker == _OK else "degraded" if is_ready else "unavailable"
        return JSONResponse({"status": status, "parts": parts}, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Expose the system's state to Prometheus, as it was some seconds ago at most."""
        if not self._may_scrape(request):
            text = "Send the token of METRICS_TOKEN: Authorization: Bearer …\n"
            return PlainTextResponse(text, 401, headers={"WWW-Authenticate": 'Bearer realm="zoho-mirror metrics"'})
        exposed = await self._expose(kept_seconds=_METRICS_KEPT_SECONDS)
        if exposed is None:
            # Half an answer would read as a system at rest.
            return Response("postgres is away, or migrate did not run\n", 503, media_type="text/plain")
        return Response(exposed, media_type=CONTENT_TYPE_LATEST)

    def _may_scrape(self, request: Request) -> bool:
        if self._settings.metrics_token is None:
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        expected = self._settings.metrics_token.get_secret_value()
        return secrets.compare_digest(token.strip(" ").encode(), expected.encode()) and scheme.lower() == "bearer"

    def _exposition(self) -> bytes | None:
        try:
            with self._monitor_pool.connection(timeout=_POOL_SECONDS) as connection:
                overview, totals = insights.overview(connection), insights.totals(connection)
        except (*AWAY, psycopg.ProgrammingError):
            return None
        return metrics.exposition(overview, totals, self._settings)

    def _database(self) -> tuple[str, str]:
        try:
            with self._health_pool.connection(timeout=_POOL_SECONDS) as connection:
                is_current = schema.is_current(connection)
        except AWAY:
            return _POSTGRES_AWAY, "unknown"
        return _OK, _OK if is_current else "not that of this release; run: python -m processors migrate"

    def _broker(self) -> str:
        try:
            self._publisher.queue_sizes()
        except PublishFailed:
            return _BROKER_AWAY
        return _OK
