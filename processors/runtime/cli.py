"""The command line. Each command reads its settings, calls one function, and says what came of it."""

from __future__ import annotations

import importlib
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
@_with_settings(_DATABASE, process="migrate")
def migrate(settings: Settings) -> None:
    """Bring the database to the state of schema.sql.

    Safe to run again, and by two at once; no row is ever removed.
    """
    import psycopg  # noqa: PLC0415 - the other commands start without it

    from processors.store import schema  # noqa: PLC0415

    try:
        schema.migrate(settings.database_url or "")
    except psycopg.Error as error:
        _stop(f"migrate failed, nothing was changed: {error}", 1)
    click.echo("The database is up to date.")


@main.command()
@_with_settings(_DATABASE, _REDIS, process="worker")
def worker(settings: Settings) -> None:
    """Apply events, until a signal comes."""
    from processors.runtime import processes  # noqa: PLC0415

    processes.run_worker(settings)


@main.command()
@_with_settings(_DATABASE, _REDIS, process="clock")
def clock(settings: Settings) -> None:
    """Run the timetable, until a signal comes."""
    from processors.runtime import processes  # noqa: PLC0415

    processes.run_clock(settings)


@main.command()
@click.option("--items", default=1_000, show_default=True, help="Size of the simulated catalogue.")
def demo(items: int) -> None:
    """Show everything at work, with a simulated Zoho.

    Embedded Postgres and Redis and the Procfile's processes; Ctrl-C stops it all and leaves nothing behind.
    """
    try:
        port = Settings.load().port
    except ConfigurationError as error:
        _stop(str(error), 2)
    _on_this_machine(lambda console: _local("demo").run(items=items, port=port, console=console))


@main.command()
def dev() -> None:
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
    _on_this_machine(lambda console: _local("dev").run(settings, console))


def _local(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"processors.runtime.{name}")
    except ImportError as error:
        _stop(f"this command needs more than a deployment does: pip install 'zoho-mirror[local]' ({error})", 1)


def _on_this_machine(run: Callable[[Console], int]) -> None:
    from processors.runtime.local import LocalServerError  # noqa: PLC0415
    from processors.runtime.procfile import NotStarted  # noqa: PLC0415

    # The processes have logs of their own; of this one only trouble is of interest.
    logs.configure("console", "warning", process="local")
    try:
        sys.exit(run(Console()))
    except (NotStarted, LocalServerError) as error:
        _stop(str(error), 1)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
