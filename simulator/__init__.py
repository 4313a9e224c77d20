"""A stand-in for Zoho: OAuth, the Items API, webhook deliveries, and everything that can go wrong.

For tests and the demo; never deployed. It shares no code with the mirror, so that a mistake in the
mirror's reading of Zoho is not repeated here.

    zoho = Zoho(Catalogue.generate(1000))
    with serve(zoho) as base_url:
        zoho.deliveries.base_url = "http://127.0.0.1:8000"
        zoho.catalogue.edit(item_id, rate=Decimal("12.50"))
        zoho.deliveries.drain()
"""

from simulator import in_process
from simulator.bodies import BodyFormat
from simulator.catalogue import Catalogue, ItemEvent, NoSuchItem
from simulator.clock import ManualClock
from simulator.deliveries import (
    CHANGED_RULE,
    DELETED_RULE,
    Deliveries,
    Delivery,
    DeliveryFault,
    DeliveryState,
    RetryPolicy,
    Rule,
)
from simulator.faults import Fault
from simulator.identity import (
    CLIENT_ID,
    CLIENT_SECRET,
    ORGANIZATION_ID,
    REFRESH_TOKEN,
    USER_EMAIL,
    WEBHOOK_SECRET,
    Organization,
)
from simulator.items import CustomField, Item
from simulator.life import Editor
from simulator.limits import Limits
from simulator.server import create_app, serve
from simulator.signatures import SIGNATURE_HEADER, SignatureEncoding, sign
from simulator.zoho import Zoho

__all__ = [
    "CHANGED_RULE",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "DELETED_RULE",
    "ORGANIZATION_ID",
    "REFRESH_TOKEN",
    "SIGNATURE_HEADER",
    "USER_EMAIL",
    "WEBHOOK_SECRET",
    "BodyFormat",
    "Catalogue",
    "CustomField",
    "Deliveries",
    "Delivery",
    "DeliveryFault",
    "DeliveryState",
    "Editor",
    "Fault",
    "Item",
    "ItemEvent",
    "Limits",
    "ManualClock",
    "NoSuchItem",
    "Organization",
    "RetryPolicy",
    "Rule",
    "SignatureEncoding",
    "Zoho",
    "create_app",
    "in_process",
    "serve",
    "sign",
]
