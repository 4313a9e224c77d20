"""Whatever order deliveries come in, how often, and with which fetches between: the rows end as Zoho has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from processors.settings import Settings
from processors.store.database import Pool, encode_json
from processors.workflows import item_events
from processors.workflows.item_events import Workshop
from processors.zoho.client import ZohoClient
from simulator import Catalogue, ManualClock, Zoho, identity, serve, shapes, wire
from simulator.catalogue import Change, ItemEvent
from simulator.items import CustomField, Item, ItemChanges, ItemDetails
from tests import expected
from tests.conftest import ENCRYPTION_KEY
from tests.workflows.scene import FakePublisher, Scene

# Enough for a call to be one among many, not for a quota to be reached: that is another test's matter.
_CALLS = 1_000_000

SOMETIME = datetime(2026, 10, 5, 16, 2, 21, tzinfo=UTC)

_COLOUR = CustomField("4100000000000000991", "cf_colour", "Colour", "string", "Red")
_SIZE = CustomField("4100000000000000992", "cf_size", "Size", "number", Decimal("1.5"))
_DETAILS: dict[str, st.SearchStrategy[Any]] = {
    "sku": st.sampled_from(["", "MUG-1", "CUP-2"]),
    "description": st.sampled_from(["", "Big"]),
    "rate": st.sampled_from([Decimal("12.50"), Decimal("13.00"), Decimal("0.001"), Decimal(0)]),
    "status": st.sampled_from(["active", "inactive"]),
    "brand": st.sampled_from(["", "Hearthline"]),
    "unit": st.sampled_from(["pcs", ""]),
    "custom_fields": st.sampled_from([(), (_COLOUR,), (replace(_COLOUR, value="Blue"), _SIZE)]),
    "track_inventory": st.booleans(),
    "stock_on_hand": st.sampled_from([Decimal("7.0"), Decimal("-2.5")]),
}
NAMES = st.sampled_from(["Mug", "Cup", "Küchen-Tasse ☕"])
DETAILS = st.fixed_dictionaries({}, optional=_DETAILS)
CHANGES = st.fixed_dictionaries({}, optional={"name": NAMES, **_DETAILS})


class Delivery:
    """A body on its way, which may be delivered any number of times."""

    def __init__(self, event: ItemEvent, item: Item) -> None:
        self.kind = "deleted" if event is ItemEvent.DELETED else "changed"
        self.item_id = item.item_id
        if event is ItemEvent.DELETED:
            payload = shapes.deleted_item(item)
        else:
            payload = shapes.webhook_item(item, identity.Organization())
        self.body = wire.dumps({"item": payload}).encode()
        self.is_delivered = False

    def __repr__(self) -> str:
        return f"<{self.kind} {self.item_id}: {self.body.decode()}>"


class Deliveries(RuleBasedStateMachine):
    """A catalogue that is edited, and a mirror that hears of it in any order."""

    zoho: Zoho
    scene: Scene
    clock: ManualClock

    def __init__(self) -> None:
        super().__init__()
        for table in ("products", "product_changes", "events", "api_calls"):
            self.scene.execute(f"DELETE FROM {table}")
        self.catalogue = Catalogue(clock=self.clock)
        self.catalogue.on_change(self._note)
        # The server keeps its listeners and tokens; what it lists is this example's.
        self.zoho.catalogue = self.catalogue
        self.deliveries: list[Delivery] = []
        self.to_fetch: set[str] = set()

    def _note(self, change: Change) -> None:
        if change.webhook:
            self.deliveries.append(Delivery(change.event, change.item))
        else:
            self.to_fetch.add(change.item.item_id)

    def _pick(self, data: st.DataObject, ids: list[str]) -> str:
        return data.draw(st.sampled_from(sorted(ids)))

    @property
    def _live(self) -> list[str]:
        return [item.item_id for item in self.catalogue.all()]

    @property
    def _pending(self) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if not delivery.is_delivered]

    @property
    def _restorable(self) -> list[str]:
        # A deletion that comes for the first time after its item is back cannot be told from a new one.
        under_way = {delivery.item_id for delivery in self._pending if delivery.kind == "deleted"}
        return [item_id for item_id in self.catalogue.deleted_ids() if item_id not in under_way]

    @initialize(name=NAMES, details=DETAILS)
    def begin(self, name: str, details: ItemDetails) -> None:
        self.create(name, details)

    @rule(name=NAMES, details=DETAILS)
    def create(self, name: str, details: ItemDetails) -> None:
        self.catalogue.create(name, **details)

    @precondition(lambda self: self._live)
    @rule(data=st.data(), changes=CHANGES)
    def edit(self, data: st.DataObject, changes: ItemChanges) -> None:
        self.catalogue.edit(self._pick(data, self._live), **changes)

    @precondition(lambda self: self._live)
    @rule(data=st.data(), delta=st.sampled_from([Decimal(-1), Decimal("0.5")]))
    def sell(self, data: st.DataObject, delta: Decimal) -> None:
        self.catalogue.adjust_stock(self._pick(data, self._live), delta)

    @precondition(lambda self: self._live)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.catalogue.delete(self._pick(data, self._live))

    @precondition(lambda self: self._restorable)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self.catalogue.restore(self._pick(data, self._restorable))

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Deliver anything that was ever sent, whether or not it was delivered before."""
        self._deliver(data.draw(st.sampled_from(self.deliveries)))

    @precondition(lambda self: self._pending)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self._pending))
        self.deliveries.remove(delivery)
        self.to_fetch.add(delivery.item_id)

    @precondition(lambda self: self.catalogue.all() or self.catalogue.deleted_ids())
    @rule(data=st.data())
    def ask_for_a_fetch(self, data: st.DataObject) -> None:
        self._deliver_thin(self._pick(data, [*self._live, *self.catalogue.deleted_ids()]))

    @rule()
    def apply(self) -> None:
        self.scene.make_due()
        self.scene.apply()

    @rule()
    def work(self) -> None:
        self.scene.settle_all()

    def _deliver(self, delivery: Delivery) -> None:
        delivery.is_delivered = True
        self.scene.record(delivery.kind, delivery.item_id, delivery.body)

    def _deliver_thin(self, item_id: str) -> None:
        self.scene.record("changed", item_id, encode_json({"item": {"item_id": item_id}}))

    def teardown(self) -> None:
        for delivery in self._pending:
            self._deliver(delivery)
        self.scene.settle_all()
        for item_id in self.to_fetch:
            self._deliver_thin(item_id)
        self.scene.settle_all()
        rows = {row["zoho_item_id"]: row for row in self.scene.execute("SELECT * FROM products")}
        live = {item_id: row for item_id, row in rows.items() if row["deleted_at"] is None}
        assert {
            item_id: {column: row[column] for column in expected.product(self.catalogue.get(item_id))}
            for item_id, row in live.items()
            if item_id in self.catalogue
        } == {item.item_id: expected.product(item) for item in self.catalogue.all()}
        assert rows.keys() - live.keys() <= set(self.catalogue.deleted_ids())
        assert live.keys() == set(self._live)
        assert self.scene.execute("SELECT error FROM events WHERE state = 'dead'") == []
        self._history_leads_to_the_rows(rows)
        for row in live.values():
            self._raw_does_not_contradict_itself(row["raw"])

    def _raw_does_not_contradict_itself(self, raw: dict[str, Any]) -> None:
        spelled = {key: value for key, value in raw.items() if key.startswith("cf_") and not key.endswith("_formatted")}
        assert spelled.items() <= raw["custom_field_hash"].items()
        named = {key for key in raw["custom_field_hash"] if not key.endswith("_unformatted")}
        assert {entry["api_name"] for entry in raw["custom_fields"]} == named
        for key, twin in [(key, raw[f"{key}_formatted"]) for key in raw if f"{key}_formatted" in raw]:
            if isinstance(raw[key], Decimal | int):
                assert twin.lstrip("₹") == f"{raw[key]:,.2f}", key
        assert raw["sales_rate"] == raw["pricebook_rate"] == raw["rate"]
        assert ("committed_stock" in raw and raw["committed_stock"] != "") == (raw["stock_on_hand"] != "")

    def _history_leads_to_the_rows(self, rows: dict[str, Any]) -> None:
        told: dict[str, dict[str, Any]] = {item_id: {} for item_id in rows}
        for change in self.scene.execute("SELECT item_id, changes FROM product_changes ORDER BY id"):
            for column, (before, after) in change["changes"].items():
                assert told[change["item_id"]].get(column) == before
                told[change["item_id"]][column] = after
        for item_id, row in rows.items():
            price = told[item_id].get("price")
            assert (price and Decimal(price)) == (price and row["price"])
            assert told[item_id].get("name", "") == row["name"]
            assert (told[item_id].get("deleted_at") is None) == (row["deleted_at"] is None)


