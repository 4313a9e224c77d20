"""Tables as CSV, of which no spreadsheet takes a text for a formula; every CSV of the product is written here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

# What a spreadsheet may take for the end of a cell, whatever the file says: many read `;` where they should read `,`.
_END: Final = ";\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
# What it may pass over before it looks whether a cell is a formula.
_PASSED_OVER: Final = '\\x00-\\x08\\x0e-\\x1b\\x1f\\x7f"\u00a0\u1680\u2000-\u200f\u202f\u205f\u2060\u3000\ufeff '
# `|` and `%` begin what some take for a call of another program; the others are the same signs in other widths.
_SIGNS: Final = "=+\\-@|%＝＋－＠｜％﹢﹣﹦﹫﹪⁺⁻⁼₊₋₌"
_FORMULA: Final = re.compile(rf"((?:\A|[{_END}])[{_PASSED_OVER}]*)(?=[{_SIGNS}])")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")


def lines(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of CSV: numbers as they are, times in ISO 8601, texts without formulas."""
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    text = _FORMULA.sub(r"\1'", value)
    # Leading ends of cells are left out by some, who then read what follows as one cell.
    return f"'{text}" if text.startswith(("\t", "\r", "\n")) else text
