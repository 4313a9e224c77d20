"""Invents believable shop products from a seeded random source."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Final

from simulator.items import CustomField, ItemDetails

_CATEGORY_ID_BASE: Final = 4_100_000_000_000_030_000
_CUSTOM_FIELD_ID_BASE: Final = 4_100_000_000_000_000_900


@dataclass(frozen=True, slots=True)
class _Category:
    products: tuple[str, ...]
    brands: tuple[str, ...]
    units: tuple[str, ...]
    prices: tuple[int, int]


_CATEGORIES: Final[Mapping[str, _Category]] = {
    "Kitchen": _Category(
        ("Cast Iron Skillet", "Chef's Knife", "Mixing Bowl", "Measuring Cup Set", "Cutting Board"),
        ("Hearthline", "Küchenwerk", "Copper & Oak"),
        ("pcs", "set"),
        (6, 140),
    ),
    "Coffee & Tea": _Category(
        ("Espresso Beans", "Darjeeling First Flush", "Pour-over Kettle", "Café Filter Papers"),
        ("Sierra Roast", "Chaï Wallah", "Bluebird"),
        ("kg", "box", "pcs"),
        (3, 90),
    ),
    "Stationery": _Category(
        ("Dotted Notebook", "Fountain Pen", "Gel Refill", "Sticky Notes", "Desk Organiser"),
        ("Inkwell", "Paperfold", ""),
        ("pcs", "box", "dozen"),
        (1, 60),
    ),
    "Lighting": _Category(
        ("LED Bulb E27", "Desk Lamp", "Pendant Shade", "String Lights 10 m", "Motion Night Light"),
        ("Lumio", "Northlight"),
        ("pcs", "m"),
        (2, 180),
    ),
    "Tools": _Category(
        ("Claw Hammer", "Socket Set", "Cordless Drill 18 V", "Tape Measure 5 m", "Wood Screws"),
        ("Ironside", "Ferro", "Bänkö"),
        ("pcs", "set", "box"),
        (2, 260),
    ),
    "Garden": _Category(
        ("Pruning Shears", "Terracotta Pot", "Tomato Seeds", "Hose Connector", "Potting Compost"),
        ("Greenthumb", "Verde"),
        ("pcs", "kg", "pkt"),
        (1, 75),
    ),
    "Textiles": _Category(
        ("Linen Tablecloth", "Cotton Bath Towel", "Wool Throw", "Canvas Tote", "Velvet Cushion"),
        ("Loom & Thread", "Maison Été", "कपास"),
        ("pcs", "m"),
        (5, 220),
    ),
    "Services": _Category(
        ("Gift Wrapping", "Knife Sharpening", "Installation Hour", "Engraving", "Local Courier"),
        ("",),
        ("hrs", "job"),
        (2, 80),
    ),
}
_COLOURS: Final = ("Black", "Ivory", "Forest Green", "Terracotta", "Slate", "Saffron", "Navy", "Rosé")
_SIZES: Final = ("Small", "Medium", "Large", "XL", "Mini", "250 ml", "1 L", "12-pack")
_DESCRIPTIONS: Final = (
    "",
    "",
    "Our best seller. Ships the same day.",
    "Hand-finished; small variations are normal.",
    "Fits standard 60 cm cabinets — see the data sheet.",
    "Naïve glaze, crème interior, 100 % stoneware ☕",
    "Two-year guarantee.\nKeep away from direct sunlight.",
    'Known as "the old one" in the shop; 5" wide & dishwasher-safe <90°C.',
    "रोज़मर्रा के उपयोग के लिए। 日本製の部品を使用。",
    "Limited edition 🎁 while stocks last",
)
_WAREHOUSE_NOTES: Final = ("Aisle 4", "Fragile", "Supplier pack of 6", "Réf. interne 12")


class ProductInventor:
    """Makes up one product after another; the same seed gives the same products."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._serial = 0
        self._skus: deque[str] = deque(maxlen=200)

    def invent(self) -> tuple[str, ItemDetails]:
        """Give a name and details: mostly tidy, sometimes as untidy as real catalogues are."""
        random = self._random
        self._serial += 1
        category_number = random.randrange(len(_CATEGORIES))
        category_name, category = list(_CATEGORIES.items())[category_number]
        is_service = category_name == "Services"
        is_tracked = not is_service and random.random() < 0.75
        product = random.choice(category.products)
        variant = random.choice(_COLOURS if random.random() < 0.5 else _SIZES)
        brand = random.choice(category.brands)
        is_categorised = random.random() > 0.1
        rate = self.price(*category.prices)
        details = ItemDetails(
            sku=self._sku(category_name, product),
            description=random.choice(_DESCRIPTIONS),
            rate=rate,
            purchase_rate=(rate * Decimal("0.6")).quantize(Decimal("0.01")),
            unit=random.choice(category.units),
            brand=brand,
            manufacturer=brand if random.random() < 0.3 else "",
            category_id=str(_CATEGORY_ID_BASE + category_number * 11) if is_categorised else "",
            category_name=category_name if is_categorised else "",
            vendor_name="Molly & Sons" if random.random() < 0.2 else "",
            ean=f"40{random.randrange(10**11):011d}" if random.random() < 0.3 else "",
            status="inactive" if random.random() < 0.06 else "active",
            product_type="service" if is_service else "goods",
            can_be_purchased=not is_service,
            track_inventory=is_tracked,
            is_combo_product=not is_service and random.random() < 0.02,
            custom_fields=self._custom_fields(),
        )
        if is_tracked:
            details["stock_on_hand"] = self.stock()
            details["committed_stock"] = Decimal(random.choice((0, 0, 0, 1, 2, 5)))
            details["shipped_not_invoiced"] = Decimal(random.choice((0, 0, 0, 0, 1)))
            details["reorder_level"] = random.choice((None, Decimal("5.0"), Decimal("12.0")))
        return f"{product} {variant} No. {self._serial}", details

    def price(self, low: int, high: int) -> Decimal:
        """Give a price with none to three decimals, the last of which may be a zero."""
        decimals = self._random.choices((0, 1, 2, 3), weights=(2, 1, 12, 1))[0]
        return Decimal(self._random.randint(low * 10**decimals, high * 10**decimals)).scaleb(-decimals)

    def stock(self) -> Decimal:
        """Give a stock figure: mostly whole, sometimes fractional, now and then below zero."""
        kind = self._random.random()
        if kind < 0.05:
            return Decimal(-self._random.randint(1, 9)).quantize(Decimal("0.1"))
        if kind < 0.15:
            return Decimal(self._random.randint(0, 40_000)).scaleb(-2)
        return Decimal(self._random.randint(0, 500)).quantize(Decimal("0.1"))

    def description(self) -> str:
        """Give one of the descriptions that products carry."""
        return self._random.choice(_DESCRIPTIONS)

    def _sku(self, category: str, product: str) -> str:
        kind = self._random.random()
        if kind < 0.05:
            return ""
        if kind < 0.08 and self._skus:
            return self._random.choice(self._skus)
        initials = "".join(word[0] for word in product.split()).upper()
        sku = f"{category[:3].upper()}-{initials}-{self._serial:05d}"
        self._skus.append(sku)
        return sku

    def _custom_fields(self) -> tuple[CustomField, ...]:
        random = self._random
        first = str(_CUSTOM_FIELD_ID_BASE)
        fields: list[CustomField] = []
        if random.random() < 0.4:
            fields.append(CustomField(first, "cf_colour", "Colour", "string", random.choice(_COLOURS)))
        if random.random() < 0.15:
            weight = Decimal(random.randint(1, 9_999)).scaleb(-2)
            second = str(_CUSTOM_FIELD_ID_BASE + 9)
            fields.append(CustomField(second, "cf_weight_kg", "Weight (kg)", "number", weight))
        if random.random() < 0.1:
            # The API name of "Bemerkung für Lager": Zoho writes "_" for letters outside ASCII.
            third = str(_CUSTOM_FIELD_ID_BASE + 18)
            note = random.choice(_WAREHOUSE_NOTES)
            fields.append(
                CustomField(third, "cf_bemerkung_f_r_lager", "Bemerkung für Lager", "string", note),
            )
        return tuple(fields)
