"""The item as Zoho writes it: reading JSON without losing a digit, and the fields that this mirror maps.

What real bodies look like was read off captures of 2024 to 2026 (list, detail and webhook): ids are strings of up to
19 digits although the documentation prints numbers, a missing number is `""`, an untracked item has no stock keys,
times carry an offset without a colon and are printed as bare dates in the documentation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, cast

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from processors.errors import BodyUnreadable
from processors.store.products import Content

Fields = Mapping[str, Any]
"""The top-level keys of one item, as decoded by `read_json`."""

NEEDED: Final = ("name", "status", "last_modified_time", "rate")
"""Without these a body cannot stand alone: the item is fetched."""

# Beyond these a number is no price and no quantity, and would only cost room: numeric would take 131,072 digits.
_LARGEST_EXPONENT = 18
_SMALLEST_EXPONENT = -12
# Postgres refuses a number of many more digits inside jsonb; such a one is kept as text.
_MOST_JSON_DIGITS = 1_000
# What is nested more deeply could be read here and yet be too deep for whoever reads or writes it further down a stack.
_DEEPEST_NESTING = 100
_TOO_DEEP = "the body is nested too deeply to be an item"
_INT32 = range(-(2**31), 2**31)
_ITEM_ID = re.compile(r"[^\s/?#%\\\x00-\x1f\x7f]{1,64}")
_BARE_DATE = re.compile(r"\s*\d{4}-\d{2}-\d{2}\s*")
# Zoho's formatted twins write thousands with commas, in India 1,23,456.50; "12,50" is no such number.
_GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(,\d{2,3})*,\d{3}(\.\d*)?")


def read_number(text: str) -> Decimal | str:
    """Read a number of JSON without losing a digit; one that is too long to be kept as a number stays text."""
    try:
        value = Decimal(text)
    except ArithmeticError:
        # An exponent beyond what Decimal can hold.
        return text
    is_short = len(text) <= _MOST_JSON_DIGITS and abs(value.adjusted()) <= _MOST_JSON_DIGITS
    return value if is_short else text


_decode: Callable[[bytes | str], Any] = msgspec.json.Decoder(float_hook=read_number).decode


def read_json(text: bytes | str) -> Any:  # noqa: ANN401 - any JSON value
    """Decode JSON: numbers exact (`int` or `Decimal`), no NUL and no lone surrogate left in any string.

    Raises:
        BodyUnreadable: it is not JSON, or nested too deeply.
    """
    try:
        value = _decode(text)
    except RecursionError:
        raise BodyUnreadable(_TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        value = _read_forgivingly(text, error)
    if _has_many_brackets(text) and _is_too_deep(value, _DEEPEST_NESTING):
        raise BodyUnreadable(_TOO_DEEP)
    return _cleaned(value) if _has_escaped_nul(text) else value


def is_plain(text: bytes) -> bool:
    """Tell whether JSON, if it is any, needs no second look at its depth and at what Postgres cannot store."""
    return not (_has_many_brackets(text) or _has_escaped_nul(text))


def _has_many_brackets(text: bytes | str) -> bool:
    counts = (text.count("["), text.count("{")) if isinstance(text, str) else (text.count(b"["), text.count(b"{"))
    return sum(counts) > _DEEPEST_NESTING


def _has_escaped_nul(text: bytes | str) -> bool:
    return "\\u0000" in text if isinstance(text, str) else b"\\u0000" in text


def _is_too_deep(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_too_deep(each, levels - 1) for each in inner)


def _read_forgivingly(text: bytes | str, first_error: Exception) -> Any:  # noqa: ANN401
    """Read what the strict decoder refuses but a person would accept: a byte order mark, half an emoji, NaN."""
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        value = json.loads(plain, parse_float=read_number, parse_constant=lambda _name: None)
        return _cleaned(value)
    except (ValueError, RecursionError):
        message = f"the body is not valid JSON: {first_error}"
        raise BodyUnreadable(message) from None


def _cleaned(value: Any) -> Any:  # noqa: ANN401
    """Replace what Postgres cannot store in text: NUL, and halves of surrogate pairs."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
        case list():
            return [_cleaned(inner) for inner in value]
        case _:
            return value


def item_id_of(value: object) -> str | None:
    """Return an id as text with every digit, or None where `value` is not usable as an id."""
    match value:
        case bool():
            return None
        case int():
            text = str(value)
        case Decimal() if value == value.to_integral_value() and 0 <= value.adjusted() <= _LARGEST_EXPONENT:
            text = str(int(value))
        case str():
            text = value.strip()
        case _:
            return None
    return text if _ITEM_ID.fullmatch(text) else None


