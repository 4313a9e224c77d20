"""A steady stream of deliveries through the whole system: whether the lag stays, or grows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tests.benchmarks import load, report, usage
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

_PER_SECOND = 500
_SLICES = 4
_CATCH_UP_SECONDS = 60
_WARM_UP = 1_000
# Apart from those of the other subjects.
_WARM_UP_SEED, _SEED = 20_000, 20_001

_EVENTS = """
SELECT extract(epoch FROM received_at - min(received_at) OVER ())::float,
       extract(epoch FROM processed_at - received_at)::float
  FROM events
 WHERE state = 'processed' AND id > %s
 ORDER BY received_at
"""


def measure(system: System, scale: Scale) -> list[Subject]:
    """Send at one rate to `web`, with `worker` and `clock` beside it, and read from the inbox what became of it."""
    seconds, count = scale.sustained_seconds, scale.sustained_seconds * _PER_SECOND
    subject = Subject(
        f"Sustained: {_PER_SECOND} deliveries a second for {seconds} s; web, worker and clock from the Procfile",
        ("applied", "p50 ms", "p99 ms", "p50 / first", "unfinished", "answer p50", "answer p99", "CPU s/1k"),
        (
            "From the receipt of each delivery to the end of its event, by when it was received. Unfinished:",
            "received by the end of the slice, and not applied by then. Every delivery is of an item of its own,",
            "which is created. CPU: the three processes, Postgres and Redis; the generator shares their cores.",
        ),
    )
    with contextlib.ExitStack() as stack:
        pids = stack.enter_context(system.running("web", "worker", "clock"))
        generator = stack.enter_context(load.generator())
        port = system.installation.port
        system.empty()
        generator.prepare(port, count=_WARM_UP, seed=_WARM_UP_SEED, rate=_PER_SECOND)
        generator.run()
        system.installation.wait_until_finished(_CATCH_UP_SECONDS)
        # An installation that is in use, whose tables autovacuum has long looked at. It first does so a minute after
        # they got their first rows; until then plans are kept that were made for empty tables.
        system.execute("ANALYZE events, products, product_changes, event_attempts")
        row = system.execute("SELECT max(id) FROM events")
        assert row is not None
        generator.prepare(port, count=count, seed=_SEED, rate=_PER_SECOND)
        measured = [*pids.values(), *system.services]
        before = usage.cpu_seconds(measured)
        answers = generator.run().milliseconds
        system.installation.wait_until_finished(_CATCH_UP_SECONDS)
        cpu = (usage.cpu_seconds(measured) - before) / count * 1_000
        with system.connect() as connection:
            events: list[tuple[float, float]] = connection.execute(_EVENTS, row).fetchall()
    assert len(events) == count, f"of {count} deliveries {len(events)} were applied"
    length = seconds / _SLICES
    slices = [[each for each in events if _slice(each[0], length) == number] for number in range(_SLICES)]
    first = report.percentile([_lags(slices[0])], 0.5)
    for number, found in enumerate(slices):
        began, ended = number * length, (number + 1) * length
        lags, answered = _lags(found), answers[number * count // _SLICES : (number + 1) * count // _SLICES]
        subject.add(
            f"{began:g}–{ended:g} s",
            report.over_rounds([len(found)]),
            report.percentile([lags], 0.5),
            report.percentile([lags], 0.99),
            report.ratio([report.percentile([lags], 0.5).value], [first.value]) if number else None,
            report.over_rounds([sum(at <= ended < at + lag for at, lag in events)]),
            report.percentile([answered], 0.5),
            report.percentile([answered], 0.99),
            None,
        )
    subject.add(
        "all",
        report.over_rounds([len(events)]),
        report.percentile([_lags(events)], 0.5),
        report.percentile([_lags(events)], 0.99),
        None,
        None,
        report.percentile([answers], 0.5),
        report.percentile([answers], 0.99),
        report.over_rounds([cpu]),
    )
    return [subject]


def _slice(at: float, length: float) -> int:
    # The very last ones come some milliseconds after the end.
    return min(int(at / length), _SLICES - 1)


def _lags(events: Sequence[tuple[float, float]]) -> list[float]:
    return [lag * 1_000 for _, lag in events]
