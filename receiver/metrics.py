"""The whole system's truth in Prometheus text: read from Postgres at each scrape, the same from whichever process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from processors.settings import Settings
from processors.store.products import NOT_DRIFT, Cause
from processors.workflows import insights
from processors.workflows.insights import Overview, Totals

_ROLES = ("web", "worker", "clock")
_DRIFT_CAUSES = tuple(cause for cause in get_args(Cause) if cause not in NOT_DRIFT)


class _Snapshot(Collector):
    def __init__(self, overview: Overview, totals: Totals, settings: Settings) -> None:
        self._overview = overview
        self._totals = totals
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        seen = self._overview
        usage, age = seen.api_usage, seen.oldest_unfinished_age
        limits = {"minute": self._settings.zoho_requests_per_minute, "day": self._settings.zoho_requests_per_day}
        used = {"minute": usage.minute, "day": usage.day}
        yield _gauge("products", "Products by state", ["state"], (((s,), n) for s, n in seen.products.items()))
        yield _gauge(
            "events",
            "Events in the inbox by state and outcome",
            ["state", "outcome"],
            (((e.state, e.outcome or ""), e.count) for e in self._totals.events),
        )
        yield _gauge(
            "oldest_unfinished_event_age_seconds",
            "Age of the oldest event that is neither processed nor dead; 0 without one",
            [],
            [((), age.total_seconds() if age else 0.0)],
        )
        yield _gauge(
            "event_lag_seconds",
            "From receipt to applied, over the last 15 minutes",
            ["quantile"],
            (((str(q),), value) for q, value in zip(insights.LAG_QUANTILES, self._totals.lag.quantiles, strict=False)),
        )
        yield _gauge("api_calls", "Calls to Zoho in the window", ["window"], (((w,), n) for w, n in used.items()))
        yield _gauge(
            "api_budget_left",
            "Calls to Zoho that the window still allows",
            ["window"],
            (((window,), max(0, limits[window] - used[window])) for window in limits),
        )
        yield _gauge(
            "api_breaker_open_seconds",
            "How long no call to Zoho will be made, because of what it answered; 0 when calls may be made",
            [],
            [((), usage.closed_for.total_seconds())],
        )
        causes = dict.fromkeys(problem.cause for problem in insights.problems(seen))
        yield _gauge(
            "problem",
            "1 for each kind of problem that needs a person; `status` says what it is",
            ["cause"],
            (((cause,), 1.0) for cause in causes),
        )
        yield _gauge(
            "zoho_connected",
            "1 if a refresh token is stored and the token endpoint did not refuse it last",
            [],
            [((), float(seen.connection.has_refresh_token and seen.connection.last_error is None))],
        )
        rejected = CounterMetricFamily(
            "zoho_mirror_rejected_deliveries", "Deliveries refused at the door", labels=["route", "reason"]
        )
        for count in self._totals.rejections:
            rejected.add_metric([count.route, count.reason], count.count)
        yield rejected
        yield from self._reconciliation()
        alive = {role: of_role.count for role, of_role in seen.processes.items()}
        yield _gauge("processes", "Processes alive", ["role"], (((role,), alive.get(role, 0)) for role in _ROLES))

    def _reconciliation(self) -> Iterator[Metric]:
        seen = self._overview.reconciliation
        yield _gauge(
            "last_complete_run_timestamp_seconds",
            "When the last complete run of the kind ended, in seconds since 1970",
            ["kind"],
            (((kind,), run.finished_at.timestamp()) for kind, run in seen.last_complete.items() if run.finished_at),
        )
        yield _gauge(
            "runs_under_way",
            "1 if a run of the kind is under way, also while it waits for Zoho",
            ["kind"],
            (((run.kind,), float(run.state == "running")) for run in seen.newest),
        )
        yield _gauge(
            "run_held", "1 if a run waits for an operator's decision", [], [((), float(seen.held is not None))]
        )
        yield _gauge(
            "drift",
            "Changes that the last complete full run had to make, by cause; without those that are no drift",
            ["cause"],
            (((cause,), seen.drift.get(cause, 0)) for cause in _DRIFT_CAUSES if "full" in seen.last_complete),
        )
        yield _gauge(
            "watermark_timestamp_seconds",
            "Every modification in Zoho up to here is in the mirror, in seconds since 1970",
            [],
            [((), seen.watermark.timestamp())] if seen.watermark else [],
        )
        yield _gauge(
            "webhooks_dead",
            "1 if changes were missed while nothing was delivered, and nothing has been since",
            [],
            [((), float(seen.webhooks_are_dead))],
        )
        yield _gauge(
            "freshness_seconds",
            "From the modification in Zoho to its being visible here, over the last day",
            ["lane", "quantile"],
            (
                ((lane.lane, quantile), delay.total_seconds())
                for lane in self._overview.freshness
                for quantile, delay in (("0.5", lane.p50), ("0.95", lane.p95), ("0.99", lane.p99))
                if delay is not None
            ),
        )


def _gauge(
    name: str, text: str, labels: list[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"zoho_mirror_{name}", text, labels=labels)
    for label_values, value in values:
        gauge.add_metric(list(label_values), value)
    return gauge


def exposition(overview: Overview, totals: Totals, settings: Settings) -> bytes:
    """Return the Prometheus text of a snapshot."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(overview, totals, settings))
    return generate_latest(registry)
