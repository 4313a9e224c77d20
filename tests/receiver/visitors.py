"""People at the console, as their browsers are seen by the web process, and a mirror that has something to show."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.cookies import SimpleCookie
from types import TracebackType
from typing import Any, Final, Self

import httpx
from itsdangerous import URLSafeSerializer
from starlette.routing import BaseRoute, Mount, Route

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store import database
from processors.store.database import Pool
from processors.store.event_filter import EventFilter
from processors.store.operators import Role
from processors.workflows import access, replaying, tokens
from receiver.console import app as console
from receiver.console.sessions import COOKIE
from receiver.zoho import LazyZoho
from tests.receiver.programs import MUG, SHELL, fill
from tests.receiver.serving import Rows, Web

PASSWORD: Final = "correct horse battery"
SESSION_SECRET: Final = "the secret that signs all sessions"
CSRF_COOKIE: Final = "starlette_admin_csrftoken"
CSRF_FIELD: Final = "csrftoken"
# What a process writes by itself, whoever visits.
_OF_PROCESSES: Final = ("processes", "rejections", "delivery_shapes")


class Browser:
    """One browser. It keeps cookies as browsers do that reach the mirror by TLS, and follows no redirect by itself."""

    def __init__(self, web: Web, *, agent: str = "a browser", **headers: str) -> None:
        self.web = web
        self.cookies: dict[str, str] = {}
        self.client = httpx.Client(
            base_url=web.client.base_url,
            timeout=20,
            trust_env=False,
            headers={"User-Agent": agent} | {name.replace("_", "-"): value for name, value in headers.items()},
            event_hooks={"request": [self._send_cookies], "response": [self._keep_cookies]},
        )

    def _send_cookies(self, request: httpx.Request) -> None:
        # Plain HTTP stands for the TLS that ends at a proxy: a Secure cookie is sent, which httpx would not do.
        request.headers.pop("Cookie", None)
        if self.cookies:
            request.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def _keep_cookies(self, response: httpx.Response) -> None:
        for line in response.headers.get_list("set-cookie"):
            for name, cookie in SimpleCookie(line).items():
                if cookie["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = cookie.value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()

    def get(self, path: str, **given: Any) -> httpx.Response:
        """Open a page; `path` is below /console/."""
        return self.client.get(f"/console/{path}", **given)

    def shows(self, path: str, **given: Any) -> str:
        """Open a page that must be there, and return it."""
        answer = self.get(path, **given)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.text

    def post(self, path: str, fields: Any = None, **given: Any) -> httpx.Response:
        """Send a form of the console's own, with what proves that it is."""
        if CSRF_COOKIE not in self.cookies:
            self.get("login")
        return self.client.post(f"/console/{path}", data={CSRF_FIELD: self.csrf, **(fields or {})}, **given)

    def told(self, answer: httpx.Response) -> str:
        """Follow where an action leads, and return the page that says what came of it."""
        assert answer.status_code == 303, f"{answer.status_code} {answer.text[:500]}"
        assert answer.headers["location"].startswith("/console/"), answer.headers["location"]
        page = self.client.get(answer.headers["location"])
        assert page.status_code == 200, f"{answer.headers['location']}: {page.status_code} {page.text[:500]}"
        return page.text

    def acts(self, path: str, fields: Any = None) -> str:
        """Send a form, and return the page that says what came of it."""
        return self.told(self.post(path, fields))

    @property
    def csrf(self) -> str:
        """The token that its forms carry."""
        return self.cookies[CSRF_COOKIE]

    @property
    def session(self) -> str:
        """The signed cookie of its session."""
        return self.cookies[COOKIE]

    def sign_in(self, name: str, password: str = PASSWORD, *, path: str = "login") -> httpx.Response:
        """Send the sign-in form."""
        self.get(path)
        return self.post(path, {"username": name, "password": password})


