"""The tokens of programs, against the database."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from processors.errors import AccessRefused
from processors.store import audit
from processors.store.api_tokens import Bearer
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import tokens

SHELL = Requester("cli", "root")


def used_at(connection: Connection) -> object:
    (row,) = connection.execute("SELECT used_at FROM api_tokens").fetchall()
    return row["used_at"]


def test_a_program_is_recognised_by_its_token(pool: Pool) -> None:
    created = tokens.create(pool, " Shop ", "read", SHELL)
    assert tokens.verify(pool, created.text) == Bearer(created.token.id, "shop", "read")


def test_a_token_is_256_random_bits_behind_a_prefix_that_shows_what_it_is(pool: Pool) -> None:
    texts = {tokens.create(pool, f"shop-{number}", "read", SHELL).text for number in range(5)}
    assert len(texts) == 5
    assert all(text.startswith("zm_") and len(text) == len("zm_") + 43 for text in texts)


def test_only_the_digest_of_a_token_is_kept(pool: Pool, connection: Connection) -> None:
    created = tokens.create(pool, "shop", "write", SHELL)
    (row,) = connection.execute("SELECT digest FROM api_tokens").fetchall()
    assert bytes(row["digest"]) == hashlib.sha256(created.text.encode()).digest()
    for table in ("api_tokens", "audit_log"):
        assert all(
            created.text not in row["row"] for row in connection.execute(f"SELECT t::text AS row FROM {table} t")
        )
    assert created.text not in repr(created)


@pytest.mark.parametrize("text", ["", "zm_", "zm_" + "a" * 43, "zm_" + "a" * 43 + "\n", "zm_" + "é" * 43, "\x00"])
def test_a_text_that_is_no_token_belongs_to_nobody(pool: Pool, text: str) -> None:
    assert tokens.verify(pool, text) is None


def test_a_revoked_token_opens_nothing(pool: Pool) -> None:
    created = tokens.create(pool, "shop", "read", SHELL)
    revoked = tokens.revoke(pool, created.token.id, SHELL)
    assert revoked.revoked_by == "cli:root"
    assert tokens.verify(pool, created.text) is None
    with pytest.raises(AccessRefused, match=rf"token {created.token.id} \(shop\) is revoked already, by cli:root"):
        tokens.revoke(pool, created.token.id, SHELL)


@pytest.mark.parametrize("token_id", [-1, 0, 2**62, 2**63, 2**80])
def test_a_token_that_is_not_there_cannot_be_revoked(pool: Pool, token_id: int) -> None:
    with pytest.raises(AccessRefused, match=f"there is no token {token_id}"):
        tokens.revoke(pool, token_id, SHELL)


def test_two_living_tokens_share_no_name(pool: Pool) -> None:
    first = tokens.create(pool, "shop", "read", SHELL)
    with pytest.raises(AccessRefused, match="there is a token shop already"):
        tokens.create(pool, "SHOP", "write", SHELL)
    tokens.revoke(pool, first.token.id, SHELL)
    assert tokens.create(pool, "shop", "write", SHELL).token.id != first.token.id


@pytest.mark.parametrize("name", ["", " ", "two words", "-x", "x" * 65, "a\x00b"])
def test_a_name_that_no_log_could_tell_is_refused(pool: Pool, name: str) -> None:
    with pytest.raises(AccessRefused, match="a name has 1 to 64"):
        tokens.create(pool, name, "read", SHELL)


def test_what_is_done_with_tokens_is_in_the_audit_log(pool: Pool, connection: Connection) -> None:
    token = tokens.create(pool, "shop", "write", SHELL).token
    tokens.revoke(pool, token.id, Requester("console", "olga", "192.0.2.7"))
    revoked, created = audit.find_entries(connection, most=10)
    assert (created.action, created.targets, created.requester) == ("token.created", [str(token.id)], "root")
    assert created.detail == {"name": "shop", "scope": "write"}
    assert (revoked.action, revoked.targets, revoked.address) == ("token.revoked", [str(token.id)], "192.0.2.7")


def test_the_use_of_a_token_is_noted_once_a_minute(pool: Pool, connection: Connection) -> None:
    text = tokens.create(pool, "shop", "read", SHELL).text
    assert used_at(connection) is None
    tokens.verify(pool, text)
    first = used_at(connection)
    assert first is not None
    tokens.verify(pool, text)
    assert used_at(connection) == first
    connection.execute("UPDATE api_tokens SET used_at = used_at - %s::interval", [timedelta(seconds=61)])
    tokens.verify(pool, text)
    assert used_at(connection) is not None
    assert used_at(connection) > first  # type: ignore[operator]


def test_revoked_tokens_are_listed_last(pool: Pool) -> None:
    for name in ("one", "two", "three"):
        tokens.create(pool, name, "read", SHELL)
    newest = tokens.list_tokens(pool)[0]
    tokens.revoke(pool, newest.id, SHELL)
    assert [token.name for token in tokens.list_tokens(pool)] == ["two", "one", "three"]
