"""Signing in and out, and who is behind a request."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_admin.auth import AdminUser, BaseAuthProvider

from processors.errors import SignInFailed, SignInThrottled
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.store.operators import LONGEST, Role, SignedIn
from processors.workflows import access
from receiver import bodies
from receiver.console.waiting import in_a_thread

# A browser takes a cookie with this prefix only over TLS (or from its own machine), for this very host, and all of it.
COOKIE = "__Host-zoho-mirror"
# The frame's own: the browser's time zone, as a script of its pages tells it.
_ZONE_COOKIE = "timezone"
# Pages hold addresses with the host that was asked for, some of them within scripts.
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_NO_HOST = "The Host header names no host.\n"
_PATIENCE = timedelta(seconds=2)
_MOST_FORM_BYTES = 256 * 1024
# Name and password.
_MOST_STRANGERS_BYTES = 16 * 1024
# Each takes a thread, and a connection of a pool of few.
_MOST_VISITORS_AT_ONCE = 12
_MOST_STRANGERS_AT_ONCE = 4
_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")
_FROM_ELSEWHERE = "This form was sent by a page of another site. Nothing was done.\n"
_BUSY = "Too many pages are asked for at this moment; try again.\n"
_NOT_READ = "This cannot be read: it is no form of this console. Please go back, and try again.\n"


@dataclass
class Visitor(AdminUser):
    """Who is signed in; the frame shows the name."""

    name: str = ""
    role: Role = "viewer"
    token: str = ""

    @property
    def may_act(self) -> bool:
        """An operator acts; a viewer only sees."""
        return self.role == "operator"


class Sessions(BaseAuthProvider):
    """The frame's way to ask for sign-in and sign-out."""

    def __init__(self, pool: Pool, session_secret: str) -> None:
        """Take what signs the cookies: another secret signs everybody out."""
        super().__init__()
        self._pool = pool
        self._signer = URLSafeSerializer(session_secret, salt="session")
        self._key = f"names {session_secret}"

    async def authenticate(self, request: Request) -> AdminUser | None:
        """Return who is behind a request.

        Raises:
            HTTPException: 503; the database cannot be asked.
        """
        token = self.token_of(request)
        if token is None:
            return None
        found: SignedIn | None = await in_a_thread(access.signed_in, self._pool, token, within=_PATIENCE)
        if found is None:
            return None
        return Visitor(username=f"{found.name} ({found.role})", name=found.name, role=found.role, token=token)

    def token_of(self, request: Request) -> str | None:
        """Return what a cookie holds that this console signed; None: there is none such."""
        try:
            token = self._signer.loads(request.cookies.get(COOKIE, ""))
        except BadSignature:
            return None
        return token if isinstance(token, str) else None

    def get_routes(self, templates: Jinja2Templates) -> list[Route]:
        """Return sign-in and sign-out."""
        self._templates = templates
        return [
            Route("/login", self.show, methods=["GET"], name="login"),
            Route("/login", self.sign_in, methods=["POST"]),
            Route("/logout", self.sign_out, methods=["POST"], name="logout"),
        ]

    def get_middleware(self) -> Middleware:
        """Return what lets only those in who are signed in."""
        return Middleware(_Guard, sessions=self)

    async def show(self, request: Request) -> Response:
        """Ask for name and password."""
        if request.state.admin_user:
            return RedirectResponse(_next(request), 302)
        return await self._form(request)

    async def _form(self, request: Request, *, error: str = "", status: int = 200) -> Response:
        anybody = await in_a_thread(access.anybody_may_sign_in, self._pool)
        context = {"error": error, "anybody": anybody, "name": (await request.form()).get("username", "")}
        return self._templates.TemplateResponse(request, "login.html", context, status)

    async def sign_in(self, request: Request) -> Response:
        """Open a session, or say why not."""
        form = await request.form()
        name, password = str(form.get("username", "")), str(form.get("password", ""))
        address = request.client.host if request.client else None
        browser = request.headers.get("user-agent", "")
        try:
            token = await in_a_thread(
                access.sign_in, self._pool, name, password, address=address, browser=browser, key=self._key
            )
        except SignInFailed:
            return await self._form(request, error="Name and password do not belong together.", status=401)
        except SignInThrottled as error:
            return await self._form(request, error=f"Not now: {error}.", status=429)
        response = RedirectResponse(_next(request), 303)
        response.set_cookie(
            COOKIE,
            str(self._signer.dumps(token)),
            max_age=int(LONGEST.total_seconds()),
            secure=True,
            httponly=True,
            samesite="lax",  # strict would forget who is signed in on the way back from Zoho's consent page
        )
        return response

    async def sign_out(self, request: Request) -> Response:
        """End this session."""
        me = request.state.admin_user
        requester = Requester("console", me.name, request.client.host if request.client else None)
        await in_a_thread(access.sign_out, self._pool, me.token, requester)
        response = RedirectResponse(f"{request.scope['root_path']}/login", 303)
        response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")
        return response


