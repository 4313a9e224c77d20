"""Whose delivery it is: one that names another organisation than the connected one changes nothing here."""

from __future__ import annotations

import contextlib

from processors.errors import BodyUnreadable, OtherOrganisation
from processors.store import organization, zoho_connection
from processors.store.database import Connection
from processors.zoho import payloads


def doubt(connection: Connection, named: str | None) -> str | None:
    """Return why no delivery can be believed: the settings name another organisation than the one of the rows.

    Most deliveries do not say whose they are. They wait, until the settings are right again and Zoho can be asked.
    """
    mirrored = organization.owner(connection) if named is not None else None
    if mirrored is None or mirrored == named:
        return None
    return f"the settings name organisation {named}, and the products are those of organisation {mirrored}"


def require_connected(connection: Connection, body: bytes, content_type: str, query_string: bytes) -> None:
    """Compare the organisation that a delivery names, if it names one, with the connected one, if that is known.

    Zoho's default payload names none, and costs no query.

    Raises:
        OtherOrganisation: they differ.
    """
    named: set[str] = set()
    with contextlib.suppress(BodyUnreadable):
        named = payloads.organisations_of(body, content_type, query_string)
    if not named:
        return
    connected = zoho_connection.organization_id(connection)
    others = sorted(named - {connected})
    if connected is not None and others:
        message = (
            f"the delivery names organisation {', '.join(others[:3])}, but this mirror is of organisation {connected}; "
            f"in organisation {others[0]}, take this address out of Settings > Automation > Webhooks"
        )
        raise OtherOrganisation(message)
