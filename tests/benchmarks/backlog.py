"""A backlog: how fast one worker process applies what is recorded, against one set-based statement."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence

import psycopg

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from tests.benchmarks import bodies, floors, report, usage
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

_BATCH = 200
_POLL_SECONDS = 0.1
_SECONDS = 60

_RECORD = """
INSERT INTO events (kind, item_id, body, content_type, fingerprint)
SELECT 'changed', item_id, body, content_type, fingerprint FROM {recording} ORDER BY number
"""
_UNFINISHED = "SELECT EXISTS (SELECT FROM events WHERE state IN ('recorded', 'queued', 'processing'))"
_FINISHED_AT = "SELECT extract(epoch FROM max(processed_at))::float FROM events"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float"


def measure(system: System, scale: Scale) -> list[Subject]:
    """Measure a backlog of many items beside its floor, and one of which half is of a single item."""
    return [_backlog(system, scale), _burst(system, scale)]


def _backlog(system: System, scale: Scale) -> Subject:
    """Let one worker apply a backlog that is recorded and published, then write the same rows directly, in turn."""
    subject = Subject(
        f"Backlog: {scale.backlog_events:,} events of {scale.backlog_items:,} items, one worker process",
        ("events/s", "of floor", "CPU s/1k", "of it Postgres", "× floor's CPU", "MB"),
        (
            "Floor: parse, then one INSERT … ON CONFLICT for each 200 bodies, from one connection; no inbox,",
            "no order, no history. CPU is of the client and Postgres; MB is the client's own peak.",
        ),
    )
    chance = random.Random(7)
    # Each item once, then any of them again and again.
    items = [*range(scale.backlog_items)]
    items += [chance.randrange(scale.backlog_items) for _ in range(scale.backlog_events - scale.backlog_items)]
    recorded = _keep(system, "recording", items)
    rates, floor_rates, cpu, postgres_cpu, floor_cpu, floor_postgres_cpu = [], [], [], [], [], []
    thousands = scale.backlog_events / 1_000
    # One connection for all rounds: what a backend used that is just ending would not be found.
    with system.connect() as connection, system.running("worker") as pids:
        connection.prepare_threshold = 1
        publisher = Publisher(build_broker(system.installation.redis.url, verify_tls=False))
        for _ in range(scale.rounds):
            system.empty()
            _record(system, "recording")
            used, used_by_postgres = usage.cpu_seconds([pids["worker"]]), usage.cpu_seconds([system.postgres_pid])
            seconds = _drain(system, publisher, scale.backlog_events)
            rates.append(scale.backlog_events / seconds)
            postgres_cpu.append((usage.cpu_seconds([system.postgres_pid]) - used_by_postgres) / thousands)
            cpu.append((usage.cpu_seconds([pids["worker"]]) - used) / thousands + postgres_cpu[-1])
            assert _first(system, "SELECT count(*) FROM events WHERE state = 'dead'") == 0

            system.empty()
            used_by_postgres, began = usage.cpu_seconds([system.postgres_pid]), time.process_time()
            seconds = _write_directly(connection, recorded)
            floor_rates.append(scale.backlog_events / seconds)
            floor_postgres_cpu.append((usage.cpu_seconds([system.postgres_pid]) - used_by_postgres) / thousands)
            floor_cpu.append((time.process_time() - began) / thousands + floor_postgres_cpu[-1])
        peak = usage.peak_mb(pids["worker"])
    subject.add(
        "one worker",
        report.over_rounds(rates),
        report.ratio(rates, floor_rates),
        report.over_rounds(cpu),
        report.over_rounds(postgres_cpu),
        report.ratio(cpu, floor_cpu),
        report.over_rounds([peak]),
    )
    subject.add(
        "floor",
        report.over_rounds(floor_rates),
        None,
        report.over_rounds(floor_cpu),
        report.over_rounds(floor_postgres_cpu),
        None,
        None,
    )
    return subject


def _burst(system: System, scale: Scale) -> Subject:
    """Let two workers apply a backlog of which every other event is of one item, and one of as many items as events."""
    count = scale.burst_events
    subject = Subject(
        f"Burst: {count:,} events of products that are there, two worker processes",
        ("events/s", "of distinct", "CPU s/1k"),
        ("CPU is of the workers and Postgres. Where events of one item held workers up, the ratio would show it.",),
    )
    mixes = {"burst_distinct": [*range(count)], "burst_one_item": [0 if n % 2 else n for n in range(count)]}
    distinct, one_item = mixes
    for recording, items in mixes.items():
        _keep(system, recording, items)
    with system.connect() as connection:
        system.empty()
        _write_directly(connection, [bodies.body(item, 0) for item in range(count)])
        connection.execute("CREATE TABLE burst_products AS SELECT * FROM floor_products")
    newest = {name: bodies.rate(max(n for n, item in enumerate(items, 1) if not item)) for name, items in mixes.items()}
    rates: dict[str, list[float]] = {name: [] for name in mixes}
    cpu: dict[str, list[float]] = {name: [] for name in mixes}
    with system.running("worker") as pids, system.another("worker") as second:
        measured = [pids["worker"], second, system.postgres_pid]
        publisher = Publisher(build_broker(system.installation.redis.url, verify_tls=False))
        # The first time the workers may still be starting.
        for name in [distinct, *[*mixes] * scale.rounds]:
            system.empty()
            system.execute("INSERT INTO products SELECT * FROM burst_products")
            system.execute("ANALYZE products")
            _record(system, name)
            used = usage.cpu_seconds(measured)
            rates[name].append(count / _drain(system, publisher, count))
            cpu[name].append((usage.cpu_seconds(measured) - used) / count * 1_000)
            row = system.execute(f"SELECT price FROM products WHERE zoho_item_id = '{bodies.item_id(0)}'")
            assert row == (newest[name],), "whatever the order, the newest stays"
    del rates[distinct][0], cpu[distinct][0]
    subject.add("all of distinct items", report.over_rounds(rates[distinct]), None, report.over_rounds(cpu[distinct]))
    subject.add(
        "half of one item",
        report.over_rounds(rates[one_item]),
        report.ratio(rates[one_item], rates[distinct]),
        report.over_rounds(cpu[one_item]),
    )
    return subject


def _keep(system: System, recording: str, items: Sequence[int]) -> list[bytes]:
    """Put deliveries, each of a later version, into a table of their own, from which rounds record them anew."""
    contents = [bodies.body(item, version) for version, item in enumerate(items, 1)]
    system.execute(
        f"CREATE TABLE {recording} (number integer PRIMARY KEY, item_id text, body bytea, content_type text,"
        " fingerprint bytea)"
    )
    with (
        system.connect() as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {recording} FROM STDIN") as copy,
    ):
        for number, (item, content) in enumerate(zip(items, contents, strict=True)):
            fingerprint = hashlib.sha256(content).digest()
            copy.write_row((number, bodies.item_id(item), content, bodies.CONTENT_TYPE, fingerprint))
    return contents


def _record(system: System, recording: str) -> None:
    system.execute(_RECORD.format(recording=recording))
    system.execute("ANALYZE events")


def _drain(system: System, publisher: Publisher, count: int) -> float:
    """Publish all events and return the seconds until the last was applied."""
    began = _first(system, _NOW)
    for start in range(1, count + 1, _BATCH):
        publisher.publish_events(range(start, min(start + _BATCH, count + 1)))
    deadline = time.monotonic() + _SECONDS
    while _first(system, _UNFINISHED):
        assert time.monotonic() < deadline, f"the backlog was not applied within {_SECONDS} s"
        time.sleep(_POLL_SECONDS)
    return _first(system, _FINISHED_AT) - began


def _write_directly(connection: psycopg.Connection, contents: list[bytes]) -> float:
    began = time.perf_counter()
    for start in range(0, len(contents), _BATCH):
        statement, parameters = floors.upsert(contents[start : start + _BATCH])
        connection.execute(statement.encode(), parameters)
    return time.perf_counter() - began


def _first(system: System, statement: str) -> float:
    row = system.execute(statement)
    assert row is not None
    assert isinstance(row[0], int | float)
    return row[0]
