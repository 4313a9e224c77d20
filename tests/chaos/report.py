"""What a run came to: two tables for people, and the same for programs."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.chaos.run import Account

WIDTH = 100


def show(console: Console, account: Account) -> None:
    """Print the faults with their recoveries, then the counts, then what is wrong."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault", no_wrap=True)
    for column in ("times", "recovery: median s", "worst s"):
        table.add_column(column, justify="right")
    for fault, times in sorted(account.happened.items()):
        recoveries = account.recoveries.get(fault)
        # Of a fault that never happened by itself the recovery is not known.
        figures = [_written(middle(recoveries)), _written(worst(recoveries))] if recoveries else []
        table.add_row(fault, str(times), *figures)
    console.print(table)
    found = account.audit
    counts = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("sent", "acknowledged", "applied", "lost", "duplicated effects", "rows that differ"):
        counts.add_column(column, justify="right")
    numbers = (found.sent, found.acknowledged, found.applied, found.lost, found.duplicated, found.differing)
    counts.add_row(*(f"{number:,}" for number in numbers))
    console.print(counts)
    console.print(f"answers: {_told(account.answers)}", highlight=False)
    outcomes = f"events: {found.events:,}, of them {_told(found.outcomes)}; {found.taken_over:,} claimed more than once"
    console.print(outcomes, highlight=False)
    exits = ", ".join(f"{line} {max(seconds):.1f} s" for line, seconds in account.exits.items()) or "none"
    console.print(f"slowest end after SIGTERM: {exits}; late writes refused: {account.late_writes}", highlight=False)
    if account.complaints:
        console.print(f"the logs complain of: {_told(account.complaints)}", highlight=False)
    for fault in account.not_hit:
        console.print(f"did not come about: {fault}", highlight=False)
    for line in (*account.violations, *found.examples):
        console.print(f"[red]{line}[/]", highlight=False)
    verdict = "[green]nothing lost[/]" if account.is_clean else "[bold red]NOT CLEAN[/]"
    console.print(f"seed {account.seed}, {account.seconds:.0f} s: {verdict}", highlight=False)


def middle(recoveries: list[float | None]) -> float | None:
    """Return the median; what never recovered is slower than everything."""
    seconds = median(float("inf") if recovery is None else recovery for recovery in recoveries)
    return None if seconds == float("inf") else seconds


def worst(recoveries: list[float | None]) -> float | None:
    """Return the slowest."""
    return None if None in recoveries else max(recovery for recovery in recoveries if recovery is not None)


def _written(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def as_json(account: Account) -> dict[str, Any]:
    """Return everything that the tables show, and each single recovery."""
    return {**asdict(account), "is_clean": account.is_clean}
