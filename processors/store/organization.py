"""Whose items the rows are: the organisation that is mirrored here, until the database is empty again."""

from __future__ import annotations

from processors.store import runs
from processors.store.database import Connection, only_row
from processors.store.queries import Queries

_queries = Queries("organization.sql")


def claim(connection: Connection, organization_id: str) -> str:
    """Return the organisation whose items the rows are: this one, unless the rows are another's.

    Where there is nothing of another organisation, it is kept that the rows will be this one's; where that replaces one
    of which nothing was found, all that was begun for it is ended and a full run begins.
    """
    mirrored = _settled(connection, organization_id)
    if mirrored is not None:
        return mirrored
    with connection.transaction():
        # Whoever writes products ends first, or waits until it is settled whose they are.
        connection.execute("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")
        mirrored = _settled(connection, organization_id)
        if mirrored is not None:
            return mirrored
        former: str | None = only_row(connection.execute(_queries.find))["mirrored_organization_id"]
        connection.execute(_queries.keep, {"organization_id": organization_id})
        if former is not None:
            connection.execute(_queries.end_runs, {"organization_id": organization_id})
            connection.execute(_queries.release_fetches)
            runs.open_run(connection, "full", "schedule")
    return organization_id


def owner(connection: Connection) -> str | None:
    """Return the organisation of the rows; None: there are none, or nobody knows whose they are."""
    row = only_row(connection.execute(_queries.find))
    mirrored: str | None = row["mirrored_organization_id"]
    return mirrored if row["has_content"] else None


def _settled(connection: Connection, organization_id: str) -> str | None:
    """Return the organisation of the rows, or None where `organization_id` may become it."""
    row = only_row(connection.execute(_queries.find))
    mirrored: str | None = row["mirrored_organization_id"]
    return mirrored if mirrored == organization_id or (mirrored is not None and row["has_content"]) else None
