"""The Dramatiq actors: each calls one workflow. What goes wrong is written to the event's row, or left to its lease.

Import this module only after `dramatiq.set_broker`: actors attach themselves to the broker of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import dramatiq

from processors import logs
from processors.messaging import messages
from processors.store.database import AWAY
from processors.workflows import item_events
from processors.workflows.item_events import Workshop
from processors.workflows.reconciliation import Reconciler

_CONNECTIONS_THAT_MAY_FAIL = 3
_AT_ONCE_SECONDS = 0.5

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Tools:
    """What the actors of a process work with."""

    workshop: Workshop
    reconciler: Reconciler


_tools: Tools | None = None


def provide(tools: Tools) -> None:
    """Give the actors of this process what they work with; before the worker starts."""
    global _tools  # noqa: PLW0603 - Dramatiq's actors are module functions: there is one set of tools for each process
    _tools = tools


@dramatiq.actor(actor_name=messages.APPLY_EVENTS, queue_name=messages.EVENTS_QUEUE)
def apply_events(event_ids: list[int]) -> None:
    """Apply events, those named and others that wait."""
    try:
        _stubbornly(partial(item_events.apply_events, _given().workshop, event_ids))
    except AWAY as error:
        _note_absence(error, event_ids)


@dramatiq.actor(actor_name=messages.FETCH_ITEMS, queue_name=messages.FETCHES_QUEUE)
def fetch_items(event_ids: list[int]) -> None:
    """Settle events that only Zoho can."""
    try:
        _stubbornly(partial(item_events.fetch_items, _given().workshop, event_ids))
    except AWAY as error:
        _note_absence(error, event_ids)


@dramatiq.actor(actor_name=messages.RECONCILE, queue_name=messages.RUNS_QUEUE)
def reconcile(run_id: int) -> None:
    """Work on a reconciliation run."""
    try:
        _stubbornly(partial(_given().reconciler.work, run_id))
    except AWAY as error:
        _log.warning("postgres.lost", run_id=run_id, error=str(error))


def _given() -> Tools:
    if _tools is None:
        message = "provide() was not called in this process"
        raise RuntimeError(message)
    return _tools


def _stubbornly(work: Callable[[], None]) -> None:
    """Work, again where Postgres turns out to have been away: each connection that was idle meanwhile fails once.

    Raises:
        psycopg.OperationalError: it is away now; the caller gives up, and the relay goes on.
    """
    for _connection in range(_CONNECTIONS_THAT_MAY_FAIL):
        started = perf_counter()
        try:
            return work()
        except AWAY as error:
            if perf_counter() - started > _AT_ONCE_SECONDS:
                raise
            _log.debug("connection.lost", error=str(error))
    return work()


def _note_absence(error: Exception, event_ids: list[int]) -> None:
    # The message has done its duty as a hint; the relay hands the events over again.
    _log.warning("postgres.lost", event_ids=event_ids[:20], count=len(event_ids), error=str(error))
