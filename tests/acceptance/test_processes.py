"""The Procfile's own processes, with everything real but Zoho: what holds from the outside, and through faults."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis

import simulator
from processors.runtime.local import LocalPostgres, LocalRedis
from simulator import Catalogue, DeliveryFault, ManualClock, RetryPolicy
from tests.acceptance.installation import Installation, wait_for

# Zoho's engine may or may not try again; here it does, so that what was refused while a part was away arrives later
# and the rows can be compared with the catalogue.
_PERSISTENT = RetryPolicy(attempts=60, pause=timedelta(seconds=0.3), timeout=timedelta(seconds=8))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    # Item times are set by `edit`, one second apart: changes of one second would each cost a call to Zoho, and wait for
    # its quota.
    clock = ManualClock(datetime.now(UTC) - timedelta(hours=1))
    zoho = simulator.Zoho(Catalogue.generate(40, clock=clock))
    zoho.deliveries.retry = _PERSISTENT
    # Durable: commits that wait for a disk give other processes time to get in between.
    with (
        LocalPostgres(tmp_path / "postgres", durable=True) as postgres,
        LocalRedis() as redis_server,
        simulator.serve(zoho) as zoho_url,
    ):
        installation = Installation(postgres, redis_server, zoho, zoho_url, tmp_path)
        installation.run_release()
        for line in ("web", "worker", "clock"):
            installation.start(line)
        installation.wait_until_ready()
        zoho.deliveries.base_url = installation.url
        try:
            yield installation
        finally:
            installation.close()


def announce_all(zoho: simulator.Zoho) -> None:
    for item in zoho.catalogue.all():
        zoho.deliveries.fire(simulator.ItemEvent.CREATED, item)


def next_second(zoho: simulator.Zoho) -> None:
    assert isinstance(zoho.catalogue.clock, ManualClock)
    zoho.catalogue.clock.advance(timedelta(seconds=1))


def edit(zoho: simulator.Zoho, times: int, *, pause_seconds: float = 0.0) -> None:
    editor = simulator.Editor(zoho.catalogue, seed=3)
    for _ in range(times):
        next_second(zoho)
        editor.step()
        time.sleep(pause_seconds)


def announce_silent_changes(zoho: simulator.Zoho) -> None:
    """Stock moves without a webhook of its own; one last edit for each item lets the rows be compared."""
    next_second(zoho)
    for item in zoho.catalogue.all():
        zoho.catalogue.edit(item.item_id, description=f"{item.description} ({random.random()})")


def wait_until_delivered(zoho: simulator.Zoho, *, but_the_first: int = 0) -> None:
    """Until each delivery was answered 2xx, however often it had to be tried."""
    delivered = simulator.DeliveryState.DELIVERED
    deliveries = zoho.deliveries
    wait_for(lambda: all(each.state is delivered for each in deliveries.log()[but_the_first:]), "all deliveries")


def test_a_signed_webhook_is_a_row_within_a_second_and_costs_no_call_and_a_forged_one_stores_nothing(
    installation: Installation,
) -> None:
    # The first passage through each process opens connections and imports modules.
    announce_all(installation.zoho)
    installation.zoho.deliveries.drain()
    installation.wait_until_finished()
    installation.wait_until_complete()
    for item in installation.zoho.catalogue.all()[:25]:
        next_second(installation.zoho)
        changed = installation.zoho.catalogue.edit(item.item_id, rate=item.rate + 1, name=f"{item.name}, again")
        expected = (changed.name, changed.rate)
        row = f"SELECT name, price FROM products WHERE zoho_item_id = '{item.item_id}'"
        # Each by itself, at an idle system: nothing but its own message brings it to a worker.
        wait_for(partial(lambda row, expected: installation.one(row) == expected, row, expected), "the row", seconds=1)
    assert installation.zoho.calls("/inventory/v1/items/*") == 0
    assert installation.mirrored() == installation.in_zoho()

    events = installation.one("SELECT count(*) FROM events")
    answer = httpx.post(
        f"{installation.url}/webhooks/zoho/items",
        content=b'{"item": {"item_id": "1"}}',
        headers={simulator.SIGNATURE_HEADER: "0" * 64},
    )
    assert answer.status_code == httpx.codes.UNAUTHORIZED
    assert installation.one("SELECT count(*) FROM events") == events
    wait_for(lambda: installation.one("SELECT coalesce(sum(count), 0) FROM rejections") == (1,), "the count")


def test_nothing_acknowledged_is_lost_when_processes_are_killed_and_redis_is_emptied(
    installation: Installation,
) -> None:
    zoho = installation.zoho
    zoho.deliveries.disturb(DeliveryFault("repeated", share=0.2), DeliveryFault("reordered", share=0.2))
    announce_all(zoho)
    installation.start("worker", "second worker")
    stream = threading.Thread(target=edit, args=(zoho, 300), kwargs={"pause_seconds": 0.02})
    stream.start()
    for name in ("worker", "web", "clock"):
        installation.kill(name)
        with redis.Redis.from_url(installation.redis.url) as client:
            client.flushall()
        installation.start(name)
        time.sleep(0.8)  # the stream goes on for a while between two faults
    stream.join()
    zoho.deliveries.calm()
    announce_silent_changes(zoho)
    wait_until_delivered(zoho)
    installation.wait_until_finished()
    assert installation.one("SELECT count(*) FROM events WHERE state = 'dead'") == (0,)
    assert installation.mirrored() == installation.in_zoho()


def test_an_absent_redis_costs_seconds_and_no_delivery(installation: Installation) -> None:
    installation.redis.stop()
    announce_all(installation.zoho)
    installation.zoho.deliveries.drain()
    # Acknowledged at once, at the first attempt of each.
    assert {delivery.attempts for delivery in installation.zoho.deliveries.log()} == {1}
    assert {delivery.status for delivery in installation.zoho.deliveries.log()} == {200}
    installation.wait_until_finished()
    assert installation.mirrored() == installation.in_zoho()
    ready = httpx.get(f"{installation.url}/health/ready").json()
    assert ready["status"] == "degraded"
    installation.redis.start()
    edit(installation.zoho, 1)
    installation.zoho.deliveries.drain()
    installation.wait_until_finished()


def test_while_postgres_is_away_web_answers_503_quickly_and_every_process_finds_it_again(
    installation: Installation,
) -> None:
    zoho = installation.zoho
    installation.postgres.stop()
    zoho.deliveries.retry = RetryPolicy(timeout=timedelta(seconds=6))
    zoho.deliveries.send(simulator.CHANGED_RULE, simulator.ItemEvent.EDITED, zoho.catalogue.all()[0])
    zoho.deliveries.drain()
    (delivery,) = zoho.deliveries.log()
    assert delivery.status == httpx.codes.SERVICE_UNAVAILABLE
    assert delivery.duration is not None
    assert delivery.duration < timedelta(seconds=5)
    assert httpx.get(f"{installation.url}/health/live").status_code == httpx.codes.OK
    assert httpx.get(f"{installation.url}/health/ready").status_code == httpx.codes.SERVICE_UNAVAILABLE

    zoho.deliveries.retry = _PERSISTENT
    installation.postgres.start()
    announce_all(zoho)
    installation.postgres.restart(immediate=True)
    edit(zoho, 40)
    announce_silent_changes(zoho)
    wait_until_delivered(zoho, but_the_first=1)
    installation.wait_until_finished()
    assert installation.mirrored() == installation.in_zoho()
    assert all(process.poll() is None for process in installation.processes.values())


def test_thin_bodies_are_completed_from_zoho_and_four_workers_refresh_one_token(installation: Installation) -> None:
    zoho = installation.zoho
    # A page that is merged while an item is fetched would have it fetched once more.
    installation.wait_until_complete()
    for number in (2, 3, 4):
        installation.start("worker", f"worker {number}")
    zoho.limits.per_minute = 1_000
    thin = {"item": {"item_id": ""}}
    bodies = [
        str({**thin, "item": {"item_id": item.item_id}}).replace("'", '"').encode() for item in zoho.catalogue.all()
    ]

    def post(body: bytes) -> int:
        signature = simulator.sign(simulator.WEBHOOK_SECRET, raw=body)
        headers = {simulator.SIGNATURE_HEADER: signature}
        return httpx.post(f"{installation.url}/webhooks/zoho/items", content=body, headers=headers).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(post, bodies)) == {200}
    installation.wait_until_finished(60)
    assert installation.mirrored() == installation.in_zoho()
    assert zoho.token_refreshes == 1
    # One by one, and what waits meanwhile together.
    assert 0 < zoho.calls("/inventory/v1/items/*") + zoho.calls("/inventory/v1/itemdetails") < len(bodies)


def test_sigterm_ends_every_process_in_time_and_leaves_no_work_undone(installation: Installation) -> None:
    announce_all(installation.zoho)
    stops = {name: installation.terminate(name) for name in ("web", "clock", "worker")}
    # uvicorn ends by the signal itself, after its shutdown.
    assert {name: code for name, (code, _) in stops.items()} == {"web": -15, "clock": 0, "worker": 0}
    assert max(seconds for _, seconds in stops.values()) < 25
    assert installation.one("SELECT count(*) FROM events WHERE state = 'processing'") == (0,)
    assert "Traceback" not in installation.log("web") + installation.log("worker") + installation.log("clock")
    for line in ("web", "worker", "clock"):
        installation.start(line)
    wait_until_delivered(installation.zoho)
    installation.wait_until_finished()
    assert installation.mirrored() == installation.in_zoho()


@pytest.mark.skipif(sys.platform != "linux", reason="finds Postgres's processes in /proc")
def test_a_postgres_that_hangs_keeps_neither_health_checks_nor_stops_waiting(installation: Installation) -> None:
    announce_all(installation.zoho)
    installation.zoho.deliveries.drain()
    with installation.frozen_postgres():
        started = time.monotonic()
        ready = httpx.get(f"{installation.url}/health/ready", timeout=15)
        assert ready.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert time.monotonic() - started < 10
        names = list(installation.processes)
        with ThreadPoolExecutor(len(names)) as threads:
            stops = dict(zip(names, threads.map(installation.terminate, names), strict=True))
        assert max(seconds for _, seconds in stops.values()) < 25.5, stops


def test_two_clocks_double_nothing(installation: Installation) -> None:
    installation.start("clock", "second clock")
    announce_all(installation.zoho)
    installation.zoho.deliveries.drain()
    installation.wait_until_finished()
    assert installation.one("SELECT count(*), count(DISTINCT item_id) FROM product_changes") == (40, 40)
