"""The field table: what of Zoho's item fills which column of `products`, and how it is read.

Everything that has to know the mapped keys is derived from `Content`: the columns that SQL statements name
(`processors.store.queries`), what the reader of list pages decodes, which keys a body needs, the digest of list rows,
the certificate. To add a column, add a row here, a migration, and the column in `schema.sql` (docs/how-to-add.md).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, Any, Final, Literal, get_type_hints

SqlType = Literal["text", "numeric", "integer", "boolean"]

_READING: Final = 1
"""Count this up when a key is read in another way: rows are then projected anew from their `raw`."""

# Beyond these a number is no price and no quantity, and would only cost room: numeric would take 131,072 digits.
LARGEST_EXPONENT = 18
# More come from binary fractions (21.630000000000003), not from a person: they are rounded away.
_MOST_DECIMALS = 12
_ROUNDING = Context(prec=LARGEST_EXPONENT + _MOST_DECIMALS + 2, rounding=ROUND_HALF_EVEN)
_INT32 = range(-(2**31), 2**31)
# Zoho's formatted twins write thousands with commas, in India 1,23,456.50; "12,50" is no such number.
_GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(,\d{2,3})*,\d{3}(\.\d*)?")


class Unfit(ValueError):
    """A value that does not fit its column."""


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            pass
        case int() | Decimal():
            return str(value)
    message = f"expected text, got {shown(value)}"
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
        message = f"expected a number, got {shown(value)}"
        raise ValueError(message)
    if number.adjusted() > LARGEST_EXPONENT:
        message = f"{shown(value)} is out of range"
        raise ValueError(message)
    return number if int(number.as_tuple().exponent) >= -_MOST_DECIMALS else _rounded(number)


def _rounded(number: Decimal) -> Decimal:
    """Take away what a binary fraction leaves behind: 21.630000000000003 is 21.63."""
    rounded = number.quantize(Decimal(1).scaleb(-_MOST_DECIMALS), context=_ROUNDING)
    plain = rounded.normalize(_ROUNDING)
    return plain if int(plain.as_tuple().exponent) <= 0 else plain.quantize(Decimal(1), context=_ROUNDING)


def _parsed(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except ArithmeticError:
        return None


def _whole_units(number: Decimal | None) -> int | None:
    """Round down to whole units.

    Raises:
        Unfit: it is larger than an integer of Postgres.
    """
    if number is None:
        return None
    floored = math.floor(number)
    if floored not in _INT32:
        message = f"{floored} does not fit a column of whole units"
        raise Unfit(message)
    return floored


def _as_it_is(value: Any) -> Any:  # noqa: ANN401 - whatever was read
    return value


def _or_empty(text: str | None) -> str:
    return text or ""


def _is_active(status: str | None) -> bool:
    return status == "active"


def shown(value: object) -> str:
    """Return a value as an error shows it: short, and no more than its type where it has parts."""
    match value:
        case dict() | list():
            text = f"a {type(value).__name__}"
        case Decimal():
            text = str(value)
        case _:
            text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004 - the length of a readable line


@dataclass(frozen=True, slots=True)
class From:
    """One row of the table: where a column of `Content` comes from."""

    key: str
    """Zoho's name for it, in every body."""
    read: Callable[[Any], Any]
    """From what a body holds to a value; raises `ValueError` or `ArithmeticError` where that is too odd."""
    sql: SqlType
    fill: Callable[[Any], Any] = _as_it_is
    """From that value, None where there is none, to the column."""
    is_needed: bool = False
    """A body without it cannot stand alone: the item is fetched."""
    is_stock: bool = False
    """A figure of stock: Zoho tells of it only where it tracks the item's stock."""
    is_expected: bool = True
    """The default payload is known to have it for every item."""


