"""Durable accepts per second: one web process beside the same server without a database, or without shared commits."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmarks import load, report, usage
from tests.benchmarks.load import Generator
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import Server, System, echo

_PACED_PER_SECOND = 50
_WARM_UP = 500
# What an answer leaves to be done, publishing above all, belongs to its cost.
_AFTERMATH_SECONDS = 0.3

_seeds = itertools.count()


@dataclass(slots=True)
class _Contender:
    """A server, which of its processes' time counts, and what was measured of it."""

    server: Server
    pids: Sequence[int]
    requests: int
    per_second: list[float] = field(default_factory=list)
    milliseconds: list[list[float]] = field(default_factory=list)
    paced_milliseconds: list[list[float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def saturate(self, generator: Generator) -> None:
        generator.prepare(self.server.port, count=self.requests, seed=next(_seeds))
        before = usage.cpu_seconds(self.pids)
        answers = generator.run()
        time.sleep(_AFTERMATH_SECONDS)
        self.cpu.append((usage.cpu_seconds(self.pids) - before) / self.requests * 1_000)
        self.per_second.append(answers.per_second)
        self.milliseconds.append(answers.milliseconds)

    def pace(self, generator: Generator, seconds: int) -> None:
        count = seconds * _PACED_PER_SECOND
        generator.prepare(self.server.port, count=count, seed=next(_seeds), rate=_PACED_PER_SECOND)
        self.paced_milliseconds.append(generator.run().milliseconds)


def measure(system: System, scale: Scale) -> list[Subject]:
    """Measure the web process alone; what it publishes is taken by nobody."""
    subject = Subject(
        "Durable accepts: 64 connections, 3 KB signed bodies, one web process",
        (
            "per second",
            "/ HMAC",
            "/ INSERT",
            "p50 ms",
            "p99 ms",
            "CPU s/1k",
            "MB",
        ),
        (
            "CPU is the server's, with Postgres and Redis where it uses them; MB is the server's own peak.",
            "The generator's line shows what it reaches against a server that does nothing at all.",
        ),
    )
    paced = Subject(f"The same, at {_PACED_PER_SECOND} requests a second", ("p50 ms", "p99 ms"))
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(system.running("web"))["web"]
        hmac = stack.enter_context(system.floor("hmac_only"))
        inserts = stack.enter_context(system.floor("one_insert_each"))
        durable = _Contender(Server(system.installation.port, web), [web, *system.services], scale.durable_requests)
        floor = _Contender(hmac, [hmac.pid], scale.unsaved_requests)
        single = _Contender(inserts, [inserts.pid, system.postgres_pid], scale.single_requests)
        contenders = {"zoho-mirror": durable, "HMAC only": floor, "one INSERT each": single}
        generator = stack.enter_context(load.generator())
        for contender in contenders.values():
            generator.prepare(contender.server.port, count=_WARM_UP, seed=next(_seeds))
            generator.run()
        for _ in range(scale.rounds):
            system.empty()
            for contender in contenders.values():
                contender.saturate(generator)
            for contender in contenders.values():
                contender.pace(generator, scale.paced_seconds)
        for name, each in contenders.items():
            subject.add(
                name,
                report.over_rounds(each.per_second),
                None if each is floor else report.ratio(each.per_second, floor.per_second),
                report.ratio(each.per_second, single.per_second) if each is durable else None,
                report.percentile(each.milliseconds, 0.5),
                report.percentile(each.milliseconds, 0.99),
                report.over_rounds(each.cpu),
                report.over_rounds([usage.peak_mb(each.server.pid)]),
            )
            paced.add(
                name,
                report.percentile(each.paced_milliseconds, 0.5),
                report.percentile(each.paced_milliseconds, 0.99),
            )
        idle = stack.enter_context(echo())
        generator.prepare(idle.port, count=scale.unsaved_requests, seed=0)
        alone = report.over_rounds([generator.run().per_second])
        ratio = report.over_rounds([alone.value / report.over_rounds(floor.per_second).value])
        subject.add("generator alone", alone, ratio, *[None] * 5)
    return [subject, paced]
