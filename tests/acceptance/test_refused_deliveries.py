"""Zoho may never send again what was answered 503. Then the next recent run finds it; everything is real but Zoho."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

import simulator
from processors.runtime.local import LocalPostgres, LocalRedis
from simulator import Catalogue, DeliveryState
from tests.acceptance.installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    # Zoho's documents promise no second try, and here there is none.
    zoho = simulator.Zoho(Catalogue.generate(40))
    with (
        LocalPostgres(tmp_path / "postgres") as postgres,
        LocalRedis() as redis_server,
        simulator.serve(zoho) as zoho_url,
    ):
        installation = Installation(postgres, redis_server, zoho, zoho_url, tmp_path)
        try:
            installation.run_release()
            for line in ("web", "worker", "clock"):
                installation.start(line)
            installation.wait_until_ready()
            zoho.deliveries.base_url = installation.url
            yield installation
        finally:
            installation.close()


def let_ten_minutes_pass(installation: Installation) -> None:
    """Let the clock find that the time of a recent run has come."""
    with psycopg.connect(installation.database_url) as connection:
        connection.execute("UPDATE jobs SET slot = slot - interval '10 minutes' WHERE name = 'reconcile-recent'")


def test_deliveries_answered_503_and_never_sent_again_are_found_by_the_next_recent_run(
    installation: Installation,
) -> None:
    zoho = installation.zoho
    installation.wait_until_complete("full")
    recent_runs = "SELECT count(*) FROM reconciliation_runs WHERE kind = 'recent'"
    (runs_before,) = installation.one(recent_runs)

    installation.postgres.stop()
    changed = {item.item_id for item in zoho.catalogue.all()[:7]}
    for item_id in changed:
        zoho.catalogue.edit(item_id, rate=zoho.catalogue.get(item_id).rate + 1)
    created = {zoho.catalogue.create("New while the mirror was away").item_id for _ in range(2)}
    zoho.deliveries.drain()
    refused = zoho.deliveries.log()
    assert {delivery.item_id for delivery in refused} == changed | created
    assert {(each.state, each.status, each.attempts) for each in refused} == {
        (DeliveryState.FAILED, httpx.codes.SERVICE_UNAVAILABLE, 1)
    }
    installation.postgres.start()

    let_ten_minutes_pass(installation)
    assert isinstance(runs_before, int)
    installation.wait_until_complete("recent", runs=runs_before + 1)
    assert installation.mirrored() == installation.in_zoho()
    assert installation.one("SELECT count(*) FROM events") == (0,)
    repaired = installation.one(
        "SELECT array_agg(item_id ORDER BY item_id) FROM product_changes WHERE source = 'recent'"
    )
    assert repaired == (sorted(changed | created),)
    # Drift, and said to be so.
    causes = installation.one("SELECT array_agg(DISTINCT cause) FROM product_changes WHERE source = 'recent'")
    assert causes == (["no_delivery"],)
