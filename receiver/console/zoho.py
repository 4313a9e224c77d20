"""The connection to Zoho: client, consent, organisation; and what to paste into Zoho's webhook form."""

from __future__ import annotations

import hashlib
from typing import Any, Final, get_args

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors.errors import ConnectionRefused
from processors.settings import DataCenter
from processors.store import api_calls, shapes
from processors.store.database import Connection
from processors.store.event_filter import EventFilter
from processors.workflows import access, browsing, connection, insights, webhooks
from processors.workflows.connection import ConnectionDetail
from receiver.console.context import Console, Page, acts, back_to, requester, require_operator, visitor
from receiver.console.presenting import sentence

_CONSENT_WITHIN_SECONDS: Final = 15 * 60
_MOST_SHAPES: Final = 10


class ZohoConnection(Page):
    """Connect, see what is connected, disconnect."""

    path = "/zoho"
    menu_label = "Zoho"
    icon = "fa fa-plug"
    add_to_menu = True

    def __init__(self, console: Console, session_secret: str) -> None:
        """Take what signs the state that comes back from Zoho's consent page."""
        super().__init__(console)
        self._states = URLSafeTimedSerializer(session_secret, salt="zoho consent")

    @route("")
    async def index(self, request: Request) -> Response:
        """Show the connection."""
        detail = await self._detail()
        return self.page(
            request,
            "zoho.html",
            detail=detail,
            data_centers=get_args(DataCenter),
            callback_url=_callback_url(request),
            usage=await self.console.read(api_calls.usage),
            problems=await self.console.read(insights.of_breaker),
            settings=self.console.settings,
        )

    async def _detail(self) -> ConnectionDetail:
        return await self.console.read(connection.detail, self.console.settings)

    @route("/client", methods=["POST"])
    @acts(then="zoho")
    async def keep_client(self, request: Request) -> None:
        """Keep data centre, client id and secret."""
        form = await request.form()
        await self.console.run(
            connection.keep_client,
            self.console.pool,
            self.console.settings,
            data_center=str(form.get("data_center", "")),
            client_id=str(form.get("client_id", "")).strip(),
            client_secret=str(form.get("client_secret", "")).strip() or None,
            requester=requester(request),
        )
        flash(request, "The client is kept. Now connect: Zoho will ask for your consent.", "success")

    @route("/connect")
    async def connect(self, request: Request) -> Response:
        """Go to Zoho's consent page; with `?webhooks=1`, also for the right to set the webhooks up."""
        require_operator(request)
        try:
            url = await self.console.run(
                connection.authorise_url,
                self.console.pool,
                self.console.settings,
                redirect_uri=_callback_url(request),
                state=str(self._states.dumps(_session_mark(request))),
                with_webhooks=request.query_params.get("webhooks") == "1",
            )
        except ConnectionRefused as error:
            flash(request, sentence(str(error)), "error")
            return back_to(request, "zoho")
        return RedirectResponse(url, 302)

    @route("/callback")
    async def callback(self, request: Request) -> Response:
        """Take what Zoho's consent page sends back."""
        return await self._take_consent(request)

    @acts(then="zoho")
    async def _take_consent(self, request: Request) -> Response | None:
        given = request.query_params
        # First whose consent it is: what a stranger sends must not even be read.
        self._check_state(request, given.get("state", ""))
        if "error" in given or not given.get("code"):
            message = f"Zoho gave no consent ({given.get('error', 'no code')[:100]}); nothing was changed"
            raise ConnectionRefused(message)
        found = await self.console.run(
            connection.connect,
            self.console.pool,
            self.console.settings,
            code=given["code"],
            redirect_uri=_callback_url(request),
            accounts_server=given.get("accounts-server"),
            requester=requester(request),
        )
        detail = await self._detail()
        if detail.organization_id is None and found:
            flash(request, "Zoho is connected. Now pick the organisation.", "success")
            return back_to(request, "zoho/organisations")
        flash(request, f"Zoho is connected: {detail.organization_name or detail.organization_id or ''}.", "success")
        return None

    def _check_state(self, request: Request, state: str) -> None:
        try:
            mark = self._states.loads(state, max_age=_CONSENT_WITHIN_SECONDS)
        except BadSignature:
            mark = None
        if mark != _session_mark(request):
            message = "this consent was not asked for in this session, or too long ago; please connect again"
            raise ConnectionRefused(message)

    @route("/organisations")
    async def organisations(self, request: Request) -> Response:
        """Show what the connection can reach."""
        return await self._pick(request)

    @acts(then="zoho")
    async def _pick(self, request: Request) -> Response:
        found = await self.console.run(connection.organisations, self.console.pool, self.console.settings)
        return self.page(request, "organisations.html", found=found, detail=await self._detail())

    @route("/organisation", methods=["POST"])
    @acts(then="zoho")
    async def choose(self, request: Request) -> None:
        """Mirror this organisation."""
        organization_id = str((await request.form()).get("organization_id", ""))
        await self.console.run(
            connection.choose_organisation,
            self.console.pool,
            self.console.settings,
            organization_id,
            requester(request),
        )
        flash(request, "The organisation is chosen. The first full run starts within a minute.", "success")

    @route("/refresh", methods=["POST"])
    @acts(then="zoho")
    async def refresh(self, request: Request) -> None:
        """Fetch a new access token now."""
        await self.console.run(connection.refresh_now, self.console.pool, self.console.settings, requester(request))
        flash(request, "Zoho gave a new access token.", "success")

    @route("/disconnect", methods=["POST"])
    @acts(then="zoho")
    async def disconnect(self, request: Request) -> None:
        """Revoke the tokens and forget them."""
        warning = await self.console.run(
            connection.disconnect, self.console.pool, self.console.settings, requester(request)
        )
        if warning:
            flash(request, f"The tokens are forgotten here. {warning}.", "warning")
        else:
            flash(request, "Zoho is disconnected; its tokens are revoked. The mirror stays as it is.", "success")


