"""What the Zoho side writes down: whatever happens, no token and no secret is in it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Literal
from urllib.parse import parse_qs

import httpx
import pytest
import respx

from processors import logs
from processors.errors import MirrorError, WorkError
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import connection as connecting
from processors.zoho.client import ZohoClient
from simulator import CLIENT_SECRET, REFRESH_TOKEN
from tests.zoho.support import ACCOUNTS, API, KEYS, TOKEN_URL, let_pass, settings

ACCESS_TOKENS = ["1000.access.alpha", "1000.access.beta"]
NEW_REFRESH_TOKEN = "1000.refresh.gamma"
SECRETS = [*ACCESS_TOKENS, NEW_REFRESH_TOKEN, REFRESH_TOKEN, CLIENT_SECRET, *KEYS]

_log = logs.get(__name__)


@pytest.fixture
def zoho_router() -> respx.MockRouter:
    router = respx.MockRouter(assert_all_called=False)
    router.post(TOKEN_URL, name="token")
    router.get(url__startswith=API, name="api")
    return router


def _token(value: str, **more: object) -> httpx.Response:
    return httpx.Response(200, json={"access_token": value, "expires_in": 3600, **more})


def _one_by_one(answers: list[Answer]) -> Callable[[httpx.Request], httpx.Response]:
    """Give one answer after the other, and the last one for ever."""
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        next_one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(next_one, Exception):
            raise next_one
        return next_one if isinstance(next_one, httpx.Response) else next_one(request)

    return answer


def _everything_said_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, chain=True)) + repr(error) + str(error)


def _echo(request: httpx.Request) -> httpx.Response:
    """Repeat what was sent, as a debugging proxy might."""
    form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
    error = {"error": f"no {form['refresh_token']}", "error_description": f"nor {form['client_secret']}"}
    return httpx.Response(200, json=error)


Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]

TOKEN_ANSWERS: list[Answer] = [
    _token(ACCESS_TOKENS[0], refresh_token=NEW_REFRESH_TOKEN),
    _token(ACCESS_TOKENS[0] + "\r\nX: y"),
    httpx.Response(200, json={"error": "invalid_code"}),
    _echo,
    httpx.Response(400, json={"error": "Access Denied", "error_description": "too many requests"}),
    httpx.Response(200, text=f"access_token={ACCESS_TOKENS[0]}&refresh_token={REFRESH_TOKEN}"),
    httpx.Response(200, json=[ACCESS_TOKENS[0]]),
    httpx.Response(500, text=REFRESH_TOKEN),
    httpx.ReadTimeout("slow"),
]
API_ANSWERS: list[Answer] = [
    httpx.Response(200, json={"code": 0, "item": {}}),
    httpx.Response(401, json={"code": 14, "message": "Invalid value passed for authtoken."}),
    httpx.Response(429, json={"code": 44}),
    httpx.Response(500, json={"code": 1000, "message": "An internal error"}),
    httpx.Response(400, json={"code": 2, "message": "Invalid value"}),
    httpx.Response(200, text="<html>"),
    httpx.RemoteProtocolError("dropped"),
    MemoryError("an error nobody expected"),
]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_neither_logs_nor_tracebacks_hold_a_secret(
    log_format: Literal["json", "console"],
    capsys: pytest.CaptureFixture[str],
    pool: Pool,
    connection: Connection,
    zoho_router: respx.MockRouter,
) -> None:
    logs.configure(log_format, "debug", process="worker")
    said: list[str] = []
    scripts: list[tuple[list[Answer], list[Answer]]] = [([answer], API_ANSWERS[:1]) for answer in TOKEN_ANSWERS]
    scripts += [([_token(ACCESS_TOKENS[0]), _token(ACCESS_TOKENS[1])], [answer] * 2) for answer in API_ANSWERS]
    with httpx.Client(transport=httpx.MockTransport(zoho_router.handler)) as http:
        for number, (token_answers, api_answers) in enumerate(scripts):
            # A setting of its own makes each script begin without a token, and its text is a secret too.
            client = ZohoClient(pool, settings(ZOHO_REFRESH_TOKEN=f"{REFRESH_TOKEN}.{number}"), http)
            zoho_router["token"].side_effect = _one_by_one(token_answers)
            zoho_router["api"].side_effect = _one_by_one(api_answers)
            try:
                client.item("7")
            except (WorkError, MemoryError) as error:
                _log.exception("item.failed", item_id="7", error=str(error))
                said.append(_everything_said_of(error))
            let_pass(connection, timedelta(hours=1))
    printed = capsys.readouterr().out
    for secret in SECRETS:
        assert secret not in printed
        assert secret not in "".join(said)
    # Of so many failures something was written, or this would prove nothing.
    assert len(said) >= len(scripts) - 3
    for event in ("token.refreshed", "token.refused", "breaker.opened", "item.failed"):
        assert event in printed
    assert printed.count("processors/zoho/oauth.py") >= len(TOKEN_ANSWERS) - 1


def test_an_unreadable_ciphertext_shows_neither_key_nor_text(pool: Pool, zoho_router: respx.MockRouter) -> None:
    zoho_router["token"].side_effect = [_token(ACCESS_TOKENS[0])]
    zoho_router["api"].respond(json={"code": 0, "item": {}})
    with httpx.Client(transport=httpx.MockTransport(zoho_router.handler)) as http:
        ZohoClient(pool, settings(), http).item("7")
        with pytest.raises(WorkError) as caught:
            ZohoClient(pool, settings(ENCRYPTION_KEYS=KEYS[1]), http).item("7")
    said = _everything_said_of(caught.value)
    assert "ENCRYPTION_KEYS" in said
    assert not [secret for secret in SECRETS if secret in said]


def test_objects_that_hold_secrets_do_not_show_them(pool: Pool, zoho_router: respx.MockRouter) -> None:
    chosen = settings()
    zoho_router["token"].side_effect = [_token(ACCESS_TOKENS[0])]
    with httpx.Client(transport=httpx.MockTransport(zoho_router.handler)) as http:
        client = ZohoClient(pool, chosen, http)
        token = client._tokens.access_token()
        with suppress(WorkError):
            client.item("7")
    shown = repr([chosen, chosen.model_dump(mode="json"), client, vars(client), vars(client._tokens), token])
    assert not [secret for secret in SECRETS if secret in shown]


def test_what_operators_read_of_the_connection_holds_no_secret(
    pool: Pool, connection: Connection, zoho_router: respx.MockRouter
) -> None:
    zoho_router["token"].side_effect = _one_by_one([*TOKEN_ANSWERS, _token(ACCESS_TOKENS[1])])
    zoho_router["api"].respond(401, json={"code": 57})
    with httpx.Client(transport=httpx.MockTransport(zoho_router.handler)) as http:
        client = ZohoClient(pool, settings(), http)
        for _ in TOKEN_ANSWERS:
            with suppress(WorkError):
                client.item("7")
            let_pass(connection, timedelta(hours=1))
    for table in ("zoho_connection", "token_calls", "api_calls", "api_gate"):
        rows = connection.execute(f"SELECT to_jsonb({table}) AS row FROM {table}").fetchall()
        assert rows
        dump = json.dumps([row["row"] for row in rows], default=str)
        for secret in SECRETS:
            assert secret not in dump
            assert secret.encode().hex() not in dump


def test_connecting_leaves_no_secret_in_logs_errors_or_tables(
    capsys: pytest.CaptureFixture[str],
    pool: Pool,
    connection: Connection,
    zoho_router: respx.MockRouter,
) -> None:
    code, entered, requester = "1000.code.delta", "the-entered-secret", Requester("console", "ada")
    chosen = Settings.load(
        environ={"ZOHO_ACCOUNTS_URL": ACCOUNTS, "ZOHO_API_URL": API, "ENCRYPTION_KEYS": KEYS[0]},
    )
    revoke = zoho_router.post(f"{TOKEN_URL}/revoke")
    zoho_router["api"].respond(json={"code": 0, "organizations": [{"organization_id": "1"}], "user": {"name": "Ada"}})
    answers = [*TOKEN_ANSWERS, _token(ACCESS_TOKENS[1], refresh_token=NEW_REFRESH_TOKEN)]
    logs.configure("json", "debug", process="web")
    said: list[str] = []

    def try_to(act: Callable[[], object]) -> None:
        try:
            said.append(repr(act()))
        except MirrorError as error:
            _log.exception("zoho.failed", error=str(error))
            said.append(_everything_said_of(error))
        said.append(repr(connecting.detail(connection, chosen)))
        let_pass(connection, timedelta(hours=1))

    def echo_code(request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        return httpx.Response(200, json={"error": f"{form.get('code')} {form.get('token')}"})

    answers[TOKEN_ANSWERS.index(_echo)] = echo_code
    with respx.mock as router:
        router.route().mock(side_effect=zoho_router.handler)
        for answer in answers:
            connecting.keep_client(
                pool, chosen, data_center="com", client_id="1000.C", client_secret=entered, requester=requester
            )
            zoho_router["token"].side_effect = _one_by_one([answer])
            revoke.side_effect = _one_by_one([echo_code])
            try_to(
                lambda: connecting.connect(
                    pool, chosen, code=code, redirect_uri="x:y", accounts_server=None, requester=requester
                )
            )
            try_to(lambda: connecting.refresh_now(pool, chosen, requester))
            try_to(lambda: connecting.disconnect(pool, chosen, requester))
    printed = capsys.readouterr().out
    dump = ""
    for table in ("zoho_connection", "audit_log", "token_calls"):
        rows = connection.execute(f"SELECT to_jsonb({table}) AS row FROM {table}").fetchall()
        assert rows
        dump += json.dumps([row["row"] for row in rows], default=str)
    for secret in (*ACCESS_TOKENS, NEW_REFRESH_TOKEN, code, entered, *KEYS):
        for place in (printed, "".join(said), dump):
            assert secret not in place
            assert secret.encode().hex() not in place
    for event in ("client_entered", "connected", "not_connected", "not_revoked", "disconnected"):
        assert f"zoho.{event}" in printed
