"""Zoho's text formats: JSON with exact decimal numbers, and times without a colon in the offset."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

Json: TypeAlias = "str | int | bool | Decimal | Sequence[Json] | Mapping[str, Json] | None"

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}")
_MARKED_DECIMAL = re.compile(r'"\\u0000(-?\d+(?:\.\d+)?)"')


def dumps(value: Json) -> str:
    """Render JSON in which a Decimal keeps its digits: `Decimal("360.00")` is written `360.00`.

    The C encoder cannot write a number it is handed as text, and a float would lose the digits. So
    decimals pass through it as strings marked with a NUL, and lose mark and quotes afterwards.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_marked)
    return _MARKED_DECIMAL.sub(r"\1", text)


def _marked(value: object) -> str:
    if isinstance(value, Decimal):
        return f"\x00{value:f}"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def zoho_time(moment: datetime) -> str:
    """Render an aware time as `2026-10-05T21:32:21+0530`."""
    return moment.strftime(_TIME_FORMAT)


def parse_zoho_time(text: str) -> datetime:
    """Read a time written as Zoho writes it.

    Raises:
        ValueError: anything else, such as an offset with a colon, or a `+` that arrived as a space
            because the caller did not encode it.
    """
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not of the form yyyy-MM-ddTHH:mm:ssZ")
    return datetime.strptime(text, _TIME_FORMAT)  # noqa: DTZ007 -- the format has %z
