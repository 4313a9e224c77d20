"""How one item looks on the wire: in a list, alone, and in a webhook. Pure functions.

The three differ as captured bodies differ: a list element flattens custom fields and packages, the
detail nests them and adds stock figures, and a webhook body is the detail with display twins, empty
strings for numbers that do not apply, and its keys in an order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final
from zlib import crc32

from simulator.identity import Organization
from simulator.items import CustomField, Item
from simulator.wire import Json, zoho_time

_SALES_ACCOUNT_ID: Final = "4100000000000000486"
_COST_ACCOUNT_ID: Final = "4100000000000000567"
_MONEY_KEYS: Final = frozenset({"rate", "purchase_rate", "sales_rate", "pricebook_rate", "asset_value"})
_STOCK_KEYS: Final = (
    "stock_on_hand",
    "available_stock",
    "actual_available_stock",
    "committed_stock",
    "actual_committed_stock",
    "available_for_sale_stock",
    "actual_available_for_sale_stock",
    "initial_stock",
    "asset_value",
    "reorder_level",
)


def list_element(item: Item) -> dict[str, Json]:
    """Render an element of `GET /items`. Stock keys exist only where stock is tracked."""
    element: dict[str, Json] = {
        **_group(item),
        "item_id": item.item_id,
        "name": item.name,
        "item_name": item.name,
        **_catalogue_fields(item),
        "has_attachment": False,
        "image_document_id": "",
        **_times(item),
        "length": "",
        "width": "",
        "height": "",
        "weight": "",
        "weight_unit": "kg",
        "dimension_unit": "cm",
        "tags": [],
    }
    if item.track_inventory:
        element |= _accounting_stock(item)
    for field in item.custom_fields:
        element[field.api_name] = _display(field)
        element[f"{field.api_name}_unformatted"] = field.value
    return element


def detail(item: Item) -> dict[str, Json]:
    """Render the `item` of `GET /items/{id}`, also an element of `GET /itemdetails`."""
    shape: dict[str, Json] = {
        **_group(item),
        "item_id": item.item_id,
        "name": item.name,
        **_catalogue_fields(item),
        "unit_id": "4100000000000044300" if item.unit else "",
        "pricebook_rate": item.rate,
        "sales_rate": item.rate,
        "price_brackets": [],
        "default_price_brackets": [],
        **_times(item),
        "package_details": {
            "length": "",
            "width": "",
            "height": "",
            "weight": "",
            "weight_unit": "kg",
            "dimension_unit": "cm",
        },
        "item_tax_preferences": [],
        "custom_fields": [_custom_field(index, field) for index, field in enumerate(item.custom_fields, 1)],
        "custom_field_hash": _custom_field_hash(item),
        "tags": [],
    }
    if item.is_combo_product:
        shape["combo_type"] = "assembly"
    if item.track_inventory:
        shape |= _accounting_stock(item) | _stock_details(item)
    return shape


def webhook_item(item: Item, organization: Organization) -> dict[str, Json]:
    """Render what the default payload holds under `item`.

    The same item always gives the same text: two rules that notice one edit send identical bodies.
    """
    shape = detail(item)
    for key in _STOCK_KEYS:
        shape.setdefault(key, "")
    for key, value in list(shape.items()):
        if isinstance(value, Decimal):
            symbol = organization.currency_symbol if key in _MONEY_KEYS else ""
            shape[f"{key}_formatted"] = f"{symbol}{value:,.2f}"
        elif key in _STOCK_KEYS:
            shape[f"{key}_formatted"] = ""
    shape["created_time_formatted"] = _readable_time(item.created_time)
    shape["last_modified_time_formatted"] = _readable_time(item.last_modified_time)
    shape["status_formatted"] = item.status.capitalize()
    shape["item_type_formatted"] = item.item_type.replace("_", " ").capitalize()
    shape["product_type_formatted"] = item.product_type.capitalize()
    for field in item.custom_fields:
        shape[field.api_name] = _display(field)
        shape[f"{field.api_name}_formatted"] = _display(field)
        shape[f"{field.api_name}_unformatted"] = field.value
    return _scrambled(shape)


def deleted_item(item: Item) -> dict[str, Json]:
    """Render what a deleted rule's payload holds under `item`: the id and nothing more."""
    return {"item_id": item.item_id}


