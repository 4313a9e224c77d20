"""The doctor's report: a line for each finding, and an exit code."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from rich.table import Table
from rich.text import Text

from processors.runtime.output import console, counted, echo_json, say
from processors.settings import Settings
from processors.store import database
from processors.workflows import checking
from processors.workflows.checking import Finding, Mark

_CONNECTIONS = 4
_WIDTH_OF_A_MARK = len("warning")
_WIDTH_OF_A_PART = len("processes")
_COLOURS: dict[Mark, str] = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}


def check(settings: Settings, complaints: Sequence[str], *, as_json: bool) -> None:
    """Say what is found, as it is found; exit with 1 if any of it is a problem."""
    open_pool = partial(database.sync_pool, settings.database_url or "", size=_CONNECTIONS, name="cli")
    marks: Counter[Mark] = Counter()
    for finding in checking.check(settings, complaints, open_pool, now=lambda: datetime.now(UTC)):
        marks[finding.mark] += 1
        if as_json:
            echo_json(finding)
        elif sys.stdout.isatty():
            console().print(_row(finding))
        else:
            say(_line(finding))
    if not as_json:
        say(_sum(marks))
    if marks["problem"]:
        sys.exit(1)


def _line(finding: Finding) -> str:
    """Return a finding as a line that can be searched for."""
    do = f" → {finding.do}" if finding.do else ""
    return f"{finding.mark:<{_WIDTH_OF_A_MARK}} {finding.part:<{_WIDTH_OF_A_PART}} {_sentence(finding)}{do}"


def _row(finding: Finding) -> Table:
    """Return a finding as a row whose text wraps within its own column."""
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_column(width=_WIDTH_OF_A_MARK)
    row.add_column(width=_WIDTH_OF_A_PART)
    row.add_column()
    text = Text(_sentence(finding))
    if finding.do:
        text.append(f"\n→ {finding.do}", style="bold" if finding.mark == "problem" else "")
    row.add_row(Text(finding.mark, style=_COLOURS[finding.mark]), finding.part, text)
    return row


def _sentence(finding: Finding) -> str:
    return finding.what[:1].upper() + finding.what[1:]


def _sum(marks: Counter[Mark]) -> str:
    found = [counted(marks[mark], mark) for mark in ("problem", "warning") if marks[mark]]
    return f"{', '.join(found)}." if found else "All is well."
