"""How far the rows of `products` have been projected by this release's field table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from processors import field_table
from processors.store.database import Connection
from processors.store.queries import Queries

# Processes of the former release, which know nothing of this version, are gone by then.
_SECOND_PASS_AFTER = timedelta(minutes=15)
_LATER_PASSES_AFTER = timedelta(days=1)

_queries = Queries("projection.sql")


@dataclass(frozen=True, slots=True)
class Portion:
    """Some rows of a pass, in the order of their ids."""

    last_id: str
    outdated: list[str]
    """Those that another version of the field table projected."""


def next_portion(connection: Connection, *, most: int) -> Portion | None:
    """Return the next rows of the pass that is due, or None: none is, or it has just ended."""
    asked = {"version": field_table.VERSION, "second_pass": _SECOND_PASS_AFTER, "later_passes": _LATER_PASSES_AFTER}
    due = connection.execute(_queries.begin_pass, asked).fetchone()
    if due is None:
        return None
    asked = {"version": field_table.VERSION, "after_item": due["position"], "most": most}
    row = connection.execute(_queries.next_portion, asked).fetchone()
    if row is None or row["last_id"] is None:
        connection.execute(_queries.end_pass, {"version": field_table.VERSION})
        return None
    return Portion(row["last_id"], row["outdated"] or [])


def note_progress(connection: Connection, last_id: str) -> None:
    """Note that a pass of this version has come as far as this row."""
    connection.execute(_queries.note_progress, {"version": field_table.VERSION, "up_to_item": last_id})
