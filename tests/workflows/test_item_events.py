"""Events end as their outcome says, whatever happens to the workers, to Zoho and to Redis on the way."""

from __future__ import annotations

import secrets
import threading
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from processors import field_table
from processors.errors import BudgetSpent, ItemUnusable, NotConnected, ZohoRefused, ZohoUnavailable
from processors.runtime import actors
from processors.runtime.actors import Tools
from processors.store import inbox, settlement
from processors.workflows import item_events
from processors.workflows.item_events import Workshop
from processors.zoho import items
from tests.workflows.scene import DEADLINE, ITEM, FakeZoho, Scene, fields, run_together, thin

OTHER = "4100000000000099999"


def test_a_full_body_creates_the_row_without_a_call(scene: Scene) -> None:
    event_id = scene.changed(fields(sku="", cf_colour="Red"))
    scene.apply(event_id)
    row = scene.live()
    assert {name: row[name] for name in ("name", "sku", "description", "price", "stock_quantity", "is_active")} == {
        "name": "Mug",
        "sku": None,
        "description": None,
        "price": Decimal("12.50"),
        "stock_quantity": 7,
        "is_active": True,
    }
    assert str(row["price"]) == "12.50"
    assert row["raw"]["cf_colour"] == "Red"
    event = scene.event(event_id)
    assert (event["state"], event["outcome"], event["attempts"], event["error"]) == ("processed", "created", 1, None)
    assert event["processed_at"] >= event["received_at"]
    (change,) = scene.changes()
    assert (change["source"], change["event_id"]) == ("webhook", event_id)
    assert change["changes"] == {
        "name": [None, "Mug"],
        "price": [None, "12.50"],
        "stock_on_hand": [None, "7.0"],
        "stock_quantity": [None, 7],
        "is_active": [None, True],
        "unit": [None, "pcs"],
    }
    assert (scene.zoho.calls, scene.publisher.fetches) == ([], [])


def test_a_newer_body_updates_and_the_change_keeps_the_text_of_the_decimals(scene: Scene) -> None:
    scene.apply(scene.changed(fields(0)))
    event_id = scene.changed(fields(1, rate=Decimal("13.00"), description="Big", status="inactive"))
    scene.apply(event_id)
    row = scene.live()
    assert (str(row["price"]), row["description"], row["is_active"]) == ("13.00", "Big", False)
    change = scene.changes()[-1]
    assert change["changes"] == {
        "price": ["12.50", "13.00"],
        "description": [None, "Big"],
        "is_active": [True, False],
    }
    assert scene.event(event_id)["outcome"] == "updated"
    assert scene.zoho.calls == []


def test_the_same_content_again_is_unchanged_and_leaves_no_change(scene: Scene) -> None:
    event_ids = [scene.changed(fields()), scene.changed(fields())]
    scene.apply(*event_ids)
    assert scene.outcomes(event_ids) == ["created", "unchanged"]
    assert len(scene.changes()) == 1


def test_a_stale_event_leaves_the_newer_product_alone(scene: Scene) -> None:
    scene.apply(scene.changed(fields(5)))
    before = scene.product()
    event_id = scene.changed(fields(1, name="Old", rate=1))
    scene.apply(event_id)
    assert scene.product() == before
    assert scene.event(event_id)["outcome"] == "stale"
    assert len(scene.changes()) == 1


def test_a_deletion_leaves_a_tombstone_with_its_content(scene: Scene) -> None:
    scene.apply(scene.changed(fields()))
    event_id = scene.deleted()
    scene.apply(event_id)
    row = scene.product()
    assert row is not None
    assert row["deleted_at"] == scene.event(event_id)["received_at"]
    assert row["name"] == "Mug"
    assert scene.event(event_id)["outcome"] == "tombstoned"
    assert scene.changes()[-1]["changes"] == {"deleted_at": [None, row["deleted_at"].isoformat()]}
    again = scene.deleted()
    scene.apply(again)
    assert scene.event(again)["outcome"] == "unchanged"
    assert (len(scene.changes()), scene.zoho.calls) == (2, [])