def _callback_url(request: Request) -> str:
    return str(request.url.replace(path="/oauth/zoho/callback", query="", fragment=""))


def _session_mark(request: Request) -> str:
    return hashlib.sha256(visitor(request).token.encode()).hexdigest()


class Webhooks(Page):
    """What to paste into Zoho's forms, and whether anything has come since."""

    path = "/webhooks"
    menu_label = "Webhooks"
    icon = "fa fa-satellite-dish"
    add_to_menu = True

    @route("")
    async def index(self, request: Request) -> Response:
        """Show addresses and state."""
        return await self._show(request)

    @route("/ask", methods=["POST"])
    @acts(then="webhooks")
    async def ask(self, request: Request) -> Response:
        """Ask Zoho how its webhooks and rules are."""
        reports = await self.console.run(lambda: self._rules(request).status())
        return await self._show(request, reports=reports)

    @route("/register", methods=["POST"])
    @acts(then="webhooks")
    async def register(self, request: Request) -> Response:
        """Make or repair webhooks and rules in Zoho."""
        reports = await self.console.run(lambda: self._rules(request).register(requester(request)))
        return await self._show(request, reports=reports)

    @route("/accept", methods=["POST"])
    @acts(then="webhooks")
    async def accept(self, request: Request) -> None:
        """Take what deliveries look like now for what they should."""
        await self.console.run(webhooks.accept_shape, self.console.pool, requester(request))
        flash(request, "Accepted: this is what deliveries should look like.", "success")

    def _rules(self, request: Request) -> webhooks.Webhooks:
        zoho, settings = self.console.zoho.client(), self.console.settings
        return webhooks.Webhooks(self.console.pool, settings, zoho, public_url=self._root(request))

    def _root(self, request: Request) -> str:
        here = str(request.url.replace(path="", query="", fragment="")).rstrip("/")
        return self.console.settings.public_url or here

    async def _show(self, request: Request, **shown: Any) -> Response:  # noqa: ANN401
        root = self._root(request)
        return self.page(
            request,
            "webhooks.html",
            seen=await self.console.read(_seen),
            urls={
                "changed": f"{root}/webhooks/zoho/items",
                "deleted": f"{root}/webhooks/zoho/items/deleted",
            },
            secrets=len(self.console.settings.zoho_webhook_secrets),
            networks=self.console.settings.webhook_allowed_networks,
            **shown,
        )

    @route("/secret", methods=["POST"])
    @acts(then="webhooks")
    async def reveal(self, request: Request) -> Response:
        """Show the newest secret once; it is noted who saw it."""
        secret = await self.console.run(
            access.show_webhook_secret, self.console.pool, self.console.settings, requester(request)
        )
        return await self._show(request, secret=secret)


def _seen(connected: Connection) -> dict[str, Any]:
    latest = {kind: browsing.find_events(connected, EventFilter(kind=kind), most=1) for kind in ("changed", "deleted")}
    return {
        "changed": next(iter(latest["changed"]), None),
        "deleted": next(iter(latest["deleted"]), None),
        "rejected": insights.rejections_lately(connected),
        "shapes": shapes.listed(connected)[:_MOST_SHAPES],
        "lost_keys": insights.lost_keys(connected),
    }
