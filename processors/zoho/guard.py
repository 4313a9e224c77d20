"""What keeps Zoho from being asked at all, whatever is asked: found before each call, in one place for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from processors.settings import Settings
from processors.store import organization
from processors.store.database import Connection
from processors.store.zoho_connection import Stored
from processors.zoho import hosts

LOOKED_AGAIN_AFTER = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no call is made, and what to do about it."""

    cause: Literal["other_organisation", "unknown_host"]
    reason: str


def organization_id(settings: Settings, stored: Stored) -> str | None:
    """Return the organisation that calls are to name; None: none is chosen."""
    return settings.zoho_organization_id or stored.organization_id


def find(settings: Settings, stored: Stored) -> Obstacle | None:
    """Return what keeps Zoho from being asked; None: nothing does."""
    reason = hosts.unknown_host(settings, stored)
    if reason is not None:
        return Obstacle("unknown_host", reason)
    named, mirrored = organization_id(settings, stored), stored.mirrored_organization_id
    if None not in (named, mirrored) and named != mirrored:
        return Obstacle("other_organisation", other_organisation(str(named), str(mirrored)))
    return None


def find_now(connection: Connection, settings: Settings, stored: Stored) -> Obstacle | None:
    """Return what keeps Zoho from being asked; where there are no rows, they may become any organisation's."""
    return find(settings, replace(stored, mirrored_organization_id=organization.owner(connection)))


def other_organisation(named: str, mirrored: str) -> str:
    """Say that one organisation is named where the rows are another's."""
    return (
        f"organisation {named} is named, but the products here are those of organisation {mirrored}: nothing is asked "
        f"of Zoho. Set ZOHO_ORGANIZATION_ID={mirrored} again, and the mirror goes on where it was. To mirror "
        f"{named}, use an empty database of its own (docs/operations.md, Another organisation)"
    )