class _Guard:
    """Answers 302 to the sign-in page instead of whatever was asked for, unless somebody is signed in.

    It stands before everything else, also before the check for forged forms: who is not signed in learns nothing. Who
    brings no cookie of ours costs no look into the database but at the sign-in page, and shares a small room with
    others like that: strangers keep nobody out who was let in before.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions
        self._visitors = asyncio.Semaphore(_MOST_VISITORS_AT_ONCE)
        self._strangers = asyncio.Semaphore(_MOST_STRANGERS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request.state.admin_user, request.state.is_anonymous = None, True
        path = scope["path"].removeprefix(scope["root_path"])
        is_stranger = self._sessions.token_of(request) is None
        refused = _refused(request, path, is_stranger=is_stranger)
        if refused is not None:
            await refused(scope, receive, send)
        elif path.startswith("/static/"):
            await self._app(scope, receive, send)
        else:
            # Read before there is room for it: whoever sends slowly takes nobody's place.
            most = _MOST_STRANGERS_BYTES if is_stranger else _MOST_FORM_BYTES
            body = await _body(Request(scope, bodies.bounded(receive, most_bytes=most)))
            if isinstance(body, Response):
                await body(scope, receive, send)
            else:
                room = self._strangers if is_stranger else self._visitors
                await self._in_turn(room, request, path, body, receive, send)

    async def _in_turn(
        self, room: asyncio.Semaphore, request: Request, path: str, body: bytes, receive: Receive, send: Send
    ) -> None:
        try:
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                await room.acquire()
        except TimeoutError:
            await PlainTextResponse(_BUSY, 503, headers={"Retry-After": "1"})(request.scope, receive, send)
            return
        try:
            await self._let_in(request, path, body, receive, send)
        finally:
            room.release()

    async def _let_in(self, request: Request, path: str, body: bytes, receive: Receive, send: Send) -> None:
        scope = request.scope
        try:
            request.state.admin_user = await self._sessions.authenticate(request)
        except HTTPException as error:
            await PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)(scope, receive, send)
            return
        request.state.is_anonymous = request.state.admin_user is None
        if request.state.is_anonymous and path != "/login":
            await _to_sign_in(request)(scope, receive, send)
        elif "\0" in scope["path"] or not await _is_readable(scope, body):
            # The check for forged forms, which comes next, would fail at what is no form.
            await PlainTextResponse(_NOT_READ, 400)(scope, receive, send)
        else:
            await self._app(_in_a_known_zone(request), _again(body, receive), send)


def _refused(request: Request, path: str, *, is_stranger: bool) -> Response | None:
    """Return what answers a request that goes no further, without a look at anything but its head."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        return PlainTextResponse(_NO_HOST, 400)
    if is_stranger and path != "/login" and not path.startswith("/static/"):
        return _to_sign_in(request)
    if request.method not in _SAFE and _comes_from_elsewhere(request, host):
        return PlainTextResponse(_FROM_ELSEWHERE, 403)
    return None


def _comes_from_elsewhere(request: Request, host: str) -> bool:
    """Tell whether another site's page sent this, as far as the browser says.

    The token in each form is one that another host of the same domain could plant, together with its cookie.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != host


async def _body(request: Request) -> bytes | Response:
    """Return the whole body, or what answers one that is too large, too slow, or cut off."""
    try:
        return await request.body()
    except ClientDisconnect:
        return PlainTextResponse(_NOT_READ, 400)
    except HTTPException as error:
        return PlainTextResponse(f"{error.detail}\n", error.status_code)


def _again(body: bytes, then: Receive) -> Receive:
    """Return what receives a body once more, and after it what comes anyway."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return given.pop() if given else await then()

    return receive


async def _is_readable(scope: Scope, body: bytes) -> bool:
    """Tell whether a form, if it is one, consists of what Postgres takes for text."""
    try:
        form = await Request(scope, _again(body, _nothing_more)).form()
    except (HTTPException, MultiPartException, LookupError, UnicodeError):
        return False
    await form.close()
    # There is no form that sends a file.
    texts = [text for pair in form.multi_items() for text in pair]
    return all(isinstance(text, str) and _is_storable(text) for text in texts)


def _is_storable(text: str) -> bool:
    return "\0" not in text and text == text.encode(errors="replace").decode()


def _in_a_known_zone(request: Request) -> Scope:
    """Return the scope, without a cookie that names a time zone which is none: the frame would fail at it."""
    zone = request.cookies.get(_ZONE_COOKIE)
    try:
        ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        kept = "; ".join(f"{name}={value}" for name, value in request.cookies.items() if name != _ZONE_COOKIE)
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"cookie"]
        return {**request.scope, "headers": [*headers, (b"cookie", kept.encode("latin-1"))]}
    return request.scope


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


def _to_sign_in(request: Request) -> Response:
    wanted = ""
    if request.method in ("GET", "HEAD"):
        query = f"?{request.url.query}" if request.url.query else ""
        wanted = f"?next={quote(request.scope['path'] + query, safe='')}"
    return RedirectResponse(f"{request.scope['root_path']}/login{wanted}", 302)


def _next(request: Request) -> str:
    """Return where to go after signing in: a path of the console, whatever was asked for."""
    home = f"{request.scope['root_path']}/"
    wanted = request.query_params.get("next", "")
    # Browsers leave out backslashes and what is not printable, and resolve dots, also where they are escaped.
    is_plain = wanted.isprintable() and "\\" not in wanted
    leads_away = {".", ".."} & set(unquote(urlsplit(wanted).path).split("/")) if is_plain else True
    return wanted if wanted.startswith(home) and not leads_away else home
