"""The `rejections` table: refused deliveries, counted by the hour, the route and the reason."""

from __future__ import annotations

from collections.abc import Mapping

from processors.store.database import AsyncConnection
from processors.store.queries import Queries

_queries = Queries("rejections.sql")


async def add(connection: AsyncConnection, counts: Mapping[tuple[str, str], int]) -> None:
    """Add counts by route and reason to this hour's."""
    await connection.execute(
        _queries.add,
        {
            "route": [route for route, _ in counts],
            "reason": [reason for _, reason in counts],
            "count": list(counts.values()),
        },
    )
