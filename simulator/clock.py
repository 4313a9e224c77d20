"""Where the simulator takes its time from, so that tests can hold it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]


def system_clock() -> datetime:
    """Tell the machine's time, aware."""
    return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = datetime(2026, 10, 5, 16, 2, 21, tzinfo=UTC)) -> None:
        self._now = now

    def __call__(self) -> datetime:
        """Tell the time it stands at."""
        return self._now

    def advance(self, by: timedelta = timedelta(seconds=1)) -> datetime:
        """Move time on and tell it."""
        self._now += by
        return self._now
