"""The webhooks in Zoho: made, repaired and removed by themselves where Zoho lets us, and told by hand where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

import simulator
from processors.errors import ConnectionRefused
from processors.runtime.local import LocalRedis
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import webhooks
from processors.workflows.webhooks import Webhooks
from processors.zoho.client import ZohoClient
from simulator import Catalogue, Fault, Limits, Zoho, serve
from simulator.tokens import Tokens
from tests.conftest import ENCRYPTION_KEY
from tests.receiver.serving import SECRET, Web, eventually

ADA = Requester("cli", "ada")
READ_ONLY = frozenset({"ZohoInventory.items.READ", "ZohoInventory.settings.READ"})


@dataclass
class Shop:
    zoho: Zoho
    pool: Pool
    settings: Settings
    webhooks: Webhooks

    def states(self) -> list[str]:
        return [report.state for report in self.webhooks.status()]

    def may(self, scopes: frozenset[str]) -> None:
        self.zoho.tokens._refresh_tokens[simulator.REFRESH_TOKEN].scopes = scopes


@pytest.fixture
def shop(pool: Pool, database_url: str, redis_server: LocalRedis) -> Iterator[Shop]:
    zoho = Zoho(Catalogue.generate(3), limits=Limits.none())
    zoho.tokens = Tokens()
    with serve(zoho) as zoho_url:
        settings = Settings.load(
            environ={
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_server.url,
                "ZOHO_ACCOUNTS_URL": zoho_url,
                "ZOHO_API_URL": zoho_url,
                "ZOHO_ORGANIZATION_ID": simulator.ORGANIZATION_ID,
                "ZOHO_CLIENT_ID": simulator.CLIENT_ID,
                "ZOHO_CLIENT_SECRET": simulator.CLIENT_SECRET,
                "ZOHO_REFRESH_TOKEN": simulator.REFRESH_TOKEN,
                "ZOHO_WEBHOOK_SECRETS": SECRET,
                "ENCRYPTION_KEYS": ENCRYPTION_KEY,
                "PUBLIC_URL": "https://shop.example",
            }
        )
        with ZohoClient(pool, settings) as client:
            yield Shop(zoho, pool, settings, Webhooks(pool, settings, client))


def test_what_is_missing_is_made_once(shop: Shop, connection: Connection) -> None:
    assert shop.states() == ["missing", "missing"]
    assert [report.state for report in shop.webhooks.register(ADA)] == ["right", "right"]
    assert [report.state for report in shop.webhooks.register(ADA)] == ["right", "right"]
    urls = {webhook.url: webhook.secret for webhook in shop.zoho.automation.webhooks.values()}
    base = "https://shop.example/webhooks/zoho/items"
    assert urls == {base: SECRET, f"{base}/deleted": SECRET}
    assert {rule.rule_type for rule in shop.zoho.automation.workflows.values()} == {"add_edit", "delete"}
    entries = connection.execute(
        "SELECT detail FROM audit_log WHERE action = 'webhooks.registered' ORDER BY id"
    ).fetchall()
    assert [len(entry["detail"]["done"]) for entry in entries] == [4, 2]


def test_a_registered_webhook_delivers_signed(shop: Shop, connection: Connection) -> None:
    with Web(shop.settings) as web, ZohoClient(shop.pool, shop.settings) as client:
        own = Webhooks(shop.pool, shop.settings, client, public_url=f"http://127.0.0.1:{web.port}")
        own.register(ADA)
        (first, second, *_) = shop.zoho.catalogue.all()
        shop.zoho.catalogue.edit(first.item_id, rate=Decimal("12.50"))
        shop.zoho.catalogue.delete(second.item_id)
        shop.zoho.deliveries.drain()
        rows = eventually(lambda: connection.execute("SELECT kind, item_id FROM events ORDER BY kind").fetchall())
    assert [(row["kind"], row["item_id"]) for row in rows] == [("changed", first.item_id), ("deleted", second.item_id)]


def test_what_somebody_changed_is_seen_and_repaired(shop: Shop) -> None:
    shop.webhooks.register(ADA)
    automation = shop.zoho.automation
    webhook_id = next(iter(automation.webhooks))
    automation.keep_webhook({"url": "https://elsewhere.example/"}, webhook_id)
    deletion = list(automation.workflows)[1]
    automation.switch_workflow(deletion, is_active=False)
    changed, deleted = shop.webhooks.status()
    assert (changed.state, deleted.state) == ("changed", "disabled")
    assert "https://elsewhere.example/" in changed.what
    assert [report.state for report in shop.webhooks.register(ADA)] == ["right", "right"]
    assert len(automation.webhooks) == len(automation.workflows) == 2


def test_a_rule_that_is_set_off_by_something_else_is_seen_and_repaired(shop: Shop) -> None:
    shop.webhooks.register(ADA)
    workflow = next(iter(shop.zoho.automation.workflows.values()))
    actions = [{"action_id": each} for each in workflow.webhook_ids]
    fields = {"workflow_name": workflow.workflow_name, "entity": "item", "rule_type": "add", "instant_actions": actions}
    shop.zoho.automation.keep_workflow(fields, workflow.workflow_id)
    assert shop.states() == ["changed", "right"]
    assert [report.state for report in shop.webhooks.register(ADA)] == ["right", "right"]


def test_a_webhook_that_somebody_made_by_hand_is_taken_for_what_it_is(shop: Shop) -> None:
    url = "https://shop.example/webhooks/zoho/items"
    made = shop.zoho.automation.keep_webhook({"webhook_name": "By hand", "entity": "item", "url": url})
    shop.zoho.automation.keep_workflow(
        {
            "workflow_name": "By hand",
            "entity": "item",
            "rule_type": "add_edit",
            "instant_actions": [{"action_id": made["webhook_id"]}],
        }
    )
    assert shop.states() == ["right", "missing"]


@pytest.mark.parametrize(("of_webhooks", "of_rules"), [("related_rules", "rule_type"), ("method", "instant_actions")])
def test_what_a_list_leaves_out_makes_no_second_rule(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, of_webhooks: str, of_rules: str
) -> None:
    """Nobody documents what these lists hold for Inventory."""
    automation = shop.zoho.automation

    def without(key: str, listed: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[dict[str, Any]]]:
        return lambda: [{name: value for name, value in each.items() if name != key} for each in listed()]

    monkeypatch.setattr(automation, "list_webhooks", without(of_webhooks, automation.list_webhooks))
    monkeypatch.setattr(automation, "list_workflows", without(of_rules, automation.list_workflows))
    for _ in range(2):
        assert [report.state for report in shop.webhooks.register(ADA)] == ["right", "right"]
    assert len(automation.webhooks) == len(automation.workflows) == 2


def test_a_rule_whose_webhook_was_removed_calls_the_new_one(shop: Shop) -> None:
    shop.webhooks.register(ADA)
    automation = shop.zoho.automation
    automation.webhooks.clear()
    assert shop.states() == ["missing", "missing"]
    assert [report.state for report in shop.webhooks.register(ADA)] == ["right", "right"]
    called = {webhook_id for rule in automation.workflows.values() for webhook_id in rule.webhook_ids}
    assert (called, len(automation.workflows)) == (set(automation.webhooks), 2)


def test_two_webhooks_to_one_address_are_told(shop: Shop) -> None:
    shop.webhooks.register(ADA)
    url = "https://shop.example/webhooks/zoho/items"
    shop.zoho.automation.keep_webhook({"webhook_name": "Another", "entity": "item", "url": url})
    report = shop.webhooks.status()[0]
    assert report.state == "duplicated"
    assert "Another" in report.what


def test_what_is_removed_is_ours_alone(shop: Shop) -> None:
    shop.webhooks.register(ADA)
    shop.zoho.automation.keep_webhook({"webhook_name": "Another", "entity": "item", "url": "https://else.example/"})
    assert len(shop.webhooks.unregister(ADA)) == 4
    assert [each.webhook_name for each in shop.zoho.automation.webhooks.values()] == ["Another"]
    assert shop.webhooks.unregister(ADA) == []


def test_a_connection_that_may_only_read_says_which_scope_it_takes(shop: Shop) -> None:
    shop.may(READ_ONLY)
    assert shop.states() == ["missing", "missing"]
    with pytest.raises(ConnectionRefused, match=r"webhooks instructions.*ZohoInventory\.settings\.ALL"):
        shop.webhooks.register(ADA)
    assert shop.zoho.automation.webhooks == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="/inventory/v1/settings/*", status=404, body="{}"),
        Fault(path="/inventory/v1/settings/*", status=200, body='{"code": 0, "message": "success"}'),
        Fault(path="/inventory/v1/settings/*", status=400, body='{"code": 37, "message": "no"}'),
        Fault(path="/inventory/v1/settings/*", status=200, body="<html>"),
    ],
)
def test_where_zoho_does_not_know_the_call_the_way_by_hand_is_named(shop: Shop, fault: Fault) -> None:
    shop.zoho.faults.add(fault)
    with pytest.raises(ConnectionRefused, match="by hand as `webhooks instructions` says"):
        shop.webhooks.status()


def test_the_instructions_hold_every_value() -> None:
    text = "\n".join(webhooks.instructions("https://shop.example/", secret="aSecret12345"))
    for value in (
        "POST https://shop.example/webhooks/zoho/items\n",
        "POST https://shop.example/webhooks/zoho/items/deleted\n",
        "aSecret12345",
        "Created or Edited",
        "Deleted",
    ):
        assert value in text
    assert "ZOHO_WEBHOOK_SECRETS" in "\n".join(webhooks.instructions("https://shop.example", secret=None))


def test_without_a_public_address_nothing_can_be_said(shop: Shop) -> None:
    settings = shop.settings.model_copy(update={"public_url": None})
    with ZohoClient(shop.pool, settings) as client, pytest.raises(ConnectionRefused, match="PUBLIC_URL"):
        Webhooks(shop.pool, settings, client)
