"""The command line. Each command reads its settings, calls one function, and says what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import click

from processors import logs
from processors.errors import ConfigurationError
from processors.settings import Settings

P = ParamSpec("P")

_DATABASE = "DATABASE_URL"
_REDIS = "REDIS_URL"


def _with_settings(*required: str, process: str) -> Callable[[Callable[Concatenate[Settings, P], None]], Callable[P, None]]:
    """Give a command its settings; a wrong one ends it with exit code 2 and a line for each."""

    def decorate(command: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                settings = Settings.load(*required)
            except ConfigurationError as error:
                click.echo(str(error), err=True)
                sys.exit(2)
            logs.configure(settings.log_format, settings.log_level, process=process)
            command(settings, *args, **kwargs)

        return run

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zoho-mirror")
def main() -> None:
    """Keep a Postgres copy of a Zoho Inventory catalogue."""


@main.command()
@_with_settings(_DATABASE, process="migrate")
def migrate(settings: Settings) -> None:
    """Bring the database to the state of schema.sql; safe to run again, and by two at once."""
    import psycopg  # noqa: PLC0415 - the other commands start without it

    from processors.store import schema  # noqa: PLC0415

    try:
        schema.migrate(settings.database_url or "")
    except psycopg.Error as error:
        click.echo(f"migrate failed, nothing was changed: {error}", err=True)
        sys.exit(1)
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
