"""Calls to the accounts server: tokens for a refresh token or a code, and revocation.

Errors arrive with HTTP 200 as well (seen in integrations). Parameters travel in the body: query strings end up in logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from processors.encryption import SecretBox
from processors.errors import (
    BodyUnreadable,
    MustWait,
    NotConnected,
    TokenThrottled,
    WorkError,
    ZohoUnavailable,
)
from processors.settings import Settings
from processors.store import zoho_connection
from processors.store.database import Connection, Pool
from processors.store.zoho_connection import Stored
from processors.zoho.items import read_json

# Together below the database's limit for a statement: others wait for the refresh lock while the endpoint answers.
_TIMEOUT = httpx.Timeout(6, connect=3)
LONGEST_WAIT = timedelta(minutes=30)
REFUSED_WAIT = timedelta(seconds=15)
_THROTTLED_WAIT = timedelta(minutes=1)
_UNAVAILABLE_WAIT = timedelta(seconds=10)
_LIFETIME = timedelta(hours=1)
# What can travel in a header; anything else would be quoted in the HTTP library's complaint.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Client:
    """The OAuth client, by the environment or as an operator entered it."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the accounts server gave instead of a token; the text holds no secret."""

    error: str
    first_wait: timedelta
    raises: type[WorkError]

    def wait(self, refusals: int) -> timedelta:
        """Return for how long the endpoint is left alone after so many refusals before this one."""
        return min(self.first_wait * (1 << min(refusals, 20)), LONGEST_WAIT)

    def as_error(self, wait: timedelta) -> WorkError:
        """Return the error to raise; `wait` is how long the endpoint is left alone."""
        if issubclass(self.raises, MustWait):
            return self.raises(self.error, wait)
        return self.raises(self.error)


def secret_box(settings: Settings) -> SecretBox | None:
    """Return what encrypts credentials; None: `ENCRYPTION_KEYS` is not set."""
    keys = [key.get_secret_value() for key in settings.encryption_keys]
    return SecretBox(keys) if keys else None


def client_is_set(settings: Settings) -> bool:
    """Tell whether the environment names the client; id and secret go together."""
    return bool(settings.zoho_client_id or settings.zoho_client_secret)


def client(settings: Settings, stored: Stored, box: SecretBox) -> Client:
    """Return the client to call as.

    Raises:
        NotConnected: there is none, or only half of one.
        ConfigurationError: no key reads the stored secret.
    """
    if client_is_set(settings):
        secret = settings.zoho_client_secret.get_secret_value() if settings.zoho_client_secret else ""
        given = {"ZOHO_CLIENT_ID": settings.zoho_client_id, "ZOHO_CLIENT_SECRET": secret}
        for name, value in given.items():
            if not value:
                message = f"Zoho is not connected: {name} is not set, though the other half of the client is"
                raise NotConnected(message, REFUSED_WAIT)
        return Client(settings.zoho_client_id or "", secret)
    if stored.client_id is None or stored.client_secret is None:
        message = (
            "Zoho is not connected: no OAuth client is known; enter its id and secret in the console, "
            "or set ZOHO_CLIENT_ID and ZOHO_CLIENT_SECRET"
        )
        raise NotConnected(message, REFUSED_WAIT)
    return Client(stored.client_id, box.decrypt(stored.client_secret, zoho_connection.place_of("client_secret")))


def ask(
    pool: Pool,
    connection: Connection,
    http: httpx.Client,
    accounts_url: str,
    caller: Client,
    form: dict[str, str],
) -> dict[str, Any] | Refusal:
    """Call the token endpoint; the answer holds an access token that can be used.

    `connection` holds the refresh lock. The call is put on record in a transaction of its own, and before it is made:
    nothing that happens to this process can undo the note. That it is over is noted with its answer: nothing else must
    stand between an answer, which may be had only once, and its being kept.
    """
    with pool.connection() as recorder:
        call_id = zoho_connection.begin_token_call(recorder)
    answer = ask_without_record(http, accounts_url, caller, form)
    zoho_connection.end_token_call(connection, call_id)
    return answer


def ask_without_record(
    http: httpx.Client, accounts_url: str, caller: Client, form: dict[str, str]
) -> dict[str, Any] | Refusal:
    """Call the token endpoint of a server that is none of ours, to see whether it should be; else, `ask`."""
    try:
        response = http.post(
            f"{accounts_url}/oauth/v2/token",
            data={**form, "client_id": caller.id, "client_secret": caller.secret},
            timeout=_TIMEOUT,
        )
        answer = read_json(response.content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Refusal(f"no answer from the accounts server: {error!r}", _UNAVAILABLE_WAIT, ZohoUnavailable)
    except BodyUnreadable:
        text = f"the accounts server answered {response.status_code} with something that is not JSON"
        return Refusal(text, _UNAVAILABLE_WAIT, ZohoUnavailable)
    answer = answer if isinstance(answer, dict) else {}
    if isinstance(answer.get("access_token"), str) and _TOKEN.fullmatch(answer["access_token"]):
        return answer
    secrets = (form.get("refresh_token", ""), form.get("code", ""), caller.secret)
    return _refusal(response.status_code, answer, secrets=secrets)


def _refusal(status: int, answer: dict[str, Any], *, secrets: tuple[str, ...]) -> Refusal:
    """Read an error, which may come with HTTP 200; its text is shown to operators and repeats none of `secrets`."""
    error = _shown(answer.get("error", "no access token in the answer"), secrets)
    description = _shown(answer.get("error_description", ""), secrets)
    text = f"the accounts server answered {status}: {error}{description and f' ({description})'}"
    if "too many requests" in description.lower() or error == "Access Denied" or status == 429:  # noqa: PLR2004
        return Refusal(text, _THROTTLED_WAIT, TokenThrottled)
    if status >= 500:  # noqa: PLR2004 - any server error
        return Refusal(text, _UNAVAILABLE_WAIT, ZohoUnavailable)
    return Refusal(text, REFUSED_WAIT, NotConnected)


def _shown(text: object, secrets: tuple[str, ...]) -> str:
    shown = str(text)
    for secret in filter(None, secrets):
        shown = shown.replace(secret, "…")
    return shown[:200]


def lifetime(answer: dict[str, Any]) -> timedelta:
    """Return for how long the access token of an answer is good."""
    try:
        seconds = int(str(answer.get("expires_in")))
    except ValueError:
        return _LIFETIME
    # Old accounts servers gave milliseconds under this name; no token lives longer than an hour.
    return timedelta(seconds=min(max(seconds, 0), _LIFETIME.total_seconds()))


def refresh_token(answer: dict[str, Any]) -> str | None:
    """Return the refresh token of an answer; most have none."""
    told = answer.get("refresh_token")
    return told if isinstance(told, str) and told else None


def revoke(http: httpx.Client, accounts_url: str, token: str) -> str | None:
    """Let a refresh token, and the access tokens that came of it, be good no more; return why not, if so."""
    try:
        response = http.post(f"{accounts_url}/oauth/v2/token/revoke", data={"token": token}, timeout=_TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"no answer from the accounts server: {error!r}"
    try:
        answer = read_json(response.content)
    except BodyUnreadable:
        answer = {}
    reason = answer.get("error") if isinstance(answer, dict) else None
    if response.is_success and reason is None:
        return None
    told = f": {_shown(reason, (token,))}" if reason is not None else ""
    return f"the accounts server answered {response.status_code}{told}"
