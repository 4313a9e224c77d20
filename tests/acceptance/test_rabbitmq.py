"""RabbitMQ carries the messages where BROKER_URL is set: without any Redis, and through the same faults."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

import simulator
from processors.runtime.local import LocalPostgres, LocalRedis
from simulator import Catalogue
from tests.acceptance.installation import Installation, wait_for
from tests.acceptance.rabbitmq import SERVER, RabbitMQ

pytestmark = pytest.mark.skipif(not SERVER.exists(), reason="RabbitMQ is not installed (Debian: rabbitmq-server)")


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[RabbitMQ]:
    server = RabbitMQ(tmp_path / "rabbitmq")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def installation(tmp_path: Path, rabbitmq: RabbitMQ) -> Iterator[Installation]:
    zoho = simulator.Zoho(Catalogue.generate(10))
    with LocalPostgres(tmp_path / "postgres") as postgres, LocalRedis() as unused, simulator.serve(zoho) as zoho_url:
        installation = Installation(postgres, unused, zoho, zoho_url, tmp_path)
        installation._env.pop("REDIS_URL")
        installation._env["BROKER_URL"] = rabbitmq.url
        installation.run_release()
        try:
            for line in ("web", "worker", "clock"):
                installation.start(line)
            installation.wait_until_ready()
            zoho.deliveries.base_url = installation.url
            installation.wait_until_complete()
            yield installation
        finally:
            installation.close()


def edit_and_wait(installation: Installation, *, seconds: float) -> None:
    """Let every item be changed, and wait until each change is a row."""
    for item in installation.zoho.catalogue.all():
        installation.zoho.catalogue.edit(item.item_id, rate=item.rate + Decimal(1))
    installation.zoho.deliveries.drain()
    wait_for(lambda: installation.mirrored() == installation.in_zoho(), "the rows", seconds=seconds)


def ready(installation: Installation) -> dict[str, object]:
    answer: dict[str, object] = httpx.get(f"{installation.url}/health/ready", timeout=10).json()
    return answer


def test_with_rabbitmq_webhooks_become_rows_through_a_kill_of_each_part(
    installation: Installation, rabbitmq: RabbitMQ
) -> None:
    assert ready(installation) == {"status": "ok", "parts": {"postgres": "ok", "schema": "ok", "rabbitmq": "ok"}}
    edit_and_wait(installation, seconds=5)

    installation.kill("worker")
    for item in installation.zoho.catalogue.all():
        installation.zoho.catalogue.edit(item.item_id, name=f"{item.name}, again")
    installation.zoho.deliveries.drain()
    installation.start("worker")
    wait_for(lambda: installation.mirrored() == installation.in_zoho(), "the rows", seconds=30)

    rabbitmq.kill()
    edit_and_wait(installation, seconds=30)
    assert ready(installation)["status"] == "degraded"
    assert "guest:guest" not in "".join(installation.log(line) for line in ("web", "worker", "clock"))

    rabbitmq.start()
    wait_for(lambda: ready(installation)["status"] == "ok", "web to find RabbitMQ again", seconds=30)
    edit_and_wait(installation, seconds=30)
    for line in ("web", "worker", "clock"):
        _, seconds = installation.terminate(line)
        assert seconds < 25
