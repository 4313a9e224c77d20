"""What the mirror should hold, told without the code under test."""

from __future__ import annotations

import math
from typing import Any

from simulator.items import Item


def product(item: Item) -> dict[str, Any]:
    """Return the columns of an item's row, from the catalogue's own words."""
    stock = item.stock_on_hand if item.track_inventory else None
    return {
        "name": item.name,
        "sku": item.sku or None,
        "description": item.description or None,
        "price": item.rate,
        "stock_on_hand": stock,
        "stock_quantity": None if stock is None else math.floor(stock),
        "available_stock": stock,
        "actual_available_stock": None if stock is None else stock - item.shipped_not_invoiced,
        "is_active": item.status == "active",
        "category_id": item.category_id or None,
        "category_name": item.category_name or None,
        "brand": item.brand or None,
        "unit": item.unit or None,
        # As the simulator gives each item a group of its own (simulator/shapes.py).
        "group_id": str(int(item.item_id) + 3),
        "group_name": item.name,
        "zoho_last_modified_at": item.last_modified_time,
    }
