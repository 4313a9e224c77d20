"""The commands for programs that may use the JSON API, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from processors.store.audit import Requester
from processors.store.database import Pool
from processors.workflows import tokens


def run(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processors", "token", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"DATABASE_URL": database_url},
        timeout=60,
    )


def test_a_token_is_made_listed_and_revoked(database_url: str, pool: Pool) -> None:
    assert "token create NAME" in run(database_url, "list").stdout

    made = run(database_url, "create", "shop", "--scope", "write")
    assert (made.returncode, made.stderr) == (0, "")
    bearer = tokens.verify(pool, made.stdout.splitlines()[-1])
    assert bearer is not None
    assert (bearer.name, bearer.scope) == ("shop", "write")

    told = json.loads(run(database_url, "create", "bot", "--json").stdout)
    assert tokens.verify(pool, told["token"]) is not None
    assert (told["name"], told["scope"]) == ("bot", "read")

    (newest, oldest) = [json.loads(line) for line in run(database_url, "list", "--json").stdout.splitlines()]
    assert (newest["name"], oldest["name"]) == ("bot", "shop")
    assert told["token"] not in json.dumps([newest, oldest])

    revoked = run(database_url, "revoke", str(bearer.token_id))
    assert (revoked.returncode, revoked.stderr) == (0, "")
    assert "answered 401" in revoked.stdout
    assert "revoked" in run(database_url, "list").stdout
    assert [token.name for token in tokens.list_tokens(pool)] == ["bot", "shop"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("create", "two words"), "a name has"),
        (("create", "taken"), "there is a token taken already"),
        (("revoke", "0"), "there is no token 0"),
        (("revoke", "99999999999999999999"), "there is no token 99999999999999999999"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    database_url: str, pool: Pool, arguments: tuple[str, ...], text: str
) -> None:
    tokens.create(pool, "taken", "read", Requester("cli", "root"))
    said = run(database_url, *arguments)
    assert (said.returncode, said.stdout) == (1, "")
    assert text in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_a_scope_that_is_none_is_wrong_usage(database_url: str) -> None:
    assert run(database_url, "create", "new", "--scope", "everything").returncode == 2
