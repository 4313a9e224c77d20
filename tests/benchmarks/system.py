"""The servers and processes that are measured: the Procfile's, and the floors beside them under the same flags."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

import simulator
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis, free_port
from tests.acceptance.installation import LINES, Installation
from tests.benchmarks import floors

# Full runs are a subject of their own: in the others the clock opens none.
_NO_RUNS = """
INSERT INTO jobs (name, slot)
SELECT name, 'infinity'
  FROM unnest('{reconcile-full,reconcile-recent,reconcile-again}'::text[]) AS job (name)
"""
_PRODUCT_APP = "receiver.app:create_app"
_START_SECONDS = 30.0
SMALLEST_PLAN = 20
"""So many connections to Postgres, and to Redis, the smallest plans give; the Procfile's processes get no more."""
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens."""

    port: int
    pid: int


class System:
    """An empty installation, none of its processes started, on servers that do wait for the disk."""

    def __init__(self, installation: Installation, directory: Path) -> None:
        self.installation = installation
        self._directory = directory
        self._connection = psycopg.connect(installation.admin_url, autocommit=True)

    def close(self) -> None:
        self._connection.close()
        self.installation.close()

    @property
    def services(self) -> list[int]:
        """The process ids of Postgres and Redis."""
        pids = [self.installation.postgres.pid, self.installation.redis.pid]
        return [pid for pid in pids if pid is not None]

    @property
    def postgres_pid(self) -> int:
        return self.services[0]

    def execute(self, statement: str) -> tuple[object, ...] | None:
        """Run a statement and return its first row, if any."""
        cursor = self._connection.execute(statement.encode())
        return cursor.fetchone() if cursor.description else None

    def connect(self) -> psycopg.Connection:
        """Return another connection, which the caller closes."""
        return psycopg.connect(self.installation.admin_url, autocommit=True)

    def empty(self) -> None:
        """Forget all events, products and messages, so that each round finds the same."""
        # Each by itself: together they could be a deadlock with what a worker or clock looks at now and then.
        for table in ("events", "products", "product_changes", "floor_events", "floor_products"):
            self.execute(f"TRUNCATE {table} RESTART IDENTITY")
        self.execute("CHECKPOINT")
        with redis.Redis.from_url(self.installation.redis.url) as client:
            client.flushall()

    @contextlib.contextmanager
    def running(self, *lines: str, wait: bool = True) -> Iterator[dict[str, int]]:
        """Run lines of the Procfile, and wait for `web` to be ready; gives their process ids."""
        for line in lines:
            self.installation.start(line)
        try:
            if "web" in lines and wait:
                wait_for_answer(self.installation.port, "/health/ready", status=200)
            yield {line: self.installation.processes[line].pid for line in lines}
        finally:
            for line in lines:
                self.installation.terminate(line)

    @contextlib.contextmanager
    def another(self, line: str) -> Iterator[int]:
        """Run a second process of a line that is running already; gives its process id."""
        name = f"{line}.2"
        self.installation.start(line, name)
        try:
            yield self.installation.processes[name].pid
        finally:
            self.installation.terminate(name)

    @contextlib.contextmanager
    def floor(self, factory: str) -> Iterator[Server]:
        """Run one of the apps in `floors` exactly as the Procfile runs the mirror's."""
        assert _PRODUCT_APP in LINES["web"], "the Procfile names the app"
        port = free_port()
        env = procfile.environment(DATABASE_URL=self.installation.admin_url, PORT=str(port))
        command = LINES["web"].replace(_PRODUCT_APP, f"{floors.__name__}:{factory}")
        with (self._directory / f"{factory}.log").open("ab") as log:
            process = subprocess.Popen(
                f"exec {command}", shell=True, env=env, cwd=procfile.ROOT, stdout=log, stderr=log
            )
        with _ended(process):
            wait_for_answer(port, "/")
            yield Server(port, process.pid)


@contextlib.contextmanager
def system() -> Iterator[System]:
    """Start Postgres, Redis and a simulated Zoho, and migrate a database."""
    zoho = simulator.Zoho(simulator.Catalogue.generate(1))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(LocalPostgres(durable=True))
        redis_server = stack.enter_context(LocalRedis())
        zoho_url = stack.enter_context(simulator.serve(zoho))
        # As deployed; the demo, whose environment this is, writes for people instead.
        os.environ["LOG_FORMAT"] = "json"
        installation = Installation(postgres, redis_server, zoho, zoho_url, directory)
        installation.limit_connections(SMALLEST_PLAN)
        installation.run_release()
        whole = System(installation, directory)
        stack.callback(whole.close)
        whole.execute(floors.TABLES)
        whole.execute(_NO_RUNS)
        yield whole
        assert zoho.calls("/inventory/*") == 0, "every body is complete, so that nothing had to be fetched"


@contextlib.contextmanager
def echo() -> Iterator[Server]:
    """Run the server that shows what the load generator can do."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.echo", str(port)], cwd=procfile.ROOT)
    with _ended(process):
        wait_for_answer(port, "/")
        yield Server(port, process.pid)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(port: int, path: str, *, status: int | None = None) -> None:
    """Ask again and again until a server gives an answer, of that status if given.

    Raises:
        TimeoutError: there was none in half a minute.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    wanted = b"HTTP/1.1 " + (str(status).encode() if status else b"")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request)
            if connection.recv(4096).startswith(wanted):
                return
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"no answer from port {port} within {_START_SECONDS:.0f} s")
