"""Zoho's quota, kept by all processes together: any 60 seconds, any 24 hours, calls at once, and a breaker.

Zoho (API introduction, October 2026): 100 requests a minute for each organisation, 1,000 to 10,000 a day by plan, 5 or
10 at once; beyond it HTTP 429 with code 44, 45 or 1070 and no Retry-After. Who goes on calling stays blocked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from processors import logs
from processors.errors import BudgetSpent
from processors.store import api_calls
from processors.store.api_calls import Limits, Purpose
from processors.store.database import Connection, Pool

MINUTE_SPENT = 44
DAY_SPENT = 45
TOO_MANY_AT_ONCE = 1070
BREAKING_CODES = frozenset({MINUTE_SPENT, DAY_SPENT, TOO_MANY_AT_ONCE})

# A fifth of each window is kept for single items: a sweep must not make a changed price wait until tomorrow.
_RESERVED_SHARE = 5

_log = logs.get(__name__)


@dataclass(slots=True)
class Call:
    """One admitted call; whoever made it notes the answer."""

    status: int | None = None
    code: int | None = None
    retry_after: timedelta | None = None


class Limiter:
    """Admits calls. One instance for each process; what it knows is in Postgres."""

    def __init__(
        self,
        pool: Pool,
        *,
        per_minute: int,
        per_day: int,
        concurrent: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the organisation's limits."""
        self._pool = pool
        self._sleep = sleep
        self._limits: dict[Purpose, Limits] = {
            "item": Limits(per_minute, per_day, concurrent),
            "sweep": Limits(for_sweeps(per_minute), for_sweeps(per_day), max(1, concurrent - 1)),
        }

    @contextmanager
    def call(self, purpose: Purpose, *, patience: timedelta, run_id: int | None = None) -> Iterator[Call]:
        """Wait up to `patience` for admission, then let the caller make one call; it is on the account of `run_id`.

        Raises:
            BudgetSpent: no call may be made within `patience`; nothing was called.
        """
        call_id = self._admit(purpose, patience, run_id)
        call = Call()
        try:
            yield call
        finally:
            with self._pool.connection() as connection:
                if call.code in BREAKING_CODES or call.status == 429:  # noqa: PLR2004 - Too Many Requests
                    self._close_gate(connection, call_id, call)
                good = call.status is not None and call.status < 500 and call.status != 429  # noqa: PLR2004
                api_calls.finish(
                    connection,
                    call_id,
                    status=call.status,
                    code=call.code,
                    good=good and call.code not in BREAKING_CODES,
                )

    def _admit(self, purpose: Purpose, patience: timedelta, run_id: int | None) -> int:
        deadline = time.monotonic() + patience.total_seconds()
        while True:
            with self._pool.connection() as connection:
                admission = api_calls.admit(connection, purpose, self._limits[purpose], run_id)
            if admission.call_id is not None:
                return admission.call_id
            wait = (admission.retry_after or timedelta()).total_seconds()
            if time.monotonic() + wait > deadline:
                message = f"no call to Zoho may be made now: {admission.cause}"
                raise BudgetSpent(message, timedelta(seconds=wait))
            # Jitter keeps the waiting processes from asking in step.
            self._sleep(max(wait, 0.01) * random.uniform(1.0, 1.3))  # noqa: S311 - no secret depends on it

    def _close_gate(self, connection: Connection, call_id: int, call: Call) -> None:
        wait, longest = _breaks(call.code)
        reason = f"Zoho answered {call.status} with code {call.code}"
        closed_for = api_calls.close_gate(
            connection,
            call_id,
            reason,
            wait=wait,
            longest_wait=longest,
            told=call.retry_after,
            until_midnight=call.code == DAY_SPENT,
        )
        call.retry_after = closed_for
        _log.warning("breaker.opened", status=call.status, code=call.code, seconds=closed_for.total_seconds())


def for_sweeps(limit: int) -> int:
    """Return what sweeps may use of a window: the rest is kept for single items."""
    return max(1, limit - max(1, limit // _RESERVED_SHARE))


def _breaks(code: int | None) -> tuple[timedelta, timedelta]:
    """How long the breaker stays open after the first strike, and at most."""
    match code:
        case 45:
            return timedelta(hours=1), timedelta(hours=24)
        case 1070:
            return timedelta(seconds=2), timedelta(minutes=1)
        case _:
            return timedelta(seconds=61), timedelta(minutes=15)
