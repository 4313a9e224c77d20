"""Access tokens: one refresh at a time among all processes, and a token endpoint that is never hammered.

Zoho's accounts documentation (token expiry, October 2026): a refresh token gives at most 10 access tokens in 10 minutes
and is then locked out; an access token lives for an hour. Errors arrive with HTTP 200 as well (seen in integrations).
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from processors import logs
from processors.encryption import SecretBox
from processors.errors import (
    BodyUnreadable,
    ConfigurationError,
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

EXPIRY_BUFFER = timedelta(minutes=5)
_LIFETIME = timedelta(hours=1)
# Together below the database's limit for a statement: others wait for the refresh lock while the endpoint answers.
_TIMEOUT = httpx.Timeout(6, connect=3)
_LONGEST_WAIT = timedelta(minutes=30)
_REFUSED_WAIT = timedelta(seconds=15)
_UNREADABLE_WAIT = timedelta(minutes=1)
_THROTTLED_WAIT = timedelta(minutes=1)
_UNAVAILABLE_WAIT = timedelta(seconds=10)
# What can travel in a header; anything else would be quoted in the HTTP library's complaint.
_TOKEN = re.compile(r"[!-~]+")

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that Zoho gave, and the API host it named with it."""

    value: str = field(repr=False)
    api_domain: str | None


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: str
    first_wait: timedelta
    raises: type[WorkError]


