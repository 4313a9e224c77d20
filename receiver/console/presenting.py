"""How values read on a page: times relative with the exact one behind, changes as old and new, ids as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from markupsafe import Markup
from starlette_admin.i18n import get_tzinfo

from processors.store.products import Changes

COLOURS: Final[Mapping[str, str]] = {
    # states of events and runs, outcomes, kinds of timeline entries
    "dead": "red",
    "failed": "red",
    "partial": "orange",
    "held": "purple",
    "running": "azure",
    "recorded": "azure",
    "queued": "azure",
    "processing": "azure",
    "unfinished": "azure",
    "complete": "green",
    "processed": "green",
    "created": "green",
    "updated": "blue",
    "tombstoned": "orange",
    "gone": "orange",
    "discarded": "secondary",
    "cancelled": "secondary",
}

_MOST_SHOWN: Final = 64 * 1024
_JUST_NOW: Final = timedelta(seconds=2)
_STEPS: Final = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"))


def ago(at: datetime | str | None, now: datetime | None = None) -> Markup:
    """Say how long ago something was, or in how long it will be; the exact time is behind it."""
    if at is None:
        return Markup('<span class="text-secondary">never</span>')
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    length = (now or datetime.now(UTC)) - at
    if abs(length) < _JUST_NOW:
        told = "just now"
    else:
        told = f"in {span(-length)}" if length < timedelta() else f"{span(length)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), exact(at), told)


def exact(at: datetime) -> str:
    """Say a time to the second, in the operator's zone."""
    return f"{at.astimezone(get_tzinfo()):%Y-%m-%d %H:%M:%S %Z}"


def span(length: timedelta | None) -> str:
    """Say a length of time in one unit."""
    if length is None:
        return "–"
    seconds = length.total_seconds()
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, size, unit in _STEPS:
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    days = round(seconds / 86_400)
    return "1 day" if days == 1 else f"{days:,} days"


def badge(word: str | None) -> Markup:
    """Show a state or an outcome."""
    if not word:
        return Markup("")
    return Markup('<span class="badge bg-{}-lt">{}</span>').format(COLOURS.get(word, "secondary"), word)


def changed(changes: Changes | Mapping[str, Any]) -> Markup:
    """Say what changed, old and new."""
    lines = []
    for column, (old, new) in changes.items():
        if column == "stock_quantity" and "stock_on_hand" in changes:
            continue
        before = Markup("") if old is None else Markup("<del>{}</del> → ").format(_short(column, old))
        line = Markup('<div class="change"><span class="text-secondary">{}</span> {}<ins>{}</ins></div>')
        lines.append(line.format(column.replace("_", " "), before, _short(column, new)))
    return Markup("").join(lines)


def _short(column: str, value: object) -> str:
    match value:
        case None:
            text = "none"
        case bool():
            text = "yes" if value else "no"
        case str() if column.endswith("_at"):
            text = exact(datetime.fromisoformat(value))
        case _:
            text = str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"  # noqa: PLR2004 - a page is no dump


def decimal(value: Decimal | None) -> str:
    """Say a price or a stock in the digits it has."""
    return "–" if value is None else f"{value:f}"


def number(value: float | None) -> str:
    """Say a number with its thousands."""
    return "–" if value is None else f"{value:,}"


def counted(count: int, what: str) -> str:
    """Say how many: `1 page`, `2 pages`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def pretty(body: str) -> str:
    """Set out a body of JSON, or leave it as it is; numbers and ids stay as they were written.

    A large one is cut: to set it out would keep the webhooks waiting.
    """
    if len(body) > _MOST_SHOWN:
        return f"{body[:_MOST_SHOWN]}\n… and {len(body) - _MOST_SHOWN:,} characters more"
    try:
        return _set_out(json.loads(body, parse_float=_Verbatim, parse_int=_Verbatim), "")
    except (ValueError, RecursionError):
        return body


class _Verbatim(str):
    """A number, in the digits it came with."""

    __slots__ = ()


def _set_out(value: Any, indent: str) -> str:  # noqa: ANN401 - what JSON holds
    inner = f"{indent}  "
    match value:
        case _Verbatim():
            return str(value)
        case dict() if value:
            lines = [f"{inner}{_text(key)}: {_set_out(each, inner)}" for key, each in value.items()]
            return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
        case list() if value:
            return "[\n" + ",\n".join(f"{inner}{_set_out(each, inner)}" for each in value) + f"\n{indent}]"
    return _text(value)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def as_json(value: object) -> str:
    """Set out what the database keeps as JSON; a large one is cut."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    if len(text) > _MOST_SHOWN:
        return f"{text[:_MOST_SHOWN]}\n… and {len(text) - _MOST_SHOWN:,} characters more"
    return text


def sentence(text: str) -> str:
    """Make a sentence of what an error or a problem says."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


FILTERS: Final = {
    "ago": ago,
    "as_json": as_json,
    "badge": badge,
    "changed": changed,
    "counted": counted,
    "decimal": decimal,
    "exact": exact,
    "number": number,
    "pretty": pretty,
    "sentence": sentence,
    "span": span,
}
