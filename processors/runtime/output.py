"""What the commands share: a database or a clear word, and output for people or in JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import click
import psycopg
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from processors import redaction
from processors.errors import MirrorError
from processors.settings import Settings
from processors.store import database
from processors.store.audit import Requester
from processors.store.database import AWAY, NOT_MIGRATED, Pool
from processors.store.products import Changes

LOOK_SECONDS = 0.25
"""How often a command that waits looks at what it waits for."""

WORKERS_FIRST_SECONDS = 3.0
"""Workers come first: they were asked. Where there is none, a command that waits does the work itself."""

_CONNECTIONS = 6
_WIDTH_OF_A_FILE = 160


class Refused(click.ClickException):
    """What was asked for cannot be done; the text says why. Exit code 1."""

    def show(self, file: object = None) -> None:
        """Say it without click's "Error:"."""
        del file
        click.echo(self.message, err=True)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Pool]:
    """Give a pool, and turn what keeps a command from being done into one line."""
    url = settings.database_url or ""
    try:
        # A pool would only say that it did not become ready in time.
        psycopg.connect(url, connect_timeout=database.CONNECT_TIMEOUT_SECONDS).close()
        with database.sync_pool(url, size=_CONNECTIONS, name="cli") as pool:
            yield pool
    except NOT_MIGRATED:
        message = "the database is not up to date; run: python -m processors migrate"
        raise Refused(message) from None
    except AWAY as error:
        message = f"Postgres does not answer: {redaction.reason(error)}"
        raise Refused(message) from None
    except MirrorError as error:
        raise Refused(str(error)) from None


def console() -> Console:
    """Return where tables go: a terminal as wide as it is, a file as wide as tables need."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


def say(text: str | Text) -> None:
    """Say something to people: in a terminal in lines that fit it, in a file in lines that can be searched."""
    console().print(text, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


def counted(count: int, what: str) -> str:
    """Say how many: `1 page`, `2 pages`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def columns(rows: Sequence[Sequence[str | Text]], names: Sequence[str], *, left: Sequence[str]) -> Table:
    """Return a table whose columns keep their width; only the last one gives way where there is little room.

    `left` names the columns of texts; the others are numbers.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    last = len(names) - 1
    for position, name in enumerate(names):
        # Where the room is short, rich takes it from the columns that may wrap; the last one's cells are cut instead.
        justify: JustifyMethod = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=position != last, overflow="ellipsis")
    for row in rows:
        # As Text: a string would be read as markup.
        cells = [Text(cell) if isinstance(cell, str) else cell.copy() for cell in row]
        cells[last].no_wrap, cells[last].overflow = True, "ellipsis"
        table.add_row(*cells)
    return table


def changes_line(changed: Mapping[str, object] | Changes) -> str:
    """Say what changed in a line."""
    shown = []
    for column, pair in changed.items():
        old, new = pair if isinstance(pair, list | tuple) else (None, pair)
        if column == "deleted_at":
            shown.append("deleted" if new else "back again")
        elif column != "stock_quantity" or "stock_on_hand" not in changed:
            shown.append(f"{column} {short(old)} → {short(new)}")
    return ", ".join(shown) or "no column"


def short(value: object) -> str:
    """Say a value in little room."""
    text = "–" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"  # noqa: PLR2004 - what a column has room for


def span(length: timedelta) -> str:
    """Say a length of time in one unit."""
    seconds = length.total_seconds()
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if abs(seconds) < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def ago(at: datetime | None, now: datetime) -> str:
    """Say how long ago something was."""
    return f"{span(now - at)} ago" if at else "never"


def requester() -> Requester:
    """Say who gives this order: the account of this machine."""
    return Requester("cli", getpass.getuser())


def plain_fields(row: object) -> dict[str, object]:
    """Return a dataclass's fields, as they are."""
    assert dataclasses.is_dataclass(row)
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def plain(value: object) -> object:
    """Return what JSON has a form for: durations in seconds, numbers of the database as text."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
    return plain_fields(value) if dataclasses.is_dataclass(value) else str(value)


def echo_json(value: object) -> None:
    """Say something as a line of JSON."""
    click.echo(json.dumps(plain(value) if dataclasses.is_dataclass(value) else value, default=plain))
