"""Webhook bodies of 3 KB in Zoho's default format, all different, and the requests that carry them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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


def _template() -> dict[str, Any]:
    organization = simulator.Organization()
    items = simulator.Catalogue.generate(20).all()
    richest = max(items, key=lambda item: len(shapes.webhook_item(item, organization)))
    fields: dict[str, Any] = dict(shapes.webhook_item(richest, organization))
    fields["description"] = "…"
    fields["description"] += "x" * (SIZE - len(body_from(fields, 0, 0)))
    return fields


def body_from(template: dict[str, Any], item: int, version: int) -> bytes:
    """Return what `body` does, from other keys than the usual ones."""
    modified = _FIRST_CHANGE + timedelta(seconds=version)
    # Fixed widths, so that all bodies have one size.
    changed = {
        "item_id": item_id(item),
        "sku": f"BENCH-{item:09d}",
        "rate": f"{10_000_000 + version}.50",
        "last_modified_time": wire.zoho_time(modified),
    }
    return _encode({"item": {**template, **changed}})


_TEMPLATE = _template()


def item_id(item: int) -> str:
    """Return Zoho's number of the item."""
    return str(_FIRST_ITEM_ID + item)


def body(item: int, version: int) -> bytes:
    """Return what Zoho sends of an item as it was `version` seconds after its creation."""
    return body_from(_TEMPLATE, item, version)


def request(content: bytes) -> bytes:
    """Return the signed HTTP request, on a connection that stays open."""
    signature = simulator.sign(simulator.WEBHOOK_SECRET, raw=content)
    head = (
        f"POST {ITEMS_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"{simulator.SIGNATURE_HEADER}: {signature}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
