"""The `api_tokens` table: the programs that may use the JSON API, and what each of them may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from processors.store.database import Connection
from processors.store.queries import Queries

Scope = Literal["read", "write"]
"""`write` sees, too."""

_queries = Queries("api_tokens.sql")


@dataclass(frozen=True, slots=True)
class ApiToken:
    """One row, without what would let anybody in."""

    id: int
    name: str
    scope: Scope
    created_at: datetime
    created_by: str
    used_at: datetime | None
    """To a minute."""
    revoked_at: datetime | None
    revoked_by: str | None


@dataclass(frozen=True, slots=True)
class Bearer:
    """The program that sent a token."""

    token_id: int
    name: str
    scope: Scope


def add(connection: Connection, name: str, digest: bytes, scope: Scope, *, created_by: str) -> ApiToken | None:
    """Add a token; None: one that is not revoked has that name."""
    parameters = {"name": name, "digest": digest, "scope": scope, "created_by": created_by}
    row = connection.execute(_queries.add_token, parameters).fetchone()
    return row and ApiToken(**row)


def listed(connection: Connection) -> list[ApiToken]:
    """Return all tokens, revoked ones last."""
    return [ApiToken(**row) for row in connection.execute(_queries.list_tokens)]


def find(connection: Connection, token_id: int) -> ApiToken | None:
    """Return one token, revoked or not."""
    row = connection.execute(_queries.find_token, {"token_id": token_id}).fetchone()
    return row and ApiToken(**row)


def revoke(connection: Connection, token_id: int, *, revoked_by: str) -> ApiToken | None:
    """Let a token open nothing any more; None: there is none of that id that still did."""
    parameters = {"token_id": token_id, "revoked_by": revoked_by}
    row = connection.execute(_queries.revoke_token, parameters).fetchone()
    return row and ApiToken(**row)


def recognise(connection: Connection, digest: bytes) -> Bearer | None:
    """Return whose token has this digest, and note its use; None: nobody's, or not any more."""
    row = connection.execute(_queries.recognise_token, {"digest": digest}).fetchone()
    return row and Bearer(token_id=row["id"], name=row["name"], scope=row["scope"])
