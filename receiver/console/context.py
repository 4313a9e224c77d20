"""What every page of the console stands on: database, Zoho, who asks, and how an action is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin import CustomView
from starlette_admin.flash import flash
from starlette_admin.routing import route

from processors.errors import MirrorError
from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from receiver.console.presenting import sentence
from receiver.console.sessions import Visitor
from receiver.console.waiting import in_a_thread
from receiver.zoho import LazyZoho

P = ParamSpec("P")
T = TypeVar("T")

_POOL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Console:
    """What pages share. Everything that waits runs in a thread: this process's loop belongs to the webhooks."""

    settings: Settings
    pool: Pool
    publisher: Publisher
    zoho: LazyZoho

    async def read(self, look: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a read finds.

        Raises:
            HTTPException: 503; Postgres is away.
        """

        def looked() -> T:
            with self.pool.connection(timeout=_POOL_SECONDS) as connection:
                return look(connection, *args, **kwargs)

        return await self.run(looked)

    async def run(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function with a pool of its own comes to.

        Raises:
            HTTPException: 503; Postgres is away.
        """
        return await in_a_thread(do, *args, **kwargs)


def visitor(request: Request) -> Visitor:
    """Return who is signed in."""
    return cast("Visitor", request.state.admin_user)


def requester(request: Request) -> Requester:
    """Return who asks, for the record."""
    return Requester("console", visitor(request).name, request.client.host if request.client else None)


def require_operator(request: Request) -> None:
    """Let only those pass who may act.

    Raises:
        HTTPException: 403.
    """
    if not visitor(request).may_act:
        raise HTTPException(403, f"{visitor(request).name} is a viewer, and changes nothing. An operator can.")


def back_to(request: Request, page: str) -> Response:
    """Send the browser to a page of the console, such as `runs/list`."""
    return RedirectResponse(f"{request.scope['root_path']}/{page.lstrip('/')}", status_code=303)


class Page(CustomView):
    """One page of the console, or a few that belong together."""

    add_to_menu = False

    def __init__(self, console: Console) -> None:
        """Take what pages share."""
        super().__init__()
        self.console = console

    @route("")
    async def index(self, request: Request) -> Response:
        """Go to the list that the page belongs to, with the filter of the address."""
        query = f"?{request.url.query}" if request.url.query else ""
        return back_to(request, f"{self.path}/list{query}")

    def page(self, request: Request, template: str, *, status: int = 200, **shown: Any) -> Response:  # noqa: ANN401
        """Answer with a template of ours."""
        assert self._admin is not None, "pages are added to the console before it is mounted"
        context = {"title": self.menu_label, "active": self.menu_label, **shown}
        return self._admin._template_response(request, template, context, status)  # noqa: SLF001 - adds the messages

    def is_active(self, request: Request) -> bool:
        """Tell whether the menu shows this page as the one that is open."""
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        return bool(path == self.path or (self.path != "/" and path.startswith(f"{self.path}/")))


V = TypeVar("V", bound=Page)
Action = Callable[[V, Request], Awaitable[Response | None]]
Endpoint = Callable[[V, Request], Awaitable[Response]]


def acts(then: str) -> Callable[[Action[V]], Endpoint[V]]:
    """Make of a method an action: for operators only; what cannot be done is said on the page that follows.

    `then` is that page, unless the action answers with another; what stands in braces is taken from the address.
    """

    def decorate(action: Action[V]) -> Endpoint[V]:
        @wraps(action)
        async def checked(self: V, request: Request) -> Response:
            require_operator(request)
            answer = None
            try:
                answer = await action(self, request)
            except MirrorError as error:
                flash(request, sentence(str(error)), "error")
            return answer or back_to(request, then.format(**request.path_params))

        return checked

    return decorate
