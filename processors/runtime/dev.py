"""The Procfile's processes against your own Zoho, with embedded Postgres and Redis where none are configured."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack
from pathlib import Path

import psycopg
from rich.console import Console

from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.runtime.signals import StopSignal
from processors.settings import Settings

DIRECTORY = Path(".local")
_DATABASE = "mirror"


def run(settings: Settings, console: Console, *, tell: Path) -> int:
    """Run until Ctrl-C or SIGTERM, or until a process ends by itself; return the exit code.

    Meanwhile the file `tell` holds the addresses of what is embedded, for commands in other shells.

    Raises:
        NotStarted: the port is taken, or the database could not be prepared.
    """
    procfile.require_free_port(settings.port)
    stop = StopSignal()
    with ExitStack() as stack:
        database_url, redis_url = settings.database_url, settings.redis_url
        embedded: dict[str, str] = {}
        if database_url is None:
            postgres = stack.enter_context(LocalPostgres(DIRECTORY / "postgres", durable=True))
            database_url = postgres.database_url(_DATABASE)
            with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                postgres.create_database(_DATABASE)
            embedded["DATABASE_URL"] = database_url
            console.print(
                f"Embedded Postgres, kept in {DIRECTORY}/postgres: {database_url}", highlight=False, soft_wrap=True
            )
        if redis_url is None:
            redis_url = stack.enter_context(LocalRedis(DIRECTORY / "redis", durable=True)).url
            embedded["REDIS_URL"] = redis_url
            console.print(f"Embedded Redis, kept in {DIRECTORY}/redis: {redis_url}", highlight=False, soft_wrap=True)
        env = procfile.environment(DATABASE_URL=database_url, REDIS_URL=redis_url, PORT=str(settings.port))
        env.setdefault("LOG_FORMAT", "console")
        procfile.release(env)
        tell.parent.mkdir(exist_ok=True)
        tell.write_text("".join(f"{name}={value}\n" for name, value in embedded.items()), "utf-8")
        stack.callback(tell.unlink, missing_ok=True)
        console.print(
            f"Console: http://127.0.0.1:{settings.port}/console. Commands run in this folder find these services; "
            "the first is `operator add NAME`. Ctrl-C stops everything.",
            highlight=False,
        )
        processes = stack.enter_context(procfile.running(env, None))
        while not stop.wait(0.2):
            if processes.poll() is not None:
                return 1
    return 0