def test_a_deletion_of_an_unknown_item_is_gone_and_creates_nothing(scene: Scene) -> None:
    event_id = scene.deleted()
    scene.apply(event_id)
    assert (scene.event(event_id)["outcome"], scene.product(), scene.changes()) == ("gone", None, [])


# What only Zoho can settle


@pytest.mark.parametrize("is_batched", [True, False])
def test_a_change_after_the_deletion_of_an_unknown_item_is_checked_with_zoho(scene: Scene, is_batched: bool) -> None:
    deletion = scene.deleted()
    if not is_batched:
        scene.apply(deletion)
    change = scene.changed(fields())
    scene.apply(deletion, change)
    assert scene.product() is None
    assert scene.publisher.fetches == [change]
    scene.zoho.answers = {ITEM: None}
    scene.fetch(change)
    assert scene.outcomes([deletion, change]) == ["gone", "gone"]
    assert scene.product() is None


@pytest.mark.parametrize("key", field_table.NEEDED)
def test_a_thin_body_is_fetched_and_erases_nothing(scene: Scene, key: str) -> None:
    scene.apply(scene.changed(fields(0, brand="Hearthline")))
    said = {name: value for name, value in fields(1).items() if name != key}
    event_id = scene.changed(said)
    scene.apply(event_id)
    assert scene.publisher.fetches == [event_id]
    assert scene.live()["brand"] == "Hearthline"
    scene.zoho.answers = {ITEM: fields(2, name="Cup")}
    scene.fetch(event_id)
    row = scene.live()
    assert (row["name"], row["brand"]) == ("Cup", "Hearthline")
    assert (scene.event(event_id)["outcome"], scene.zoho.calls) == ("updated", [ITEM])
    change = scene.changes()[-1]
    assert (change["source"], change["event_id"], change["changes"]) == ("webhook", event_id, {"name": ["Mug", "Cup"]})


def test_a_thin_body_of_an_unknown_item_creates_it_from_zohos_answer(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: fields(0)}
    scene.fetch(event_id)
    assert (scene.event(event_id)["outcome"], scene.live()["name"]) == ("created", "Mug")


def test_different_content_of_one_second_is_decided_by_zoho(scene: Scene) -> None:
    scene.apply(scene.changed(fields(0)))
    event_id = scene.changed(fields(0, rate=Decimal("13.00")))
    scene.apply(event_id)
    assert str(scene.live()["price"]) == "12.50"
    scene.zoho.answers = {ITEM: fields(0, rate=Decimal("14.00"))}
    scene.fetch(event_id)
    assert str(scene.live()["price"]) == "14.00"
    assert scene.event(event_id)["outcome"] == "updated"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_change_of_a_tombstoned_item_is_checked_with_zoho(scene: Scene, is_there: bool) -> None:
    scene.apply(scene.changed(fields(0)))
    scene.apply(scene.deleted())
    event_id = scene.changed(fields(1))
    scene.apply(event_id)
    tombstone = scene.product()
    assert tombstone is not None
    assert tombstone["deleted_at"] is not None
    scene.zoho.answers = {ITEM: fields(1) if is_there else None}
    scene.fetch(event_id)
    if is_there:
        assert scene.live()["name"] == "Mug"
        assert scene.changes()[-1]["changes"] == {"deleted_at": [tombstone["deleted_at"].isoformat(), None]}
        assert scene.event(event_id)["outcome"] == "updated"
    else:
        counted = {"revision", "fields_revision", "updated_at"}
        assert {k: v for k, v in (scene.product() or {}).items() if k not in counted} == {
            k: v for k, v in tombstone.items() if k not in counted
        }
        assert scene.event(event_id)["outcome"] == "unchanged"


def test_a_deletion_that_comes_while_zoho_is_asked_outweighs_the_older_answer(scene: Scene) -> None:
    scene.apply(scene.changed(fields(0)))
    scene.apply(scene.deleted())
    event_id = scene.changed(fields(1))
    scene.apply(event_id)
    late_deletion = scene.deleted()

    def answer_before_the_deletion() -> dict[str, Any]:
        scene.apply(late_deletion)
        return fields(1)

    scene.zoho.answers = {ITEM: answer_before_the_deletion}
    scene.fetch(event_id)
    assert scene.event(late_deletion)["outcome"] == "unchanged"
    assert scene.event(event_id)["state"] == "recorded"
    product = scene.product()
    assert product is not None
    assert product["deleted_at"] is not None


