"""The commands for people who may use the console, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from processors.store.database import Pool
from processors.workflows import access

PASSWORD = "correct horse battery"


def run(database_url: str, *arguments: str, password: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processors", "operator", *arguments],
        input=password,
        capture_output=True,
        text=True,
        check=False,
        env={"DATABASE_URL": database_url},
        timeout=60,
    )


def test_an_operator_is_added_listed_changed_and_removed(database_url: str, pool: Pool) -> None:
    added = run(database_url, "add", "Olga", password=f"{PASSWORD}\n")
    assert (added.returncode, added.stderr) == (0, "")
    assert "olga may sign in at /console as an operator" in added.stdout
    assert PASSWORD not in added.stdout
    assert access.sign_in(pool, "olga", PASSWORD, address=None, browser="", key="a key")

    listed = run(database_url, "list", "--json")
    (told,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (told["name"], told["role"], told["sessions"]) == ("olga", "operator", 1)
    assert "olga" in run(database_url, "list").stdout

    assert run(database_url, "role", "olga", "viewer").returncode == 0
    assert run(database_url, "password", "olga", password="another password\n").returncode == 0
    assert access.sign_in(pool, "olga", "another password", address=None, browser="", key="a key")
    assert [each.role for each in access.list_operators(pool)] == ["viewer"]

    assert run(database_url, "remove", "olga").returncode == 0
    assert access.list_operators(pool) == []
    assert "operator add NAME" in run(database_url, "list").stdout


@pytest.mark.parametrize(
    ("arguments", "password", "text"),
    [
        (("add", "new"), "short\n", "at least 12 characters"),
        (("add", "new"), "", "at least 12 characters"),
        (("add", "two words"), f"{PASSWORD}\n", "a name has"),
        (("password", "nobody"), f"{PASSWORD}\n", "there is no operator nobody"),
        (("remove", "nobody"), None, "there is no operator nobody"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    database_url: str, arguments: tuple[str, ...], password: str | None, text: str
) -> None:
    said = run(database_url, *arguments, password=password)
    assert (said.returncode, said.stdout) == (1, "")
    assert text in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_a_role_that_is_none_is_wrong_usage(database_url: str) -> None:
    assert run(database_url, "add", "new", "--role", "king", password=f"{PASSWORD}\n").returncode == 2
