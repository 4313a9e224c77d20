"""Commands for the webhooks in Zoho, and for what they deliver."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import click

from processors.runtime.output import Refused, counted, echo_json, opened, requester, say
from processors.settings import Settings
from processors.workflows import access, webhooks
from processors.workflows.webhooks import RuleReport, Webhooks
from processors.zoho.client import ZohoClient


@contextlib.contextmanager
def _webhooks(settings: Settings) -> Iterator[Webhooks]:
    with opened(settings) as pool, ZohoClient(pool, settings) as zoho:
        yield Webhooks(pool, settings, zoho)


def status(settings: Settings, *, as_json: bool) -> None:
    """Say how the rules are in Zoho; exit with 1 unless both are right."""
    with _webhooks(settings) as found:
        _say(found.status(), as_json=as_json)


def register(settings: Settings, *, as_json: bool) -> None:
    """Make and repair the rules; exit with 1 unless both are right then."""
    if not settings.zoho_webhook_secrets:
        message = "ZOHO_WEBHOOK_SECRETS is missing: Zoho signs with the first of them"
        raise Refused(message)
    with _webhooks(settings) as found:
        _say(found.register(requester()), as_json=as_json)


def unregister(settings: Settings, *, as_json: bool) -> None:
    """Remove what `register` made."""
    with _webhooks(settings) as found:
        removed = found.unregister(requester())
    if as_json:
        echo_json({"removed": removed})
    else:
        say(f"Removed: {', '.join(removed)}." if removed else "There was nothing of ours to remove.")


def instructions(settings: Settings, *, show_secret: bool, as_json: bool) -> None:
    """Say what to click and type in Zoho; the secret only when asked for, on record."""
    if settings.public_url is None:
        message = "set PUBLIC_URL to the address under which Zoho reaches web, such as https://shop.example"
        raise Refused(message)
    secret = None
    if show_secret and settings.zoho_webhook_secrets:
        with opened(settings) as pool:
            secret = access.show_webhook_secret(pool, settings, requester())
    lines = webhooks.instructions(settings.public_url, secret=secret)
    if as_json:
        echo_json({"lines": lines})
    else:
        for line in lines:
            click.echo(line)


def accept_shape(settings: Settings, *, as_json: bool) -> None:
    """Take what deliveries look like now for what they should."""
    with opened(settings) as pool:
        forgotten = webhooks.accept_shape(pool, requester())
    if as_json:
        echo_json({"forgotten": forgotten})
    else:
        say(f"Accepted; {counted(forgotten, 'former shape')} forgotten.")


def _say(reports: Sequence[RuleReport], *, as_json: bool) -> None:
    for report in reports:
        if as_json:
            echo_json(
                {"route": report.rule.route, "name": report.rule.name, "state": report.state, "what": report.what}
            )
        else:
            mark = "ok" if report.state == "right" else report.state
            say(f"{mark:<10} {report.rule.name} {report.what}")
    if any(report.state != "right" for report in reports):
        if not as_json:
            say("→ run: python -m processors webhooks register, or see: python -m processors webhooks instructions")
        sys.exit(1)
