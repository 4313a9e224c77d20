"""From a verified delivery to a committed row, many at a time, and then to Redis, off the answer's path.

Deliveries that wait at the same moment share one commit: the first is taken, and with it others that are there; no
timer, so that a lone delivery waits for nobody. Each answer still comes after the commit that holds its row. The ids
committed together are published together; the answer does not wait for that, and where it fails the relay finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from processors import logs
from processors.errors import PublishFailed
from processors.messaging.messages import Publisher
from processors.store import inbox
from processors.store.database import AWAY, AsyncPool
from processors.store.inbox import Delivery, Recorded

# Not all that may wait at a moment: while Postgres commits these, the answers of the last ones are written and the next
# are read. Where all that wait are in one batch, as senders in step are, web and Postgres wait for each other by turns.
_BATCH = 32
# More than this many waiting deliveries cannot be answered in time anyway; Zoho is told to come back.
_CAPACITY = 2_000
_COMMIT_SECONDS = 4.0
# After Postgres failed, deliveries are refused at once for so long, instead of each waiting for a time-out.
_AWAY_SECONDS = 1.0
_IDS_PER_MESSAGE = 200
# Below the relay's grace, which would publish them again.
_MARK_AFTER_SECONDS = 0.5
_MARKED_AT_ONCE = 10_000

T = TypeVar("T")

_log = logs.get(__name__)


class InboxUnavailable(Exception):
    """The delivery could not be committed; it may be sent again."""


@dataclass(slots=True)
class _Waiting:
    delivery: Delivery
    answer: asyncio.Future[Recorded]


class Intake:
    """Records deliveries for all requests of this process."""

    def __init__(self, pool: AsyncPool, publisher: Publisher) -> None:
        """Take an open or opening pool; `start` begins the work."""
        self._pool = pool
        self._publisher = publisher
        self._waiting: asyncio.Queue[_Waiting | None] = asyncio.Queue(_CAPACITY)
        self._to_publish: asyncio.Queue[int | None] = asyncio.Queue()
        self._published: asyncio.Queue[int | None] = asyncio.Queue()
        self._away_until = 0.0
        self._unpublished = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._given_up: set[asyncio.Task[list[Recorded]]] = set()

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._tasks = [
            asyncio.create_task(self._record_batches(), name="intake-record"),
            asyncio.create_task(self._publish_batches(), name="intake-publish"),
            asyncio.create_task(self._mark_batches(), name="intake-mark"),
        ]

    async def close(self) -> None:
        """Finish what waits; call it when no more requests come."""
        await self._waiting.put(None)
        await self._tasks[0]
        await self._to_publish.put(None)
        await self._tasks[1]
        await self._published.put(None)
        await self._tasks[2]

    async def record(self, delivery: Delivery) -> Recorded:
        """Return once the delivery is committed.

        Raises:
            InboxUnavailable: it is not known to be; Postgres is away or too slow.
        """
        waiting = _Waiting(delivery, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(waiting)
        except asyncio.QueueFull:
            message = f"{_CAPACITY} deliveries are waiting already"
            raise InboxUnavailable(message) from None
        return await waiting.answer

    async def _record_batches(self) -> None:
        is_open = True
        while is_open:
            batch = await _take(self._waiting, _BATCH)
            if batch[-1] is None:
                is_open = False
            deliveries = [waiting for waiting in batch if waiting is not None]
            if deliveries:
                await self._record_batch(deliveries)

    async def _record_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            recorded = await self._commit([waiting.delivery for waiting in batch])
        except InboxUnavailable as error:
            _refuse(batch, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one delivery is not to stop the process
            if len(batch) == 1:
                _log.exception("delivery.not_recorded")
                _refuse(batch, error)
                return
            # One of them cannot be stored; the others must not pay for it.
            for waiting in batch:
                await self._record_batch([waiting])
            return
        for waiting, result in zip(batch, recorded, strict=True):
            # The client may have gone; its delivery stays.
            if not waiting.answer.done():
                waiting.answer.set_result(result)
            if result.state == "recorded":
                self._to_publish.put_nowait(result.event_id)

    async def _commit(self, deliveries: Sequence[Delivery]) -> list[Recorded]:
        now = asyncio.get_running_loop().time
        if now() < self._away_until:
            message = "Postgres failed a moment ago"
            raise InboxUnavailable(message)
        try:
            return await self._in_time(self._insert_stubbornly(deliveries))
        except (*AWAY, TimeoutError) as error:
            self._away_until = now() + _AWAY_SECONDS
            _log.warning("postgres.lost", deliveries=len(deliveries), error=str(error) or type(error).__name__)
            message = "Postgres is away"
            raise InboxUnavailable(message) from error

    async def _in_time(self, insertion: Coroutine[None, None, list[Recorded]]) -> list[Recorded]:
        task = asyncio.ensure_future(insertion)
        done, _ = await asyncio.wait({task}, timeout=_COMMIT_SECONDS)
        if done:
            return task.result()
        # Not waited for, as asyncio.timeout would: psycopg first asks the server to stop, and one that hangs
        # takes 10 s not to answer that either. Should the rows be committed after all, the relay finds them.
        task.cancel()
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard)
        raise TimeoutError

    async def _insert_stubbornly(self, deliveries: Sequence[Delivery]) -> list[Recorded]:
        # Each connection that was idle while Postgres restarted fails once. Recording is safe to repeat.
        for _connection in range(self._pool.max_size):
            try:
                return await self._insert(deliveries)
            except PoolTimeout:
                # Nobody could connect for a while: not worth as long again.
                raise
            except psycopg.OperationalError as error:
                _log.debug("connection.lost", error=str(error))
        return await self._insert(deliveries)

    async def _insert(self, deliveries: Sequence[Delivery]) -> list[Recorded]:
        async with self._pool.connection() as connection:
            return await inbox.record(connection, deliveries)

    async def _publish_batches(self) -> None:
        is_open = True
        while is_open:
            batch = await _take(self._to_publish, _IDS_PER_MESSAGE)
            if batch[-1] is None:
                is_open = False
            event_ids = [event_id for event_id in batch if event_id is not None]
            if event_ids:
                await self._publish(event_ids)

    async def _publish(self, event_ids: list[int]) -> None:
        try:
            await asyncio.to_thread(self._publisher.publish_events, event_ids)
        except PublishFailed as error:
            # Said once; how many there were, when it is over.
            if not self._unpublished:
                _log.warning("events.not_published", count=len(event_ids), error=str(error))
            self._unpublished += len(event_ids)
        except Exception:  # noqa: BLE001 - nothing that happens here may stop the publishing of others
            # Their rows are committed: the relay hands them over whatever happened here.
            _log.exception("events.not_published", count=len(event_ids))
        else:
            if self._unpublished:
                _log.info("events.published_again", left_to_the_relay=self._unpublished)
                self._unpublished = 0
            for event_id in event_ids:
                self._published.put_nowait(event_id)

    async def _mark_batches(self) -> None:
        is_open = True
        while is_open:
            batch = await _take(self._published, _MARKED_AT_ONCE)
            is_open = batch[-1] is not None
            # Marking locks the rows, and a worker passes over a locked row: marked at once, an event would often miss
            # the worker that its message woke. Half a second later most are finished, and nothing is left to mark.
            await asyncio.sleep(_MARK_AFTER_SECONDS)
            event_ids = [event_id for event_id in batch if event_id is not None]
            try:
                async with self._pool.connection() as connection:
                    await inbox.mark_queued(connection, event_ids)
            except psycopg.Error as error:
                _log.warning("postgres.lost", count=len(event_ids), error=str(error))


def _refuse(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(InboxUnavailable(str(error)))


async def _take(queue: asyncio.Queue[T | None], most: int) -> list[T | None]:
    """Wait for one entry and take whatever else is there; None, the end, comes last."""
    batch = [await queue.get()]
    while len(batch) < most and batch[-1] is not None and not queue.empty():
        batch.append(queue.get_nowait())
    return batch
