"""Certificates: the number of live products and the sum of what they say, at the end of a run and at any time after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from processors import field_table
from processors.store.database import Connection, Row, only_row
from processors.store.queries import Queries

# All products are read: what a statement may usually take is not enough for a million of them.
_LONGEST_STATEMENT_MS = 300_000
_WORD = 2**64

_queries = Queries("certificates.sql")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the live products were at one moment."""

    items: int
    hash: str
    """32 hexadecimal digits: the sum of the content digests, each half modulo 2^64."""
    certified_at: datetime
    snapshot: str
    """Postgres's own name for that moment."""
    fields_version: str | None = field_table.VERSION
    """Of the field table whose columns it covers; None: it was made before they had versions."""

    @property
    def is_comparable(self) -> bool:
        """Whether this release computes what the one that made it did."""
        return self.fields_version == field_table.VERSION


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What the products were at a certificate's moment, as rows and history tell it now."""

    items: int
    hash: str
    changed_since: int
    """Items that were changed since, whose former content was taken from the history."""
    repaired_since: int
    """Items that something other than the mirror had altered or removed, and that a run repaired since."""
    altered: int
    """Rows that something other than the mirror wrote, and that Zoho has not confirmed since."""
    altered_item_ids: list[str]
    """Some of them."""


def certify(connection: Connection) -> Certificate:
    """Return the certificate of this moment."""
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = {_LONGEST_STATEMENT_MS}")
        row = only_row(connection.execute(_queries.certify))
    return Certificate(row["items"], _hash(row), row["certified_at"], row["snapshot"])


def recompute(connection: Connection, certificate: Certificate) -> Recomputation:
    """Compute a certificate again."""
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = {_LONGEST_STATEMENT_MS}")
        row = only_row(
            connection.execute(
                _queries.recompute, {"certified_at": certificate.certified_at, "snapshot": certificate.snapshot}
            )
        )
        altered = only_row(connection.execute(_queries.altered))
    return Recomputation(
        items=row["items"],
        hash=_hash(row),
        changed_since=row["changed_since"],
        repaired_since=row["repaired_since"],
        altered=altered["count"],
        altered_item_ids=altered["item_ids"] or [],
    )


def _hash(row: Row) -> str:
    return f"{int(row['high']) % _WORD:016x}{int(row['low']) % _WORD:016x}"