def _lenient(read: Callable[[Any], Any]) -> BeforeValidator:
    """Turn an odd value into null and a note: one unimportant field must never cost the row."""

    def validate(value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - whatever Zoho sent
        if value is None or value == "":
            return None
        try:
            return read(value)
        except (ValueError, ArithmeticError) as error:
            cast("list[str]", info.context).append(f"{info.field_name}: {error}; left empty")
            return None

    return BeforeValidator(validate)


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            pass
        case int() | Decimal():
            return str(value)
    message = f"expected text, got {_shown(value)}"
    raise ValueError(message)


def _decimal(value: object) -> Decimal:
    match value:
        case bool():
            number = None
        case int() | Decimal():
            number = Decimal(value)
        case str():
            # A template may use a formatted twin.
            text = value.strip()
            number = _parsed(text.replace(",", "") if _GROUPED_NUMBER.fullmatch(text) else text)
        case _:
            number = None
    if number is None or not number.is_finite():
        message = f"expected a number, got {_shown(value)}"
        raise ValueError(message)
    if number.adjusted() > _LARGEST_EXPONENT or int(number.as_tuple().exponent) < _SMALLEST_EXPONENT:
        message = f"{_shown(value)} is out of range"
        raise ValueError(message)
    return number


def _parsed(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except ArithmeticError:
        return None


def _time(value: object) -> datetime:
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
            aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
            known = aware.astimezone(UTC)
            # Zoho's resolution: anything finer would turn two spellings of one second into an order.
            return known.replace(microsecond=0) if known.microsecond else known
        except (ValueError, OverflowError):
            pass
    message = f"expected a time such as 2026-10-05T21:32:21+0530, got {_shown(value)}"
    raise ValueError(message)


def _shown(value: object) -> str:
    match value:
        case dict() | list():
            text = f"a {type(value).__name__}"
        case Decimal():
            text = str(value)
        case _:
            text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004 - the length of a readable line


Text = Annotated[str | None, _lenient(_text)]
Number = Annotated[Decimal | None, _lenient(_decimal)]
Time = Annotated[datetime | None, _lenient(_time)]


class Item(BaseModel):
    """The mapped fields of one body. It refuses nothing: an odd value becomes null, with a note in the context."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Text = None
    sku: Text = None
    description: Text = None
    rate: Number = None
    stock_on_hand: Number = None
    status: Text = None
    category_id: Text = None
    category_name: Text = None
    brand: Text = None
    unit: Text = None
    last_modified_time: Time = None


COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name",),
    "sku": ("sku",),
    "description": ("description",),
    "rate": ("price",),
    "stock_on_hand": ("stock_on_hand", "stock_quantity"),
    "status": ("is_active",),
    "category_id": ("category_id",),
    "category_name": ("category_name",),
    "brand": ("brand",),
    "unit": ("unit",),
}
"""The mapped keys, and which columns of `products.Content` each fills."""

EXPECTED: Final = (*(key for key in COLUMNS if key != "stock_on_hand"), "last_modified_time")
"""Keys that the default payload has for every item. Stock is told of tracked items only."""


@dataclass(frozen=True, slots=True)
class Body:
    """What one body says of one item."""

    fields: Fields
    content: Content
    modified_at: datetime | None
    is_day_only: bool
    """The time is a bare date: it cannot order two changes of one day."""
    missing: tuple[str, ...]
    """Those of `NEEDED` that it does not carry, or carries unusably."""
    notes: tuple[str, ...]


def read_body(fields: Fields) -> Body:
    """Read the top-level keys of one item."""
    if fields.get("track_inventory") in (False, "false") and "stock_on_hand" not in fields:
        # Here an absent figure does not leave the stored one alone: there is none, which webhooks write as "".
        fields = {**fields, "stock_on_hand": ""}
    content, item, notes = _content(fields)
    missing = tuple(key for key in NEEDED if _is_missing(key, fields, item))
    return Body(
        fields=fields,
        content=content,
        modified_at=item.last_modified_time,
        is_day_only=is_bare_date(fields.get("last_modified_time")),
        missing=missing,
        notes=tuple(notes),
    )


def is_bare_date(value: object) -> bool:
    """Tell whether a time is only a day, of a zone that is not said."""
    return isinstance(value, str) and _BARE_DATE.fullmatch(value) is not None


def time_of(value: object) -> datetime | None:
    """Return a time as Zoho writes it, to the second, or None where it is none."""
    try:
        return _time(value)
    except ValueError:
        return None


def content_of(fields: Fields) -> Content:
    """Return the columns that these keys fill; a key that is not there fills nothing."""
    return _content(fields)[0]


def _is_missing(key: str, fields: Fields, item: Item) -> bool:
    match key:
        case "name":
            # The one text that may be empty: "" is then the item's name.
            return fields.get("name") != "" and item.name is None
        case "rate":
            return "rate" not in fields
        case _:
            return getattr(item, key) is None


def _content(fields: Fields) -> tuple[Content, Item, list[str]]:
    notes: list[str] = []
    item = Item.model_validate(fields, context=notes)
    stock_quantity = None if item.stock_on_hand is None else math.floor(item.stock_on_hand)
    if stock_quantity is not None and stock_quantity not in _INT32:
        notes.append(f"stock_on_hand: {stock_quantity} does not fit stock_quantity; left empty")
        stock_quantity = None
    content = Content(
        name=item.name or "",
        sku=item.sku,
        description=item.description,
        price=item.rate,
        stock_quantity=stock_quantity,
        stock_on_hand=item.stock_on_hand,
        is_active=item.status == "active",
        category_id=item.category_id,
        category_name=item.category_name,
        brand=item.brand,
        unit=item.unit,
    )
    return content, item, notes
