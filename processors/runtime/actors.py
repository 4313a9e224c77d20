"""The Dramatiq actors: each calls one workflow. What goes wrong is written to the event's row, or left to its lease.

Import this module only after `dramatiq.set_broker`: actors attach themselves to the broker of the process.
"""

from __future__ import annotations

from collections.abc import Callable

import dramatiq

from processors import logs
from processors.messaging import messages
from processors.store.database import AWAY
from processors.workflows import item_events
from processors.workflows.item_events import Workshop

_log = logs.get(__name__)
_workshop: Workshop | None = None


def open_workshop(workshop: Workshop) -> None:
    """Give the actors of this process what they work with; before the worker starts."""
    global _workshop  # noqa: PLW0603 - Dramatiq's actors are module functions: there is one workshop for each process
    _workshop = workshop


@dramatiq.actor(actor_name=messages.APPLY_EVENTS, queue_name=messages.EVENTS_QUEUE)
def apply_events(event_ids: list[int]) -> None:
    """Apply events, those named and others that wait."""
    _work(item_events.apply_events, event_ids)


@dramatiq.actor(actor_name=messages.FETCH_ITEMS, queue_name=messages.FETCHES_QUEUE)
def fetch_items(event_ids: list[int]) -> None:
    """Settle events that only Zoho can."""
    _work(item_events.fetch_items, event_ids)


def _work(workflow: Callable[[Workshop, list[int]], None], event_ids: list[int]) -> None:
    if _workshop is None:
        message = "open_workshop() was not called in this process"
        raise RuntimeError(message)
    try:
        workflow(_workshop, event_ids)
    except AWAY as error:
        # The message has done its duty as a hint; the relay hands the events over again.
        _log.warning("postgres.lost", event_ids=event_ids[:20], count=len(event_ids), error=str(error))
