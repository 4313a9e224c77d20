"""Access tokens: one refresh at a time among all processes, and a token endpoint that is never hammered.

Zoho's accounts documentation (token expiry, October 2026): a refresh token gives at most 10 access tokens in 10 minutes
and is then locked out; an access token lives for an hour. How the answers look: `token_endpoint`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx

from processors import logs
from processors.encryption import SecretBox
from processors.errors import ConfigurationError, NotConnected, TokenThrottled, WorkError
from processors.settings import Settings
from processors.store import organization, zoho_connection
from processors.store.database import Connection, Pool
from processors.store.zoho_connection import Stored
from processors.zoho import guard, hosts, scopes, token_endpoint
from processors.zoho.token_endpoint import REFUSED_WAIT, Refusal

EXPIRY_BUFFER = timedelta(minutes=5)
_UNREADABLE_WAIT = timedelta(minutes=1)
_TRIED_AGAIN_AFTER = timedelta(minutes=5)

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that Zoho gave, and what it is used for."""

    value: str = field(repr=False)
    api_url: str
    """The API host to call."""
    organization_id: str | None
    """None: nobody has chosen one yet."""
    mirrored_organization_id: str | None = None
    """Whose items the rows are: no other one's may be asked for."""
    connection: str = ""
    """Another one where address, organisation or consent are others: what Zoho refused to one says nothing of it."""


TryOut = Callable[[AccessToken, str | None, Stored], str | None]
"""Finds out, with calls to Zoho, what a token with these scopes (None: not named) lacks to do the work of the stored
connection; None: nothing."""


