"""The accounts server's memory: codes, refresh tokens, access tokens, and how often they were asked for."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

from simulator.clock import Clock, system_clock
from simulator.identity import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN

FULL_ACCESS: Final = "ZohoInventory.FullAccess.all"


class OAuthRefusal(Exception):
    """The accounts server says no: answered with HTTP 200 and `error` in the body, as Zoho does."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class TooManyTokens(OAuthRefusal):
    """A refresh token was used too often; nothing helps but waiting."""

    def __init__(self) -> None:
        super().__init__("Access Denied")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token endpoint call gave. `refresh_token` comes only with a code, and only offline."""

    access_token: str
    refresh_token: str | None
    expires_in: timedelta


@dataclass(frozen=True, slots=True)
class _Code:
    scopes: frozenset[str]
    redirect_uri: str | None
    is_offline: bool
    expires_at: datetime


@dataclass(slots=True)
class _RefreshToken:
    scopes: frozenset[str]
    issued: deque[datetime] = field(default_factory=deque)
    access_tokens: dict[str, datetime] = field(default_factory=dict)


class Tokens:
    """One OAuth client's tokens. Thread-safe; the limits may be assigned to."""

    def __init__(self, *, clock: Clock = system_clock) -> None:
        self.client_id = CLIENT_ID
        self.client_secret = CLIENT_SECRET
        self.access_token_lifetime = timedelta(hours=1)
        self.code_lifetime = timedelta(minutes=2)
        self.issues_per_window = 10
        self.issue_window = timedelta(minutes=10)
        self.max_refresh_tokens = 20
        self.max_access_tokens = 30
        self.calls = 0
        self.refreshes = 0
        self._clock = clock
        self._lock = Lock()
        self._codes: dict[str, _Code] = {}
        self._refresh_tokens = {REFRESH_TOKEN: _RefreshToken(frozenset({FULL_ACCESS}))}
        self._online = _RefreshToken(frozenset())

    def issue_code(
        self,
        scopes: frozenset[str] = frozenset({FULL_ACCESS}),
        *,
        redirect_uri: str | None = None,
        is_offline: bool = True,
    ) -> str:
        """Give a code that can be exchanged once. Without `redirect_uri`: a self client's."""
        code = f"1000.code.{secrets.token_hex(16)}"
        with self._lock:
            expires_at = self._clock() + self.code_lifetime
            self._codes[code] = _Code(scopes, redirect_uri, is_offline, expires_at)
        return code

    def grant(self, form: Mapping[str, str]) -> Grant:
        """Answer a token endpoint call.

        Raises:
            TooManyTokens: ten access tokens of this refresh token within ten minutes.
            OAuthRefusal: wrong client, secret, code, refresh token or grant type.
        """
        with self._lock:
            self.calls += 1
            if form.get("client_id") != self.client_id:
                raise OAuthRefusal("invalid_client")
            if form.get("client_secret") != self.client_secret:
                raise OAuthRefusal("invalid_client_secret")
            match form.get("grant_type"):
                case "authorization_code":
                    return self._exchange(form.get("code", ""), form.get("redirect_uri"))
                case "refresh_token":
                    return self._refresh(form.get("refresh_token", ""))
                case _:
                    raise OAuthRefusal("unsupported_grant_type")

    def scopes_of(self, access_token: str) -> frozenset[str] | None:
        """Tell what a living access token may do; None for any other."""
        now = self._clock()
        with self._lock:
            for holder in (*self._refresh_tokens.values(), self._online):
                expires_at = holder.access_tokens.get(access_token)
                if expires_at is not None:
                    return holder.scopes if now < expires_at else None
        return None

    def revoke(self, token: str) -> bool:
        """Kill a refresh token with all its access tokens, or one access token. False: not known."""
        with self._lock:
            if self._refresh_tokens.pop(token, None) is not None:
                return True
            holders = (*self._refresh_tokens.values(), self._online)
            return any(holder.access_tokens.pop(token, None) is not None for holder in holders)

    def expire_access_tokens(self) -> None:
        """End every access token now; refresh tokens stay good."""
        with self._lock:
            for holder in (*self._refresh_tokens.values(), self._online):
                holder.access_tokens.clear()

    def forget_throttle(self) -> None:
        """Let every refresh token be used again at once."""
        with self._lock:
            for holder in self._refresh_tokens.values():
                holder.issued.clear()

    def _exchange(self, code: str, redirect_uri: str | None) -> Grant:
        known = self._codes.pop(code, None)
        if known is None or known.expires_at <= self._clock() or known.redirect_uri != redirect_uri:
            raise OAuthRefusal("invalid_code")
        if not known.is_offline:
            self._online = _RefreshToken(known.scopes)
            return Grant(self._new_access_token(self._online), None, self.access_token_lifetime)
        refresh_token = f"1000.refresh.{secrets.token_hex(16)}"
        while len(self._refresh_tokens) >= self.max_refresh_tokens:
            # The 21st refresh token of a user silently ends the oldest one.
            del self._refresh_tokens[next(iter(self._refresh_tokens))]
        holder = self._refresh_tokens[refresh_token] = _RefreshToken(known.scopes)
        return Grant(self._new_access_token(holder), refresh_token, self.access_token_lifetime)

    def _refresh(self, refresh_token: str) -> Grant:
        holder = self._refresh_tokens.get(refresh_token)
        if holder is None:
            raise OAuthRefusal("invalid_code")
        now = self._clock()
        if holder.issued and now - holder.issued[0] >= self.issue_window:
            holder.issued.clear()
        if len(holder.issued) >= self.issues_per_window:
            # Refused for the rest of the window that its first token opened.
            raise TooManyTokens
        self.refreshes += 1
        return Grant(self._new_access_token(holder), None, self.access_token_lifetime)

    def _new_access_token(self, holder: _RefreshToken) -> str:
        now = self._clock()
        access_token = f"1000.access.{secrets.token_hex(16)}"
        holder.issued.append(now)
        holder.access_tokens[access_token] = now + self.access_token_lifetime
        while len(holder.access_tokens) > self.max_access_tokens:
            del holder.access_tokens[next(iter(holder.access_tokens))]
        return access_token
