"""Liveness, readiness and metrics. Plain functions: Starlette runs them in threads, away from the webhooks' loop."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from processors.errors import PublishFailed
from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store.database import AWAY, Pool
from processors.workflows import insights
from receiver import metrics

_OK = "ok"
# Health checks have their own deadlines; an answer after it is as bad as none.
_SECONDS = 2.0


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

    def live(self, _request: Request) -> Response:
        """Answer as long as the process can: a restart would not help what `ready` reports."""
        return JSONResponse({"status": _OK})

    def ready(self, _request: Request) -> Response:
        """Tell whether deliveries can be taken, with the state of each part.

        Redis is a part but no condition: without it deliveries are recorded all the same.
        """
        postgres, schema = self._database()
        parts = {"postgres": postgres, "schema": schema, "redis": self._redis()}
        is_ready = postgres == schema == _OK
        status = _OK if is_ready and parts["redis"] == _OK else "degraded" if is_ready else "unavailable"
        return JSONResponse({"status": status, "parts": parts}, 200 if is_ready else 503)

    def metrics(self, _request: Request) -> Response:
        """Expose the system's state to Prometheus."""
        try:
            with self.pool.connection(timeout=_SECONDS) as connection:
                overview = insights.overview(connection)
        except (*AWAY, psycopg.errors.UndefinedTable):
            # Half an answer would read as a system at rest.
            return Response("postgres is away, or migrate did not run\n", 503, media_type="text/plain")
        return Response(metrics.exposition(overview, self.settings), media_type=CONTENT_TYPE_LATEST)

    def _database(self) -> tuple[str, str]:
        try:
            with self.pool.connection(timeout=_SECONDS) as connection:
                is_there = insights.schema_is_there(connection)
        except AWAY:
            return "no answer; deliveries are answered 503 until it is back", "unknown"
        return _OK, _OK if is_there else "missing; run: python -m processors migrate"

    def _redis(self) -> str:
        try:
            self.publisher.queue_sizes()
        except PublishFailed:
            return "no answer; deliveries are recorded, and applied by the relay within seconds"
        return _OK
