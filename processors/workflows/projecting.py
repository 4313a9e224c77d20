"""Projects rows anew that another version of the field table projected: from what Zoho said of them, without a call.

A column that a release adds is filled so. It is no drift and no alteration: the history says `release`. Webhooks and
runs do the same to each row that they meet (`processors.store.products.current_from_row`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from time import perf_counter

import psycopg

from processors import logs
from processors.store import projection, settlement
from processors.store.database import Connection, Pool
from processors.store.settlement import ItemDecision

EVERY = timedelta(seconds=5)

_MOST = 500
# Of each slot: other jobs of the clock wait meanwhile.
_LONGEST_SECONDS = 1.5

_log = logs.get(__name__)


def project_rows(pool: Pool) -> int:
    """Go on with the pass that is due, for a moment, and return how many rows were projected anew.

    Raises:
        psycopg.OperationalError: Postgres is away; the next slot goes on after the last portion.
    """
    started, projected = perf_counter(), 0
    with pool.connection() as connection:
        while perf_counter() - started < _LONGEST_SECONDS:
            portion = projection.next_portion(connection, most=_MOST)
            if portion is None:
                break
            known = settlement.read_current(connection, portion.outdated)
            decisions = [ItemDecision(item_id, current) for item_id, current in known.items() if current.stored]
            # A row that somebody else writes meanwhile is projected by that write.
            projected += _settle(connection, decisions)
            projection.note_progress(connection, portion.last_id)
    if projected:
        _log.info("products.projected", count=projected)
    return projected


def _settle(connection: Connection, decisions: Sequence[ItemDecision]) -> int:
    if not decisions:
        return 0
    try:
        return len(settlement.settle(connection, decisions))
    except psycopg.DataError as error:
        if len(decisions) > 1:
            return sum(_settle(connection, [decision]) for decision in decisions)
        # It stays as it is, and stops no other; Zoho's next word is written as any other body.
        _log.error("product.not_projected", item_id=decisions[0].item_id, error=str(error))
        return 0
