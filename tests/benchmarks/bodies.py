"""Webhook bodies of 3 KB in Zoho's default format, all different, and the requests that carry them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

import simulator
from simulator import shapes, wire

ITEMS_PATH: Final = "/webhooks/zoho/items"
CONTENT_TYPE: Final = "application/json;charset=UTF-8"
SIZE: Final = 3_072

_FIRST_ITEM_ID = 4_100_000_000_000_100_000
_FIRST_CHANGE = datetime(2026, 1, 1, tzinfo=UTC)

_encode = msgspec.json.Encoder(decimal_format="number").encode


def item_id(item: int) -> str:
    """Return Zoho's number of the item."""
    return str(_FIRST_ITEM_ID + item)


def rate(version: int) -> Decimal:
    """Return the item's price in that version: no two have the same."""
    return Decimal(f"{1_000_000 + version}.50")


def _body(template: dict[str, Any], item: int, version: int) -> bytes:
    # Of fixed widths, so that all bodies have one size.
    changed = {
        "item_id": item_id(item),
        "sku": f"BENCH-{item:09d}",
        "rate": rate(version),
        "last_modified_time": wire.zoho_time(_FIRST_CHANGE + timedelta(seconds=version)),
    }
    return _encode({"item": {**template, **changed}})


def _template() -> dict[str, Any]:
    organization = simulator.Organization()
    shown: list[dict[str, Any]] = [
        dict(shapes.webhook_item(item, organization)) for item in simulator.Catalogue.generate(20).all()
    ]
    richest = max(shown, key=len)
    fields: dict[str, Any] = {**richest, "description": ""}
    fields["description"] = "x" * (SIZE - len(_body(fields, 0, 0)))
    return fields


_TEMPLATE = _template()


def body(item: int, version: int) -> bytes:
    """Return what Zoho sends of an item as it was `version` seconds after its creation."""
    return _body(_TEMPLATE, item, version)


def request(content: bytes) -> bytes:
    """Return the signed HTTP request, on a connection that stays open."""
    signature = simulator.sign(simulator.WEBHOOK_SECRET, raw=content)
    head = (
        f"POST {ITEMS_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"{simulator.SIGNATURE_HEADER}: {signature}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
