"""The command line as an operator meets it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from processors.runtime import procfile
from processors.runtime.local import LocalPostgres
from processors.settings import Settings

_BARE = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processors", *arguments],
        env=_BARE | settings,
        cwd=procfile.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["migrate", "worker", "clock"])
def test_a_missing_setting_ends_a_command_with_a_line_that_names_it(command: str) -> None:
    done = run(command)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("DATABASE_URL is missing; it should hold a Postgres address")
    assert "Traceback" not in done.stderr


def test_migrate_says_that_it_failed_and_why() -> None:
    done = run("migrate", DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert done.stderr.startswith("migrate failed: connection failed")
    assert "Traceback" not in done.stderr


def test_migrate_prepares_an_empty_database_and_may_be_repeated(postgres: LocalPostgres) -> None:
    url = postgres.create_database("by_command")
    try:
        for applied in ("Applied schema.sql.\n", ""):
            done = run("migrate", DATABASE_URL=url)
            assert (done.returncode, done.stdout) == (0, f"{applied}The database is up to date.\n")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM products").fetchone() == (0,)
    finally:
        postgres.drop_database("by_command")


def test_dev_asks_for_what_your_own_zoho_needs() -> None:
    done = run("dev")
    assert done.returncode == 2
    name = "ZOHO_WEBHOOK_SECRETS"
    assert done.stderr.splitlines() == [
        f"{name} is missing; it should hold {Settings.model_fields[name.lower()].description}"
    ]


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert {"clock", "demo", "dev", "migrate", "worker"} <= set(done.stdout.split())


def test_beside_dev_commands_find_its_services(tmp_path: Path, database_url: str) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "env").write_text(f"DATABASE_URL={database_url}\n")
    environ = {**_BARE, "PYTHONPATH": str(procfile.ROOT)}

    def said(**given: str) -> str:
        command = [sys.executable, "-m", "processors", "operator", "list"]
        done = subprocess.run(
            command, env=environ | given, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout + done.stderr

    assert "Nobody can sign in yet" in said()
    assert "Postgres does not answer" in said(DATABASE_URL="postgres://nobody@127.0.0.1:9/x"), "what is set comes first"
