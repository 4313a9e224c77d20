"""Zoho's quota, kept by all processes together: any 60 seconds, any 24 hours, calls at once, and a breaker.

Zoho (API introduction, October 2026): 100 requests a minute for each organisation, 1,000 to 10,000 a day by plan, 5 or
10 at once; beyond it HTTP 429 with code 44, 45 or 1070 and no Retry-After. Who goes on calling stays blocked.

The breaker opens for two more causes: Zoho refuses the installation, whatever is asked, or says nothing usable several
times in a row. What it stops waits; after a growing while a single call goes ahead and finds out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from processors import logs
from processors.errors import BudgetSpent, MustWait, NotAuthorised, ZohoAway
from processors.store import api_calls, inbox, runs
from processors.store.api_calls import Cause, Closing, Limits, Purpose, Verdict
from processors.store.database import Connection, Pool
from processors.zoho import answers

_DAY_SPENT = 45

LONGEST_BREAK = timedelta(minutes=15)
"""At least so often Zoho is asked again, while nothing but its quota keeps the breaker open."""

MOST_UNUSABLE = 5
"""So many answers in a row that cannot be read, to whichever process, open the breaker."""

# A fifth of each window is kept for single items: a sweep must not make a changed price wait until tomorrow.
_RESERVED_SHARE = 5

# What waits for its time to come; nobody has to be spared then. What waits for the quota comes little by little.
_WAIT_FOR_AN_ANSWER = (NotAuthorised.__name__, ZohoAway.__name__)

_RAISED: dict[Cause, type[MustWait]] = {"quota": BudgetSpent, "installation": NotAuthorised, "unusable": ZohoAway}

_log = logs.get(__name__)


@dataclass(slots=True)
class Call:
    """One admitted call; whoever made it notes the answer."""

    id: int
    by: str | None = None
    """The connection whose token it goes by."""
    organization_id: str | None = None
    about: Sequence[str] | None = None
    """What was asked for: ids of items, or the path of a list; None: nothing of the mirror's own work."""
    status: int | None = None
    code: int | None = None
    verdict: Verdict | None = None
    reason: str | None = None
    """What was answered, in words."""
    retry_after: timedelta | None = None
    closed_by: Cause | None = None
    """Why this call's answer opened the breaker, if it did."""


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
    def call(
        self,
        purpose: Purpose,
        *,
        patience: timedelta,
        run_id: int | None = None,
        by: str | None = None,
        organization_id: str | None = None,
        about: Sequence[str] | None = None,
        is_persons: bool = False,
    ) -> Iterator[Call]:
        """Wait up to `patience` for admission, then let the caller make one call; it is on the account of `run_id`.

        A person's call (`is_persons`) is stopped by the quota only, and opens the breaker for nothing else.

        Raises:
            BudgetSpent, NotAuthorised, ZohoAway: no call may be made within `patience`; nothing was called.
        """
        call = Call(self._admit(purpose, patience, run_id, by, is_persons=is_persons), by, organization_id, about)
        try:
            yield call
        finally:
            if about is not None and call.verdict is None:
                call.verdict = "unusable"
            with self._pool.connection() as connection:
                closes = self._closes(connection, call, is_persons=is_persons)
                if closes:
                    self._close_gate(connection, call, closes)
                is_over = api_calls.finish(
                    connection,
                    call.id,
                    status=call.status,
                    code=call.code,
                    verdict=call.verdict if about is not None else None,
                    about=about,
                    opens=_opens(call),
                )
                if is_over:
                    _log.info("breaker.closed")
                    inbox.hurry_fetches(connection, _WAIT_FOR_AN_ANSWER)
                    runs.hurry_waiting(connection, _WAIT_FOR_AN_ANSWER)

    def refuse_all(self, call: Call) -> MustWait:
        """Open the breaker because what this call met is met by others, too; return what to raise."""
        with self._pool.connection() as connection:
            self._close_gate(connection, call, "installation")
        return NotAuthorised(call.reason or "refused", call.retry_after or LONGEST_BREAK)

    def _admit(
        self, purpose: Purpose, patience: timedelta, run_id: int | None, by: str | None, *, is_persons: bool
    ) -> int:
        deadline = time.monotonic() + patience.total_seconds()
        while True:
            with self._pool.connection() as connection:
                admission = api_calls.admit(
                    connection, purpose, self._limits[purpose], run_id, by=by, is_persons=is_persons
                )
            if admission.call_id is not None:
                return admission.call_id
            wait = (admission.retry_after or timedelta()).total_seconds()
            if time.monotonic() + wait > deadline:
                message = f"no call to Zoho may be made now: {admission.cause}"
                raise _RAISED[admission.closed_by or "quota"](message, timedelta(seconds=wait))
            # Jitter keeps the waiting processes from asking in step.
            self._sleep(max(wait, 0.01) * random.uniform(1.0, 1.3))  # noqa: S311 - no secret depends on it

    def _closes(self, connection: Connection, call: Call, *, is_persons: bool) -> Cause | None:
        """Tell why this call's answer opens the breaker, if it does."""
        if _is_quota(call):
            return "quota"
        if call.about is None or is_persons:
            return None
        if call.verdict == "installation":
            return "installation"
        before = MOST_UNUSABLE - 1
        if call.verdict == "unusable" and api_calls.unusable_in_a_row(connection, most=before) == before:
            return "unusable"
        return None

    def _close_gate(self, connection: Connection, call: Call, cause: Cause) -> None:
        wait, longest = _breaks(cause, call.code)
        is_plain_quota = cause == "quota" and (call.code is not None or call.status == 429)  # noqa: PLR2004
        told = f"Zoho answered {call.status} with code {call.code}"
        is_ours = cause == "installation"
        closing = Closing(
            cause,
            told if is_plain_quota or call.reason is None else call.reason,
            wait,
            longest,
            told=call.retry_after,
            until_midnight=cause == "quota" and call.code == _DAY_SPENT,
            connection=call.by if is_ours else None,
            organization_id=call.organization_id if is_ours else None,
        )
        closed_for = api_calls.close_gate(connection, call.id, closing)
        call.retry_after, call.closed_by = closed_for, cause
        _log.warning(
            "breaker.opened", cause=cause, status=call.status, code=call.code, seconds=closed_for.total_seconds()
        )


