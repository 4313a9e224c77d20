"""The item as Zoho writes it: reading JSON without losing a digit, and the fields that this mirror maps.

What real bodies look like was read off captures of 2024 to 2026 (list, detail and webhook): ids are strings of up to
19 digits although the documentation prints numbers, a missing number is `""`, an untracked item has no stock keys,
times carry an offset without a colon and are printed as bare dates in the documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from processors import field_table
from processors.errors import BodyUnreadable
from processors.field_table import Content

Fields = Mapping[str, Any]
"""The top-level keys of one item, as decoded by `read_json`."""

# Postgres refuses a number of many more digits inside jsonb; such a one is kept as text.
_MOST_JSON_DIGITS = 1_000
# What is nested more deeply could be read here and yet be too deep for whoever reads or writes it further down a stack.
_DEEPEST_NESTING = 100
_TOO_DEEP = "the body is nested too deeply to be an item"
_EXPECTED_TIME = "expected a time such as 2026-10-05T21:32:21+0530"
ITEM_ID = "[1-9][0-9]{0,19}"
"""An id as Zoho makes it, as a regular expression: digits, no zero in front, at most 20 (seen: 17 to 19)."""
_ITEM_ID = re.compile(ITEM_ID)
_BEYOND_IDS = 10**20
_BARE_DATE = re.compile(r"\s*\d{4}-\d{2}-\d{2}\s*")


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
    """Return an item's id in its one spelling, or None where `value` is not an id as Zoho writes it.

    Every id that enters passes here, from whichever side: two spellings of one number would be two rows. A JSON integer
    and digits with blanks around them are read; anything else that may mean a number (007, 1.0, 1e3) is refused: Zoho
    did not write it.
    """
    match value:
        case bool():
            return None
        case int():
            # Longer numbers are no ids, and Python refuses to write some of them.
            text = str(value) if 0 < value < _BEYOND_IDS else ""
        case str():
            text = value.strip()
        case _:
            return None
    return text if _ITEM_ID.fullmatch(text) else None


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
    is_listed: bool = False
    """An element of a list, which has other keys than webhooks and details have."""


def read_body(fields: Fields, *, is_listed: bool = False) -> Body:
    """Read the top-level keys of one item."""
    if fields.get("track_inventory") in (False, "false"):
        # Here an absent figure does not leave the stored one alone: there is none, which webhooks write as "".
        fields = {**dict.fromkeys(field_table.STOCK_KEYS, ""), **fields}
    content, notes = field_table.project(fields)
    modified_at = time_of(said := fields.get("last_modified_time"))
    if modified_at is None and said not in (None, ""):
        notes.append(f"last_modified_time: {_EXPECTED_TIME}, got {field_table.shown(said)}; left empty")
    missing = tuple(key for key in field_table.NEEDED if _is_missing(key, fields, modified_at))
    return Body(
        fields=fields,
        content=content,
        modified_at=modified_at,
        is_day_only=is_bare_date(fields.get("last_modified_time")),
        missing=missing,
        notes=tuple(notes),
        is_listed=is_listed,
    )


def is_bare_date(value: object) -> bool:
    """Tell whether a time is only a day, of a zone that is not said."""
    return isinstance(value, str) and _BARE_DATE.fullmatch(value) is not None


def time_of(value: object) -> datetime | None:
    """Return a time as Zoho writes it, to the second, or None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value.strip())
        known = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    # Zoho's resolution: anything finer would turn two spellings of one second into an order.
    return known.replace(microsecond=0) if known.microsecond else known


def content_of(fields: Fields) -> Content:
    """Return the columns that these keys fill; a key that is not there fills nothing."""
    return field_table.project(fields)[0]


def _is_missing(key: str, fields: Fields, modified_at: datetime | None) -> bool:
    match key:
        case "last_modified_time":
            return modified_at is None
        case "name":
            # The one text that may be empty: "" is then the item's name.
            return fields.get("name") != "" and field_table.read_key(fields, "name", []) is None
        case "rate":
            return "rate" not in fields
        case _:
            return field_table.read_key(fields, key, []) is None
