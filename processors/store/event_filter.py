"""Which events are meant, for lists, counts, replays and discards; command line, API and console fill it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from processors.store.database import Row
from processors.store.inbox import Kind
from processors.store.queries import containing

EventState = Literal["recorded", "queued", "processing", "processed", "dead"]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Conditions that an event meets all of; None is no condition."""

    event_ids: tuple[int, ...] | None = None
    state: EventState | None = None
    is_discarded: bool = False
    """With the state `dead`: discarded events, instead of all others. Events named by id are found either way."""
    outcome: str | None = None
    kind: Kind | None = None
    item_id: str | None = None
    run_id: int | None = None
    error: str | None = None
    """A part of the text, in any case."""
    error_class: str | None = None
    cause: str | None = None
    """The root of the error's cause, as `insights.dead_by_cause` groups it."""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it matches every event."""
        return not self.given()

    def given(self) -> dict[str, Any]:
        """Return the conditions, in JSON's terms."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
            if value is not None and value is not False
        }

    def parameters(self) -> Row:
        """Return what a statement is given that has the conditions in it."""
        return {
            **asdict(self),
            "event_ids": None if self.event_ids is None else list(self.event_ids),
            "is_discarded": self.is_discarded if self.state == "dead" and self.event_ids is None else None,
            "error": containing(self.error),
        }
