"""Connecting Zoho in the browser: the consent page's address, the exchange of its code, the organisations, revocation.

Zoho's accounts documentation (web applications, multi-DC; October 2026). A code is good once, for about two minutes, at
the accounts server that the callback names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import httpx

from processors import logs
from processors.encryption import SecretBox
from processors.errors import ConfigurationError, ConnectionRefused, NotConnected, TokenThrottled, WorkError
from processors.settings import Settings
from processors.store import zoho_connection
from processors.store.database import Connection, Pool
from processors.store.zoho_connection import Stored
from processors.zoho import hosts, scopes, token_endpoint
from processors.zoho.oauth import AccessToken, TokenSource, TryOut
from processors.zoho.token_endpoint import REFUSED_WAIT, Client, Refusal

SCOPES = "ZohoInventory.items.READ,ZohoInventory.settings.READ"
"""What the mirror's own work takes: it reads."""
SCOPES_WITH_WEBHOOKS = f"{SCOPES},ZohoInventory.settings.ALL"
"""What it takes to set the webhooks up, too."""
KEYS_ARE_MISSING = (
    "ENCRYPTION_KEYS is not set, so nothing secret can be kept here; docs/quick-start.md says how to make a key"
)

_WHAT_TO_DO = {
    "invalid_code": "a code is good once and for two minutes: connect again",
    "invalid_client_secret": "enter the secret of the client again",
    "invalid_client": "check client id and data centre; in other data centres than its own a client must be allowed",
    "redirect_uri": "the client's redirect address, in Zoho's API console, must be exactly the one of this console",
}
_NOT_OFFLINE = (
    "Zoho gave no refresh token, so the connection would end within the hour: nothing was kept; remove this "
    "application from the connected apps of your Zoho account, then connect again"
)

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Organisation:
    """One that whoever consented belongs to."""

    organization_id: str
    name: str
    is_default: bool
    currency_code: str | None
    time_zone: str | None


def read_organisations(answer: Mapping[str, Any]) -> list[Organisation]:
    """Read Zoho's list; an entry without an id cannot be chosen and is left out."""
    found = answer.get("organizations")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [
        Organisation(
            organization_id=str(entry["organization_id"]),
            name=_text(entry.get("name")) or str(entry["organization_id"]),
            is_default=entry.get("is_default_org") is True,
            currency_code=_text(entry.get("currency_code")),
            time_zone=_text(entry.get("time_zone")),
        )
        for entry in entries
        if isinstance(entry.get("organization_id"), str | int)
    ]


def listed(found: Sequence[Organisation]) -> str:
    """Return organisations in words."""
    return ", ".join(f"{each.organization_id} ({each.name})" for each in found)


def not_among(organization_id: str, found: Sequence[Organisation]) -> str:
    """Say that an organisation is not one of those that were found."""
    return f"organisation {organization_id[:30]} is not one of those that this connection reaches: {listed(found)}"


def read_user(answer: Mapping[str, Any]) -> str | None:
    """Read who consented: the address, or else the name."""
    user = answer.get("user")
    return (_text(user.get("email")) or _text(user.get("name"))) if isinstance(user, dict) else None


def _text(told: object) -> str | None:
    return told[:200] if isinstance(told, str) and told else None


