"""No cell of a CSV is a formula, by whatever sign a spreadsheet divides the file; what is none stays as it is."""

from __future__ import annotations

import csv
import io
import time
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.runtime import procfile
from receiver.console import spreadsheets

SIGNS = "=+-@|%＝＋－＠"
PASSED_OVER = ("", " ", "\t", "\ufeff", "\0", '"', "\u00a0", "\u3000", " \ufeff\0 ")


def read(text: str, delimiter: str) -> list[str]:
    """Return the cells as a program finds them that takes `delimiter` for the end of a cell, and ignores quotes too."""
    honoured = [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) for cell in row]
    return honoured + [cell for line in text.splitlines() for cell in line.split(delimiter)]


def is_formula(cell: str) -> bool:
    cell = cell.lstrip('"').lstrip()
    while cell and (cell[0] in '\0\ufeff"' or cell[0].isspace() or unicodedata.category(cell[0]) in ("Cc", "Cf")):
        cell = cell[1:]
    cell = cell.rstrip('"')
    if not cell or unicodedata.normalize("NFKC", cell)[0] not in "=+-@|%":
        return False
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("sign", SIGNS)
def test_a_formula_is_text_wherever_a_cell_may_begin(sign: str) -> None:
    before = ("", "a;", "a\t", "a\n", "a\r\n", "\t", "\n;")
    values = [f"{first}{passed_over}{sign}cmd|' /C calc'!A0" for first in before for passed_over in PASSED_OVER]
    text = spreadsheets.lines([["41", value, "end"] for value in values])
    for delimiter in (",", ";", "\t"):
        assert [cell for cell in read(text, delimiter) if is_formula(cell)] == []


@given(st.text(st.sampled_from(f"{SIGNS};\t\n\r\0\ufeff \"'a1.")))
def test_no_text_is_a_formula(value: str) -> None:
    text = spreadsheets.lines([["41", value, "end"]])
    for delimiter in (",", ";", "\t"):
        assert [cell for cell in read(text, delimiter) if is_formula(cell)] == []


@pytest.mark.parametrize(
    "value",
    [
        Decimal("-7.25"), -8, 12, Decimal("123456789012345678.90"), "-7.25", "+5", "semi;colon", "a-b",
        "a = b", "50 %", "two\nlines", 'a "quoted", name', "Ünïcödé 製品", "'", "", "x@y.example", "0012",
    ],
)  # fmt: skip
def test_numbers_and_other_texts_stay_as_they_are(value: object) -> None:
    ((cell,),) = csv.reader(io.StringIO(spreadsheets.lines([[value]]), newline=""))
    assert cell == str(value)


def test_times_are_iso_8601() -> None:
    assert spreadsheets.lines([[datetime(2026, 1, 2, tzinfo=UTC), None]]) == "2026-01-02T00:00:00+00:00,\r\n"


@pytest.mark.parametrize("character", ["\t", " ", ";", "=", '"', "\ufeff"])
def test_a_long_text_is_looked_at_once(character: str) -> None:
    """A pattern that looks at each tail anew would take minutes."""
    began = time.process_time()
    spreadsheets.lines([[character * 200_000]])
    assert time.process_time() - began < 2


def test_every_csv_is_written_there() -> None:
    files = [path for part in ("processors", "receiver") for path in (procfile.ROOT / part).rglob("*.py")]
    assert [path.name for path in files if "import csv" in path.read_text("utf-8")] == ["spreadsheets.py"]