def test_while_zoho_must_not_be_asked_one_call_finds_out_and_all_events_wait(scene: Scene) -> None:
    event_ids = [scene.changed({"item_id": str(1 + number)}) for number in range(5)]
    scene.apply(*event_ids)
    spent = BudgetSpent("spent", timedelta(minutes=1))
    scene.zoho.answers = {str(1 + number): spent for number in range(5)}
    scene.fetch(*event_ids)
    events = [scene.event(event_id) for event_id in event_ids]
    assert len(scene.zoho.calls) == 1
    assert {event["error_class"] for event in events} == {"BudgetSpent"}
    assert {event["state"] for event in events} == {"recorded"}
    assert {event["failures"] for event in events} == {0}


def test_where_zoho_has_no_such_item_its_row_is_tombstoned(scene: Scene) -> None:
    scene.apply(scene.changed(fields(0)))
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: None}
    scene.fetch(event_id)
    row = scene.product()
    assert row is not None
    assert row["deleted_at"] is not None
    assert scene.event(event_id)["outcome"] == "tombstoned"


def test_a_deletion_delivered_again_after_the_item_came_back_does_not_bury_it(scene: Scene) -> None:
    scene.apply(scene.changed(fields(0)))
    scene.apply(scene.deleted())
    back = scene.changed(fields(1))
    scene.apply(back)
    scene.zoho.answers = {ITEM: fields(1)}
    scene.fetch(back)
    late = scene.deleted()
    scene.settle_all()
    assert scene.live()["name"] == "Mug"
    assert scene.event(late)["outcome"] == "unchanged"
    scene.zoho.answers = {ITEM: None}
    true = scene.deleted()
    scene.settle_all()
    assert scene.event(true)["outcome"] == "tombstoned"


def test_a_deletion_older_than_the_newest_change_is_checked_with_zoho(scene: Scene) -> None:
    late = scene.deleted()
    scene.execute("UPDATE events SET received_at = '2026-10-05T11:00:00Z', claimable_at = now() + interval '1 hour'")
    scene.apply(scene.changed(fields(0)))
    scene.zoho.answers = {ITEM: fields(0)}
    scene.settle_all()
    assert (scene.event(late)["outcome"], scene.zoho.calls) == ("unchanged", [ITEM])
    assert scene.live()


def test_one_call_serves_all_events_that_wait_for_the_item(scene: Scene) -> None:
    event_ids = [scene.changed(thin()) for _ in range(5)] + [scene.changed(thin(OTHER))]
    scene.apply(*event_ids)
    scene.zoho.answers = {ITEM: fields(0), OTHER: None}
    scene.fetch(*event_ids)
    # Both at once, of which one is gone; then each by itself.
    assert scene.zoho.calls == [f"{ITEM},{OTHER}", ITEM, OTHER]
    assert scene.outcomes(event_ids) == ["created", *["unchanged"] * 4, "gone"]
    assert len(scene.changes()) == 1


def test_what_zoho_answers_is_not_written_over_what_came_meanwhile(scene: Scene) -> None:
    scene.apply(scene.changed(fields(0)))
    event_id = scene.changed(thin())
    scene.apply(event_id)

    def answer() -> items.Fields:
        scene.apply(scene.changed(fields(9, name="Newer")))
        return fields(0, name="Older")

    scene.zoho.answers = {ITEM: answer}
    scene.fetch(event_id)
    assert scene.live()["name"] == "Newer"
    event = scene.event(event_id)
    assert (event["state"], event["failures"], event["needs_fetch"]) == ("recorded", 0, True)
    assert timedelta(0) < event["due_in"] <= timedelta(seconds=1)
    scene.zoho.answers = {ITEM: fields(9, name="Newer")}
    scene.settle_all()
    assert scene.event(event_id)["outcome"] == "unchanged"


def test_a_fetch_that_redis_does_not_take_waits_for_the_relay(scene: Scene) -> None:
    scene.publisher.is_failing = True
    event_id = scene.changed(thin())
    scene.apply(event_id)
    event = scene.event(event_id)
    assert (event["state"], event["needs_fetch"]) == ("recorded", True)


