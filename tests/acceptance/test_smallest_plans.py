"""The smallest plans give 20 connections to Postgres and 20 to Redis: the Procfile's processes live with that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

import simulator
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.store import schema
from processors.store.schema import Migration, Release
from simulator import Catalogue, Limits
from tests.acceptance.installation import Installation

MOST = 20
ITEMS = 250
DELIVERIES = 120


def next_release(release: Release) -> Release:
    """Return a release with one more migration, which locks what everyone is at work on."""
    number = len(release.migrations)
    text = (
        f"ALTER TABLE events ADD COLUMN scratch_{number} text; ALTER TABLE products ADD COLUMN scratch_{number} text;"
    )
    return replace(release, migrations=(*release.migrations, Migration(number, f"{number}.sql", text.encode())))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    zoho = simulator.Zoho(Catalogue.generate(ITEMS), limits=Limits.none())
    with (
        LocalPostgres(tmp_path / "postgres") as postgres,
        LocalRedis() as redis_server,
        simulator.serve(zoho) as zoho_url,
    ):
        installation = Installation(postgres, redis_server, zoho, zoho_url, tmp_path)
        installation.limit_connections(MOST)
        installation.run_release()
        try:
            for line in ("web", "worker", "clock"):
                installation.start(line)
            installation.wait_until_ready()
            zoho.deliveries.base_url = installation.url
            yield installation
        finally:
            installation.close()


def watch(installation: Installation, stop: threading.Event, most: dict[str, int]) -> None:
    """Note the most connections that there are at any one moment."""
    statement = b"SELECT count(*) FROM pg_stat_activity WHERE usename = 'mirror'"
    with (
        psycopg.connect(installation.admin_url, autocommit=True) as connection,
        redis.Redis.from_url(installation.redis.url) as client,
    ):
        while not stop.wait(0.02):
            row = connection.execute(statement).fetchone()
            assert row is not None
            most["postgres"] = max(most["postgres"], row[0])
            # This one is not the mirror's.
            most["redis"] = max(most["redis"], client.info("clients")["connected_clients"] - 1)


def use(url: str, stop: threading.Event) -> int:
    """Look at what people and monitors look at, again and again; return how often that failed."""
    failures = 0
    with httpx.Client(base_url=url, timeout=10) as client:
        while not stop.is_set():
            for path in ("/health/ready", "/metrics", "/console/login"):
                failures += client.get(path).is_server_error
    return failures


def test_a_full_run_a_burst_of_deliveries_people_and_releases_get_along_with_the_smallest_plans(
    installation: Installation,
) -> None:
    zoho, stop = installation.zoho, threading.Event()
    most = {"postgres": 0, "redis": 0}
    watcher = threading.Thread(target=watch, args=(installation, stop, most))
    watcher.start()
    with ThreadPoolExecutor(4) as executor:
        visits = [executor.submit(use, installation.url, stop) for _ in range(4)]
        try:
            installation.wait_until_complete()
            for item in zoho.catalogue.all()[:DELIVERIES]:
                zoho.catalogue.edit(item.item_id, rate=item.rate + Decimal(1))
            slowest, release = 0.0, schema.shipped()
            while any(delivery.state.value in ("waiting", "sending") for delivery in zoho.deliveries.log()):
                # A release, while processes run: one that changes nothing, and one that brings another schema.
                started = time.monotonic()
                assert schema.migrate(installation.database_url, release) == []
                release = next_release(release)
                assert schema.migrate(installation.database_url, release) == [release.migrations[-1].name]
                slowest = max(slowest, time.monotonic() - started)
            zoho.deliveries.drain()
            installation.wait_until_finished()
        finally:
            stop.set()
            watcher.join(20)
    refused = [delivery for delivery in zoho.deliveries.log() if delivery.status != httpx.codes.OK]
    assert refused == [], "a release keeps nobody out"
    assert sum(visit.result() for visit in visits) == 0
    assert 0 < most["postgres"] <= MOST
    assert 0 < most["redis"] <= MOST
    logs = "".join(installation.log(line) for line in ("web", "worker", "clock"))
    assert "too many connections" not in logs
    assert "max number of clients" not in logs
    assert installation.mirrored() == installation.in_zoho()
    assert slowest < 20


def test_all_pools_together_leave_one_connection_for_a_release_or_a_command() -> None:
    from processors.runtime import processes  # noqa: PLC0415
    from receiver import app  # noqa: PLC0415

    web = app._INTAKE_CONNECTIONS + app._HEALTH_CONNECTIONS + app._MONITOR_CONNECTIONS + app._VISITOR_CONNECTIONS
    assert web + processes._WORKER_CONNECTIONS + processes._CLOCK_CONNECTIONS < MOST
