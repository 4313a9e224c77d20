"""Alerts: one message for each cause and day, and one when it is over, to wherever `ALERT_WEBHOOK_URL` leads.

Every process looks, web, worker and clock, so that the death of one is told by another; the slots of the timetable
see to it that only one of them does at a time. A message is noted as sent after it was: whoever is killed in between
has it sent twice rather than never.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from processors import logs
from processors.errors import AlertNotSent
from processors.settings import Settings
from processors.store import alerts, audit, timetable
from processors.store.alerts import Alert, Cause, Due
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.workflows import insights
from processors.workflows.insights import Overview, Problem

JOB = "alerts"
EVERY = timedelta(seconds=30)

STANDS = timedelta(minutes=1)
"""So long something has to be wrong before people are told: a restart is no outage."""
AGAIN = timedelta(days=1)
STAYS_AWAY = timedelta(minutes=5)
"""So long it has to be away before it is over: what comes and goes is told once."""

_TIMEOUT = httpx.Timeout(5, connect=3)
_MOST_AT_ONCE = 20
# More than two tries can take.
_LEASE = timedelta(seconds=30)
_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(hours=1)

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Alerting:
    """Looks and tells; one for each process."""

    pool: Pool
    settings: Settings

    def look_if_due(self) -> None:
        """Look, unless another process has just done so, or nobody is to be told."""
        if self.settings.alert_webhook_url is None:
            return
        with self.pool.connection() as connection:
            if timetable.take_slot(connection, JOB, EVERY) is None:
                return
        self.look()

    def look(self) -> None:
        """Note what is wrong and what is not any more, and tell of it what is due."""
        with self.pool.connection() as connection:
            overview = insights.overview(connection)
            found = insights.problems(overview) + insights.notices(overview, self.settings.zoho_requests_per_day)
            found = [problem for problem in found if problem.cause != insights.ALERTS_FAIL]
            alerts.see(connection, list(_causes(found)), stays_away=STAYS_AWAY)
        for _message in range(_MOST_AT_ONCE):
            if not self._tell_next(overview):
                return

    def _tell_next(self, overview: Overview) -> bool:
        """Send one message, if one is due and the last one went out; no connection is held meanwhile."""
        with self.pool.connection() as connection:
            due = alerts.claim_due(connection, stands=STANDS, again=AGAIN, stays_away=STAYS_AWAY, lease=_LEASE)
        if due is None:
            return False
        try:
            post(self.settings, _message(due, self.settings, overview.now))
        except AlertNotSent as error:
            wait = min(_FIRST_WAIT * 2 ** min(due.failures, 20), _LONGEST_WAIT)
            with self.pool.connection() as connection:
                alerts.note_failure(connection, due, error=str(error), wait=wait)
            _log.warning("alert.not_sent", cause=due.cause, error=str(error))
            return False
        with self.pool.connection() as connection:
            alerts.note_sent(connection, due)
        _log.info("alert.sent", cause=due.cause, state="cleared" if due.is_over else "open")
        return True


def _causes(found: list[Problem]) -> Iterator[Cause]:
    """Return a cause for each kind of problem; several of one kind are told together."""
    by_cause: dict[str, list[Problem]] = {}
    for problem in found:
        by_cause.setdefault(problem.cause, []).append(problem)
    for cause, problems in by_cause.items():
        first = problems[0]
        do = f"{first.do}: {first.command}" if first.command else first.do
        yield Cause(cause, "; ".join(problem.what for problem in problems), do, first.page)


def _message(due: Due, settings: Settings, now: datetime) -> dict[str, Any]:
    """Return what Slack shows (its `text`), and the same in parts for everybody else."""
    text = f"zoho-mirror: cleared: {due.what}" if due.is_over else f"zoho-mirror: {due.what}\n→ {due.what_to_do}"
    link = f"{settings.public_url}/console/{due.page}" if settings.public_url else None
    return {
        "text": f"{text}\n{link}" if link and not due.is_over else text,
        "source": "zoho-mirror",
        "state": "cleared" if due.is_over else "open",
        "cause": due.cause,
        "what": due.what,
        "do": due.what_to_do,
        "link": link,
        "opened_at": due.opened_at.isoformat(),
        "at": now.isoformat(),
    }


def send_test(pool: Pool, settings: Settings, requester: Requester) -> None:
    """Send a message that says that it is a test.

    Raises:
        AlertNotSent: it did not arrive, or there is nowhere to send it; the text says why.
    """
    now = datetime.now(UTC).isoformat()
    text = f"zoho-mirror: a test, sent by {requester.name}; alerts arrive here"
    parts = {"source": "zoho-mirror", "state": "test", "cause": "test", "what": "a test", "do": "", "at": now}
    post(settings, {"text": text, **parts, "link": settings.public_url and f"{settings.public_url}/console/"})
    with pool.connection() as connection:
        audit.note(connection, requester, "alerts.tested")


def listed(pool: Pool) -> list[Alert]:
    """Return all alerts, open ones first."""
    with pool.connection() as connection:
        return alerts.listed(connection)


def post(settings: Settings, message: dict[str, Any], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Send a message; once more where the first try met no answer.

    Raises:
        AlertNotSent: it did not arrive, or there is nowhere to send it; the text names no address, which is a secret.
    """
    if settings.alert_webhook_url is None:
        text = "ALERT_WEBHOOK_URL is not set: nobody would be told"
        raise AlertNotSent(text)
    url = settings.alert_webhook_url.get_secret_value()
    for is_last in (False, True):
        try:
            response = httpx.post(url, json=message, timeout=_TIMEOUT, headers={"User-Agent": "zoho-mirror"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if is_last:
                text = f"ALERT_WEBHOOK_URL did not answer ({type(error).__name__})"
                raise AlertNotSent(text) from None
            sleep(0.5)
            continue
        if response.is_success:
            return
        text = f"ALERT_WEBHOOK_URL answered {response.status_code}"
        raise AlertNotSent(text)
