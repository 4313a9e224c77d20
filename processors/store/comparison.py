"""What Zoho's list says of items, compared with their rows.

First by a digest. `listed_digests` keeps what the list said of an item when its row was last found to agree, and which
version of the row that was: whoever writes the row, by whatever way, makes another version of it. Where both are the
same again, the columns are the same as well, and nothing else is looked at. Whatever the table holds is derived: where
it is empty or out of date, items are compared by their columns, which writes it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from processors.store.database import Connection, Row
from processors.store.products import CONTENT_COLUMNS, Content, Current, current_from_row
from processors.store.queries import Queries

_queries = Queries("comparison.sql")


@dataclass(frozen=True, slots=True)
class Listed:
    """What Zoho's list says of one item, as far as it fills columns."""

    item_id: str
    content: Content
    modified_at: datetime | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Items of which their digest does not tell that they agree with their rows."""

    missing: Mapping[str, Current]
    """They have no row; with what is known of them all the same."""
    unlike: AbstractSet[str]
    """To be compared by their columns."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Which version of a row says what the list says."""

    item_id: str
    revision: int
    row_version: str | None
    """The row's `xmin`; None: the one that this transaction has just written."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing columns: each item is in one of both."""

    agreeing: Mapping[str, Agreement]
    differing: Mapping[str, Current]


def by_digest(connection: Connection, digests: Mapping[str, bytes | None]) -> Unknown:
    """Return those items of which it is not known that they agree; those without a digest are among them."""
    parameters = {"item_id": list(digests), "digest": list(digests.values())}
    rows = connection.execute(_queries.by_digest, parameters).fetchall()
    return Unknown(
        missing={row["item_id"]: Current(None, 0, row["absences"]) for row in rows if not row["has_row"]},
        unlike={row["item_id"] for row in rows if row["has_row"]},
    )


def by_columns(connection: Connection, listed: Sequence[Listed]) -> Comparison:
    """Compare items with their rows, column by column; of those that differ, return what is known."""
    if not listed:
        return Comparison({}, {})
    parameters: Row = {
        "item_id": [each.item_id for each in listed],
        "zoho_last_modified_at": [each.modified_at for each in listed],
    }
    for column in CONTENT_COLUMNS:
        parameters[column] = [getattr(each.content, column) for each in listed]
    rows = connection.execute(_queries.by_columns, parameters).fetchall()
    return Comparison(
        agreeing={
            row["item_id"]: Agreement(row["item_id"], row["revision"], row["row_version"])
            for row in rows
            if row["agrees"]
        },
        differing={row["item_id"]: current_from_row(row) for row in rows if not row["agrees"]},
    )


def keep_digests(connection: Connection, kept: Sequence[tuple[Agreement, bytes]]) -> None:
    """Keep what the list said of items whose rows agree with it."""
    if not kept:
        return
    agreements = [agreement for agreement, _ in kept]
    connection.execute(
        _queries.keep_digests,
        {
            "item_id": [each.item_id for each in agreements],
            "digest": [digest for _, digest in kept],
            "revision": [each.revision for each in agreements],
            "row_version": [each.row_version for each in agreements],
        },
    )
