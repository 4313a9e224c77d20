"""Zoho's accounts server: consent, token, revocation."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from simulator.gate import zoho_of
from simulator.responses import json_response
from simulator.tokens import OAuthRefusal, TooManyTokens
from simulator.wire import Json

_LOCATION: Final = "us"
_CONSENT_PARAMETERS: Final = ("client_id", "redirect_uri", "scope", "state", "access_type")
_THROTTLED: Final[Mapping[str, Json]] = {
    "error_description": "You have made too many requests continuously. Please try again after some time.",
    "error": "Access Denied",
    "status": "failure",
}
_CONSENT_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Simulated Zoho: consent</title>
<body style="font: 16px/1.5 system-ui; max-width: 32rem; margin: 4rem auto">
<h1>{organization}</h1>
<p>An application asks to use this simulated Zoho organisation:</p><ul>{scopes}</ul>
<form method="post" action="/oauth/v2/auth">{fields}
<button name="decision" value="accept">Accept</button>
<button name="decision" value="reject">Reject</button></form></body></html>
"""


async def _ask_consent(request: Request) -> Response:
    parameters = request.query_params
    problem = _consent_problem(request, parameters)
    if problem is not None:
        return problem
    scopes = "".join(f"<li><code>{escape(scope)}</code></li>" for scope in _scopes(parameters))
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{escape(parameters.get(name, ""))}">'
        for name in _CONSENT_PARAMETERS
    )
    name = escape(zoho_of(request).organization.name)
    return HTMLResponse(_CONSENT_PAGE.format(organization=name, scopes=scopes, fields=fields))


async def _decide_consent(request: Request) -> Response:
    form = await _form(request)
    problem = _consent_problem(request, form)
    if problem is not None:
        return problem
    if form.get("decision") == "accept":
        answer = {
            "code": zoho_of(request).tokens.issue_code(
                _scopes(form),
                redirect_uri=form["redirect_uri"],
                is_offline=form.get("access_type") == "offline",
            ),
            "location": _LOCATION,
            "accounts-server": _base_url(request),
        }
    else:
        answer = {"error": "access_denied"}
    if form.get("state"):
        answer["state"] = form["state"]
    separator = "&" if "?" in form["redirect_uri"] else "?"
    return RedirectResponse(f"{form['redirect_uri']}{separator}{urlencode(answer)}", status_code=302)


async def _token(request: Request) -> Response:
    try:
        grant = zoho_of(request).tokens.grant({**request.query_params, **await _form(request)})
    except TooManyTokens:
        return json_response(_THROTTLED, status=400)
    except OAuthRefusal as refusal:
        return json_response({"error": refusal.error})
    body: dict[str, Json] = {"access_token": grant.access_token}
    if grant.refresh_token is not None:
        body["refresh_token"] = grant.refresh_token
    body |= {
        "api_domain": _base_url(request),
        "token_type": "Bearer",
        "expires_in": int(grant.expires_in.total_seconds()),
    }
    return json_response(body)


async def _revoke(request: Request) -> Response:
    parameters = {**request.query_params, **await _form(request)}
    if zoho_of(request).tokens.revoke(parameters.get("token", "")):
        return json_response({"status": "success"})
    return json_response({"error": "invalid_token"})


async def _server_info(request: Request) -> Response:
    return json_response({"result": "success", "locations": {_LOCATION: _base_url(request)}})


def _consent_problem(request: Request, parameters: Mapping[str, str]) -> Response | None:
    if parameters.get("client_id") != zoho_of(request).tokens.client_id:
        return HTMLResponse("<h1>Invalid Client ID</h1>", status_code=400)
    if not parameters.get("redirect_uri") or not _scopes(parameters):
        return HTMLResponse("<h1>redirect_uri and scope are needed</h1>", status_code=400)
    return None


def _scopes(parameters: Mapping[str, str]) -> frozenset[str]:
    return frozenset(filter(None, parameters.get("scope", "").replace(" ", ",").split(",")))


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


ROUTES: Final = (
    Route("/oauth/v2/auth", _ask_consent, methods=["GET"]),
    Route("/oauth/v2/auth", _decide_consent, methods=["POST"]),
    Route("/oauth/v2/token", _token, methods=["POST"]),
    Route("/oauth/v2/token/revoke", _revoke, methods=["POST"]),
    Route("/oauth/serverinfo", _server_info, methods=["GET"]),
)