# Failures


def test_transient_failures_are_retried_with_growing_delays_for_over_an_hour_then_dead(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: ZohoUnavailable("no answer from Zoho")}
    waits: list[timedelta] = []
    while True:
        scene.fetch(event_id)
        event = scene.event(event_id)
        assert event["failures"] == len(scene.zoho.calls)
        if event["state"] == "dead":
            break
        assert event["state"] == "recorded"
        # Before its time it is not tried.
        scene.fetch(event_id)
        assert len(scene.zoho.calls) == event["failures"]
        waits.append(event["due_in"])
        scene.make_due()
        assert len(waits) < 50
    assert len(scene.zoho.calls) >= 3
    assert sum(waits, timedelta()) >= timedelta(hours=1)
    assert waits == sorted(waits)
    assert waits[0] >= timedelta(seconds=5)
    assert (event["error_class"], event["error"]) == ("ZohoUnavailable", "no answer from Zoho")


def test_the_shortest_delays_together_are_longer_than_an_hour_and_all_are_jittered() -> None:
    shortest = timedelta()
    for failures in range(item_events.MOST_FAILURES - 1):
        drawn = {item_events._retry_delay(failures) for _ in range(200)}
        delays = sorted(delay for delay in drawn if delay)
        assert delays[-1] > delays[0] * 1.2
        shortest += delays[0]
    assert shortest > timedelta(hours=1)
    assert item_events._retry_delay(item_events.MOST_FAILURES - 1) is None


@pytest.mark.parametrize("error", [ZohoRefused("Zoho answered 400"), ItemUnusable("no name")])
def test_a_permanent_failure_is_dead_at_once_with_its_reason(scene: Scene, error: Exception) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: error}
    scene.fetch(event_id)
    event = scene.event(event_id)
    assert (event["state"], event["error"], event["attempts"]) == ("dead", str(error), 2)
    assert event["error_class"] == type(error).__name__
    scene.make_due()
    scene.apply(event_id)
    scene.fetch(event_id)
    assert len(scene.zoho.calls) == 1


def test_an_answer_without_a_name_is_dead_with_the_reason(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: {"status": "active"}}
    scene.fetch(event_id)
    event = scene.event(event_id)
    assert (event["state"], event["error_class"]) == ("dead", "ItemUnusable")
    assert "name" in event["error"]


@pytest.mark.parametrize("error_class", [BudgetSpent, NotConnected])
def test_waiting_counts_no_failure_however_often(scene: Scene, error_class: type[BudgetSpent | NotConnected]) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: error_class("not now", timedelta(minutes=5))}
    for _ in range(item_events.MOST_FAILURES + 2):
        scene.fetch(event_id)
        event = scene.event(event_id)
        assert (event["state"], event["failures"], event["error"]) == ("recorded", 0, "not now")
        assert timedelta(minutes=4, seconds=50) < event["due_in"] <= timedelta(minutes=6)
        scene.make_due()
    scene.zoho.answers = {ITEM: fields(0)}
    scene.fetch(event_id)
    assert scene.event(event_id)["outcome"] == "created"
    assert scene.event(event_id)["error"] is None


def test_work_that_needs_no_call_is_not_held_up_by_work_that_does(scene: Scene) -> None:
    waiting = scene.changed(thin())
    scene.apply(waiting)
    asked, answer_may_come = threading.Event(), threading.Event()

    def answer() -> items.Fields:
        asked.set()
        assert answer_may_come.wait(DEADLINE)
        return fields(0, name="Fetched")

    scene.zoho.answers = {ITEM: answer}
    fetching = threading.Thread(target=scene.fetch, args=(waiting,), daemon=True)
    fetching.start()
    assert asked.wait(DEADLINE)
    # Another item's, and even the same item's, while Zoho is being asked.
    others = [scene.changed(fields(0, OTHER)), scene.changed(fields(5, name="Delivered"))]
    scene.apply(*others)
    assert scene.outcomes(others) == ["created", "created"]
    assert scene.live()["name"] == "Delivered"
    answer_may_come.set()
    fetching.join(DEADLINE)
    assert not fetching.is_alive()
    scene.zoho.answers = {ITEM: fields(5, name="Delivered")}
    scene.settle_all()
    assert (scene.live()["name"], scene.event(waiting)["outcome"]) == ("Delivered", "unchanged")


