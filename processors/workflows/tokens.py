"""Which programs may use the JSON API: their tokens made, shown once, recognised and revoked."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, get_args

from processors import logs
from processors.errors import AccessRefused
from processors.store import api_tokens, audit
from processors.store.api_tokens import ApiToken, Bearer, Scope
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.workflows.access import checked_name, digest

PREFIX: Final = "zm_"
"""So that a token is known for one where it should not be: in a log, in a repository."""

_BYTES = 32
_TOKEN = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_LARGEST_ID = 2**63 - 1

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token, and the text that its program sends: nobody can read it a second time."""

    token: ApiToken
    text: str = field(repr=False)


def create(pool: Pool, name: str, scope: Scope, requester: Requester) -> CreatedToken:
    """Make a token for a program.

    Raises:
        AccessRefused: name or scope will not do, or a token that is not revoked has that name.
    """
    name = checked_name(name)
    if scope not in get_args(Scope):
        message = f"there is no scope {scope}; there are: {', '.join(get_args(Scope))}"
        raise AccessRefused(message)
    # 256 random bits: unlike a password, nothing that could be guessed, so that a plain digest is enough.
    text = PREFIX + secrets.token_urlsafe(_BYTES)
    with pool.connection() as connection, connection.transaction():
        token = api_tokens.add(connection, name, digest(text), scope, created_by=str(requester))
        if token is None:
            message = f"there is a token {name} already: choose another name, or revoke that one first"
            raise AccessRefused(message)
        audit.note(connection, requester, "token.created", [token.id], {"name": name, "scope": scope})
    _log.info("token.created", token_id=token.id, name=name, scope=scope, requested_by=str(requester))
    return CreatedToken(token, text)


def list_tokens(pool: Pool) -> list[ApiToken]:
    """Return all tokens, revoked ones last."""
    with pool.connection() as connection:
        return api_tokens.listed(connection)


def revoke(pool: Pool, token_id: int, requester: Requester) -> ApiToken:
    """Let a token open nothing any more, from its next request.

    Raises:
        AccessRefused: there is no such token, or it is revoked already.
    """
    if not 0 < token_id <= _LARGEST_ID:
        raise _no_token(token_id)
    with pool.connection() as connection, connection.transaction():
        token = api_tokens.revoke(connection, token_id, revoked_by=str(requester))
        if token is None:
            former = api_tokens.find(connection, token_id)
            if former is None:
                raise _no_token(token_id)
            when = f"{former.revoked_at:%Y-%m-%d %H:%M} UTC"
            message = f"token {token_id} ({former.name}) is revoked already, by {former.revoked_by} on {when}"
            raise AccessRefused(message)
        audit.note(connection, requester, "token.revoked", [token.id], {"name": token.name})
    _log.info("token.revoked", token_id=token.id, name=token.name, requested_by=str(requester))
    return token


def has_the_form(text: str) -> bool:
    """Tell whether a text could be a token; what could not needs no look into the database."""
    return _TOKEN.fullmatch(text) is not None


def verify(pool: Pool, text: str, *, within: timedelta | None = None) -> Bearer | None:
    """Return whose token it is, in one round trip; None: nobody's, or not any more.

    `within` bounds the wait for a connection.

    Raises:
        psycopg.OperationalError: Postgres is away.
    """
    if not has_the_form(text):
        return None
    with pool.connection(timeout=within.total_seconds() if within else None) as connection:
        return api_tokens.recognise(connection, digest(text))


def _no_token(token_id: int) -> AccessRefused:
    return AccessRefused(f"there is no token {token_id}; see: token list")
