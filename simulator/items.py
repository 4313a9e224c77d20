"""One catalogue item, as the simulator holds it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypedDict

Status = Literal["active", "inactive"]
ProductType = Literal["goods", "service"]
ItemType = Literal["inventory", "sales", "purchases", "sales_and_purchases"]


@dataclass(frozen=True, slots=True)
class CustomField:
    """One custom field with this item's value; `api_name` begins with `cf_`."""

    customfield_id: str
    api_name: str
    label: str
    data_type: Literal["string", "number", "check_box"]
    value: str | Decimal | bool


@dataclass(frozen=True, slots=True)
class Item:
    """An item at one moment. Immutable, so that the server may render what a test is editing.

    `item_id` is 19 digits, above 2**53. Times are in the organisation's zone, to the second. The
    stock fields mean nothing unless `track_inventory` is set, and stay off the wire.
    """

    item_id: str
    name: str
    created_time: datetime
    last_modified_time: datetime
    sku: str = ""
    description: str = ""
    rate: Decimal = Decimal(0)
    purchase_rate: Decimal = Decimal(0)
    unit: str = "pcs"
    brand: str = ""
    manufacturer: str = ""
    category_id: str = ""
    category_name: str = ""
    vendor_name: str = ""
    ean: str = ""
    status: Status = "active"
    product_type: ProductType = "goods"
    can_be_sold: bool = True
    can_be_purchased: bool = True
    track_inventory: bool = False
    stock_on_hand: Decimal = Decimal(0)
    committed_stock: Decimal = Decimal(0)
    shipped_not_invoiced: Decimal = Decimal(0)
    reorder_level: Decimal | None = None
    is_combo_product: bool = False
    custom_fields: tuple[CustomField, ...] = ()

    @property
    def item_type(self) -> ItemType:
        """Zoho's word for what the item is bought and sold as."""
        if self.track_inventory:
            return "inventory"
        if self.can_be_sold and self.can_be_purchased:
            return "sales_and_purchases"
        return "sales" if self.can_be_sold else "purchases"


class ItemDetails(TypedDict, total=False):
    """What may be said of a new item besides its name."""

    sku: str
    description: str
    rate: Decimal
    purchase_rate: Decimal
    unit: str
    brand: str
    manufacturer: str
    category_id: str
    category_name: str
    vendor_name: str
    ean: str
    status: Status
    product_type: ProductType
    can_be_sold: bool
    can_be_purchased: bool
    track_inventory: bool
    stock_on_hand: Decimal
    committed_stock: Decimal
    shipped_not_invoiced: Decimal
    reorder_level: Decimal | None
    is_combo_product: bool
    custom_fields: tuple[CustomField, ...]


class ItemChanges(ItemDetails, total=False):
    """What an edit may change: everything but the id and the times."""

    name: str
