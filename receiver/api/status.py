"""Whether the mirror works, and what a person should do where it does not."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, PlainSerializer

from processors.store.products import Cause
from processors.workflows import insights
from receiver.api.runs import Run
from receiver.api.shapes import Answer, At
from receiver.api.shared import Mirror

Seconds = Annotated[
    timedelta, PlainSerializer(lambda length: length.total_seconds(), return_type=float), Field(description="Seconds.")
]


class Problem(Answer):
    """Something that needs a person."""

    what: str
    do: str


class Products(Answer):
    """How many products there are."""

    active: int
    inactive: int
    deleted: int


class Events(Answer):
    """What is left to do, and what needs a person."""

    unfinished: int
    oldest_unfinished_age: Seconds | None
    dead: int = Field(description="Without discarded ones.")
    discarded: int


class Freshness(Answer):
    """From the modification in Zoho to its being visible here, over the last day."""

    lane: str
    last_success_at: At | None
    changes: int
    p50: Seconds | None
    p95: Seconds | None
    p99: Seconds | None


class Quota(Answer):
    """Calls to Zoho by all processes together."""

    minute: int
    minute_limit: int
    day: int
    day_limit: int
    closed_for: Seconds = Field(description="No call is made for so long, because Zoho refused one.")
    closed_because: str | None


class Connection(Answer):
    """The connection to Zoho."""

    has_refresh_token: bool
    has_organization: bool
    access_token_expires_at: At | None
    refreshed_at: At | None
    last_error: str | None


class Reconciliation(Answer):
    """What the runs say of the mirror."""

    last_complete_full: Run | None
    last_complete_recent: Run | None
    held: Run | None
    newest: list[Run]
    watermark: At | None = Field(description="Every modification in Zoho up to here is known to be in the mirror.")
    drift: dict[Cause, int] = Field(description="What the last complete full run had to repair, by cause.")
    webhooks_are_dead: bool


class Processes(Answer):
    """Those of one role that are alive."""

    count: int
    beat_at: At = Field(description="The last sign of life of the one that gave it first.")


class Status(Answer):
    """The whole system, as Postgres knows it."""

    is_healthy: bool
    problems: list[Problem] = Field(description="The gravest first.")
    products: Products
    events: Events
    freshness: list[Freshness]
    last_delivery_at: At | None
    reconciliation: Reconciliation
    quota: Quota
    connection: Connection
    processes: dict[str, Processes] = Field(description="Those that are alive, by role.")
    at: At


def show(mirror: Mirror) -> Status:
    """Tell whether the mirror works, and what needs a person."""
    with mirror.reading() as connection:
        seen = insights.overview(connection)
    problems = insights.problems(seen)
    told = seen.reconciliation
    full, recent = told.last_complete.get("full"), told.last_complete.get("recent")
    return Status(
        is_healthy=not problems,
        problems=[Problem.model_validate(each) for each in problems],
        products=Products(**seen.products),
        events=Events.model_validate(seen),
        freshness=[Freshness.model_validate(each) for each in seen.freshness],
        last_delivery_at=told.last_delivery_at,
        reconciliation=Reconciliation(
            last_complete_full=Run.model_validate(full) if full else None,
            last_complete_recent=Run.model_validate(recent) if recent else None,
            held=Run.model_validate(told.held) if told.held else None,
            newest=[Run.model_validate(run) for run in told.newest],
            watermark=told.watermark,
            drift=told.drift,
            webhooks_are_dead=told.webhooks_are_dead,
        ),
        quota=Quota(
            minute=seen.api_usage.minute,
            minute_limit=mirror.settings.zoho_requests_per_minute,
            day=seen.api_usage.day,
            day_limit=mirror.settings.zoho_requests_per_day,
            closed_for=seen.api_usage.closed_for,
            closed_because=seen.api_usage.closed_because,
        ),
        connection=Connection.model_validate(seen.connection),
        processes={role: Processes.model_validate(alive) for role, alive in seen.processes.items()},
        at=seen.now,
    )
