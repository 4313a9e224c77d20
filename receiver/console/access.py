"""Who may do what: operators, tokens of programs, one's own sessions, and the record of all that was done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors.errors import AccessRefused, SignInFailed, SignInThrottled
from processors.store import audit
from processors.store.audit import Entry
from processors.workflows import access, tokens
from receiver.console.context import Page, acts, requester, visitor
from receiver.console.lists import Filter, List, column
from receiver.console.presenting import sentence


class Account(Page):
    """One's own sessions and password."""

    path = "/account"
    menu_label = "My account"
    icon = "fa fa-user"
    add_to_menu = True

    @route("")
    async def index(self, request: Request) -> Response:
        """Show where one is signed in."""
        return await self._show(request)

    async def _show(self, request: Request, *, error: str = "") -> Response:
        me = visitor(request)
        found = await self.console.run(access.sessions_of, self.console.pool, me.name)
        sessions = [(each, access.is_of(each, me.token)) for each in found]
        return self.page(
            request, "account.html", status=400 if error else 200, me=me, sessions=sessions, error=error, access=access
        )

    @route("/sign-out-everywhere", methods=["POST"])
    async def sign_out_everywhere(self, request: Request) -> Response:
        """End all one's sessions, this one too."""
        await self.console.run(access.sign_out_everywhere, self.console.pool, visitor(request).name, requester(request))
        return RedirectResponse(f"{request.scope['root_path']}/login", 303)

    @route("/password", methods=["POST"])
    async def change_password(self, request: Request) -> Response:
        """Change one's own password; the other sessions end."""
        form = await request.form()
        me = visitor(request)
        try:
            await self.console.run(
                access.change_own_password,
                self.console.pool,
                str(form.get("password", "")),
                str(form.get("new_password", "")),
                requester(request),
                token=me.token,
            )
        except SignInFailed:
            return await self._show(request, error="Your present password is another.")
        except (AccessRefused, SignInThrottled) as error:
            return await self._show(request, error=sentence(str(error)))
        flash(request, "Your password is changed, and your other sessions have ended.", "success")
        return RedirectResponse(f"{request.scope['root_path']}/account", 303)


class Access(Page):
    """Operators and tokens."""

    path = "/access"
    menu_label = "Access"
    icon = "fa fa-key"
    add_to_menu = True

    @route("")
    async def index(self, request: Request) -> Response:
        """Show who may use console and API."""
        return await self._show(request)

    async def _show(self, request: Request, **shown: Any) -> Response:  # noqa: ANN401
        return self.page(
            request,
            "access.html",
            operators=await self.console.run(access.list_operators, self.console.pool),
            tokens=await self.console.run(tokens.list_tokens, self.console.pool),
            api_url=str(request.url.replace(path="/api", query="", fragment="")),
            **shown,
        )

    @route("/tokens", methods=["POST"])
    @acts(then="access")
    async def create_token(self, request: Request) -> Response:
        """Make a token, and show it this once."""
        form = await request.form()
        scope = form.get("scope")
        if scope not in ("read", "write"):
            raise HTTPException(400, "scope: read or write")
        created = await self.console.run(
            tokens.create,
            self.console.pool,
            str(form.get("name", "")),
            "write" if scope == "write" else "read",
            requester(request),
        )
        # Shown by this answer, not by a page of its own: nothing keeps the token.
        return await self._show(request, created=created)

    @route("/tokens/{token_id:int}/revoke", methods=["POST"])
    @acts(then="access")
    async def revoke_token(self, request: Request) -> None:
        """Let a token open nothing any more."""
        token_id = request.path_params["token_id"]
        revoked = await self.console.run(tokens.revoke, self.console.pool, token_id, requester(request))
        flash(request, f"The token {revoked.name} is revoked: it opens nothing any more.", "success")


class AuditFilter(Filter):
    """What the audit log can be asked for."""

    requester: str | None = None
    action: str | None = None


class AuditLog(List[AuditFilter]):
    """What people and programs did."""

    key = "audit"
    what = "audit log"
    display_name = "entry"
    icon = "fa fa-clipboard-list"
    pk_attr = "id"
    filter = AuditFilter
    list_template = "audit.html"
    row_click_navigate = False
    fields = (
        column("at", "audit_at", "When"),
        column("requester", "audit_requester", "Who"),
        column("action", "audit_action", "What"),
        column("targets", "audit_targets", "Which"),
        column("detail", "audit_detail"),
    )

    async def find(
        self, request: Request, asked: AuditFilter, sorts: Sequence[tuple[str, str]], *, skip: int, most: int
    ) -> Sequence[Entry]:
        """Return a page of entries, the newest first."""
        del request, sorts
        return await self.console.read(
            audit.find_entries, requester=asked.requester, action=asked.action, skip=skip, most=most
        )

    async def count_up_to(self, request: Request, asked: AuditFilter, *, at_most: int) -> int:
        """Count entries."""
        del request
        return await self.console.read(
            audit.count_entries, requester=asked.requester, action=asked.action, at_most=at_most
        )

    async def find_by_pk(self, request: Request, pk: Any) -> None:  # noqa: ANN401
        """Return nothing: an entry has no page of its own."""
        del request, pk

    def can_view_detail(self, request: Request) -> bool:
        """Answer for the frame: the list says all."""
        del request
        return False
