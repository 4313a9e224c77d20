"""Which keys of an item go together: what one of them says is void once its owner was written anew without it.

Zoho spells one fact in several keys. A body need not carry all of them, so a key must not outlive what it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

_TWINS: Final = ("_formatted", "_unformatted")
CUSTOM: Final = ("custom_fields", "custom_field_hash")
"""Each lists all custom fields of the item: whoever brings one owns every spelling of them."""

CUSTOM_PREFIX: Final = "cf_"

_OWNERS: Final[Mapping[str, str]] = {
    # Prices that only details carry.
    "sales_rate": "rate",
    "pricebook_rate": "rate",
    "price_brackets": "rate",
    "default_price_brackets": "rate",
    # Details carry one object, list rows its parts.
    **dict.fromkeys(
        ("length", "width", "height", "weight", "weight_unit", "dimension_unit"),
        "package_details",
    ),
    # Organisations with locations have one of the two names (zoho.md, section 4.3).
    "warehouses": "locations",
    "locations": "warehouses",
}


def owners(key: str) -> Iterator[str]:
    """Yield the keys that, where they are newer, make this one void."""
    for twin in _TWINS:
        if key.endswith(twin):
            yield key.removesuffix(twin)
    owner = _OWNERS.get(key)
    if owner is not None:
        yield owner
    if key.startswith(CUSTOM_PREFIX) or key in CUSTOM:
        yield from (custom for custom in CUSTOM if custom != key)