class TokenSource:
    """Hands out the access token of the one stored connection."""

    def __init__(self, pool: Pool, settings: Settings, http: httpx.Client) -> None:
        """Take the client to call the accounts server with; without `ENCRYPTION_KEYS` nothing can be stored."""
        self._pool = pool
        self._settings = settings
        self._http = http
        keys = [key.get_secret_value() for key in settings.encryption_keys]
        self._box = SecretBox(keys) if keys else None
        self._is_seeded = False
        self._refreshing = threading.Lock()

    def access_token(self, *, rejected: AccessToken | None = None) -> AccessToken:
        """Return a token good for at least `EXPIRY_BUFFER` more, or for as long as can be had.

        `rejected` is a token that the API answered 401 to: it is replaced, unless somebody else did so already.

        Raises:
            NotConnected: there is no refresh token, or Zoho refuses it; an operator has to connect Zoho.
            TokenThrottled: the token endpoint is left alone for a while.
            ZohoUnavailable: the accounts server gave no usable answer.
        """
        box = self._secret_box()
        try:
            with self._pool.connection() as connection:
                self._seed(connection, box)
                token = self._usable(zoho_connection.read(connection), box, rejected, EXPIRY_BUFFER)
            if token:
                return token
            # One thread stands for its process, so that those who wait hold none of the pool's connections.
            with self._refreshing, self._pool.connection() as connection:
                return self._refresh(connection, box, rejected)
        except ConfigurationError as error:
            # The stored tokens were encrypted with a key that is no longer known. No work is lost by that.
            raise NotConnected(str(error), _UNREADABLE_WAIT) from None

    def take_over_setting(self) -> None:
        """Store the refresh token of the settings now, instead of with the first call, so that operators see it.

        Raises:
            psycopg.OperationalError: Postgres is away; the first call will do it.
        """
        if self._box is not None:
            with self._pool.connection() as connection:
                self._seed(connection, self._box)

    def _secret_box(self) -> SecretBox:
        if self._box is None:
            message = "Zoho is not connected: ENCRYPTION_KEYS is not set"
            raise NotConnected(message, _REFUSED_WAIT)
        return self._box

    def _seed(self, connection: Connection, box: SecretBox) -> None:
        seed = self._settings.zoho_refresh_token
        if seed and not self._is_seeded:
            # The client is part of it: a corrected client secret must not wait for what the wrong one earned.
            parts = [seed.get_secret_value(), self._settings.zoho_client_id or "", self._client_secret()]
            zoho_connection.seed(
                connection,
                refresh_token=box.encrypt(seed.get_secret_value()),
                seed_digest=hashlib.sha256("\n".join(parts).encode()).digest(),
            )
        self._is_seeded = True

    def _client_secret(self) -> str:
        secret = self._settings.zoho_client_secret
        return secret.get_secret_value() if secret else ""

    @staticmethod
    def _usable(
        stored: Stored, box: SecretBox, rejected: AccessToken | None, at_least: timedelta
    ) -> AccessToken | None:
        if stored.access_token is None or stored.good_for is None or stored.good_for < at_least:
            return None
        token = AccessToken(box.decrypt(stored.access_token), stored.api_domain)
        return None if rejected and token.value == rejected.value else token

    def _refresh(self, connection: Connection, box: SecretBox, rejected: AccessToken | None) -> AccessToken:
        with connection.transaction():
            zoho_connection.lock(connection)
            stored = zoho_connection.read(connection)
            # Another process may have refreshed while this one waited for the lock.
            token = self._usable(stored, box, rejected, EXPIRY_BUFFER)
            if token:
                return token
            if stored.refresh_token is None:
                message = "Zoho is not connected: there is no refresh token"
                raise NotConnected(message, _REFUSED_WAIT)
            if stored.left_alone_for > timedelta():
                # Inside the buffer the old token still works.
                token = self._usable(stored, box, rejected, timedelta(seconds=10))
                if token:
                    return token
                message = f"the token endpoint is left alone for a while: {stored.last_error or 'called too often'}"
                raise TokenThrottled(message, stored.left_alone_for)
            refresh_token = box.decrypt(stored.refresh_token)
            answer = self._ask_on_record(refresh_token)
            if isinstance(answer, dict):
                return _keep(connection, box, answer, refresh_token, stored.api_domain)
            wait = min(answer.first_wait * 2 ** min(stored.refusals, 20), _LONGEST_WAIT)
            zoho_connection.note_refusal(connection, wait=wait, error=answer.error)
        # Raised outside the transaction, which has to keep the note.
        _log.warning("token.refused", error=answer.error, seconds=wait.total_seconds())
        raise _error(answer, wait)

    def _ask_on_record(self, refresh_token: str) -> dict[str, Any] | _Refusal:
        # The note is committed before the call, so that nothing that happens to this process can undo it.
        with self._pool.connection() as connection:
            call_id = zoho_connection.begin_token_call(connection)
        answer = self._ask(refresh_token)
        with self._pool.connection() as connection:
            zoho_connection.end_token_call(connection, call_id)
        return answer

    def _ask(self, refresh_token: str) -> dict[str, Any] | _Refusal:
        """Call the token endpoint; parameters travel in the body, since query strings end up in logs."""
        secret = self._client_secret()
        try:
            response = self._http.post(
                f"{self._settings.accounts_url}/oauth/v2/token",
                data={
                    "grant_type": "refresh_token",
                    "refresh_token": refresh_token,
                    "client_id": self._settings.zoho_client_id or "",
                    "client_secret": secret,
                },
                timeout=_TIMEOUT,
            )
            answer = read_json(response.content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _Refusal(f"no answer from the accounts server: {error!r}", _UNAVAILABLE_WAIT, ZohoUnavailable)
        except BodyUnreadable:
            text = f"the accounts server answered {response.status_code} with something that is not JSON"
            return _Refusal(text, _UNAVAILABLE_WAIT, ZohoUnavailable)
        answer = answer if isinstance(answer, dict) else {}
        if isinstance(answer.get("access_token"), str) and _TOKEN.fullmatch(answer["access_token"]):
            return answer
        return _refusal(response.status_code, answer, secrets=(refresh_token, secret))


def _refusal(status: int, answer: dict[str, Any], *, secrets: tuple[str, ...]) -> _Refusal:
    """Read an error, which may come with HTTP 200; its text is shown to operators and repeats none of `secrets`."""
    error = _shown(answer.get("error", "no access token in the answer"), secrets)
    description = _shown(answer.get("error_description", ""), secrets)
    text = f"the accounts server answered {status}: {error}{description and f' ({description})'}"
    if "too many requests" in description.lower() or error == "Access Denied" or status == 429:  # noqa: PLR2004
        return _Refusal(text, _THROTTLED_WAIT, TokenThrottled)
    if status >= 500:  # noqa: PLR2004 - any server error
        return _Refusal(text, _UNAVAILABLE_WAIT, ZohoUnavailable)
    return _Refusal(text, _REFUSED_WAIT, NotConnected)


def _shown(text: object, secrets: tuple[str, ...]) -> str:
    shown = str(text)
    for secret in filter(None, secrets):
        shown = shown.replace(secret, "…")
    return shown[:200]


def _error(refusal: _Refusal, wait: timedelta) -> WorkError:
    if issubclass(refusal.raises, MustWait):
        return refusal.raises(refusal.error, wait)
    return refusal.raises(refusal.error)


def _keep(
    connection: Connection, box: SecretBox, answer: dict[str, Any], refresh_token: str, former_domain: str | None
) -> AccessToken:
    token: str = answer["access_token"]
    told = answer.get("api_domain")
    is_address = isinstance(told, str) and told.startswith(("https://", "http://"))
    api_domain = str(told).rstrip("/") if is_address else former_domain
    new_refresh_token = answer.get("refresh_token")
    if isinstance(new_refresh_token, str) and new_refresh_token:
        refresh_token = new_refresh_token
    zoho_connection.keep_tokens(
        connection,
        access_token=box.encrypt(token),
        good_for=_lifetime(answer.get("expires_in")),
        # An old one is written anew as well: an hour after a key was added, the keys behind it can go.
        refresh_token=box.encrypt(refresh_token),
        api_domain=api_domain,
    )
    _log.info("token.refreshed")
    return AccessToken(token, api_domain)


def _lifetime(expires_in: object) -> timedelta:
    try:
        seconds = int(str(expires_in))
    except ValueError:
        return _LIFETIME
    # Old accounts servers gave milliseconds under this name; no token lives longer than an hour.
    return timedelta(seconds=min(max(seconds, 0), _LIFETIME.total_seconds()))
