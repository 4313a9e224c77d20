"""Builds the console and mounts it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette_admin import BaseAdmin
from starlette_admin.i18n import TimezoneConfig
from starlette_admin.routing import route
from starlette_admin.theme import ClassMap, DefaultTheme

from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store.database import Pool
from processors.workflows.drift import IN_WORDS
from receiver.console import presenting
from receiver.console.access import Access, Account, AuditLog
from receiver.console.alerts import Alerts
from receiver.console.context import Console
from receiver.console.events import EventActions, Events, ReplayActions, Replays
from receiver.console.headers import Nonces, for_browsers
from receiver.console.lists import MOST_COUNTED
from receiver.console.overview import Overview
from receiver.console.products import ProductActions, Products
from receiver.console.runs import RunActions, Runs
from receiver.console.sessions import Sessions
from receiver.console.zoho import Webhooks, ZohoConnection
from receiver.headers import AddedHeaders
from receiver.proxies import BehindProxies
from receiver.zoho import LazyZoho

_HERE: Final = Path(__file__).parent
# Of the frame's own routes, by name: what only looking and the actions of lists need not. Nothing is edited by hand.
_UNUSED: Final = frozenset({"create", "edit", "file", "import", "inline-edit", "inline-edit-row", "relation-lookup"})
_OFF: Final = (
    "The console is off. Set SESSION_SECRET (32 random characters or more) and start web again; "
    "docs/operations.md says how.\n"
)


class _Classes(ClassMap):
    """On a small screen, a row of a list is a card."""

    classes: ClassVar[dict[str, str]] = {"list.table": "table table-vcenter card-table table-mobile-md"}


class _Theme(DefaultTheme):
    """The frame's own look, but for the lists."""

    def get_class_map(self) -> ClassMap:
        """Return what differs."""
        return _Classes()


class _Admin(BaseAdmin):
    """The frame, with what our templates need besides."""

    def _template_response(
        self, request: Request, name: str, context: dict[str, Any] | None = None, status_code: int = 200
    ) -> Response:
        shown = getattr(request.state, "shown", {})
        response: Response = super()._template_response(request, name, {**shown, **(context or {})}, status_code)
        return response

    @route("/_api/{key}/action", methods=["POST"], name="action")
    async def handle_action(self, request: Request) -> Response:
        """Take an action of a list; the frame fails where none is named."""
        if not request.query_params.get("name"):
            raise HTTPException(400, "name: which action is meant")
        response: Response = await super().handle_action(request)
        return response

    async def _render_error(
        self,
        request: Request,
        exc: Exception = HTTPException(500),  # noqa: B008 - the frame's signature
    ) -> Response:
        # The page of an error has the menu: whoever is not signed in gets the bare word.
        if request.state.is_anonymous and isinstance(exc, HTTPException):
            return PlainTextResponse(f"{exc.detail}\n", exc.status_code, exc.headers)
        response: Response = await super()._render_error(request, exc)
        return response


def routes(settings: Settings, pool: Pool, publisher: Publisher, zoho: LazyZoho) -> list[BaseRoute]:
    """Return the console's routes; without `SESSION_SECRET` they say how to turn it on."""
    if settings.session_secret is None:
        off = PlainTextResponse(_OFF, 503)
        return [Mount("/console", app=off), Route("/oauth/zoho/start", off), Route("/oauth/zoho/callback", off)]
    app = Starlette()
    _admin(Console(settings, pool, publisher, zoho), settings.session_secret.get_secret_value()).mount_to(app)
    (mount,) = app.routes
    assert isinstance(mount, Mount), "the frame mounts itself"
    mount.app = BehindProxies(AddedHeaders(mount.app, for_browsers), trusted_proxies=settings.trusted_proxies)
    return [
        Route("/console", _to("/console/")),
        mount,
        Route("/oauth/zoho/start", _to("/console/zoho/connect")),
        Route("/oauth/zoho/callback", _to("/console/zoho/callback")),
    ]


def _admin(console: Console, secret: str) -> BaseAdmin:
    # It tells of names and addresses with each request; what matters is on our own record.
    logging.getLogger("starlette_admin").setLevel(logging.ERROR)
    admin = _Admin(
        title="zoho-mirror",
        theme=_Theme(),
        base_url="/console",
        route_name="console",
        templates_dir=str(_HERE / "templates"),
        static_dir=str(_HERE / "static"),
        index_view=Overview(console),
        auth_provider=Sessions(console.pool, secret),
        secret_key=secret,
        timezone_config=TimezoneConfig(default_timezone=console.settings.timezone.key),
    )
    # Who is signed in is asked first: whoever is not learns nothing, not even that a form was forged.
    admin.middlewares.insert(0, admin.middlewares.pop())
    admin.routes = [each for each in admin.routes if each.name not in _UNUSED]
    environment = admin.templates.env
    environment.add_extension(Nonces)
    environment.filters.update(presenting.FILTERS)
    environment.globals.update(most_counted=MOST_COUNTED, causes=IN_WORDS)
    # The frame's routes would take these addresses for the lists of a model, so pages stand before lists.
    for view in (
        ProductActions(console),
        EventActions(console),
        ReplayActions(console),
        RunActions(console),
        Products(console),
        Events(console),
        Replays(console),
        Runs(console),
        ZohoConnection(console, secret),
        Webhooks(console),
        Alerts(console),
        Access(console),
        AuditLog(console),
        Account(console),
    ):
        admin.add_view(view)
    return admin


def _to(path: str) -> Callable[[Request], Awaitable[Response]]:
    async def redirect(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{path}{query}", 302, headers={"Cache-Control": "no-store"})

    return redirect
