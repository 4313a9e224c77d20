"""What Zoho's list says of items, compared with their rows.

`listed_digests` keeps a digest of what the list said of an item when its row was last found to agree, or written so,
and which version of the row that was: whoever writes the row, by whatever way, makes another version of it. Where both
are the same again, the row is not looked at. Whatever the table holds is derived: where it is empty or out of date,
rows are read and compared, which writes it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from processors.store.database import Connection
from processors.store.products import Current, current_from_row
from processors.store.queries import Queries

_queries = Queries("comparison.sql")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of an item that its digest does not tell of."""

    current: Current
    row_version: str | None
    """The row's `xmin`; None where there is no row."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The version of a row that says what the list says."""

    item_id: str
    digest: bytes
    revision: int
    row_version: str
    """The row's `xmin`."""


def find_unknown(connection: Connection, digests: Mapping[str, bytes | None]) -> dict[str, Found]:
    """Return what is known of all items but those that are known to agree; an item without a digest never is."""
    parameters = {"item_id": list(digests), "digest": list(digests.values())}
    # Planned each time: a plan that was made while the tables were empty, as after a crash, reads them whole.
    rows = connection.execute(_queries.find_unknown, parameters, prepare=False).fetchall()
    return {row["item_id"]: Found(current_from_row(row), row["row_version"]) for row in rows}


def keep(connection: Connection, agreements: Sequence[Agreement]) -> None:
    """Keep that these agree."""
    if agreements:
        names = [field.name for field in fields(Agreement)]
        connection.execute(_queries.keep, {name: [getattr(each, name) for each in agreements] for name in names})
