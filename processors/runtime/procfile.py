"""Runs the Procfile's processes on this machine, as the platform would, under honcho."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
PROCFILE = ROOT / "Procfile"

# honcho would let a `.env` file override what it is given; whoever wants one reads it first.
_HONCHO = [sys.executable, "-m", "honcho", "--procfile", str(PROCFILE), "--env", os.devnull]
_LAUNCHED = [
    *(sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))),
    *map(str, (os.getpid(), os.getuid(), os.getgid(), int(signal.SIGTERM))),
]
_STOP_SECONDS = 30


class NotStarted(Exception):
    """The processes cannot run here; the text says why and what to do."""


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with changes, in which `python` and `uvicorn` are this interpreter's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **changes, "PATH": path, "PYTHONUNBUFFERED": "1"}


def require_free_port(port: int) -> None:
    """Find out that the web port is taken before anything is started.

    Raises:
        NotStarted: another program listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - where web is going to listen; closed at once
        except OSError as error:
            message = f"port {port} cannot be used ({error.strerror}); choose another: PORT=8001 make demo"
            raise NotStarted(message) from None


def release(env: Mapping[str, str]) -> None:
    """Run the release line to its end.

    Raises:
        NotStarted: it failed; its output says why.
    """
    done = subprocess.run(  # noqa: S603 - our own Procfile
        [*_HONCHO, "start", "release"],
        env=dict(env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"the release command failed:\n{done.stdout}{done.stderr}"
        raise NotStarted(message)


@contextlib.contextmanager
def running(env: Mapping[str, str], output: IO[bytes] | None) -> Iterator[subprocess.Popen[bytes]]:
    """Keep web, worker and clock running; on leaving, stop them in order and wait for them.

    `output` receives what they print; None leaves it on the terminal.
    """
    process = subprocess.Popen(  # noqa: S603 - our own Procfile
        # On Linux honcho ends when this process does, however that happens, and takes its children with it.
        [*_LAUNCHED, *_HONCHO, "start", "web", "worker", "clock"],
        env=dict(env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        # Ctrl-C in the terminal is for us: they are stopped by us, once and in order.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
