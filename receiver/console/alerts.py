"""What people were told of, and whether they can be."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors.store import alerts
from processors.workflows import alerting
from receiver.console.context import Page, acts, requester


class Alerts(Page):
    """Alerts, and a test of their way."""

    path = "/alerts"
    menu_label = "Alerts"
    icon = "fa fa-bell"
    add_to_menu = True

    @route("")
    async def index(self, request: Request) -> Response:
        """Show what is wrong, and what was."""
        url = self.console.settings.alert_webhook_url
        # The rest of the address is as good as a password.
        host = urlsplit(url.get_secret_value()).hostname if url else None
        return self.page(request, "alerts.html", alerts=await self.console.read(alerts.listed), host=host)

    @route("/test", methods=["POST"])
    @acts(then="alerts")
    async def test(self, request: Request) -> None:
        """Send a test message."""
        console = self.console
        await console.run(alerting.send_test, console.pool, console.settings, requester(request))
        flash(request, "Sent: it should be where alerts arrive by now.", "success")
