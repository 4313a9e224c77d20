"""Commands for the programs that may use the JSON API."""

from __future__ import annotations

from processors.runtime.output import columns, console, echo_json, opened, plain_fields, requester, say
from processors.settings import Settings
from processors.store.api_tokens import Scope
from processors.workflows import tokens


def create(settings: Settings, name: str, scope: Scope, *, as_json: bool) -> None:
    """Make a token and show it, this once."""
    with opened(settings) as pool:
        created = tokens.create(pool, name, scope, requester())
    token = created.token
    if as_json:
        echo_json({"id": token.id, "name": token.name, "scope": token.scope, "token": created.text})
        return
    may = "reads everything under /api" if token.scope == "read" else "reads and changes everything under /api"
    say(f"Token {token.id} for {token.name}; it {may}. Keep it now, it is not shown again:")
    say(created.text)


def list_tokens(settings: Settings, *, as_json: bool) -> None:
    """List all tokens, revoked ones last."""
    with opened(settings) as pool:
        found = tokens.list_tokens(pool)
    if as_json:
        for each in found:
            echo_json(plain_fields(each))
    elif not found:
        say("No program has a token yet: token create NAME")
    else:
        rows = [
            (
                str(each.id),
                each.name,
                each.scope,
                f"{each.created_at:%Y-%m-%d %H:%M}",
                f"{each.used_at:%Y-%m-%d %H:%M}" if each.used_at else "never",
                f"revoked {each.revoked_at:%Y-%m-%d %H:%M}" if each.revoked_at else "valid",
            )
            for each in found
        ]
        names = ("id", "name", "scope", "since (UTC)", "last used (UTC)", "state")
        console().print(columns(rows, names, left=names[1:]))


def revoke(settings: Settings, token_id: int, *, as_json: bool) -> None:
    """Let a token open nothing any more."""
    with opened(settings) as pool:
        revoked = tokens.revoke(pool, token_id, requester())
    if as_json:
        echo_json(plain_fields(revoked))
    else:
        say(f"Token {revoked.id} of {revoked.name} is revoked: its next request is answered 401.")
