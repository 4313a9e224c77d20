"""The `product_changes` table as a feed: whoever goes on from the last id it read misses nothing.

An id is given when a change is written and seen when its transaction ends, and these are not in the same order. So a
change behind a gap is told only when nobody can fill the gap any more.
"""

from __future__ import annotations

from datetime import timedelta

from processors.store.database import Connection, only_row
from processors.store.products import ItemChange
from processors.store.queries import Queries

LONGEST_TRANSACTION = timedelta(minutes=10)
"""More than any that writes changes can take: statements and pauses between them are bounded (store/database.py)."""

_queries = Queries("feed.sql")


def changes_after(connection: Connection, after: int, *, most: int) -> list[ItemChange]:
    """Return the changes with ids above `after`, the lowest first, none left out; `after` is 0 at the beginning.

    The connection must be outside of a transaction: each of the two statements has to see what is committed by then.
    """
    extent = only_row(connection.execute(_queries.extent))
    parameters = {"after": after, "last_id": extent["last_id"], "longest": LONGEST_TRANSACTION, "most": most}
    changes: list[ItemChange] = []
    for row in connection.execute(_queries.changes_between, parameters):
        is_old = row.pop("is_old")
        previous = changes[-1].id if changes else after
        if extent["has_writers"] and row["id"] != previous + 1 and not is_old:
            break
        changes.append(ItemChange(**row))
    return changes
