"""Liveness, readiness and metrics, looked up in threads, away from the webhooks' loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from anyio import move_on_after, to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Health:
    """The routes and what they look at."""

    settings: Settings
    pool: Pool
    publisher: Publisher

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
        postgres, schema = await _within_limit(self._database, (_POSTGRES_AWAY, "unknown"))
        broker = await _within_limit(self._broker, _BROKER_AWAY)
        parts = {"postgres": postgres, "schema": schema, self.publisher.broker_name.lower(): broker}
        is_ready = postgres == schema == _OK
        status = _OK if is_ready and broker == _OK else "degraded" if is_ready else "unavailable"
        return JSONResponse({"status": status, "parts": parts}, 200 if is_ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """Expose the system's state to Prometheus."""
        text = await _within_limit(self._exposition, None)
        if text is None:
            # Half an answer would read as a system at rest.
            return Response("postgres is away, or migrate did not run\n", 503, media_type="text/plain")
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def _exposition(self) -> bytes | None:
        try:
            with self.pool.connection(timeout=_POOL_SECONDS) as connection:
                overview, totals = insights.overview(connection), insights.totals(connection)
        except (*AWAY, psycopg.ProgrammingError):
            return None
        return metrics.exposition(overview, totals, self.settings)

    def _database(self) -> tuple[str, str]:
        try:
            with self.pool.connection(timeout=_POOL_SECONDS) as connection:
                is_current = schema.is_current(connection)
        except AWAY:
            return _POSTGRES_AWAY, "unknown"
        return _OK, _OK if is_current else "not that of this release; run: python -m processors migrate"

    def _broker(self) -> str:
        try:
            self.publisher.queue_sizes()
        except PublishFailed:
            return _BROKER_AWAY
        return _OK


async def _within_limit(look: Callable[[], T], otherwise: T) -> T:
    """Run `look` in a thread, for so long as a check may take."""
    with move_on_after(_SECONDS):
        return await to_thread.run_sync(look, abandon_on_cancel=True)
    return otherwise