def person(pool: Pool, name: str, role: Role) -> str:
    """Add somebody who may use the console."""
    return access.add_operator(pool, name, PASSWORD, role, SHELL).name


def sign(token: object, *, secret: str = SESSION_SECRET) -> str:
    """Sign a session's token, as whoever knows a secret can."""
    return str(URLSafeSerializer(secret, salt="session").dumps(token))


@dataclass(frozen=True, slots=True)
class Address:
    """One entry of the console's route table."""

    path: str
    """With something in place of its parameters."""
    methods: frozenset[str]


def addresses() -> list[Address]:
    """Return every address that console and OAuth have, by the application's own table."""
    settings = Settings.load(environ={"SESSION_SECRET": SESSION_SECRET})
    pool = database.sync_pool("postgresql://127.0.0.1:9/nowhere", size=1, name="tests")
    publisher = Publisher(build_broker("redis://127.0.0.1:9", verify_tls=True))
    found: dict[str, set[str]] = {}
    for path, methods in _walk(console.routes(settings, pool, publisher, LazyZoho(pool, settings)), ""):
        for key in ("products", "events", "runs", "audit") if "{key}" in path else ("",):
            whole = re.sub(r"\{\w+(:\w+)?\}", "1", path.replace("{key}", key))
            found.setdefault(whole, set()).update(methods)
    return [Address(path, frozenset(methods)) for path, methods in sorted(found.items())]


def _walk(routes: Sequence[BaseRoute], prefix: str) -> Iterator[tuple[str, set[str]]]:
    for route in routes:
        if isinstance(route, Mount):
            app: Any = route.app
            # What stands around the console hides its table.
            while not hasattr(app, "routes") and hasattr(app, "_app"):
                app = app._app
            yield from _walk(getattr(app, "routes", []), prefix + route.path)
        else:
            assert isinstance(route, Route), route
            yield prefix + route.path, set(route.methods or ())


def furnish(pool: Pool, rows: Rows) -> dict[str, str]:
    """Put some of everything into the mirror; return every page that it then has, by name, below /console/."""
    fill(pool)
    (dead, *_) = rows("SELECT id FROM events WHERE state = 'dead' ORDER BY id")
    replay = replaying.start(pool, EventFilter(event_ids=(dead["id"],)), SHELL, reason="to see", per_second=10)
    tokens.create(pool, "shop", "read", SHELL)
    (run, *_) = rows("SELECT id FROM reconciliation_runs ORDER BY id")
    return {
        "overview": "",
        "products": "products/list",
        "product": f"products/detail?pk={MUG}",
        "export": "products/export.csv",
        "events": "events/list",
        "event": f"events/detail?pk={dead['id']}",
        "replays": "replays/list",
        "replay": f"replays/detail?pk={replay.id}",
        "runs": "runs/list",
        "run": f"runs/detail?pk={run['id']}",
        "zoho": "zoho",
        "webhooks": "webhooks",
        "alerts": "alerts",
        "access": "access",
        "audit": "audit/list",
        "account": "account",
    }


def everything(rows: Rows, *, but: Sequence[str] = ()) -> dict[str, str]:
    """Return a digest of each table, to see that nothing was changed."""
    names = [row["tablename"] for row in rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    digests = {}
    for name in sorted(set(names) - {*_OF_PROCESSES, *but}):
        (row,) = rows(f"SELECT coalesce(string_agg(t::text, '|' ORDER BY t::text), '') AS text FROM {name} AS t")
        digests[name] = hashlib.sha256(row["text"].encode()).hexdigest()
    return digests


def audited(rows: Rows) -> list[tuple[str, str, list[str]]]:
    """Return what is on record: by whom, what, and which ids; without what shells and sign-ins noted."""
    found = rows("SELECT requester, action, targets FROM audit_log WHERE channel = 'console' ORDER BY id")
    return [
        (row["requester"], row["action"], row["targets"]) for row in found if not row["action"].startswith("sign_in")
    ]
