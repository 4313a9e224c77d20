"""Rows of two organisations never stand side by side, from wherever another one is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from processors.errors import ConnectionRefused, NotConnected
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import checking, connection, insights, operations
from processors.workflows.insights import Problem
from processors.workflows.item_events import Workshop
from processors.zoho.client import ZohoClient
from simulator import CLIENT_ID, CLIENT_SECRET, ORGANIZATION_ID
from tests.conftest import ENCRYPTION_KEY
from tests.workflows.runs_scene import ServedZoho, Shop
from tests.workflows.scene import FakePublisher, fields

OTHER = "60098765432"
ADA = Requester("console", "ada")


def settings(served: ServedZoho, organization_id: str = OTHER) -> Settings:
    return Settings.load(
        environ={
            "ZOHO_ACCOUNTS_URL": served.url,
            "ZOHO_API_URL": served.url,
            "ZOHO_CLIENT_ID": CLIENT_ID,
            "ZOHO_CLIENT_SECRET": CLIENT_SECRET,
            "ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "ZOHO_ORGANIZATION_ID": organization_id,
        }
    )


@contextlib.contextmanager
def restarted(shop: Shop, chosen: Settings) -> Iterator[None]:
    """Let the mirror's workers be those that started with these settings."""
    client, worker, workshop = shop.client, shop.worker, shop.shop
    with ZohoClient(shop.pool, chosen, httpx.Client(transport=shop.line)) as other:
        shop.client, shop.worker = other, shop.reconciler(other)
        shop.shop = Workshop(shop.pool, other, FakePublisher(), "worker:other", chosen.zoho_organization_id)
        yield
    shop.client, shop.worker, shop.shop = client, worker, workshop


def problems(pool: Pool) -> list[Problem]:
    with pool.connection() as connected:
        return [each for each in insights.problems(insights.overview(connected)) if each.cause.startswith("zoho.")]


def mirrored(connected: Connection) -> object:
    row = connected.execute("SELECT organization_id, mirrored_organization_id FROM zoho_connection").fetchone()
    assert row is not None
    return row["organization_id"], row["mirrored_organization_id"]


def test_another_organisation_in_the_settings_asks_nothing_and_changes_nothing(
    shop: Shop, served: ServedZoho, connection: Connection
) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.line.forget()
    before = shop.rows()
    thin = shop.changed({"item_id": ids[0]})
    recent, full = shop.open("recent"), shop.open()
    with restarted(shop, settings(served)):
        shop.apply(thin)
        shop.fetch(thin)
        for run in (shop.work(recent), shop.work(full)):
            assert run.state == "running"
            assert run.error is not None
            assert ORGANIZATION_ID in run.error
            assert OTHER in run.error
        with pytest.raises(NotConnected, match=ORGANIZATION_ID):
            operations.fetch_item(shop.pool, shop.client, ids[1], ADA)
        with pytest.raises(NotConnected, match=ORGANIZATION_ID):
            shop.client.settings_list("webhooks")
        (problem,) = problems(shop.pool)
        assert problem.cause == "zoho.other_organisation"
        for text in (OTHER, ORGANIZATION_ID, "empty database"):
            assert text in problem.what
    assert shop.line.asked == []
    assert shop.rows() == before
    assert shop.event(thin)["state"] == "recorded"
    assert mirrored(connection) == (ORGANIZATION_ID, ORGANIZATION_ID)


def test_webhooks_wait_and_the_old_setting_finds_everything_as_it_was(shop: Shop, served: ServedZoho) -> None:
    ids = shop.stock(20)
    watermark = shop.complete().watermark
    thin, recent = shop.changed({"item_id": ids[0]}), shop.open("recent")
    with restarted(shop, settings(served)):
        shop.edit(ids[3:4], price="9.99")
        full = shop.deliver(shop.catalogue.get(ids[3]))
        # Whose these are, they do not say: of the other organisation, which has the same secret.
        foreign = shop.changed(fields(0, "7700000000000000001"))
        deletion = shop.deleted(ids[5])
        rows = shop.rows()
        shop.apply(thin, full, foreign, deletion)
        shop.fetch(thin, full, foreign, deletion)
        shop.work(recent)
        assert shop.rows() == rows
        assert {shop.event(each)["state"] for each in (thin, full, foreign, deletion)} == {"recorded"}
    shop.line.forget()
    with restarted(shop, settings(served, ORGANIZATION_ID)):
        assert problems(shop.pool) == []
        shop.settle_all()
        done = shop.finish(recent)
    assert (done.state, done.deleted) == ("complete", 0)
    assert watermark is not None
    assert done.modified_since is not None
    assert done.modified_since < watermark
    assert {dict(url.params)["organization_id"] for url in shop.line.asked} == {ORGANIZATION_ID}
    assert shop.outcomes([thin, full, foreign, deletion]) == ["unchanged", "updated", "gone", "unchanged"]
    assert shop.differences() == {}


def test_the_console_and_commands_say_both_organisations(shop: Shop, served: ServedZoho, pool: Pool) -> None:
    shop.stock(3)
    shop.complete()
    other = settings(served)
    with pool.connection() as connected:
        told = connection.detail(connected, other).what_to_do
        with pytest.raises(ConnectionRefused, match=f"{OTHER}.*{ORGANIZATION_ID}"):
            connection.require_organisation(connected, other)
    assert told is not None
    assert ORGANIZATION_ID in told
    found = [each for each in checking._check_zoho(pool, other, lambda: datetime.now(UTC)) if each.mark == "problem"]
    assert [OTHER in each.what and ORGANIZATION_ID in each.what for each in found] == [True]


def test_rows_that_have_no_organisation_yet_get_the_one_that_is_named_first(
    shop: Shop, served: ServedZoho, connection: Connection
) -> None:
    """As those do that webhooks made before Zoho was connected."""
    connection.execute("INSERT INTO products (zoho_item_id, name) VALUES ('7', 'Mug')")
    connection.execute("UPDATE zoho_connection SET mirrored_organization_id = NULL, organization_id = NULL")
    with restarted(shop, settings(served)):
        assert mirrored(connection) == (OTHER, OTHER)
    with restarted(shop, settings(served, ORGANIZATION_ID)):
        assert mirrored(connection) == (OTHER, OTHER)
        assert [each.cause for each in problems(shop.pool)] == ["zoho.other_organisation"]


def test_while_there_is_nothing_a_wrong_choice_is_mended_and_what_began_for_it_writes_nothing(
    shop: Shop, served: ServedZoho, connection: Connection
) -> None:
    shop.stock(20)
    run = shop.open()

    def name_another() -> None:
        # In the middle of the first run, whose first page is on its way.
        with ZohoClient(shop.pool, settings(served)):
            assert mirrored(connection) == (OTHER, OTHER)

    shop.line.before_list_call[1] = name_another
    ended = shop.work(run)
    assert (ended.state, shop.rows()) == ("failed", [])
    assert OTHER in str(ended.error)
    (anew,) = shop.execute("SELECT * FROM reconciliation_runs WHERE state = 'running'")
    assert (anew["kind"], anew["pages"]) == ("full", 0)


def test_products_alone_do_not_have_to_be_there_for_a_history_to_be_somebodys(
    shop: Shop, served: ServedZoho, connection: Connection
) -> None:
    """Else a recent run would begin at the watermark of the other one."""
    shop.stock(5)
    shop.complete()
    connection.execute("DELETE FROM products")
    with restarted(shop, settings(served)):
        assert mirrored(connection) == (ORGANIZATION_ID, ORGANIZATION_ID)
        assert shop.work(shop.open("recent")).state == "running"
