"""Errors to Sentry, where `SENTRY_DSN` is set: what went wrong and where in the code, and none of the data.

Local variables, requests and environments are never sent; and whatever a text may have picked up, the values of all
secret settings are taken out of it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from processors import VERSION, logs, redaction
from processors.settings import Settings

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint
    from structlog.typing import EventDict

_LEVELS = {"error": "error", "exception": "error", "critical": "fatal"}


def start(settings: Settings, *, process: str) -> None:
    """Report errors from now on; does nothing where no DSN is set."""
    if settings.sentry_dsn is None:
        return
    # Half a tenth of a second and some megabytes, which most installations need not pay.
    import sentry_sdk  # noqa: PLC0415
    from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: PLC0415

    def scrub(event: Event, _hint: Hint) -> Event | None:
        if not logs.within_limit("sentry"):
            return None
        for part in ("request", "user", "server_name", "modules"):
            event.pop(part, None)  # type: ignore[misc]  # a key of the TypedDict, one after the other
        scrubbed: Event = _scrubbed(event)
        return scrubbed

    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        release=f"zoho-mirror@{VERSION}",
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        # What the libraries under us log as an error, too; ours come by `report`.
        integrations=[LoggingIntegration(level=None, event_level=logging.ERROR)],
        auto_enabling_integrations=False,
        max_breadcrumbs=0,
        traces_sample_rate=None,
        before_send=scrub,
    )
    sentry_sdk.set_tag("process", process)

    def report(_logger: object, method: str, event: EventDict) -> EventDict:
        level = _LEVELS.get(method)
        if level is not None:
            with sentry_sdk.new_scope() as scope:
                scope.set_level(level)  # type: ignore[arg-type]  # one of the words that it knows
                scope.set_tag("event", str(event.get("event")))
                shown = {key: value for key, value in event.items() if key not in ("event", "exc_info")}
                scope.set_context("line", shown)
                if event.get("exc_info"):
                    scope.capture_exception()
                else:
                    scope.capture_message(str(event.get("event")))
        return event

    logs.observe(report)


def _scrubbed(value: Any) -> Any:  # noqa: ANN401 - any part of an event
    match value:
        case str():
            return redaction.redact(value)
        case dict():
            return {key: _scrubbed(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_scrubbed(inner) for inner in value]
        case _:
            return value
