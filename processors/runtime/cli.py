"""The command line. Each command reads its settings, calls one function, and says what came of it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Concatenate, NoReturn, ParamSpec

import click
from rich.console import Console

from processors import logs
from processors.errors import ConfigurationError
from processors.settings import Settings

P = ParamSpec("P")

_DATABASE = "DATABASE_URL"
_REDIS = "REDIS_URL"


_json_option = click.option("--json", "as_json", is_flag=True, help="Say it in JSON, a line at a time.")


def _with_settings(
    *required: str, process: str
) -> Callable[[Callable[Concatenate[Settings, P], None]], Callable[P, None]]:
    """Give a command its settings; a wrong one ends it with exit code 2 and a line for each."""

    def decorate(command: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                settings = Settings.load(*required)
            except ConfigurationError as error:
                _stop(str(error), 2)
            logs.configure(settings.log_format, settings.log_level, process=process)
            command(settings, *args, **kwargs)

        return run

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Keep a Postgres copy of a Zoho Inventory catalogue."""


@main.command()
@_json_option
@_with_settings(_DATABASE, process="migrate")
def migrate(settings: Settings, *, as_json: bool) -> None:
    """Bring the database to the state of schema.sql.

    Safe to run again, and by two at once; no row is ever removed.
    """
    import psycopg  # noqa: PLC0415 - the other commands start without it

    from processors.store import schema  # noqa: PLC0415

    try:
        schema.migrate(settings.database_url or "")
    except psycopg.Error as error:
        message = f"migrate failed, nothing was changed: {error}"
        _stop(_as_json(state="failed", error=message) if as_json else message, 1)
    click.echo(_as_json(state="up to date") if as_json else "The database is up to date.")


@main.command()
@_json_option
@_with_settings(_DATABASE, _REDIS, process="worker")
def worker(settings: Settings, *, as_json: bool) -> None:
    """Apply events, until a signal comes."""
    from processors.runtime import processes  # noqa: PLC0415

    if as_json:
        logs.configure("json", settings.log_level, process="worker")
    processes.run_worker(settings)


@main.command()
@_json_option
@_with_settings(_DATABASE, _REDIS, process="clock")
def clock(settings: Settings, *, as_json: bool) -> None:
    """Run the timetable, until a signal comes."""
    from processors.runtime import processes  # noqa: PLC0415

    if as_json:
        logs.configure("json", settings.log_level, process="clock")
    processes.run_clock(settings)


@main.command()
@click.option("--items", default=1_000, show_default=True, help="Size of the simulated catalogue.")
@_json_option
def demo(items: int, *, as_json: bool) -> None:
    """Show everything at work, with a simulated Zoho.

    Embedded Postgres and Redis and the Procfile's processes; Ctrl-C stops it all and leaves nothing behind.
    """
    try:
        port = Settings.load().port
    except ConfigurationError as error:
        _stop(str(error), 2)
    _on_this_machine(
        lambda console: _local("demo").run(items=items, port=port, console=console, as_json=as_json), as_json=as_json
    )


@main.command()
@_json_option
def dev(*, as_json: bool) -> None:
    """Run all processes here, against your own Zoho.

    Settings may stand in a file named .env. Postgres and Redis are embedded, and kept in .local/, where none are set.
    """
    dot_env = Path(".env")
    try:
        if dot_env.exists():
            from honcho import environ  # noqa: PLC0415 - an extra, which only `demo` and `dev` need

            os.environ |= {**environ.parse(dot_env.read_text("utf-8")), **os.environ}
        settings = Settings.load("ZOHO_WEBHOOK_SECRETS", "ZOHO_ORGANIZATION_ID")
    except ConfigurationError as error:
        _stop(str(error), 2)
    if as_json:
        os.environ["LOG_FORMAT"] = "json"
    _on_this_machine(lambda console: _local("dev").run(settings, console), as_json=as_json)


def _local(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"processors.runtime.{name}")
    except ImportError as error:
        _stop(f"this command needs more than a deployment does: pip install 'zoho-mirror[local]' ({error})", 1)


def _on_this_machine(run: Callable[[Console], int], *, as_json: bool) -> None:
    from processors.runtime.local import LocalServerError  # noqa: PLC0415
    from processors.runtime.procfile import NotStarted  # noqa: PLC0415

    # The processes have logs of their own; of this one only trouble is of interest.
    logs.configure("console", "warning", process="local")
    try:
        # With --json, standard output holds nothing else.
        sys.exit(run(Console(stderr=as_json)))
    except (NotStarted, LocalServerError) as error:
        _stop(str(error), 1)


def _as_json(**values: object) -> str:
    return json.dumps(values, default=str)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
