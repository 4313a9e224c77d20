"""Asks Zoho for items: for events that only Zoho can settle, for what runs leave in doubt, for people and programs.

Whoever asks says which items, and does with the answers what is his: what they mean for a row is decided by `merging`,
and written by `settlement` if the row is still the one that was known before the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from processors.errors import MustWait, PermanentError, TransientError, WorkError
from processors.store import settlement
from processors.store.database import Pool
from processors.store.products import Current
from processors.workflows import merging
from processors.workflows.merging import Answer
from processors.zoho.items import Fields

MOST_TOGETHER = 100
"""Zoho documents no limit; integrators ask for 100 to 200."""


class Zoho(Protocol):
    """What this workflow needs of `processors.zoho.client.ZohoClient`."""

    def item(self, item_id: str, *, run_id: int | None = None) -> Fields | None:
        """Return one item, or None where Zoho has none."""

    def items_by_id(self, item_ids: Sequence[str], *, run_id: int | None = None) -> dict[str, Fields] | None:
        """Return several items, or None where at least one of them is gone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One item that Zoho was asked for."""

    item_id: str
    known: Current
    """Before Zoho was asked."""
    answer: Answer | WorkError
    """What it said, or why it said nothing of this very item."""
    fields: Fields | None = None
    """The answer as it came; None: there is no such item, or no answer."""

    def given(self) -> Answer:
        """Return the answer.

        Raises:
            WorkError: there is none for this very item.
        """
        if isinstance(self.answer, WorkError):
            raise self.answer
        return self.answer


@dataclass(slots=True)
class Asking:
    """Asks for items in few calls: as many at once as Zoho gives, fewer while one of them keeps it from answering."""

    pool: Pool
    zoho: Zoho
    run_id: int | None = None
    """The run whose calls these are; without one they may use what of the quota is kept for single items."""
    together: int = MOST_TOGETHER
    """How many to ask for with the next call."""

    def each(self, item_ids: Sequence[str]) -> Iterator[list[Asked]]:
        """Ask for all of these; yield what each call brought.

        Raises:
            MustWait: Zoho must not be asked now; those that were not yielded were not asked for.
        """
        left = list(dict.fromkeys(item_ids))
        while left:
            asked = self.ask(left)
            answered = {each.item_id for each in asked}
            left = [item_id for item_id in left if item_id not in answered]
            if asked:
                yield asked

    def ask(self, item_ids: Sequence[str]) -> list[Asked]:
        """Make one call for the first of these; nothing is returned where it showed only that they were too many.

        Zoho answers 404 for all because of one, so a call that fails is tried again with half of its items. One item by
        itself has an answer, or its own error.

        Raises:
            MustWait: Zoho must not be asked now.
        """
        group = list(item_ids[: self.together])
        with self.pool.connection() as connection:
            known = settlement.read_current(connection, group)
        asked_at = datetime.now(UTC)
        if len(group) == 1:
            return [self._ask_for_one(group[0], known[group[0]], asked_at)]
        try:
            found = self.zoho.items_by_id(group, run_id=self.run_id)
        except (PermanentError, TransientError):
            found = None
        if not found:
            self.together = len(group) // 2
            return []
        # Where some are not answered for, Zoho gives no more at once.
        self.together = min(2 * len(found), MOST_TOGETHER) if len(found) == len(group) else len(found)
        return [_read(item_id, known[item_id], fields, asked_at) for item_id, fields in found.items()]

    def _ask_for_one(self, item_id: str, known: Current, asked_at: datetime) -> Asked:
        try:
            fields = self.zoho.item(item_id, run_id=self.run_id)
        except MustWait:
            raise
        except (PermanentError, TransientError) as error:
            self.together = 1
            return Asked(item_id, known, error)
        # Where one is gone, others may be: they are asked for one by one until one is there.
        self.together = 1 if fields is None else 2
        return _read(item_id, known, fields, asked_at)


def _read(item_id: str, known: Current, fields: Fields | None, asked_at: datetime) -> Asked:
    return Asked(item_id, known, merging.read_answer(item_id, fields, asked_at), fields)