@pytest.fixture
def served(pool: Pool, database_url: str) -> Iterator[tuple[Zoho, Scene, ManualClock]]:
    """A simulated Zoho behind HTTP, and a mirror that calls it with the real client."""
    clock = ManualClock(SOMETIME)
    zoho = Zoho(Catalogue(clock=clock))
    zoho.limits.per_minute = zoho.limits.per_day = _CALLS
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serve(zoho))
        environ = {
            "DATABASE_URL": database_url,
            "ZOHO_ACCOUNTS_URL": url,
            "ZOHO_API_URL": url,
            "ZOHO_ORGANIZATION_ID": identity.ORGANIZATION_ID,
            "ZOHO_CLIENT_ID": identity.CLIENT_ID,
            "ZOHO_CLIENT_SECRET": identity.CLIENT_SECRET,
            "ZOHO_REFRESH_TOKEN": identity.REFRESH_TOKEN,
            "ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "ZOHO_REQUESTS_PER_DAY": str(_CALLS),
        }
        client = stack.enter_context(ZohoClient(pool, Settings.load(environ=environ)))
        scene = Scene(pool)
        scene.shop = Workshop(pool, client, FakePublisher(), "worker:test")
        yield zoho, scene, clock


def test_any_order_of_deliveries_ends_in_the_rows_that_zoho_has(served: tuple[Zoho, Scene, ManualClock]) -> None:
    class Machine(Deliveries):
        zoho, scene, clock = served

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )


def test_a_generated_catalogue_told_backwards_and_twice_is_the_catalogue(
    served: tuple[Zoho, Scene, ManualClock],
) -> None:
    """Believable products, as untidy as real ones; all that is delivered is full, so nothing is fetched."""
    zoho, scene, clock = served
    zoho.catalogue = Catalogue.generate(200, clock=clock)
    sent = [Delivery(ItemEvent.CREATED, item) for item in zoho.catalogue.all()]
    for number, item in enumerate(zoho.catalogue.all()):
        clock.advance(timedelta(seconds=1))
        sent.append(Delivery(ItemEvent.EDITED, zoho.catalogue.edit(item.item_id, rate=Decimal(number).scaleb(-2))))
    for delivery in [*reversed(sent), *sent]:
        scene.record(delivery.kind, delivery.item_id, delivery.body)
    item_events.apply_events(scene.shop, [])
    rows = {row["zoho_item_id"]: row for row in scene.execute("SELECT * FROM products")}
    for item in zoho.catalogue.all():
        row = rows.pop(item.item_id)
        assert {column: row[column] for column in expected.product(item)} == expected.product(item)
        assert str(row["price"]) == str(item.rate)
    assert rows == {}
    assert zoho.calls("/inventory/*") == 0
