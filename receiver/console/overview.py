"""One screen that says whether it is working."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from anyio import move_on_after, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette_admin.i18n import get_tzinfo
from starlette_admin.routing import route
from starlette_admin.widgets import ChartWidget

from processors.errors import PublishFailed
from processors.store.database import Connection
from processors.workflows import browsing, insights
from processors.workflows.browsing import HourCount, RunDrift
from processors.workflows.insights import DeadCause
from processors.workflows.insights import Overview as Seen
from receiver.console.context import Page

_REFRESH_SECONDS: Final = 20
_REDIS_SECONDS: Final = 1.0
_HOURS: Final = 24
_RUNS: Final = 30
# From what is good, over what is no news, to what needs somebody.
_OUTCOMES: Final = {
    "created": "#2fb344",
    "updated": "#206bc4",
    "unchanged": "#90a4c0",
    "stale": "#b8c2d0",
    "tombstoned": "#f59f00",
    "gone": "#d6a95c",
    "unfinished": "#17a2b8",
    "dead": "#d63939",
}
_PLAIN: Final[dict[str, Any]] = {
    # The page comes anew every few seconds: nothing should dance.
    "animations": {"enabled": False},
    "toolbar": {"show": False},
    "zoom": {"enabled": False},
    "background": "transparent",
    "fontFamily": "inherit",
    "foreColor": "#8a94a3",  # readable on light and on dark
}
_GRID: Final = {"borderColor": "#8a94a340"}


@dataclass(frozen=True, slots=True)
class _Shown:
    seen: Seen
    causes: list[DeadCause]
    hours: list[HourCount]
    drift: list[RunDrift]


class Overview(Page):
    """The first page."""

    path = "/"
    route_name = "index"
    menu_label = "Overview"
    icon = "fa fa-gauge-high"
    add_to_menu = True

    @route("")
    async def index(self, request: Request) -> Response:
        """Show it all; the page comes anew by itself."""
        assert self.templates is not None, "pages are added to the console before it is mounted"
        shown = await self.console.read(_look)
        outcomes: dict[str, int] = {}
        for each in shown.hours:
            outcomes[each.what] = outcomes.get(each.what, 0) + each.count
        charts = [_deliveries(shown), _drift(shown.drift)]
        return self.page(
            request,
            "overview.html",
            seen=shown.seen,
            problems=insights.problems(shown.seen),
            causes_of_death=shown.causes,
            outcomes=outcomes,
            drift=shown.drift[-5:],
            redis_answers=await self._redis_answers(),
            charts=[await chart.render(request, self.templates.env) for chart in charts],
            scripts=charts[0].additional_js_links(request),
            refresh_seconds=_REFRESH_SECONDS,
            settings=self.console.settings,
        )

    async def _redis_answers(self) -> bool:
        def asked() -> bool:
            try:
                self.console.publisher.queue_sizes()
            except PublishFailed:
                return False
            return True

        # A thread that hangs longer is left behind; its connection has limits of its own.
        with move_on_after(_REDIS_SECONDS):
            return await to_thread.run_sync(asked, abandon_on_cancel=True)
        return False


def _look(connection: Connection) -> _Shown:
    return _Shown(
        seen=insights.overview(connection),
        causes=insights.dead_by_cause(connection),
        hours=browsing.deliveries_by_hour(connection),
        drift=browsing.drift_by_run(connection, most=_RUNS),
    )


def _deliveries(shown: _Shown) -> ChartWidget:
    this_hour = shown.seen.now.replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=back) for back in reversed(range(_HOURS))]
    counts = {(each.hour, each.what): each.count for each in shown.hours}
    present = [what for what in _OUTCOMES if any(each.what == what for each in shown.hours)]
    series = [{"name": what, "data": [counts.get((hour, what), 0) for hour in hours]} for what in present]
    options = {
        "chart": {**_PLAIN, "stacked": True},
        "colors": [_OUTCOMES[what] for what in present],
        "xaxis": {
            "categories": [f"{hour.astimezone(get_tzinfo()):%H:%M}" for hour in hours],
            "labels": {"rotate": 0, "hideOverlappingLabels": True},
            "tickAmount": 8,
        },
        "dataLabels": {"enabled": False},
        "grid": _GRID,
        "tooltip": {"theme": "dark"},
        "legend": {"position": "top", "horizontalAlign": "left"},
        "noData": {"text": "nothing was delivered in the last 24 hours"},
    }
    return _chart("Deliveries of the last 24 hours, and what they came to", series, options)


def _drift(runs: Sequence[RunDrift]) -> ChartWidget:
    options = {
        "chart": _PLAIN,
        "colors": ["#f76707"],
        "xaxis": {
            "categories": [f"run {each.run_id}" for each in runs],
            "labels": {"rotate": 0, "hideOverlappingLabels": True},
            "tickAmount": 6,
        },
        "yaxis": {"min": 0, "forceNiceScale": True},
        "dataLabels": {"enabled": False},
        "grid": _GRID,
        "tooltip": {"theme": "dark"},
        "noData": {"text": "no run has ended yet"},
    }
    series = [{"name": "drift", "data": [each.drift for each in runs]}] if runs else []
    return _chart("Drift: what each run had to repair", series, options)


def _chart(title: str, series: list[dict[str, Any]], options: dict[str, Any]) -> ChartWidget:
    async def given(_request: Request) -> list[dict[str, Any]]:
        return series

    return ChartWidget(title=title, chart_type="bar", series_callback=given, height=230, options=options)
