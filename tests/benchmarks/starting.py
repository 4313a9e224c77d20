"""How long the processes take to be of use after they were started."""

from __future__ import annotations

import time
from time import perf_counter

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from tests.benchmarks import bodies, report
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System, wait_for_answer

_RECORD = "INSERT INTO events (item_id, body) VALUES (%s, %s) RETURNING id"
_POLL_SECONDS = 0.005
_SECONDS = 30


def measure(system: System, scale: Scale) -> list[Subject]:
    """Start `web` and `worker` again and again, each on a migrated database, with nothing else running."""
    subject = Subject("Start-up, in seconds", ("seconds",))
    healthy, ready, applied = [], [], []
    system.empty()
    for number in range(scale.starts):
        began = perf_counter()
        with system.running("web", wait=False):
            wait_for_answer(system.installation.port, "/health/live", status=200)
            healthy.append(perf_counter() - began)
            wait_for_answer(system.installation.port, "/health/ready", status=200)
            ready.append(perf_counter() - began)
        applied.append(_worker(system, number))
    subject.add("web: first healthy answer", report.over_rounds(healthy))
    subject.add("web: ready for deliveries", report.over_rounds(ready))
    subject.add("worker: first event applied", report.over_rounds(applied))
    return [subject]


def _worker(system: System, number: int) -> float:
    """Start a worker that finds one event recorded and published."""
    with system.connect() as connection:
        row = connection.execute(_RECORD, (bodies.item_id(number), bodies.body(number, number))).fetchone()
        assert row is not None
        Publisher(build_broker(system.installation.redis.url, verify_tls=False)).publish_events([row[0]])
        began = perf_counter()
        with system.running("worker"):
            while not connection.execute("SELECT FROM events WHERE state = 'processed' AND id = %s", row).rowcount:
                assert perf_counter() - began < _SECONDS, "the worker applied nothing"
                time.sleep(_POLL_SECONDS)
            return perf_counter() - began