class Connector:
    """Makes and ends the one stored connection."""

    def __init__(self, pool: Pool, settings: Settings, http: httpx.Client, try_out: TryOut) -> None:
        """Take the client to call the accounts server with; `try_out` is asked before a connection is replaced."""
        self._pool = pool
        self._try_out = try_out
        self._settings = settings
        self._http = http
        self._box = token_endpoint.secret_box(settings)

    def authorise_url(self, *, redirect_uri: str, state: str, wanted: str = SCOPES) -> str:
        """Return the address of the page on which Zoho asks for consent.

        Raises:
            ConnectionRefused: no client is known, or what it gets could not be stored.
        """
        box = self._secret_box()
        with self._pool.connection() as connection:
            stored = zoho_connection.read(connection)
        query = {
            "response_type": "code",
            "client_id": self._client(stored, box).id,
            "redirect_uri": redirect_uri,
            # What a connection can do, the one that replaces it has to be able to do.
            "scope": scopes.joined(wanted, stored.scopes if stored.refresh_token is not None else None),
            "access_type": "offline",
            "prompt": "consent",
            "state": state,
        }
        return f"{hosts.consent_url(self._settings, stored)}/oauth/v2/auth?{urlencode(query)}"

    def connect(
        self,
        *,
        code: str,
        redirect_uri: str,
        accounts_server: str | None,
        connected_by: str,
        note: Callable[[Connection], None],
    ) -> None:
        """Exchange a code and store what it gives; `note` is called in the transaction that does it.

        A connection that was there stays as it is until the new one was tried out and can do all that it can.

        Raises:
            ConnectionRefused: the accounts server is a stranger's, or it refuses, or the consent is no replacement for
                the connection that is there; the text says what to do.
            TokenThrottled: the token endpoint was called often, or says so.
            ZohoUnavailable: the accounts server gave no usable answer.
        """
        box = self._secret_box()
        tokens = self._tokens()
        tokens.take_over_setting()
        with self._pool.connection() as connection, connection.transaction():
            zoho_connection.lock(connection)
            stored = zoho_connection.read(connection)
            server = hosts.accounts_server(self._settings, stored, accounts_server)
            # What an old refresh token earned does not stand in the way of a new one, but calls are counted.
            if stored.often_called_for.total_seconds() > 0:
                seconds = stored.often_called_for.total_seconds()
                message = f"the token endpoint was called often; connect again in {seconds:.0f} s"
                raise TokenThrottled(message, stored.often_called_for)
            answer = token_endpoint.ask(
                self._pool,
                connection,
                self._http,
                server,
                self._client(stored, box),
                {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri},
            )
            if isinstance(answer, Refusal):
                refusal: Refusal | None = answer
            elif stored.refresh_token is not None and token_endpoint.refresh_token(answer) is not None:
                refusal = None
            else:
                refusal = self._keep(connection, box, answer, server, connected_by)
            is_kept = refusal is None and stored.refresh_token is None
            if is_kept:
                # A token of the settings that was not taken over yet would replace the connection later.
                tokens.dismiss_setting(connection)
                note(connection)
            elif refusal is None:
                pass
            elif refusal.raises is TokenThrottled:
                zoho_connection.note_refusal(connection, wait=refusal.wait(stored.refusals), error=refusal.error)
            elif stored.refresh_token is None:
                # A connection that works is not refused because another one was not made.
                zoho_connection.note_error(connection, refusal.error)
        if refusal is not None:
            # Raised outside the transaction, which has to keep the note.
            _log.warning("zoho.not_connected", error=refusal.error)
            raise _error(refusal, stored)
        if not is_kept:
            assert isinstance(answer, dict), "anything else is a refusal"
            self._require_replacement(box, answer, server, stored)
            with self._pool.connection() as connection, connection.transaction():
                zoho_connection.lock(connection)
                stored = zoho_connection.read(connection)
                self._keep(connection, box, answer, server, connected_by)
                tokens.dismiss_setting(connection)
                note(connection)
            self._revoke_former(stored)

    def _require_replacement(self, box: SecretBox, answer: dict[str, Any], server: str, present: Stored) -> None:
        """See that what Zoho gave can do the work of the connection that is there.

        Raises:
            ConnectionRefused: it cannot, or that cannot be found out now; the connection that is there stays.
        """
        api_domain = hosts.api_domain(self._settings, answer.get("api_domain"))
        there = replace(present, accounts_url=server, api_domain=api_domain)
        token = AccessToken(answer["access_token"], hosts.api_url(self._settings, there), None)
        try:
            lacking = self._try_out(token, scopes.read(answer.get("scope")), present)
        except WorkError as error:
            reason = f"the new consent could not be tried out, and the present connection stays: {error}"
            how = "connect again a little later"
        else:
            if lacking is None:
                return
            reason = f"this consent cannot do the work of the present connection, which stays: {lacking}"
            how = "consent with a login and with scopes that can; or, to do without, disconnect first"
        self._revoke_unused(box, answer, server, present)
        _log.warning("zoho.consent_refused", error=reason)
        message = f"{reason}; {how}"
        raise ConnectionRefused(message)

    def _revoke_unused(self, box: SecretBox, answer: dict[str, Any], server: str, present: Stored) -> None:
        """Let a token that is not kept be good no more: Zoho gives so many, and the oldest ends for one too many."""
        unused = token_endpoint.refresh_token(answer)
        place = zoho_connection.place_of("refresh_token")
        if unused is None or present.refresh_token is None or not box.can_decrypt(present.refresh_token, place):
            return
        if unused != box.decrypt(present.refresh_token, place):
            problem = token_endpoint.revoke(self._http, server, unused)
            if problem:
                _log.warning("zoho.unused_token_not_revoked", error=problem)

    def _tokens(self) -> TokenSource:
        return TokenSource(self._pool, self._settings, self._http, self._try_out)

    def _revoke_former(self, former: Stored) -> None:
        """Let the token of the connection that this one replaces be good no more; one of the settings is not ours."""
        if former.refresh_token is None or former.connected_at is None:
            return
        problem = self._revoke(former, former.refresh_token)
        if problem:
            _log.warning("zoho.former_token_not_revoked", error=problem)
        else:
            _log.info("zoho.former_token_revoked")

    def _keep(
        self, connection: Connection, box: SecretBox, answer: dict[str, Any], server: str, connected_by: str
    ) -> Refusal | None:
        refresh_token = token_endpoint.refresh_token(answer)
        if refresh_token is None:
            return Refusal(_NOT_OFFLINE, REFUSED_WAIT, NotConnected)
        zoho_connection.keep_connection(
            connection,
            refresh_token=box.encrypt(refresh_token, zoho_connection.place_of("refresh_token")),
            access_token=box.encrypt(answer["access_token"], zoho_connection.place_of("access_token")),
            good_for=token_endpoint.lifetime(answer),
            api_domain=hosts.api_domain(self._settings, answer.get("api_domain")),
            accounts_url=server,
            scopes=scopes.read(answer.get("scope")) or SCOPES,
            connected_by=connected_by,
        )
        return None

    def disconnect(self, note: Callable[[Connection, bool], None]) -> str | None:
        """Revoke the refresh token and forget it, even where Zoho does not answer; return what went wrong, if so.

        `note` is called in the transaction that forgets, and told whether Zoho confirmed.

        Raises:
            ConnectionRefused: there is no connection.
        """
        tokens = self._tokens()
        tokens.take_over_setting()
        with self._pool.connection() as connection, connection.transaction():
            zoho_connection.lock(connection)
            stored = zoho_connection.read(connection)
            if stored.refresh_token is None:
                message = "Zoho is not connected: there is nothing to disconnect"
                raise ConnectionRefused(message)
            problem = self._revoke(stored, stored.refresh_token)
            zoho_connection.forget_tokens(connection)
            # A token of the settings that was not taken over yet would connect again.
            tokens.dismiss_setting(connection)
            note(connection, problem is None)
        if problem is None:
            return None
        _log.warning("zoho.not_revoked", error=problem)
        return (
            f"Zoho did not confirm that they are revoked ({problem}): to be sure, remove this application from the "
            f"connected apps of the Zoho account at {hosts.named_accounts_url(self._settings, stored)}"
        )

    def _revoke(self, stored: Stored, refresh_token: bytes) -> str | None:
        if self._box is None:
            return KEYS_ARE_MISSING
        try:
            token = self._box.decrypt(refresh_token, zoho_connection.place_of("refresh_token"))
            accounts_url = hosts.accounts_url(self._settings, stored)
        except (ConfigurationError, NotConnected) as error:
            return str(error)
        return token_endpoint.revoke(self._http, accounts_url, token)

    def _secret_box(self) -> SecretBox:
        if self._box is None:
            raise ConnectionRefused(KEYS_ARE_MISSING)
        return self._box

    def _client(self, stored: Stored, box: SecretBox) -> Client:
        try:
            return token_endpoint.client(self._settings, stored, box)
        except (ConfigurationError, NotConnected) as error:
            raise ConnectionRefused(str(error)) from None


def _error(refusal: Refusal, stored: Stored) -> ConnectionRefused | WorkError:
    if refusal.raises is not NotConnected:
        return refusal.as_error(refusal.wait(stored.refusals))
    hint = next((f"; {hint}" for error, hint in _WHAT_TO_DO.items() if error in refusal.error), "")
    return ConnectionRefused(f"{refusal.error}{hint}")
