"""Which keys of an item go together: what one of them says is void once its owner was written anew without it.

Zoho spells one fact in several keys. A body need not carry all of them, so a key must not outlive what it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

_TWINS: Final = ("_formatted", "_unformatted")
CUSTOM: Final = ("custom_fields", "custom_field_hash")
"""Each lists all custom fields of the item: whoever brings one owns every spelling of them."""

CUSTOM_PREFIX: Final = "cf_"

_OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    # Prices that only details carry.
    **dict.fromkeys(("sales_rate", "pricebook_rate", "price_brackets", "default_price_brackets"), ("rate",)),
    # Figures that are computed from the stock or divide it up. A list row with newer stock has none of them.
    **dict.fromkeys(
        (
            "committed_stock",
            "actual_committed_stock",
            "available_for_sale",
            "available_for_sale_stock",
            "actual_available_for_sale_stock",
            "asset_value",
        ),
        ("stock_on_hand",),
    ),
    # There are none where stock is not tracked; webhooks write "" then.
    **dict.fromkeys(("initial_stock", "reorder_level"), ("track_inventory",)),
    # Organisations with locations have one of the two names (zoho.md, section 4.3).
    "locations": ("warehouses", "stock_on_hand"),
    "warehouses": ("locations", "stock_on_hand"),
    # Details carry one object, list rows its parts.
    **dict.fromkeys(
        ("length", "width", "height", "weight", "weight_unit", "dimension_unit"),
        ("package_details",),
    ),
    **dict.fromkeys(CUSTOM, CUSTOM),
    # The name of what another key gives the id of, and what describes it.
    "unit_id": ("unit",),
    "account_name": ("account_id",),
    "purchase_account_name": ("purchase_account_id",),
    "inventory_account_name": ("inventory_account_id",),
    "tax_name": ("tax_id",),
    "tax_percentage": ("tax_id",),
    "image_type": ("image_name",),
    "image_id": ("image_name",),
    "image_document_id": ("image_name",),
}


@lru_cache(4096)
def owners(key: str) -> tuple[str, ...]:
    """Return the keys that, where they are newer, make this one void: of a twin, also what its plain key belongs to."""
    twin = next((twin for twin in _TWINS if key.endswith(twin)), "")
    plain = key.removesuffix(twin)
    belongs_to = CUSTOM if plain.startswith(CUSTOM_PREFIX) else _OWNERS.get(plain, ())
    return (plain, *belongs_to) if twin else belongs_to
