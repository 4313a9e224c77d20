"""The shape watch: what deliveries look like, by a sample that costs a delivery next to nothing.

Of each route one delivery a second is kept for a moment, and read beside the event loop. A mapped key that is in no
delivery any more, because somebody changed the template in Zoho's form, is so noticed before its column is outdated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import psycopg

from processors import field_table, logs
from processors.errors import BodyUnreadable
from processors.store import shapes
from processors.store.database import AWAY, AsyncPool
from processors.store.inbox import Kind
from processors.store.shapes import Shape
from processors.zoho import payloads

_SAMPLE_SECONDS = 1.0
_EVERY_SECONDS = 2.0
# While Postgres is away no more is kept than that.
_MOST_SHAPES = 100
_DERIVED = ("_formatted", "_unformatted")

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """A verified delivery that holds an item."""

    route: Kind
    signature: Literal["hex", "base64"]
    secret: int
    body: bytes
    content_type: str
    query_string: bytes


class Shapes:
    """The samples of this process that are not in Postgres yet."""

    def __init__(self, pool: AsyncPool) -> None:
        """Take the pool to write with."""
        self._pool = pool
        self._next: dict[Kind, float] = {"changed": 0.0, "deleted": 0.0}
        self._samples: list[Sample] = []
        self._counts: Counter[Shape] = Counter()

    def wants(self, route: Kind) -> bool:
        """Tell whether it is time for a sample of a route."""
        return monotonic() >= self._next[route]

    def keep(self, sample: Sample) -> None:
        """Keep a sample until it is read."""
        self._next[sample.route] = monotonic() + _SAMPLE_SECONDS
        self._samples.append(sample)

    async def run(self) -> None:
        """Read and write every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Read the samples, and count their shapes in Postgres; until they are there the counts are kept."""
        samples, self._samples = self._samples, []
        if samples:
            self._counts.update(await asyncio.to_thread(_shapes_of, samples))
        if not self._counts:
            return
        counts = Counter(dict(self._counts.most_common(_MOST_SHAPES)))
        try:
            async with self._pool.connection() as connection:
                await shapes.add(connection, counts)
        except AWAY as error:
            _log.debug("postgres.lost", error=str(error))
        except psycopg.Error as error:
            # Before the first migrate there is no such table.
            _log.warning("shapes.not_written", error=str(error))
        else:
            self._counts -= counts


def _shapes_of(samples: list[Sample]) -> list[Shape]:
    found = []
    for sample in samples:
        try:
            found.append(shape_of(sample))
        except BodyUnreadable:
            # Nothing that was sampled: it was read before it was recorded.
            _log.warning("shapes.not_read", route=sample.route)
    return found


def shape_of(sample: Sample) -> Shape:
    """Return what a delivery looks like; custom fields and display twins differ from item to item and do not count.

    Raises:
        BodyUnreadable: it holds no item.
    """
    _, fields = payloads.read_item(sample.body, sample.content_type, sample.query_string)
    keys = [key[:100] for key in fields if not key.startswith("cf_") and not key.endswith(_DERIVED)]
    return Shape(
        route=sample.route,
        signature=sample.signature,
        secret=sample.secret,
        form=payloads.form_of(sample.body, sample.content_type),
        envelope=payloads.envelope_of(sample.body, sample.content_type, sample.query_string),
        keys=tuple(sorted(keys)[:300]),
        missing=tuple(key for key in field_table.EXPECTED if key not in fields) if sample.route == "changed" else (),
    )
