"""A backlog: how fast one worker process applies what is recorded, against one set-based statement."""

from __future__ import annotations

import hashlib
import random
import time

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
SELECT 'changed', item_id, body, content_type, fingerprint FROM recording ORDER BY number
"""
_UNFINISHED = "SELECT EXISTS (SELECT FROM events WHERE state IN ('recorded', 'queued', 'processing'))"
_FINISHED_AT = "SELECT extract(epoch FROM max(processed_at))::float FROM events"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float"


def measure(system: System, scale: Scale) -> list[Subject]:
    """Let one worker apply a backlog that is recorded and published, then write the same rows directly, in turn."""
    subject = Subject(
        f"Backlog: {scale.backlog_events:,} events of {scale.backlog_items:,} items, one worker process",
        ("events/s", "of floor", "CPU s/1k", "of it Postgres", "× floor's CPU", "MB"),
        (
            "Floor: parse, then one INSERT … ON CONFLICT for each 200 bodies, from one connection; no inbox,",
            "no order, no history. CPU is of the client and Postgres; MB is the client's own peak.",
        ),
    )
    recorded = _recording(system, scale)
    rates, floor_rates, cpu, postgres_cpu, floor_cpu, floor_postgres_cpu = [], [], [], [], [], []
    thousands = scale.backlog_events / 1_000
    # One connection for all rounds: what a backend used that is just ending would not be found.
    with system.connect() as connection, system.running("worker") as pids:
        connection.prepare_threshold = 1
        publisher = Publisher(build_broker(system.installation.redis.url, verify_tls=False))
        for _ in range(scale.rounds):
            system.empty()
            system.execute(_RECORD)
            system.execute("ANALYZE events")
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
    return [subject]


def _recording(system: System, scale: Scale) -> list[bytes]:
    """Put the deliveries into a table of their own, from which each round records them anew."""
    chance = random.Random(7)
    # Each item once, then any of them again and again.
    items = [*range(scale.backlog_items)]
    items += [chance.randrange(scale.backlog_items) for _ in range(scale.backlog_events - scale.backlog_items)]
    contents = [bodies.body(item, version) for version, item in enumerate(items)]
    system.execute(
        "CREATE TABLE recording (number integer PRIMARY KEY, item_id text, body bytea, content_type text,"
        " fingerprint bytea)"
    )
    with (
        system.connect() as connection,
        connection.cursor() as cursor,
        cursor.copy("COPY recording FROM STDIN") as copy,
    ):
        for number, (item, content) in enumerate(zip(items, contents, strict=True)):
            fingerprint = hashlib.sha256(content).digest()
            copy.write_row((number, bodies.item_id(item), content, bodies.CONTENT_TYPE, fingerprint))
    return contents


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