def _group(item: Item) -> dict[str, Json]:
    # Newer accounts give even an ungrouped item a group of its own.
    return {"group_id": f"{int(item.item_id) + 3}", "group_name": item.name}


def _catalogue_fields(item: Item) -> dict[str, Json]:
    return {
        "category_id": item.category_id,
        "category_name": item.category_name,
        "unit": item.unit,
        "status": item.status,
        "source": "user",
        "is_combo_product": item.is_combo_product,
        "is_linked_with_zohocrm": False,
        "zcrm_product_id": "",
        "description": item.description,
        "brand": item.brand,
        "manufacturer": item.manufacturer,
        "rate": item.rate,
        "tax_id": "",
        "tax_name": "",
        "tax_percentage": 0,
        "purchase_account_id": _COST_ACCOUNT_ID if item.can_be_purchased else "",
        "purchase_account_name": "Cost of Goods Sold" if item.can_be_purchased else "",
        "account_id": _SALES_ACCOUNT_ID if item.can_be_sold else "",
        "account_name": "Sales" if item.can_be_sold else "",
        "purchase_description": "",
        "purchase_rate": item.purchase_rate,
        "can_be_sold": item.can_be_sold,
        "can_be_purchased": item.can_be_purchased,
        "track_inventory": item.track_inventory,
        "item_type": item.item_type,
        "product_type": item.product_type,
        "is_returnable": item.product_type == "goods",
        "attribute_id1": "",
        "attribute_name1": "",
        "sku": item.sku,
        "upc": "",
        "ean": item.ean,
        "isbn": "",
        "part_number": "",
        "image_name": "",
        "image_type": "",
        "vendor_name": item.vendor_name,
    }


def _times(item: Item) -> dict[str, Json]:
    return {
        "created_time": zoho_time(item.created_time),
        "last_modified_time": zoho_time(item.last_modified_time),
    }


def _accounting_stock(item: Item) -> dict[str, Json]:
    return {
        "stock_on_hand": item.stock_on_hand,
        "available_stock": item.stock_on_hand,
        "actual_available_stock": item.stock_on_hand - item.shipped_not_invoiced,
        "reorder_level": "" if item.reorder_level is None else item.reorder_level,
    }


def _stock_details(item: Item) -> dict[str, Json]:
    still_to_ship = max(item.committed_stock - item.shipped_not_invoiced, Decimal(0))
    physical = item.stock_on_hand - item.shipped_not_invoiced
    return {
        "committed_stock": item.committed_stock,
        "actual_committed_stock": still_to_ship,
        "available_for_sale_stock": item.stock_on_hand - item.committed_stock,
        "actual_available_for_sale_stock": physical - still_to_ship,
        "initial_stock": "",
        "asset_value": "",
    }


def _custom_field(index: int, field: CustomField) -> dict[str, Json]:
    return {
        "customfield_id": field.customfield_id,
        "api_name": field.api_name,
        "label": field.label,
        "data_type": field.data_type,
        "value": field.value,
        "value_formatted": _display(field),
        "is_active": True,
        "index": index,
    }


def _custom_field_hash(item: Item) -> dict[str, Json]:
    values: dict[str, Json] = {}
    for field in item.custom_fields:
        values[field.api_name] = _display(field)
        values[f"{field.api_name}_unformatted"] = field.value
    return values


def _display(field: CustomField) -> str:
    if isinstance(field.value, Decimal):
        return f"{field.value:f}"
    return str(field.value)


def _readable_time(moment: datetime) -> str:
    return moment.strftime("%d %b %Y %I:%M %p")


def _scrambled(shape: Mapping[str, Json]) -> dict[str, Json]:
    return {key: shape[key] for key in sorted(shape, key=lambda key: crc32(key.encode()))}
