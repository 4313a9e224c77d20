"""The processes and servers that the faults befall."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psycopg
import redis

import simulator
from processors.runtime.local import LocalPostgres, LocalRedis
from tests.acceptance.installation import Installation, wait_for
from tests.chaos.injected import sitecustomize

WORKERS = ("worker", "worker 2")
_INJECTED = Path(sitecustomize.__file__).parent
_NOWHERE = "http://127.0.0.1:9"
_HIT_SECONDS = 25.0
_COMES_TRUE_SECONDS = 60.0
_LONGEST_EXIT_SECONDS = 25.0
# uvicorn ends by the signal itself, after an orderly shutdown.
_ORDERLY = {"web": (0, -signal.SIGTERM), "worker": (0,), "clock": (0,)}


class NotHit(Exception):
    """Nobody came past the instruction in time."""


class System(Installation):
    """An installation with two workers, whose processes can be ended at chosen instructions."""

    def __init__(self, postgres: LocalPostgres, redis_server: LocalRedis, directory: Path, broken: str) -> None:
        super().__init__(postgres, redis_server, simulator.Zoho(), _NOWHERE, directory)
        self.directory = directory
        self.points = directory / "points"
        self.points.mkdir(parents=True)
        # Without a connection to Zoho no reconciliation run is ever opened. It would repair what was lost, and so hide
        # that it was. The bodies are complete, and need no call to Zoho either.
        del self._env["ZOHO_REFRESH_TOKEN"]
        self._env |= {
            "PYTHONPATH": str(_INJECTED),
            "CHAOS_POINTS": str(self.points),
            "CHAOS_BROKEN": broken,
            "LOG_FORMAT": "json",
        }
        self.violations: list[str] = []
        """What a process did that it should not have."""
        self.exits: dict[str, list[float]] = {}
        self._choosing = threading.Lock()
        self._frozen: set[str] = set()
        self._log_starts: dict[str, int] = {}

    def start_all(self) -> None:
        for name in ("web", *WORKERS, "clock"):
            self.start_again(name)
        self.wait_until_ready()

    def start_again(self, name: str) -> None:
        log = self.directory / f"{name}.log"
        self._log_starts[name] = log.stat().st_size if log.exists() else 0
        self.start(name.split(maxsplit=1)[0], name)

    def wait_until_started(self, name: str) -> None:
        """Until the process says that it has started: before that, it knows no orderly end."""

        def has_started() -> bool:
            with (self.directory / f"{name}.log").open("rb") as log:
                log.seek(self._log_starts[name])
                return b'"process.started"' in log.read()

        wait_for(has_started, f"{name} to start")

    @contextlib.contextmanager
    def a_worker(self, random: Random) -> Iterator[str]:
        """Choose a worker that is not frozen, and is not frozen either before the block ends."""
        with self._choosing:
            yield random.choice([name for name in WORKERS if name not in self._frozen])

    def deploy(self, name: str) -> None:
        """Stop a process as a platform does, and start its successor."""
        self.wait_until_started(name)
        code, seconds = self.terminate(name)
        line = name.split(maxsplit=1)[0]
        self.exits.setdefault(line, []).append(round(seconds, 2))
        if code not in _ORDERLY[line] or seconds > _LONGEST_EXIT_SECONDS:
            self.violations.append(f"{name} ended with {code} after SIGTERM and {seconds:.1f} s")
        self.start_again(name)

    def arm(self, point: str) -> None:
        (self.points / point).touch()

    def wait_for_hit(self, point: str) -> int:
        """Return the id of the process that took an armed point; the file it took is left to the caller.

        Raises:
            NotHit: none did; the point is disarmed.
        """
        deadline = time.monotonic() + _HIT_SECONDS
        while time.monotonic() < deadline:
            for taken in self.points.glob(f"{point}.*"):
                if taken.suffix[1:].isdecimal():
                    return int(taken.suffix[1:])
            time.sleep(0.005)
        (self.points / point).unlink(missing_ok=True)
        raise NotHit(point)

    def kill_at(self, point: str) -> str:
        """Let a process kill itself at an instruction; return its name, which has no process any more."""
        self.arm(point)
        pid = self.wait_for_hit(point)
        (self.points / f"{point}.{pid}").unlink()
        name = next(name for name, process in list(self.processes.items()) if process.pid == pid)
        self.processes.pop(name).wait(10)
        return name

    def freeze_worker_past_its_lease(self, point: str) -> None:
        """Stop a worker that comes past `point`, until others have its events; then let it find that it is too late.

        Raises:
            NotHit: no worker came past, or nobody took its events over.
        """
        with self._choosing:
            self.arm(point)
            pid = self.wait_for_hit(point)
            (name,) = (name for name, process in list(self.processes.items()) if process.pid == pid)
            self._frozen = {name}
        refused = self.late_writes(name)
        try:
            try:
                self._wait_until_taken_over(pid, point)
            finally:
                os.kill(pid, signal.SIGCONT)
            if not _comes_true(lambda: self.late_writes(name) > refused):
                self.violations.append(f"{name} was not refused when it wrote of events that others had")
        finally:
            # From now on it comes past other points like everybody.
            (self.points / f"{point}.{pid}").unlink()
            self._frozen = set()

    def _wait_until_taken_over(self, pid: int, point: str) -> None:
        """Until nothing that the process holds now is its own any more."""
        holds = "state = 'processing' AND split_part(claimed_by, ':', 3) = %(pid)s"
        held = [event_id for (event_id,) in self.rows(f"SELECT id FROM events WHERE {holds}", pid=str(pid))]
        still_held = f"SELECT FROM events WHERE id = ANY(%(held)s) AND {holds}"
        if not held or not _comes_true(lambda: not self.rows(still_held, held=held, pid=str(pid))):
            raise NotHit(point)

    def late_writes(self, name: str) -> int:
        """Count how often a process found that others had its events when it was about to write."""
        log = self.directory / f"{name}.log"
        return log.read_text("utf-8", "replace").count("event.lost_to_another_worker") if log.exists() else 0

    @contextlib.contextmanager
    def halted(self, *names: str) -> Iterator[None]:
        processes = [self.processes[name] for name in names]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def flush_redis(self) -> None:
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()

    def restart_redis_empty(self, seconds: float) -> None:
        self.redis.kill()
        shutil.rmtree(self.redis.directory / "data" / "appendonlydir", ignore_errors=True)
        time.sleep(seconds)
        self.redis.start()

    def note_unexpected_ends(self) -> None:
        """Start again what ended by itself, and remember that it did."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.violations.append(f"{name} ended by itself with {process.returncode}")
                self.start_again(name)

    def start_missing(self) -> None:
        """Start what a fault ended before it was broken off."""
        for name in ("web", *WORKERS, "clock"):
            if name not in self.processes:
                self.start_again(name)

    def rows(self, statement: str, **parameters: object) -> list[tuple[object, ...]]:
        """Return all rows of a statement; Postgres is there."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement.encode(), parameters).fetchall()

    def unfinished(self, up_to: int | None = None) -> int:
        """Count the events that are neither processed nor dead, up to an id."""
        statement = """
            SELECT count(*) FROM events
             WHERE state IN ('recorded', 'queued', 'processing') AND id <= coalesce(%(up_to)s::bigint, id)
        """
        ((count,),) = self.rows(statement, up_to=up_to)
        assert isinstance(count, int)
        return count


def _comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _COMES_TRUE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def system(broken: str, logs: Path | None) -> Iterator[System]:
    """Start servers of our own, migrate, and start the Procfile's processes; their logs go to `logs`, if given."""
    with contextlib.ExitStack() as stack:
        directory = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoho-mirror-chaos-")))
        # Both durable: commits that wait for a disk give others time to get in between, and a Redis that was only
        # stopped comes back with what it had.
        postgres = stack.enter_context(LocalPostgres(durable=True))
        redis_server = stack.enter_context(LocalRedis(durable=True))
        whole = System(postgres, redis_server, directory, broken)
        whole.run_release()
        stack.callback(whole.close)
        whole.start_all()
        yield whole
