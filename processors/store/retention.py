"""The `retention` table, which remembers how far the inbox was trimmed, and the trimming itself."""

from __future__ import annotations

from datetime import timedelta

from processors.store.database import Connection, only_row
from processors.store.queries import Queries

_queries = Queries("retention.sql")


def trim_bodies(connection: Connection, *, older_than: timedelta, most: int) -> int:
    """Empty the bodies of at most so many events that finished before; return how many were looked at."""
    row = only_row(connection.execute(_queries.trim_bodies, {"older_than": older_than, "most": most}))
    return int(row["count"])


def trim_events(connection: Connection, *, older_than: timedelta, most: int) -> int:
    """Delete at most so many events that finished before; return how many were looked at."""
    row = only_row(connection.execute(_queries.trim_events, {"older_than": older_than, "most": most}))
    return int(row["count"])