def test_a_claim_without_calls_never_takes_what_needs_one(scene: Scene) -> None:
    event_ids = [scene.changed(thin(str(1 + n))) for n in range(5)]
    scene.apply(*event_ids)
    scene.apply(*event_ids)
    assert scene.zoho.calls == []
    assert {scene.event(event_id)["attempts"] for event_id in event_ids} == {1}


ODD: dict[str, dict[str, Any]] = {
    "price": {"rate": "free"},
    "huge number": {"rate": Decimal("1E+400"), "weight": Decimal("1E+400")},
    "endless SKU": {"sku": secrets.token_hex(20_000)},
    "endless name": {"name": "x" * 200_000},
    "deep": {"tree": [[[[[[[["deep"]]]]]]]]},
    "stock": {"stock_on_hand": 10**12},
    "objects": {"brand": {"name": "x"}, "unit": ["pcs"], "category_id": True},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_odd_field_never_costs_the_row(scene: Scene, odd: dict[str, Any]) -> None:
    event_id = scene.changed(fields(**odd))
    scene.apply(event_id)
    event = scene.event(event_id)
    assert (event["outcome"], event["state"]) == ("created", "processed")
    row = scene.live()
    assert row["is_active"]
    assert set(odd) <= set(row["raw"])


def test_what_was_left_empty_is_noted_on_the_event(scene: Scene) -> None:
    event_id = scene.changed(fields(rate="free", brand=True))
    scene.apply(event_id)
    assert scene.event(event_id)["warnings"] == [
        "rate: expected a number, got 'free'; left empty",
        "brand: expected text, got True; left empty",
    ]


@pytest.mark.parametrize(
    "literal", [b"1e99999999999999999999", b"0." + b"9" * 20_000, b'"a\\u0000b"', b'"\\ud83d"', b"9" * 4_000]
)
def test_what_json_allows_and_postgres_does_not_is_kept_in_the_body(scene: Scene, literal: bytes) -> None:
    text = b'{"item_id": "1", "name": "x", "rate": 1, "status": "active", "last_modified_time": "2026-10-05", "odd": '
    event_id = scene.record("changed", "1", text + literal + b"}")
    scene.apply(event_id)
    assert scene.event(event_id)["outcome"] == "created"
    assert "odd" in scene.live("1")["raw"]


@pytest.mark.parametrize("refusal", ["data", "size", "check"])
def test_one_event_that_postgres_refuses_does_not_stop_its_batch(scene: Scene, refusal: str) -> None:
    statements = {
        "data": "RAISE EXCEPTION 'refused' USING ERRCODE = '22003'",
        "size": "RAISE EXCEPTION 'refused' USING ERRCODE = '54000'",
        "check": "RAISE EXCEPTION 'refused' USING ERRCODE = '23514'",
    }
    scene.execute(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.name = 'refuse me' THEN {statements[refusal]}; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION refuse()""")
    try:
        good = [scene.changed(fields(item_id=str(1 + n))) for n in range(10)]
        bad = scene.changed(fields(item_id="5555", name="refuse me"))
        good += [scene.changed(fields(item_id=str(1 + n))) for n in range(10, 20)]
        scene.apply(*good, bad)
        assert scene.outcomes(good) == ["created"] * 20
        event = scene.event(bad)
        assert event["state"] == ("recorded" if refusal == "check" else "dead")
        assert (event["failures"], "refused" in event["error"]) == (1, True)
        assert scene.product("5555") is None
    finally:
        scene.execute("DROP FUNCTION refuse() CASCADE")


def test_an_unreadable_body_does_not_stop_its_batch(scene: Scene) -> None:
    good = [scene.changed(fields(item_id=str(1 + n))) for n in range(3)]
    bad = [scene.record("changed", "9", body) for body in (b"", b"[1]", b"{", b"[" * 100_000, b"\xff\xfe")]
    scene.apply(*good, *bad)
    assert scene.outcomes(good) == ["created"] * 3
    assert {scene.event(event_id)["state"] for event_id in bad} == {"dead"}
    assert {scene.event(event_id)["error_class"] for event_id in bad} == {"BodyUnreadable"}


def test_a_fault_of_the_program_fails_its_event_and_no_other(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read_body = items.read_body

    def faulty(fields: items.Fields) -> items.Body:
        if fields["name"] == "fault":
            raise RuntimeError("a bug")
        return read_body(fields)

    monkeypatch.setattr(items, "read_body", faulty)
    good, bad = scene.changed(fields()), scene.changed(fields(item_id=OTHER, name="fault"))
    scene.apply(good, bad)
    assert scene.event(good)["outcome"] == "created"
    event = scene.event(bad)
    assert (event["state"], event["failures"], event["error"]) == ("recorded", 1, "a bug")


# Workers that vanish, freeze, or work at the same time


def _claim(scene: Scene, event_id: int, *, needs_fetch: bool = False) -> inbox.Event:
    with scene.pool.connection() as connection:
        ((event, _),) = inbox.claim(
            connection, [event_id], worker="killed", lease=timedelta(seconds=10), needs_fetch=needs_fetch
        )
    return event


def test_an_event_whose_worker_was_killed_is_taken_over_and_nothing_doubles(scene: Scene) -> None:
    event_id = scene.changed(fields())
    _claim(scene, event_id)
    scene.apply(event_id)
    assert scene.event(event_id)["state"] == "processing"
    scene.make_due()
    scene.apply(event_id)
    event = scene.event(event_id)
    assert (event["outcome"], event["attempts"], event["failures"]) == ("created", 2, 1)
    assert len(scene.changes()) == 1
    before = scene.state()
    scene.apply(event_id)
    assert scene.state() == before


def test_a_fetch_whose_worker_was_killed_is_taken_over(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    _claim(scene, event_id, needs_fetch=True)
    scene.zoho.answers = {ITEM: fields(0)}
    scene.fetch(event_id)
    assert scene.zoho.calls == []
    scene.make_due()
    scene.fetch(event_id)
    assert (scene.event(event_id)["outcome"], scene.zoho.calls) == ("created", [ITEM])


def test_a_worker_frozen_past_its_lease_does_not_win(scene: Scene) -> None:
    """It wakes up with Zoho's old answer after another worker settled the event."""
    event_id = scene.changed(thin())
    scene.apply(event_id)
    thawing = FakeZoho()

    def frozen() -> items.Fields:
        scene.make_due()
        scene.fetch(event_id)
        assert scene.event(event_id)["outcome"] == "created"
        return fields(0, name="Old answer")

    thawing.answers = {ITEM: frozen}
    scene.zoho.answers = {ITEM: fields(0, name="New answer")}
    slow = Workshop(scene.pool, thawing, scene.publisher, "worker:slow")
    item_events.fetch_items(slow, [event_id])
    assert scene.live()["name"] == "New answer"
    event = scene.event(event_id)
    assert (event["state"], event["outcome"], event["error"]) == ("processed", "created", None)
    assert len(scene.changes()) == 1


@pytest.mark.parametrize("needs_fetch", [True, False])
def test_an_event_whose_workers_keep_vanishing_is_given_up_in_the_end(scene: Scene, needs_fetch: bool) -> None:
    event_id = scene.changed(thin() if needs_fetch else fields())
    other = scene.changed(fields(item_id=OTHER))
    if needs_fetch:
        scene.apply(event_id)
    for _ in range(item_events.MOST_FAILURES + 1):
        with scene.pool.connection() as connection:
            for suspects in (True, False):
                inbox.claim(
                    connection,
                    [event_id],
                    worker="killed",
                    lease=timedelta(seconds=1),
                    needs_fetch=needs_fetch,
                    suspects=suspects,
                )
        scene.make_due()
    scene.settle_all()
    event = scene.event(event_id)
    assert event["state"] == "dead"
    assert "given up" in event["error"]
    assert (scene.zoho.calls, scene.product()) == ([], None)
    assert scene.event(other)["outcome"] == "created"


def test_a_suspect_is_worked_on_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    suspect, healthy = scene.changed(fields()), scene.changed(fields(item_id=OTHER))
    _claim(scene, suspect)
    scene.make_due()
    batches: list[list[int]] = []
    settle = settlement.settle

    def noting(connection: Any, decisions: Any) -> set[str]:
        batches.append([verdict.event.id for decision in decisions for verdict in decision.verdicts])
        return settle(connection, decisions)

    monkeypatch.setattr(settlement, "settle", noting)
    scene.apply(suspect, healthy)
    assert batches == [[healthy], [suspect]]


def test_running_an_actor_twice_changes_nothing(scene: Scene) -> None:
    event_ids = [scene.changed(fields(0)), scene.changed(fields(1)), scene.deleted(OTHER), scene.changed(thin(OTHER))]
    scene.zoho.answers = {OTHER: fields(0, OTHER)}
    actors.provide(Tools(scene.shop, scene.reconciler()))
    for actor in (actors.apply_events, actors.fetch_items):
        actor.fn(event_ids)
    before = scene.state()
    for actor in (actors.apply_events, actors.fetch_items, actors.fetch_items, actors.apply_events):
        actor.fn(event_ids)
    assert scene.state() == before
    assert scene.outcomes(event_ids) == ["created", "updated", "gone", "created"]
    assert scene.zoho.calls == [OTHER]


def test_an_actor_takes_unknown_and_repeated_ids_calmly(scene: Scene) -> None:
    event_id = scene.changed(fields())
    scene.apply(event_id, event_id, 987_654_321)
    scene.fetch(event_id, 987_654_321)
    assert scene.event(event_id)["outcome"] == "created"


def test_a_backlog_larger_than_a_batch_is_worked_off_by_one_message(scene: Scene) -> None:
    count = item_events.BATCH * 2 + 7
    event_ids = [scene.changed(fields(n, item_id=str(1 + n % 50))) for n in range(count)]
    scene.apply(event_ids[0])
    states = scene.execute("SELECT state, count(*) FROM events GROUP BY state")
    assert states == [{"state": "processed", "count": count}]
    assert {row["zoho_last_modified_at"].minute for row in scene.execute("SELECT * FROM products")} <= {5, 6}


def test_many_threads_on_the_same_item_end_with_the_newest_content(scene: Scene) -> None:
    seconds = [7, 3, 9, 1, 8, 2, 6, 0, 5, 4] * 3
    event_ids = [scene.changed(fields(second, name=f"Mug {second}")) for second in seconds]
    portions = [event_ids[start::6] for start in range(6)]

    def work(portion: list[int]) -> None:
        for event_id in portion:
            with scene.pool.connection() as connection:
                claimed = inbox.claim(connection, [event_id], worker="w", lease=timedelta(seconds=30))
                item_events._apply(scene.shop, connection, claimed)

    run_together([lambda portion=portion: work(portion) for portion in portions])  # type: ignore[misc]
    scene.settle_all()
    row = scene.live()
    assert (row["name"], row["zoho_last_modified_at"].second) == ("Mug 9", 9)
    outcomes = scene.outcomes(event_ids)
    assert set(outcomes) <= {"created", "updated", "unchanged", "stale"}
    assert outcomes.count("created") == 1
    # Each change begins where the one before ended.
    names = [change["changes"]["name"] for change in scene.changes() if "name" in change["changes"]]
    assert names[0][0] is None
    assert all(before[1] == after[0] for before, after in pairwise(names))
    assert names[-1][1] == "Mug 9"
    assert scene.zoho.calls == []


def test_many_threads_over_many_items_lose_and_double_nothing(scene: Scene) -> None:
    item_ids = [str(1 + n) for n in range(15)]
    event_ids = [scene.changed(fields(second, item_id)) for second in range(6) for item_id in item_ids]
    run_together([lambda: scene.apply(*event_ids)] * 4)
    scene.settle_all()
    assert {row["zoho_last_modified_at"].second for row in scene.execute("SELECT * FROM products")} == {5}
    for item_id in item_ids:
        applied = [change["event_id"] for change in scene.changes(item_id)]
        assert len(applied) == len(set(applied))
    assert all(scene.outcomes(event_ids))