def _is_quota(call: Call) -> bool:
    return call.verdict == "quota" or call.code in answers.QUOTA or call.status == 429  # noqa: PLR2004 - Too Many Requests


def _opens(call: Call) -> list[Cause]:
    """Return the causes that this call's answer shows to be over."""
    causes: list[Cause] = []
    if call.status is not None and call.status < 500 and not _is_quota(call):  # noqa: PLR2004 - Internal Server Error
        causes.append("quota")
    if call.about is not None and call.verdict in ("good", "gone"):
        causes += ["installation", "unusable"]
    elif call.about is not None and call.verdict == "refused":
        causes.append("unusable")
    return causes


def for_sweeps(limit: int) -> int:
    """Return what sweeps may use of a window: the rest is kept for single items."""
    return max(1, limit - max(1, limit // _RESERVED_SHARE))


def _breaks(cause: Cause, code: int | None) -> tuple[timedelta, timedelta]:
    """How long the breaker stays open after the first strike, and at most."""
    match cause, code:
        case "installation", _:
            return timedelta(minutes=1), LONGEST_BREAK
        case "unusable", _:
            return timedelta(seconds=15), LONGEST_BREAK
        case _, 45:
            return timedelta(hours=1), timedelta(hours=24)
        case _, 1070:
            return timedelta(seconds=2), timedelta(minutes=1)
        case _:
            return timedelta(seconds=61), timedelta(minutes=15)
