"""What one transaction of a run does: collected, then written together with the progress, or decided anew.

Nobody holds a lock while he decides. Where somebody else wrote one of the rows in between, nothing is written and all
is decided again on what is known then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from psycopg.errors import ProgramLimitExceeded, StatementTooComplex

from processors.errors import WrittenByOthers
from processors.store import comparison, runs, settlement
from processors.store import drift as drift_store
from processors.store.comparison import Agreement
from processors.store.database import Connection
from processors.store.products import Current
from processors.store.runs import Counts, Run, Unusable
from processors.store.settlement import ItemDecision
from processors.workflows import drift
from processors.workflows.drift import Miss
from processors.workflows.merging import Decision, FetchNeeded, Settled, Write

_MOST_ROUNDS = 10
# What is wrong with the values themselves, and would be the next time.
_REFUSED = (psycopg.DataError, ProgramLimitExceeded, StatementTooComplex)

Result = TypeVar("Result")


@dataclass(slots=True)
class Step:
    """What is to be written."""

    counts: Counts = field(default_factory=Counts)
    writes: list[Miss] = field(default_factory=list)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    """Checks that are answered by it."""
    agreements: list[Agreement] = field(default_factory=list)
    """Rows that say what the list says."""

    @property
    def changes_nothing(self) -> bool:
        """All that is to be written is that it was done."""
        return not (self.writes or self.doubts or self.unusable or self.cleared or self.agreements)

    def attempt(
        self, item_id: str | None, body: bytes, work: Callable[[], Result], *, is_counted: bool = True
    ) -> Result | None:
        """Read or decide, or keep the item as one that cannot be used: one bad item stops nothing."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one item must not stop the others
            self.keep_unusable(item_id, body, error, is_counted=is_counted)
            return None

    def keep_unusable(self, item_id: str | None, body: bytes, error: Exception, *, is_counted: bool = True) -> None:
        """Keep an item for a person to look at."""
        self.unusable.append(Unusable(item_id, body, error))
        self.counts.failed += is_counted

    def take_down(
        self, item_id: str, current: Current, decided: Decision, *, digest: bytes | None = None, is_counted: bool = True
    ) -> None:
        """Note what was decided; what is not counted was counted before, unless it is written only now.

        `digest` is that of the list's words, where a row that is written is to say the same.
        """
        match decided:
            case FetchNeeded(reason):
                self.doubts.append((item_id, reason))
            case Settled():
                self.counts.unchanged += is_counted
                if current.stored and current.product:
                    # Projected by another version of the fields: written anew, though Zoho said nothing new.
                    self.writes.append(Miss(item_id, current, current.product, {}, digest))
            case Write(outcome, product, changes):
                self.writes.append(Miss(item_id, current, product, changes, digest))
                match outcome:
                    case "created":
                        self.counts.created += 1
                    case "tombstoned":
                        self.counts.deleted += 1
                    case "updated":
                        self.counts.updated += 1
                    case _:
                        self.counts.unchanged += is_counted


def commit(
    connection: Connection,
    run: Run,
    decide: Callable[[Mapping[str, Exception], AbstractSet[str]], Step],
    note: Callable[[Connection, Step], None],
) -> Step:
    """Decide and write, again where somebody else wrote one of the rows in between; return what was written.

    `decide` is told of the items whose values Postgres refuses, and of those that were beaten to their row.

    Raises:
        LeaseLost: another worker has the run; nothing was written.
        WrittenByOthers: it did not work out in many rounds.
    """
    refused: dict[str, Exception] = {}
    beaten: set[str] = set()
    for _round in range(_MOST_ROUNDS):
        step = decide(refused, beaten)
        decisions = _with_causes(connection, run, step.writes)
        try:
            # A single statement is a transaction of its own.
            with nullcontext() if step.changes_nothing else connection.transaction():
                settled = settlement.settle(connection, decisions) if decisions else set()
                lost = {decision.item_id for decision in decisions} - settled
                if lost:
                    beaten |= lost
                    raise psycopg.Rollback
                note(connection, step)
                comparison.keep(connection, step.agreements)
                runs.add_checks(connection, run, step.doubts)
                runs.keep_unusable(connection, run, step.unusable)
                return step
        except _REFUSED:
            found = _find_refused(connection, decisions)
            if not found:
                raise
            refused |= found
    message = "its products were written by others again and again"
    raise WrittenByOthers(message)


def _with_causes(connection: Connection, run: Run, misses: Sequence[Miss]) -> list[ItemDecision]:
    questions = [question for miss in misses if miss.changes and (question := drift.question(run, miss))]
    evidence = drift_store.evidence(connection, questions)
    decisions = []
    for miss in misses:
        decision = ItemDecision(miss.item_id, miss.current, miss.product, digest=miss.digest)
        # Where a row was altered here, that it was is part of its history, even if no column shows it.
        if miss.changes or miss.is_altered:
            decision.changes.append(drift.change(run, miss, evidence.get(miss.item_id)))
        decisions.append(decision)
    return decisions


def _find_refused(connection: Connection, decisions: Sequence[ItemDecision]) -> dict[str, Exception]:
    """Find out whose values Postgres refuses, writing nothing."""
    refused: dict[str, Exception] = {}
    for decision in decisions:
        try:
            with connection.transaction(force_rollback=True):
                settlement.settle(connection, [decision])
        except _REFUSED as error:
            refused[decision.item_id] = error
    return refused