class TokenSource:
    """Hands out the access token of the one stored connection."""

    def __init__(self, pool: Pool, settings: Settings, http: httpx.Client, try_out: TryOut | None = None) -> None:
        """Take the client to call the accounts server with; without `ENCRYPTION_KEYS` nothing can be stored.

        `try_out` is asked before a token of the settings replaces another connection.
        """
        self._pool = pool
        self._try_out = try_out
        self._try_again_at = 0.0
        self._settings = settings
        self._http = http
        self._box = token_endpoint.secret_box(settings)
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
            self._try_setting(box)
            with self._pool.connection() as connection:
                self._seed(connection)
                token = self._usable(self._checked(connection), box, rejected, EXPIRY_BUFFER)
            if token:
                return token
            # One thread stands for its process, so that those who wait hold none of the pool's connections.
            with self._refreshing, self._pool.connection() as connection:
                return self._refresh(connection, box, rejected)
        except ConfigurationError as error:
            # The stored tokens were encrypted with a key that is no longer known. No work is lost by that.
            raise NotConnected(str(error), _UNREADABLE_WAIT) from None

    def refresh_now(self, note: Callable[[Connection], None]) -> None:
        """Replace the access token though it may be good; `note` is called in the transaction that does it.

        Raises:
            NotConnected, TokenThrottled, ZohoUnavailable: as of `access_token`; the token stays as it is.
        """
        box = self._secret_box()
        try:
            with self._refreshing, self._pool.connection() as connection:
                self._seed(connection)
                self._checked(connection)
                current = self._usable(zoho_connection.read(connection), box, None, timedelta())
                self._refresh(connection, box, current, note)
        except ConfigurationError as error:
            raise NotConnected(str(error), _UNREADABLE_WAIT) from None

    def take_over_setting(self) -> None:
        """Store refresh token and organisation of the settings now, not with the first call, so that others see them.

        Raises:
            psycopg.OperationalError: Postgres is away; the first call will do it.
        """
        with self._pool.connection() as connection:
            self._seed(connection)
            stored = self._look(connection)
            if self._settings.zoho_refresh_token is None and stored.refused_seed_reason is not None:
                zoho_connection.note_refused_seed(connection, None, None)

    def dismiss_setting(self, connection: Connection) -> None:
        """Keep that the refresh token of the settings does not replace what an operator has just done."""
        digest = self._seed_digest()
        if digest is not None:
            zoho_connection.note_seed(connection, digest)

    def _checked(self, connection: Connection) -> Stored:
        """Return the row, if secrets may be sent where it leads.

        Raises:
            NotConnected: one of its addresses is not Zoho's; not even a refresh is tried.
        """
        stored = self._look(connection)
        hosts.accounts_url(self._settings, stored)
        hosts.api_url(self._settings, stored)
        return stored

    def _look(self, connection: Connection) -> Stored:
        """Return the row; see whose the products are, and show operators what keeps Zoho from being asked."""
        stored = zoho_connection.read(connection)
        named = guard.organization_id(self._settings, stored)
        if named is not None and named != stored.mirrored_organization_id:
            stored = replace(stored, mirrored_organization_id=organization.claim(connection, named))
        found = guard.find(self._settings, stored)
        told = (found.cause, found.reason) if found else (None, None)
        if told != (stored.obstacle, stored.obstacle_reason):
            zoho_connection.note_obstacle(connection, *told)
            if found:
                _log.error("zoho.not_asked", cause=found.cause, reason=found.reason)
        return stored

    def _secret_box(self) -> SecretBox:
        if self._box is None:
            message = "Zoho is not connected: ENCRYPTION_KEYS is not set"
            raise NotConnected(message, REFUSED_WAIT)
        return self._box

    def _seed(self, connection: Connection) -> None:
        if self._is_seeded:
            return
        organization_id = self._settings.zoho_organization_id
        is_ours = organization_id is None or organization.claim(connection, organization_id) == organization_id
        if organization_id and is_ours:
            zoho_connection.take_over_organization(connection, organization_id)
        self._is_seeded = self._seed_token(connection) and is_ours

    def _seed_token(self, connection: Connection) -> bool:
        """Take over the refresh token of the settings, unless it would replace another one; tell whether it is done."""
        seed, digest = self._settings.zoho_refresh_token, self._seed_digest()
        if seed is None or digest is None or self._box is None:
            return True
        stored = zoho_connection.read(connection)
        if digest in (stored.seed_digest, stored.refused_seed_digest):
            return True
        present = self._present(stored, self._box)
        if present == seed.get_secret_value():
            zoho_connection.note_seed(connection, digest)
        elif present is None or self._try_out is None:
            self._keep_seed(connection, self._box, seed.get_secret_value(), digest)
        else:
            return False
        return True

    def _keep_seed(self, connection: Connection, box: SecretBox, seed: str, digest: bytes) -> None:
        place = zoho_connection.place_of("refresh_token")
        zoho_connection.seed(connection, refresh_token=box.encrypt(seed, place), seed_digest=digest)

    def _seed_digest(self) -> bytes | None:
        seed, secret = self._settings.zoho_refresh_token, self._settings.zoho_client_secret
        if seed is None:
            return None
        # The client is part of it: a corrected client secret must not wait for what the wrong one earned.
        parts = [
            seed.get_secret_value(),
            self._settings.zoho_client_id or "",
            secret.get_secret_value() if secret else "",
        ]
        return hashlib.sha256("\n".join(parts).encode()).digest()

    @staticmethod
    def _present(stored: Stored, box: SecretBox) -> str | None:
        """Return the refresh token that works now, as far as is known; one that no key reads does not."""
        place = zoho_connection.place_of("refresh_token")
        if stored.refresh_token is None or not box.can_decrypt(stored.refresh_token, place):
            return None
        return box.decrypt(stored.refresh_token, place)

    def _try_setting(self, box: SecretBox) -> None:
        """Let a changed refresh token of the settings replace the stored one, if it can do the work of that.

        What is stored goes on meanwhile, and where the trial gives no answer, which is tried again later.
        """
        seed, digest = self._settings.zoho_refresh_token, self._seed_digest()
        if self._is_seeded or seed is None or digest is None or self._try_out is None:
            return
        with self._refreshing, self._pool.connection() as connection:
            self._seed(connection)
            if self._is_seeded or time.monotonic() < self._try_again_at:
                return
            self._try_again_at = time.monotonic() + _TRIED_AGAIN_AFTER.total_seconds()
            with connection.transaction():
                zoho_connection.lock(connection)
                stored = zoho_connection.read(connection)
                if digest in (stored.seed_digest, stored.refused_seed_digest) or stored.often_called_for > timedelta():
                    return
                # It says nothing of where it is from: that is what the settings say.
                bare = replace(stored, accounts_url=None, api_domain=None)
                form = {"grant_type": "refresh_token", "refresh_token": seed.get_secret_value()}
                client = token_endpoint.client(self._settings, stored, box)
                url = hosts.accounts_url(self._settings, bare)
                answer = token_endpoint.ask(self._pool, connection, self._http, url, client, form)
            try:
                lacking = self._lacking(answer, bare, stored)
            except WorkError as error:
                _log.warning("setting.not_tried", error=str(error))
                return
            with connection.transaction():
                zoho_connection.lock(connection)
                if lacking is None:
                    self._keep_seed(connection, box, seed.get_secret_value(), digest)
                else:
                    reason = f"ZOHO_REFRESH_TOKEN was not taken over, and the former connection goes on: {lacking}"
                    zoho_connection.note_refused_seed(connection, digest, reason)
                    _log.error("setting.refused", reason=lacking)
            self._is_seeded = True

    def _lacking(self, answer: dict[str, Any] | Refusal, bare: Stored, present: Stored) -> str | None:
        assert self._try_out is not None
        if isinstance(answer, Refusal):
            if answer.raises is NotConnected:
                return answer.error
            raise answer.as_error(answer.wait(0))
        api_domain = hosts.api_domain(self._settings, answer.get("api_domain"))
        token = self._token(answer["access_token"], replace(bare, api_domain=api_domain))
        return self._try_out(token, scopes.read(answer.get("scope")), present)

    def _usable(
        self, stored: Stored, box: SecretBox, rejected: AccessToken | None, at_least: timedelta
    ) -> AccessToken | None:
        if stored.access_token is None or stored.good_for is None or stored.good_for < at_least:
            return None
        token = self._token(box.decrypt(stored.access_token, zoho_connection.place_of("access_token")), stored)
        return None if rejected and token.value == rejected.value else token

    def _token(self, value: str, stored: Stored) -> AccessToken:
        organization_id = guard.organization_id(self._settings, stored)
        api_url = hosts.api_url(self._settings, stored)
        parts = (api_url, organization_id, stored.connected_at, bytes(stored.seed_digest or b""))
        connection = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        return AccessToken(value, api_url, organization_id, stored.mirrored_organization_id, connection)

    def _refresh(
        self,
        connection: Connection,
        box: SecretBox,
        rejected: AccessToken | None,
        note: Callable[[Connection], None] | None = None,
    ) -> AccessToken:
        with connection.transaction():
            zoho_connection.lock(connection)
            stored = zoho_connection.read(connection)
            # Another process may have refreshed while this one waited for the lock.
            token = self._usable(stored, box, rejected, EXPIRY_BUFFER)
            if token:
                return token
            if stored.refresh_token is None:
                raise NotConnected(self._why_not_connected(), REFUSED_WAIT)
            if stored.left_alone_for > timedelta():
                # Inside the buffer the old token still works.
                token = self._usable(stored, box, rejected, timedelta(seconds=10))
                if token:
                    return token
                message = f"the token endpoint is left alone for a while: {stored.last_error or 'called too often'}"
                raise TokenThrottled(message, stored.left_alone_for)
            refresh_token = box.decrypt(stored.refresh_token, zoho_connection.place_of("refresh_token"))
            answer = token_endpoint.ask(
                self._pool,
                connection,
                self._http,
                hosts.accounts_url(self._settings, stored),
                token_endpoint.client(self._settings, stored, box),
                {"grant_type": "refresh_token", "refresh_token": refresh_token},
            )
            if isinstance(answer, dict):
                token = self._keep(connection, box, answer, refresh_token, stored)
                if note:
                    note(connection)
                return token
            wait = answer.wait(stored.refusals)
            zoho_connection.note_refusal(connection, wait=wait, error=answer.error)
        # Raised outside the transaction, which has to keep the note.
        _log.warning("token.refused", error=answer.error, seconds=wait.total_seconds())
        raise answer.as_error(wait)

    def _why_not_connected(self) -> str:
        message = "Zoho is not connected: there is no refresh token"
        if self._settings.zoho_refresh_token:
            # It was taken over once; that it is gone is an operator's decision.
            return f"{message}, since an operator disconnected; connect in the console, or set another token"
        return f"{message}; connect in the console, or set ZOHO_REFRESH_TOKEN"

    def _keep(
        self, connection: Connection, box: SecretBox, answer: dict[str, Any], refresh_token: str, former: Stored
    ) -> AccessToken:
        token: str = answer["access_token"]
        api_domain = hosts.api_domain(self._settings, answer.get("api_domain")) or former.api_domain
        zoho_connection.keep_tokens(
            connection,
            access_token=box.encrypt(token, zoho_connection.place_of("access_token")),
            good_for=token_endpoint.lifetime(answer),
            # Old ones are written anew as well: an hour after a key was added, the keys behind it can go.
            refresh_token=box.encrypt(
                token_endpoint.refresh_token(answer) or refresh_token, zoho_connection.place_of("refresh_token")
            ),
            client_secret=_written_anew(box, former.client_secret),
            api_domain=api_domain,
        )
        _log.info("token.refreshed")
        return self._token(token, replace(former, api_domain=api_domain))


def _written_anew(box: SecretBox, ciphertext: bytes | None) -> bytes | None:
    try:
        place = zoho_connection.place_of("client_secret")
        return box.encrypt(box.decrypt(ciphertext, place), place) if ciphertext else None
    except ConfigurationError:
        # Nobody needs it: the client of the environment is used.
        return ciphertext
