"""The load generator, a process of its own: `python -m tests.benchmarks.load PORT COUNT RATE SEED`.

It builds its requests first, prints a line, waits for one, and then sends them over 64 connections that stay open: as
fast as answers come where RATE is 0, else RATE in a second, whether or not earlier ones were answered. It prints the
seconds this took and the milliseconds of each answer as JSON.
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
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run of the generator saw."""

    seconds: float
    milliseconds: list[float]

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.seconds


class Generator:
    """A generator that has built its requests and waits for the word."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self) -> Answers:
        """Send everything.

        Raises:
            RuntimeError: an answer was not 200, or did not come.
        """
        output, _ = self._process.communicate(b"go\n", timeout=_SECONDS)
        if self._process.returncode != 0:
            raise RuntimeError("the load generator failed; its last words are above")
        return Answers(**json.loads(output))


@contextlib.contextmanager
def generator(port: int, *, count: int, seed: int, rate: int = 0) -> Iterator[Generator]:
    """Start a generator and wait until it is ready; two of one seed send the same bodies."""
    command = [sys.executable, "-m", "tests.benchmarks.load", *map(str, (port, count, rate, seed))]
    process = subprocess.Popen(command, cwd=procfile.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Generator(process)
    finally:
        process.kill()
        process.wait()


class _Connection(asyncio.Protocol):
    """Sends one request at a time and times its answer."""

    def __init__(self, on_answer: Callable[[_Connection, float], None]) -> None:
        self._on_answer = on_answer
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes) -> None:
        self._sent_at = perf_counter()
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
        self._on_answer(self, perf_counter() - self._sent_at)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport.is_closing() and error is None:
            return
        sys.exit(f"the connection was lost: {error}")


async def _send(port: int, requests: list[bytes], rate: int) -> tuple[float, list[float]]:
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    left = iter(requests)
    seconds: list[float] = []
    idle: deque[_Connection] = deque()

    def answered(connection: _Connection, took: float) -> None:
        seconds.append(took)
        if len(seconds) == len(requests):
            finished.set_result(None)
        elif rate:
            idle.append(connection)
        elif (request := next(left, None)) is not None:
            connection.send(request)

    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port)
        idle.append(connection)
    started = perf_counter()
    if rate:
        at = loop.time()
        for number, request in enumerate(requests):
            await asyncio.sleep(at + number / rate - loop.time())
            idle.popleft().send(request)
    else:
        for connection, request in zip(idle.copy(), left, strict=False):
            connection.send(request)
    await finished
    return perf_counter() - started, seconds


def _main(port: int, count: int, rate: int, seed: int) -> None:
    # Each run has items of its own: a delivery like an earlier one would be a duplicate.
    requests = [bodies.request(bodies.body(seed * 1_000_000 + number, 0)) for number in range(count)]
    gc.disable()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    seconds, answers = asyncio.run(_send(port, requests, rate))
    json.dump({"seconds": seconds, "milliseconds": [round(answer * 1000, 3) for answer in answers]}, sys.stdout)


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
