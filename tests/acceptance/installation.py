"""A whole installation on this machine: the Procfile's processes, each startable and killable by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import redis
from honcho import environ

import simulator
from processors.runtime import demo, procfile
from processors.runtime.local import LocalPostgres, LocalRedis, free_port

LINES: dict[str, str] = environ.parse_procfile(procfile.PROCFILE.read_text("utf-8")).processes


class Installation:
    """Processes with their services and a simulated Zoho."""

    def __init__(
        self, postgres: LocalPostgres, redis: LocalRedis, zoho: simulator.Zoho, zoho_url: str, logs: Path
    ) -> None:
        self.postgres, self.redis, self.zoho = postgres, redis, zoho
        self.database_url = postgres.create_database("mirror")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = self.database_url
        self._env = demo.environment(self.database_url, redis.url, zoho_url, self.port)
        # Half a day away: the time of day at which the tests run starts none that they did not ask for.
        away = f"0 {(datetime.now(UTC).hour + 12) % 24} * * *"
        self._env |= {"RECONCILE_FULL_CRON": away, "RECONCILE_RECENT_CRON": away}
        self._logs = logs
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def limit_connections(self, most: int) -> None:
        """Let its processes be an ordinary user of Postgres, with so many connections there, and as many to Redis.

        Call it before `run_release`. Whoever looks on uses `admin_url`.
        """
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE mirror LOGIN CONNECTION LIMIT {most}".encode())
            connection.execute(b"ALTER DATABASE mirror OWNER TO mirror")
            connection.execute(b"ALTER SCHEMA public OWNER TO mirror")
        with redis.Redis.from_url(self.redis.url) as client:
            client.config_set("maxclients", most)
        self.database_url = self.admin_url.replace("postgres@", "mirror@", 1)
        self._env["DATABASE_URL"] = self.database_url

    def run_release(self) -> None:
        subprocess.run(LINES["release"], shell=True, env=self._env, cwd=procfile.ROOT, check=True, timeout=60)

    def start(self, line: str, name: str | None = None) -> None:
        name = name or line
        with (self._logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                f"exec {LINES[line]}", shell=True, env=self._env, cwd=procfile.ROOT, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    def terminate(self, name: str) -> tuple[int, float]:
        """SIGTERM one process; its exit code, and how many seconds it took."""
        process, started = self.processes.pop(name), time.monotonic()
        process.send_signal(signal.SIGTERM)
        return process.wait(30), time.monotonic() - started

    @contextlib.contextmanager
    def frozen_postgres(self) -> Iterator[None]:
        """Stop all of Postgres's processes where they are, as on a host that vanished."""
        server = self.postgres.pid
        assert server is not None
        pids = [server, *_children(server)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text("utf-8", "replace")

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            try:
                return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        wait_for(is_ready, "web to be ready")

    def one(self, statement: str) -> tuple[object, ...]:
        """The only row of a statement."""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row

    def wait_until_finished(self, seconds: float = 40) -> None:
        """Until every recorded event is processed or dead."""
        unfinished = "SELECT count(*) FROM events WHERE state IN ('recorded', 'queued', 'processing')"
        wait_for(lambda: self.one(unfinished) == (0,), "all events to be finished", seconds)

    def wait_until_complete(self, kind: str = "full", *, runs: int = 1, seconds: float = 60) -> None:
        """Until so many runs of a kind are complete; the clock starts the first by itself."""
        complete = f"SELECT count(*) >= {runs} FROM reconciliation_runs WHERE kind = '{kind}' AND state = 'complete'"
        wait_for(lambda: self.one(complete) == (True,), f"{runs} complete {kind} runs", seconds)

    def mirrored(self) -> dict[str, tuple[object, ...]]:
        """The live rows, as far as the simulated Zoho tells the same by `in_zoho`."""
        statement = (
            "SELECT zoho_item_id, name, sku, description, price, stock_on_hand, is_active"
            " FROM products WHERE deleted_at IS NULL"
        )
        with psycopg.connect(self.database_url) as connection:
            return {row[0]: row[1:] for row in connection.execute(statement)}

    def in_zoho(self) -> dict[str, tuple[object, ...]]:
        return {
            item.item_id: (
                item.name,
                item.sku or None,
                item.description or None,
                item.rate,
                item.stock_on_hand if item.track_inventory else None,
                item.status == "active",
            )
            for item in self.zoho.catalogue.all()
        }


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Poll until something outside of this process is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent …", where the name may hold anything.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def processes_marked(mark: str) -> list[str]:
    """Command lines of live processes whose environment holds `mark`; Linux only."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal() or int(directory.name) == os.getpid():
            continue
        try:
            if mark.encode() in (directory / "environ").read_bytes():
                found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
