"""The `delivery_shapes` table: what deliveries look like, and which mapped keys are in them no more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from processors.store.database import AsyncConnection, Connection, encode_json
from processors.store.queries import Queries

KEPT = timedelta(days=90)
MOST_OF_A_ROUTE = 200

_queries = Queries("shapes.sql")


@dataclass(frozen=True, slots=True)
class Shape:
    """What deliveries have in common whose items have the same keys."""

    route: str
    signature: Literal["hex", "base64"]
    secret: int
    """Which of ZOHO_WEBHOOK_SECRETS fits: 1 is the newest."""
    form: str
    envelope: str
    """The key around the item; "" if there is none."""
    keys: tuple[str, ...]
    """Of the item, in alphabetical order."""
    missing: tuple[str, ...]
    """Mapped keys that are not among them."""

    @property
    def fingerprint(self) -> bytes:
        """What it is recognised by."""
        parts = [self.route, self.signature, self.secret, self.form, self.envelope, *self.keys]
        return hashlib.blake2b(encode_json(parts), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class SeenShape:
    """A shape, and when it was seen."""

    shape: Shape
    first_seen_at: datetime
    last_seen_at: datetime
    looked_at: int
    """How many deliveries of it were looked at; most are not."""


@dataclass(frozen=True, slots=True)
class LostKey:
    """A mapped key that was in deliveries, and is in none since new shapes came that lack it."""

    route: str
    key: str
    last_seen_at: datetime
    looked_at: int
    """How many deliveries without it were looked at since."""


async def add(connection: AsyncConnection, counts: Mapping[Shape, int]) -> None:
    """Count deliveries by their shape."""
    shapes = list(counts)
    await connection.execute(
        _queries.add,
        {
            "route": [shape.route for shape in shapes],
            "fingerprint": [shape.fingerprint for shape in shapes],
            "signature": [shape.signature for shape in shapes],
            "secret": [shape.secret for shape in shapes],
            "form": [shape.form for shape in shapes],
            "envelope": [shape.envelope for shape in shapes],
            "keys": [encode_json(list(shape.keys)).decode() for shape in shapes],
            "missing": [encode_json(list(shape.missing)).decode() for shape in shapes],
            "looked_at": list(counts.values()),
        },
    )


def listed(connection: Connection) -> list[SeenShape]:
    """Return all shapes, the one that was seen last first."""
    found = []
    for row in connection.execute(_queries.listed):
        shape = Shape(
            route=row["route"],
            signature=row["signature"],
            secret=row["secret"],
            form=row["form"],
            envelope=row["envelope"],
            keys=tuple(row["keys"]),
            missing=tuple(row["missing"]),
        )
        found.append(SeenShape(shape, row["first_seen_at"], row["last_seen_at"], row["looked_at"]))
    return found


def lost_keys(connection: Connection, mapped: Sequence[str], *, least: int) -> list[LostKey]:
    """Return those of the `mapped` keys that `least` deliveries or more came without, though all could have it."""
    rows = connection.execute(_queries.lost_keys, {"mapped": list(mapped), "least": least})
    return [LostKey(**row) for row in rows]


def accept(connection: Connection) -> int:
    """Take the newest shapes for what they should be, and return how many older ones are forgotten."""
    return connection.execute(_queries.accept).rowcount


def trim(connection: Connection) -> None:
    """Forget what was not seen for long."""
    connection.execute(_queries.trim, {"older_than": KEPT, "most": MOST_OF_A_ROUTE})
