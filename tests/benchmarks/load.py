"""The load generator, a process of its own, so that what it costs is not counted: `python -m tests.benchmarks.load`.

For each line `PORT COUNT RATE SEED` it builds that many requests, prints `ready`, waits for another line, and sends
them over 64 connections that stay open: as fast as answers come where RATE is 0, else RATE in a second, whether or not
earlier ones were answered; what finds no connection free waits, and is timed from when it was due. It then prints, as
JSON, the seconds this took and the milliseconds of each answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

from processors.runtime import procfile
from tests.benchmarks import bodies

CONNECTIONS = 64
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run of the generator saw."""

    seconds: float
    milliseconds: list[float]

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.seconds


class Generator:
    """The generator's process; one run at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def prepare(self, port: int, *, count: int, seed: int, rate: int = 0) -> None:
        """Build the requests; two runs of one seed send the same bodies."""
        self._write(f"{port} {count} {rate} {seed}")
        self._read()

    def run(self) -> Answers:
        """Send what was prepared.

        Raises:
            RuntimeError: an answer was not 200, or did not come.
        """
        self._write("go")
        return Answers(**json.loads(self._read()))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended; its last words are above")
        return line


@contextlib.contextmanager
def generator() -> Iterator[Generator]:
    """Run a generator."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.load"],
        cwd=procfile.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Generator(process)
        finally:
            process.kill()


class _Connection(asyncio.Protocol):
    """Sends one request at a time and times its answer."""

    def __init__(self, on_answer: Callable[[_Connection, float], None]) -> None:
        self._on_answer = on_answer
        self._received = b""
        self._due_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, due_at: float | None = None) -> None:
        self._due_at = due_at or perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        if not self._received.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"not accepted: {self._received!r}")
        length = _CONTENT_LENGTH.search(self._received)
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return
        self._received = b""
        self._on_answer(self, perf_counter() - self._due_at)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport.is_closing() and error is None:
            return
        sys.exit(f"the connection was lost: {error}")


async def _send(port: int, requests: list[bytes], rate: int) -> tuple[float, list[float]]:
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    seconds: list[float] = []
    idle: deque[_Connection] = deque()
    waiting: deque[tuple[bytes, float | None]] = deque()

    def answered(connection: _Connection, took: float) -> None:
        seconds.append(took)
        if len(seconds) == len(requests):
            finished.set_result(None)
        elif waiting:
            connection.send(*waiting.popleft())
        else:
            idle.append(connection)

    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port)
        idle.append(connection)
    started = perf_counter()
    if rate:
        at = loop.time()
        for number, request in enumerate(requests):
            await asyncio.sleep(at + number / rate - loop.time())
            if idle:
                idle.popleft().send(request)
            else:
                waiting.append((request, perf_counter()))
    else:
        waiting.extend((request, None) for request in requests)
        while idle and waiting:
            idle.popleft().send(*waiting.popleft())
    await finished
    return perf_counter() - started, seconds


def _main() -> None:
    for line in sys.stdin:
        port, count, rate, seed = map(int, line.split())
        # Each run has items of its own: a delivery like an earlier one would be a duplicate.
        requests = [bodies.request(bodies.body(seed * 1_000_000 + number, 0)) for number in range(count)]
        _say("ready")
        sys.stdin.readline()
        gc.disable()
        seconds, answers = asyncio.run(_send(port, requests, rate))
        gc.enable()
        _say(json.dumps({"seconds": seconds, "milliseconds": [round(answer * 1000, 3) for answer in answers]}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
