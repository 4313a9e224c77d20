"""Counts refused deliveries in memory and adds the counts to Postgres now and then: unsigned input costs nothing."""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg

from processors import logs
from processors.store import rejections
from processors.store.database import AWAY, AsyncPool

_EVERY_SECONDS = 2.0

_log = logs.get(__name__)


class Rejections:
    """The counts of this process that are not in Postgres yet."""

    def __init__(self, pool: AsyncPool) -> None:
        """Take the pool to write with."""
        self._pool = pool
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, route: str, reason: str) -> None:
        """Add one; both come from small closed sets."""
        self._counts[route, reason] += 1

    async def run(self) -> None:
        """Write the counts every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Add what was counted since to Postgres; until they are there the counts are kept."""
        if not self._counts:
            return
        counts = Counter(self._counts)
        try:
            async with self._pool.connection() as connection:
                await rejections.add(connection, counts)
        except AWAY as error:
            _log.warning("postgres.lost", error=str(error))
        except psycopg.Error as error:
            # Before the first migrate there is no such table.
            _log.warning("rejections.not_written", error=str(error))
        else:
            self._counts -= counts
