"""Puts what was measured into docs/performance.md, between markers: the tables, and the plots of how it grows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from tests.benchmarks import report
from tests.benchmarks.report import Subject

# GitHub's charts have no legend: the line below them names the colours.
_COLOURS = {"blue": "#2f6fde", "green": "#2e9e5b", "orange": "#d9822b"}
_PLOTTED = {"µs/item": "Time for each item, µs", "CPU µs/item": "CPU for each item, µs", "MB": "Peak memory, MB"}


class NothingWritten(Exception):
    """There is nothing to write, or no place for it; the text says what to do."""


def write(page: Path, kept: Path) -> list[str]:
    """Renew the parts of the page whose JSON is kept, and return a line for each part on what was done.

    Raises:
        NothingWritten: nothing is kept, or the page lacks a marker.
    """
    parts: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
        "tables": ("latest.json", tables),
        "growth": ("soak.json", growth),
        "inbox": ("inbox.json", large_inbox),
    }
    text, said = page.read_text("utf-8"), []
    for part, (name, made) in parts.items():
        if (kept / name).exists():
            text = between_markers(text, part, made(json.loads((kept / name).read_text("utf-8"))))
            said.append(f"{part}: written from {name}")
        else:
            said.append(f"{part}: left as they are, since there is no {name}")
    if not any((kept / name).exists() for name, _ in parts.values()):
        raise NothingWritten("nothing was measured here yet: run `make bench` or `make bench-soak` first")
    page.write_text(text, "utf-8")
    return said


def between_markers(text: str, part: str, content: str) -> str:
    """Return the text with new content between the two markers of a part.

    Raises:
        NothingWritten: the text does not have each marker once, in their order.
    """
    begin, end = f"<!-- measured: {part} -->", f"<!-- end of {part} -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end or begin in after or end in before + after:
        raise NothingWritten(f"the page needs the lines {begin} and {end}, once each and in this order")
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"


def tables(measured: dict[str, Any]) -> str:
    """Return every table as it was printed, below a line on the machine."""
    subjects = [_as_printed(subject) for subject in _subjects(measured)]
    return f"{_machine(measured)} {measured['rounds']} rounds.\n\n```\n" + "\n\n".join(subjects) + "\n```"


def large_inbox(measured: dict[str, Any]) -> str:
    """Return what is asked of a large inbox, as it was printed, below a line on the machine."""
    subjects = [_as_printed(subject) for subject in _subjects(measured)]
    return f"{_machine(measured)}\n\n```\n" + "\n\n".join(subjects) + "\n```"


def growth(measured: dict[str, Any]) -> str:
    """Return a chart for each quantity that should not grow with the list, and the table that they show."""
    (subject,) = _subjects(measured)
    kinds: dict[str, list[str]] = {}
    for row in subject.rows:
        kinds.setdefault(row.rpartition(", ")[0], []).append(row)
    colours = dict(zip(kinds, _COLOURS, strict=True))
    charts = [_chart(title, column, subject, kinds) for column, title in _PLOTTED.items()]
    legend = ", ".join(f"{kind} in {colour}" for kind, colour in colours.items())
    said = f"{_machine(measured)} Lines: {legend}. Flat is as it should be."
    return "\n\n".join([said, *charts, f"```\n{_as_printed(subject)}\n```"])


def _chart(title: str, column: str, subject: Subject, kinds: Mapping[str, Sequence[str]]) -> str:
    first = next(iter(kinds.values()))
    sizes = ", ".join(f'"{row.rpartition(", ")[2]}"' for row in first)
    lines = [[subject.rows[row][column].value for row in rows] for rows in kinds.values()]
    highest = ceil(max(max(line) for line in lines) * 1.2)
    palette = ", ".join(_COLOURS.values())
    return "\n".join(
        [
            "```mermaid",
            f"%%{{init: {json.dumps({'themeVariables': {'xyChart': {'plotColorPalette': palette}}})}}}%%",
            "xychart-beta",
            f'    title "{title}"',
            f'    x-axis "items in the list" [{sizes}]',
            f"    y-axis 0 --> {highest}",
            *(f"    line [{', '.join(f'{value:.1f}' for value in line)}]" for line in lines),
            "```",
        ]
    )


def _subjects(measured: dict[str, Any]) -> list[Subject]:
    return msgspec.convert(measured["subjects"], list[Subject])


def _machine(measured: dict[str, Any]) -> str:
    day = measured["measured_at"].partition("T")[0]
    return (
        f"{day}: {measured['cores']} cores ({measured['cpu']}, {measured['memory_gib']:g} GiB), Python"
        f" {measured['python']}, Postgres {measured['postgres']}, {measured['redis']}."
    )


def _as_printed(subject: Subject) -> str:
    """Return what is printed of a subject, without the lines that only set rows apart."""
    written = io.StringIO()
    Console(file=written, width=report.WIDTH, color_system=None).print(report.table_of(subject))
    lines = [line.rstrip() for line in written.getvalue().splitlines() if line.strip()]
    notes = ["", *(f"  {note}" for note in subject.notes)] if subject.notes else []
    return "\n".join([subject.title, "", *lines, *notes])
