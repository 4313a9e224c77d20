"""Signed deliveries beside a flood of unsigned ones, and what a sender sees while Postgres hangs."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

import simulator
from processors.runtime import procfile
from tests.benchmarks import bodies, load, report
from tests.benchmarks.load import Generator
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

_PER_SECOND = 50
_SENDERS = 8
_HANGING_SECONDS = 8.0
# Apart from those of the other subjects.
_seeds = itertools.count(10_000)


def measure(system: System, scale: Scale) -> list[Subject]:
    """Measure one web process: alone, beside a flood, and without an answer from Postgres."""
    flooded = Subject(
        f"Signed deliveries at {_PER_SECOND} a second, one web process",
        ("p50 ms", "p99 ms", "unsigned/s"),
        ("The flood comes over 64 connections, as fast as it is answered; it and the server share the cores.",),
    )
    quiet: list[list[float]] = []
    beside: list[list[float]] = []
    rates: list[float] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(system.running("web"))
        port = system.installation.port
        generator = stack.enter_context(load.generator())
        for _ in range(scale.rounds):
            system.empty()
            quiet.append(_signed(generator, port, scale.paced_seconds))
            with _flood(port) as answered:
                beside.append(_signed(generator, port, scale.paced_seconds))
            rates.append(answered[0])
        flooded.add("nothing else", report.percentile(quiet, 0.5), report.percentile(quiet, 0.99), None)
        flooded.add(
            "a flood of unsigned requests",
            report.percentile(beside, 0.5),
            report.percentile(beside, 0.99),
            report.over_rounds(rates),
        )
        refused = _while_postgres_hangs(system)
    hanging = Subject(
        f"While Postgres hangs: {_SENDERS} senders for {_HANGING_SECONDS:.0f} s, each answered 503",
        ("answers", "p50 ms", "p99 ms", "slowest ms"),
        ("The first ones wait for 4 s for their commit; after that, all are turned away at once for a second.",),
    )
    hanging.add(
        "zoho-mirror",
        report.over_rounds([len(refused)]),
        report.percentile([refused], 0.5),
        report.percentile([refused], 0.99),
        report.over_rounds([max(refused)]),
    )
    return [flooded, hanging]


def _signed(generator: Generator, port: int, seconds: int) -> list[float]:
    generator.prepare(port, count=seconds * _PER_SECOND, seed=next(_seeds), rate=_PER_SECOND)
    return generator.run().milliseconds


@contextlib.contextmanager
def _flood(port: int) -> Iterator[list[float]]:
    """Flood for as long as the block lasts; its list then holds how many were answered in a second."""
    answered: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.flood", str(port)],
        cwd=procfile.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            # Until it is in full flow.
            time.sleep(0.5)
            yield answered
            said = json.loads(process.communicate("")[0])
            answered.append(said["answered"] / said["seconds"])
        finally:
            process.kill()


def _while_postgres_hangs(system: System) -> list[float]:
    """Return the milliseconds of each answer; every one is a 503 that tells when to come back."""
    url = f"{system.installation.url}{bodies.ITEMS_PATH}"
    numbers = itertools.count(next(_seeds) * 1_000_000)

    def send(deadline: float) -> list[float]:
        milliseconds = []
        with httpx.Client(timeout=10) as client:
            while time.monotonic() < deadline:
                content = bodies.body(next(numbers), 0)
                signature = simulator.sign(simulator.WEBHOOK_SECRET, raw=content)
                headers = {simulator.SIGNATURE_HEADER: signature, "Content-Type": bodies.CONTENT_TYPE}
                started = time.perf_counter()
                answer = client.post(url, content=content, headers=headers)
                milliseconds.append((time.perf_counter() - started) * 1_000)
                assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer
                assert answer.headers["Retry-After"]
        return milliseconds

    with system.installation.frozen_postgres(), ThreadPoolExecutor(_SENDERS) as senders:
        deadline = time.monotonic() + _HANGING_SECONDS
        return [each for found in senders.map(send, [deadline] * _SENDERS) for each in found]
