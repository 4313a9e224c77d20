"""Commands for alerts: what people were told, and whether they can be."""

from __future__ import annotations

from datetime import UTC, datetime

from processors.errors import AlertNotSent
from processors.runtime.output import Refused, ago, columns, console, echo_json, opened, plain_fields, requester, say
from processors.settings import Settings
from processors.store.alerts import Alert
from processors.workflows import alerting


def list_alerts(settings: Settings, *, as_json: bool) -> None:
    """List what is wrong, and what was, and when people were told."""
    with opened(settings) as pool:
        found = alerting.listed(pool)
    if as_json:
        for each in found:
            echo_json({**plain_fields(each), "is_open": each.is_open})
        return
    if settings.alert_webhook_url is None:
        say("ALERT_WEBHOOK_URL is not set: nobody is told of anything.")
    if not found:
        say("There has been nothing to tell.")
        return
    now = datetime.now(UTC)
    rows = [(_state(each), each.cause, ago(each.opened_at, now), ago(each.sent_at, now), each.what) for each in found]
    names = ("state", "cause", "since", "told", "what")
    console().print(columns(rows, names, left=names))


def _state(alert: Alert) -> str:
    if not alert.is_open:
        return "cleared"
    return "not delivered" if alert.failures else "open"


def send_test(settings: Settings, *, as_json: bool) -> None:
    """Send a message that says that it is a test."""
    try:
        with opened(settings) as pool:
            alerting.send_test(pool, settings, requester())
    except AlertNotSent as error:
        raise Refused(str(error)) from None
    if as_json:
        echo_json({"state": "sent"})
    else:
        say("Sent: it should be where alerts arrive by now.")
