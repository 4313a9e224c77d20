"""What was asked of the simulated Zoho, for tests that count and demos that show."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from threading import Lock
from typing import Final

_MOST_KEPT: Final = 100_000


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request, logged as its answer begins. `status` is None when the client left before that."""

    at: datetime
    method: str
    path: str
    query: str
    status: int | None
    duration_ms: float


class RequestLog:
    """The latest 100,000 requests, oldest first; the simulator's own `/simulator/` is not among them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: deque[LoggedRequest] = deque(maxlen=_MOST_KEPT)

    def add(self, request: LoggedRequest) -> None:
        """Log one request."""
        with self._lock:
            self._requests.append(request)

    def all(self, path: str = "*", *, status: int | None = None) -> list[LoggedRequest]:
        """Return the requests whose path matches the glob, and whose status is `status` if given."""
        with self._lock:
            requests = list(self._requests)
        return [request for request in requests if fnmatchcase(request.path, path) and status in (None, request.status)]

    def count(self, path: str = "*", *, status: int | None = None) -> int:
        """Count what `all` would return."""
        return len(self.all(path, status=status))

    def most_within(self, window: timedelta, path: str = "*") -> int:
        """Return the largest number of matching requests in any stretch of time shorter than `window`."""
        times = sorted(request.at for request in self.all(path))
        return max(
            (index + 1 - bisect_right(times, at - window, 0, index) for index, at in enumerate(times)),
            default=0,
        )

    def clear(self) -> None:
        """Forget everything logged so far."""
        with self._lock:
            self._requests.clear()
