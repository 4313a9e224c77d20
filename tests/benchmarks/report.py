"""What a subject came to: a table for people, and the same for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 104


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its spread over the rounds."""

    value: float
    least: float
    most: float
    rounds: Sequence[float]

    def __str__(self) -> str:
        """Two lines: the value, and from where to where it went."""
        if len(self.rounds) == 1:
            return _written(self.value)
        return f"{_written(self.value)}\n{_written(self.least)}–{_written(self.most)}"


@dataclass(slots=True)
class Subject:
    """One table; a cell that does not apply is absent."""

    title: str
    columns: Sequence[str]
    notes: Sequence[str] = ()
    rows: dict[str, dict[str, Figure]] = field(default_factory=dict)

    def add(self, row: str, *cells: Figure | None) -> None:
        """Add a row whose cells come in the order of the columns."""
        given = zip(self.columns, cells, strict=True)
        self.rows[row] = {column: cell for column, cell in given if cell is not None}


def over_rounds(rounds: Sequence[float]) -> Figure:
    """Return the median with its spread."""
    return Figure(median(rounds), min(rounds), max(rounds), rounds)


def ratio(rounds: Sequence[float], floors: Sequence[float]) -> Figure:
    """Return the median of the ratios within each round: both sides then met the same weather."""
    return over_rounds([value / floor for value, floor in zip(rounds, floors, strict=True)])


def percentile(rounds: Sequence[Sequence[float]], share: float) -> Figure:
    """Return a percentile of all samples together, and the spread of that of each round."""
    each = [_percentile(samples, share) for samples in rounds]
    return Figure(_percentile([sample for samples in rounds for sample in samples], share), min(each), max(each), each)


def _percentile(samples: Sequence[float], share: float) -> float:
    return sorted(samples)[max(0, ceil(len(samples) * share) - 1)]


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.995 or value == int(value) else f"{value:.2f}"


def table_of(subject: Subject) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for column in subject.columns:
        table.add_column(column, justify="right")
    for name, cells in subject.rows.items():
        table.add_row(name, *(str(cells[column]) if column in cells else "" for column in subject.columns))
    return table


def show(console: Console, subject: Subject) -> None:
    """Print the subject's table."""
    console.print(subject.title, style="bold", highlight=False)
    console.print(table_of(subject))
    for note in subject.notes:
        console.print(f"  {note}", highlight=False)
    console.print()


def as_json(subject: Subject) -> dict[str, Any]:
    """Return everything that the table shows, and the value of each round."""
    return asdict(subject)
