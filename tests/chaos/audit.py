"""What became of everything that was acknowledged, told from the tables and from what was sent, and nothing else."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from processors import field_table
from tests import expected
from tests.chaos.stream import Version, digests
from tests.chaos.system import System

_EXAMPLES = 5


@dataclass(slots=True)
class Audit:
    """Counts, and examples of what is wrong."""

    sent: int
    acknowledged: int
    applied: int = 0
    lost: int = 0
    duplicated: int = 0
    differing: int = 0
    events: int = 0
    taken_over: int = 0
    """Events that were claimed more than once."""
    outcomes: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return (self.lost, self.duplicated, self.differing) == (0, 0, 0)


def audit(system: System, sent: int, acknowledged: Sequence[Version]) -> Audit:
    """Compare rows and history with what was acknowledged."""
    found = Audit(sent, len(acknowledged))
    states = _states(system, found)
    copies = Counter(acknowledged)
    for version, digest in digests(acknowledged):
        state = states.get(digest, "absent")
        if state == "processed":
            found.applied += copies[version]
        else:
            found.lost += copies[version]
            _show(found, f"lost: item {version.item_id}, version {version.number}: its event is {state}")
    histories = _histories(system)
    products = _products(system)
    newest: dict[str, Version] = {}
    for version in acknowledged:
        known = newest.get(version.item_id)
        if known is None or version.number > known.number:
            newest[version.item_id] = version
    for item_id in newest.keys() | products.keys():
        row = products.get(item_id)
        told = expected.product(newest[item_id].content()) if item_id in newest else None
        if row != told:
            found.differing += 1
            _show(found, f"differs: item {item_id} is {row}, newest acknowledged {told}")
        wrong = repeats(histories.get(item_id, []), row)
        if wrong:
            found.duplicated += len(wrong)
            _show(found, f"duplicated: item {item_id}: {wrong[0]}")
    return found


def _show(found: Audit, example: str) -> None:
    if len(found.examples) < _EXAMPLES:
        found.examples.append(example)


def _states(system: System, found: Audit) -> dict[bytes, str]:
    statement = "SELECT sha256(body), state, coalesce(outcome, state), attempts > 1 FROM events ORDER BY id"
    states: dict[bytes, str] = {}
    outcomes = Counter[str]()
    for digest, state, outcome, is_taken_over in system.rows(statement):
        assert isinstance(digest, bytes)
        states[digest] = str(state)
        outcomes[str(outcome)] += 1
        found.taken_over += bool(is_taken_over)
    found.outcomes, found.events = dict(outcomes), outcomes.total()
    return states


def _products(system: System) -> dict[str, dict[str, Any]]:
    names = [*field_table.COLUMNS, "zoho_last_modified_at"]
    rows = system.rows(f"SELECT zoho_item_id, {', '.join(names)} FROM products WHERE deleted_at IS NULL")
    return {str(row[0]): dict(zip(names, row[1:], strict=True)) for row in rows}


def _histories(system: System) -> dict[str, list[dict[str, list[Any]]]]:
    histories: dict[str, list[dict[str, list[Any]]]] = defaultdict(list)
    for item_id, changes in system.rows("SELECT item_id, changes::text FROM product_changes ORDER BY id"):
        histories[str(item_id)].append(json.loads(str(changes)))
    return histories


def repeats(history: Sequence[dict[str, list[Any]]], row: dict[str, Any] | None) -> list[str]:
    """Say what in an item's history was done twice, or does not follow from what was done before.

    No two versions have the same price, so that the same change of it twice is the same change.
    """
    wrong: list[str] = []
    prices = Counter(tuple(change["price"]) for change in history if "price" in change)
    wrong += [f"the price went {times} times from {old} to {new}" for (old, new), times in prices.items() if times > 1]
    known: dict[str, Any] = {}
    for change in history:
        for column, (old, new) in change.items():
            if known.get(column) != old:
                wrong.append(f"{column} was {known.get(column)!r}, and then changed from {old!r} to {new!r}")
            known[column] = new
    for column, value in (row or {}).items():
        if column != "zoho_last_modified_at" and not _is_same(known.get(column), value):
            wrong.append(f"{column} is {value!r}, and was last changed to {known.get(column)!r}")
    return wrong


def _is_same(written: Any, value: Any) -> bool:
    if isinstance(value, Decimal) and written is not None:
        return Decimal(str(written)) == value
    return bool(written == value)