@dataclass(frozen=True, slots=True)
class Content:
    """The columns that Zoho fills: the field table."""

    name: Annotated[str, From("name", _text, "text", _or_empty, is_needed=True)]
    sku: Annotated[str | None, From("sku", _text, "text")]
    description: Annotated[str | None, From("description", _text, "text")]
    price: Annotated[Decimal | None, From("rate", _decimal, "numeric", is_needed=True)]
    stock_quantity: Annotated[int | None, From("stock_on_hand", _decimal, "integer", _whole_units, is_stock=True)]
    stock_on_hand: Annotated[Decimal | None, From("stock_on_hand", _decimal, "numeric", is_stock=True)]
    available_stock: Annotated[Decimal | None, From("available_stock", _decimal, "numeric", is_stock=True)]
    actual_available_stock: Annotated[
        Decimal | None, From("actual_available_stock", _decimal, "numeric", is_stock=True)
    ]
    is_active: Annotated[bool, From("status", _text, "boolean", _is_active, is_needed=True)]
    category_id: Annotated[str | None, From("category_id", _text, "text")]
    category_name: Annotated[str | None, From("category_name", _text, "text")]
    brand: Annotated[str | None, From("brand", _text, "text")]
    unit: Annotated[str | None, From("unit", _text, "text")]
    group_id: Annotated[str | None, From("group_id", _text, "text", is_expected=False)]
    group_name: Annotated[str | None, From("group_name", _text, "text", is_expected=False)]


def _table() -> dict[str, From]:
    hints = get_type_hints(Content, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(Content)}


BY_COLUMN: Final[Mapping[str, From]] = _table()

COLUMNS: Final = tuple(BY_COLUMN)

MAPPED: Final[Mapping[str, tuple[str, ...]]] = {
    source.key: tuple(column for column, other in BY_COLUMN.items() if other.key == source.key)
    for source in BY_COLUMN.values()
}
"""The mapped keys, and which columns each fills."""

_BY_KEY: Final = {source.key: source for source in BY_COLUMN.values()}

NEEDED: Final = (*(key for key, source in _BY_KEY.items() if source.is_needed), "last_modified_time")
"""Without these a body cannot stand alone: the item is fetched."""

EXPECTED: Final = (
    *(key for key, source in _BY_KEY.items() if source.is_expected and not source.is_stock),
    "last_modified_time",
)
"""Keys that the default payload has for every item, tracked or not."""

STOCK_KEYS: Final = tuple(key for key, source in _BY_KEY.items() if source.is_stock)

STOCK_COLUMNS: Final = frozenset(column for column, source in BY_COLUMN.items() if source.is_stock)


def _version() -> str:
    rows = [
        (column, source.key, source.sql, source.read.__name__, source.fill.__name__)
        for column, source in BY_COLUMN.items()
    ]
    return hashlib.blake2b(repr((_READING, rows)).encode(), digest_size=4).hexdigest()


VERSION: Final = _version()
"""Of the table: rows and certificates name the version that they were made by."""


def read_key(body: Mapping[str, Any], key: str, notes: list[str]) -> Any:  # noqa: ANN401 - of the key's own type
    """Return the value of one mapped key; None where it is absent, empty, or too odd, which is noted."""
    value = body.get(key)
    if value is None or value == "":
        return None
    try:
        return _BY_KEY[key].read(value)
    except (ValueError, ArithmeticError) as error:
        notes.append(f"{key}: {error}; left empty")
        return None


def project(body: Mapping[str, Any]) -> tuple[Content, list[str]]:
    """Return the columns that the keys of a body fill, and what was too odd to fill one."""
    notes: list[str] = []
    return Content(**_values(body, MAPPED, notes)), notes


def project_anew(stored: Content, raw: Mapping[str, Any]) -> Content:
    """Return the columns that `raw` fills; one whose key it lacks stays as it is stored."""
    return replace(stored, **_values(raw, [key for key in MAPPED if key in raw], []))


def _values(body: Mapping[str, Any], keys: Iterable[str], notes: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in keys:
        value = read_key(body, key, notes)
        for column in MAPPED[key]:
            try:
                values[column] = BY_COLUMN[column].fill(value)
            except Unfit as error:
                notes.append(f"{key}: {error}; left empty")
                values[column] = None
    return values
