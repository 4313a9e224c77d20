"""Zoho's quotas: requests in any 60 seconds, requests in a day, requests at once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from threading import Lock
from typing import Final

from simulator.clock import Clock, system_clock
from simulator.identity import Organization

_MINUTE: Final = timedelta(seconds=60)
_MINUTE_MESSAGE: Final = (
    "For security reasons your organization has been blocked as you have exceeded the maximum number "
    "of requests per minute. Please try again after some time."
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in Zoho's error shape."""

    status: int
    code: int
    message: str


class Limits:
    """The quotas of one organisation; None lifts one. Assign to the attributes to change them.

    Refused requests count too: whoever keeps calling while blocked stays blocked. The day ends at
    midnight in the organisation's time zone.
    """

    def __init__(
        self,
        *,
        per_minute: int | None = 100,
        per_day: int | None = 10_000,
        concurrent: int | None = 10,
        retry_after_seconds: int | None = None,
        clock: Clock = system_clock,
        organization: Organization | None = None,
    ) -> None:
        self.per_minute = per_minute
        self.per_day = per_day
        self.concurrent = concurrent
        self.retry_after_seconds = retry_after_seconds
        self.most_at_once = 0
        self._clock = clock
        self._time_zone = (organization or Organization()).time_zone
        self._lock = Lock()
        self._last_minute: deque[datetime] = deque()
        self._day: date | None = None
        self._today = 0
        self._at_once = 0

    @classmethod
    def none(cls) -> Limits:
        """Refuse nothing."""
        return cls(per_minute=None, per_day=None, concurrent=None)

    def enter(self) -> Refusal | None:
        """Count a request; unless refused, it must `leave` when it is answered."""
        with self._lock:
            self._count()
            if self.per_day is not None and self._today > self.per_day:
                return Refusal(429, 45, "You have exceeded the maximum number of API calls for the day.")
            if self.per_minute is not None and len(self._last_minute) > self.per_minute:
                return Refusal(429, 44, _MINUTE_MESSAGE)
            if self.concurrent is not None and self._at_once >= self.concurrent:
                return Refusal(429, 1070, "Too many requests are in process. Please try again later.")
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return None

    def leave(self) -> None:
        """Say that a request which entered has been answered."""
        with self._lock:
            self._at_once -= 1

    def reset(self) -> None:
        """Forget what was counted, as if a new day and minute had begun."""
        with self._lock:
            self._last_minute.clear()
            self._today = 0

    def _count(self) -> None:
        now = self._clock()
        while self._last_minute and now - self._last_minute[0] >= _MINUTE:
            self._last_minute.popleft()
        self._last_minute.append(now)
        today = now.astimezone(self._time_zone).date()
        if today != self._day:
            self._day, self._today = today, 0
        self._today += 1
