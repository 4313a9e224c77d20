"""A full run leaves the mirror equal to Zoho, and says what it had to repair and why."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from processors.errors import RunRefused
from processors.store import comparison, drift
from processors.store.audit import Requester
from processors.store.comparison import Found
from processors.store.database import Connection, encode_json
from processors.store.runs import Run
from processors.workflows import insights, operations
from processors.zoho import listing
from processors.zoho.client import _Question
from simulator import Fault
from tests.workflows.runs_scene import LIST, SECOND, Publisher, Shop

OLGA = Requester("cli", "olga")

Spoil = Callable[[dict[str, Any]], Any]


# Equal to Zoho


def test_a_first_run_leaves_every_field_equal_to_zohos(shop: Shop) -> None:
    shop.stock(1_000)
    run = shop.complete()
    assert shop.differences() == {}
    assert (run.seen, run.created, run.updated, run.unchanged) == (1_000, 1_000, 0, 0)
    assert (run.failed, run.deleted, run.missed) == (0, 0, 0)
    assert shop.causes(run) == {"first_load": 1_000}
    assert run.api_calls == len(shop.line.asked) <= 9
    bodies = {row["zoho_item_id"]: row["raw"] for row in shop.execute("SELECT * FROM products")}
    for item in shop.catalogue.all():
        assert str(bodies[item.item_id]["rate"]) == str(item.rate)
        assert bodies[item.item_id]["purchase_rate"] == item.purchase_rate


def test_a_second_run_costs_a_call_for_each_page_and_writes_no_row(shop: Shop) -> None:
    shop.stock(1_000)
    shop.complete()
    before = shop.rows()
    shop.line.forget()
    run = shop.complete()
    assert shop.line.pages() == [1, 2, 3, 4, 5]
    assert (run.api_calls, shop.line.item_calls()) == (5, 0)
    assert (run.seen, run.unchanged, run.created, run.updated) == (1_000, 1_000, 0, 0)
    assert shop.causes(run) == {}
    assert shop.rows() == before


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The items whose rows are looked at."""
    compared: list[str] = []
    find_unknown = comparison.find_unknown

    def noting(connection: Connection, digests: Mapping[str, bytes | None]) -> dict[str, Found]:
        found = find_unknown(connection, digests)
        compared.extend(item_id for item_id, each in found.items() if each.current.product is not None)
        return found

    monkeypatch.setattr(comparison, "find_unknown", noting)
    return compared


def test_only_what_no_digest_tells_of_is_compared(shop: Shop, compared: list[str]) -> None:
    ids = shop.stock(300)
    for _ in range(2):
        shop.complete()
        assert compared == []
    shop.catalogue.edit(ids[0], webhook=False, rate=Decimal(13))
    shop.settle(shop.deliver(shop.catalogue.get(ids[0])))
    shop.alter(ids[1], "price = 1")
    shop.catalogue.edit(ids[2], webhook=False, rate=Decimal(14))
    shop.complete()
    assert sorted(compared) == sorted(ids[:3])
    # What Zoho said of a single item is not the list's word for it.
    for differing in ([ids[1]], []):
        compared.clear()
        shop.complete()
        assert compared == differing
    assert shop.differences() == {}


def test_a_list_that_spells_each_item_anew_each_time_is_known_all_the_same(shop: Shop, compared: list[str]) -> None:
    shop.stock(30)
    times = itertools.count()

    def with_expiring_pictures(path: str, answer: Any) -> Any:
        if path == "/items":
            answer["items"] = [{"image_url": f"?{next(times)}", **item} for item in answer["items"]]
        return answer

    shop.line.answers = with_expiring_pictures
    for _ in range(2):
        shop.complete()
    assert compared == []
    assert next(times) >= 60


def test_a_release_that_reads_items_in_another_way_compares_them_anew(
    shop: Shop, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = shop.stock(30)
    shop.complete()
    before = shop.rows()
    monkeypatch.setattr(listing, "_READING", hashlib.blake2b(b"another", digest_size=16))
    run = shop.complete()
    assert (sorted(compared), run.unchanged, shop.rows()) == (sorted(ids), 30, before)
    shop.complete()
    assert len(compared) == 30


def test_a_row_that_was_written_past_its_trigger_is_put_right(shop: Shop) -> None:
    ids = shop.stock(30)
    shop.complete()
    with shop.pool.connection() as connection, connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("UPDATE products SET price = price + 1 WHERE zoho_item_id = %s", [ids[7]])
    assert shop.differences().keys() == {ids[7]}
    run = shop.complete()
    assert (run.updated, shop.differences()) == (1, {})


def test_whatever_went_wrong_is_repaired_counted_and_explained_and_then_all_is_well(shop: Shop) -> None:
    ids = shop.stock(1_000)
    shop.complete()
    shop.edit(ids[:37])
    shop.add(11)
    shop.remove(ids[100:107])
    shop.alter(ids[200], "price = 99")
    shop.alter(ids[201], """raw = raw || '{"rate": 99, "name": "Forged"}'""")
    shop.alter(ids[202], "zoho_last_modified_at = '2099-01-01'")
    shop.alter(ids[203], "deleted_at = now()")
    shop.execute("DELETE FROM products WHERE zoho_item_id = %(id)s", id=ids[204])
    run = shop.complete()
    assert shop.differences() == {}
    (raw,) = (row["raw"] for row in shop.execute("SELECT raw FROM products WHERE zoho_item_id = %(id)s", id=ids[201]))
    assert (raw["rate"], raw["name"]) == (shop.catalogue.get(ids[201]).rate, shop.catalogue.get(ids[201]).name)
    assert shop.causes(run) == {"no_delivery": 37 + 11 + 7, "altered_here": 5}
    assert (run.seen, run.created, run.deleted, run.failed, run.missed) == (1_004, 12, 7, 0, 0)
    # The forged body shows in no column.
    assert (run.updated, run.unchanged) == (37 + 4, 1_004 - 12 - 37 - 4)
    before = shop.rows()
    run = shop.complete()
    assert (shop.causes(run), shop.differences(), shop.rows() == before) == ({}, {}, True)
    assert (run.seen, run.unchanged, run.deleted) == (1_004, 1_004, 0)


def test_a_tombstoned_item_that_is_back_in_zoho_comes_back_here(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.remove(ids[3:5])
    assert shop.complete().deleted == 2
    shop.clock.shift += SECOND
    shop.catalogue.restore(ids[3], webhook=False)
    run = shop.complete()
    assert (run.updated, run.deleted, shop.differences()) == (1, 0, {})


def test_the_history_of_a_run_names_it_and_what_differed(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    was = shop.catalogue.get(ids[0]).rate
    shop.edit(ids[:1], price="77.10")
    run = shop.complete()
    (change,) = shop.execute("SELECT * FROM product_changes WHERE run_id = %(id)s", id=run.id)
    assert (change["item_id"], change["source"], change["event_id"]) == (ids[0], "full", None)
    assert change["changes"] == {"price": [str(was), "77.10"]}


# Why


def only_cause(shop: Shop, run: Run) -> str:
    ((cause, count),) = shop.causes(run).items()
    assert count == 1
    return cause


def miss_all_kinds(shop: Shop, ids: list[str]) -> list[str]:
    """Edit one, create one and delete one, and let nothing come of it."""
    shop.edit(ids[5:6])
    shop.remove(ids[6:7])
    return [ids[5], ids[6], *shop.add(1)]


def deliver(shop: Shop, item_id: str) -> int:
    """Deliver what happened to the item last."""
    if item_id in shop.catalogue:
        return shop.deliver(shop.catalogue.get(item_id))
    return shop.record("deleted", item_id, encode_json({"item": {"item_id": item_id}}))


def test_what_nothing_was_seen_of_was_not_delivered(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    miss_all_kinds(shop, ids)
    assert shop.causes(shop.complete()) == {"no_delivery": 3}


def test_what_a_dead_event_is_about_is_explained_by_it(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    for item_id in miss_all_kinds(shop, ids):
        deliver(shop, item_id)
    shop.execute("UPDATE events SET state = 'dead', error = 'x'")
    assert shop.causes(shop.complete()) == {"event_dead": 3}


def test_what_an_unfinished_event_is_about_is_explained_by_it(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    event_ids = [deliver(shop, item_id) for item_id in miss_all_kinds(shop, ids)]
    assert shop.causes(shop.complete()) == {"event_unfinished": 3}
    shop.settle(*event_ids)
    assert shop.differences() == {}


def test_what_was_refused_at_the_door_may_have_been_its_delivery(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    for route in ("changed", "deleted"):
        shop.execute("INSERT INTO rejections VALUES (date_trunc('hour', now()), %(route)s, 'x', 1)", route=route)
    miss_all_kinds(shop, ids)
    assert shop.causes(shop.complete()) == {"delivery_rejected": 3}


@pytest.mark.parametrize(("route", "hours_ago"), [("deleted", 0), ("changed", 3)])
def test_what_was_refused_elsewhere_or_before_explains_nothing(shop: Shop, route: str, hours_ago: int) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.execute(
        """INSERT INTO rejections
           VALUES (date_trunc('hour', now()) - make_interval(hours => %(ago)s), %(route)s, 'signature_mismatch', 1)""",
        route=route,
        ago=hours_ago,
    )
    shop.edit(ids[:1])
    assert only_cause(shop, shop.complete()) == "no_delivery"


def test_a_delivery_that_comes_after_the_repair_was_late_and_not_lost(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    item_ids = miss_all_kinds(shop, ids)
    repair = shop.complete()
    assert shop.causes(repair) == {"no_delivery": 3}
    event_ids = [deliver(shop, item_id) for item_id in item_ids]
    shop.settle(*event_ids)
    assert shop.outcomes(event_ids) == ["unchanged"] * 3
    shop.complete()
    assert shop.causes(repair) == {"delivery_late": 3}


def test_what_changes_while_the_run_is_under_way_is_no_drift(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.line.forget()

    def edit() -> None:
        shop.clock.shift = SECOND
        shop.edit(ids[5:6])

    shop.line.before_list_call[1] = edit
    run = shop.complete()
    assert only_cause(shop, run) == "during_run"
    assert run.webhooks == "quiet"


def test_a_change_of_stock_alone_is_not_held_against_the_webhooks(shop: Shop) -> None:
    shop.stock(40)
    shop.complete()
    tracked = next(item for item in shop.catalogue.all() if item.track_inventory)
    shop.catalogue.adjust_stock(tracked.item_id, Decimal(-3))
    run = shop.complete()
    assert (only_cause(shop, run), run.webhooks) == ("stock_only", "quiet")


def test_what_a_delivery_left_out_is_explained_by_it(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    item = shop.catalogue.edit(ids[5], brand="Other", rate=Decimal("1.23"), webhook=False)
    shop.settle(shop.deliver(item, without="brand"))
    assert shop.differences().keys() == {ids[5]}
    run = shop.complete()
    assert (only_cause(shop, run), shop.differences()) == ("delivery_incomplete", {})


def test_a_row_that_something_else_wrote_was_altered_here(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    assignments = [
        "price = price + 1",
        "raw = '{}'",
        "zoho_last_modified_at = '2099-01-01'",
        "zoho_last_modified_at = '2001-01-01'",
        "deleted_at = now()",
        "older_keys = '{\"name\": 1}'",
    ]
    for item_id, assignment in zip(ids, assignments, strict=False):
        shop.alter(item_id, assignment)
    assert shop.causes(shop.complete()) == {"altered_here": len(assignments)}
    assert shop.differences() == {}
    assert shop.causes(shop.complete()) == {}


def test_the_age_of_a_miss_is_counted_from_its_modification_in_zoho(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.clock.shift = -timedelta(minutes=30)
    shop.edit(ids[5:6])
    run = shop.complete()
    with shop.pool.connection() as connection:
        (repair,) = drift.repairs(connection, run.id, most=10)
    assert repair.age is not None
    assert timedelta(minutes=30) <= repair.age < timedelta(minutes=31)
    assert (repair.item_id, repair.changes["price"][1]) == (ids[5], "1.23")


# The webhooks


def test_webhooks_that_deliver_nothing_while_there_is_nothing_to_deliver_are_quiet(shop: Shop) -> None:
    shop.stock(20)
    assert shop.complete().webhooks is None
    assert shop.complete().webhooks == "quiet"


def test_webhooks_that_deliver_nothing_while_changes_are_missed_are_dead(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.edit(ids[:2])
    assert shop.complete().webhooks == "dead"
    assert "webhooks.dead" in caplog.text
    with shop.pool.connection() as connection:
        seen = insights.overview(connection)
    assert seen.reconciliation.webhooks_are_dead
    assert any("webhooks are dead" in problem.what for problem in insights.problems(seen))


def test_webhooks_that_deliver_something_are_not_dead_whatever_they_miss(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.edit(ids[:2])
    shop.settle(shop.deliver(shop.catalogue.get(ids[0])))
    run = shop.complete()
    assert (only_cause(shop, run), run.webhooks) == ("no_delivery", "delivering")


def test_one_delivery_brings_dead_webhooks_back_to_life(shop: Shop) -> None:
    ids = shop.stock(20)
    shop.complete()
    shop.edit(ids[:2])
    shop.complete()
    shop.settle(shop.deliver(shop.catalogue.get(ids[3])))
    with shop.pool.connection() as connection:
        assert not insights.overview(connection).reconciliation.webhooks_are_dead
    assert shop.complete().webhooks == "delivering"


# The certificate


def verify(shop: Shop, run: Run) -> operations.Verification:
    return operations.verify_run(shop.pool, run.id)


def test_a_certificate_counts_the_living_and_holds(shop: Shop) -> None:
    ids = shop.stock(50)
    shop.complete()
    shop.remove(ids[:3])
    run = shop.complete()
    assert run.certified_items == 47
    assert verify(shop, run).holds
    # The same contents, the same certificate.
    assert shop.complete().certified_hash == run.certified_hash


def test_a_certificate_holds_whatever_the_mirror_does_afterwards(shop: Shop) -> None:
    ids = shop.stock(50)
    shop.complete()
    shop.remove(ids[:1])
    run = shop.complete()
    for price in ("5.10", "5.20"):
        shop.clock.shift += SECOND
        shop.edit(ids[10:12], price)
        shop.settle(*(shop.deliver(shop.catalogue.get(item_id)) for item_id in ids[10:12]))
    (new,) = shop.add(1)
    shop.settle(shop.deliver(shop.catalogue.get(new)))
    shop.settle(shop.deliver_deletion(shop.catalogue.delete(ids[20], webhook=False)))
    shop.catalogue.restore(ids[0], webhook=False)
    shop.settle(shop.deliver(shop.catalogue.get(ids[0])))
    assert shop.differences() == {}
    verification = verify(shop, run)
    assert verification.holds
    assert verification.recomputed.changed_since == 5
    later = shop.complete()
    assert later.certified_hash != run.certified_hash
    assert verify(shop, run).holds


def test_a_certificate_fails_once_somebody_else_alters_a_row(shop: Shop) -> None:
    ids = shop.stock(50)
    run = shop.complete()
    for there, and_back in (
        ("price = price + 1", "price = price - 1"),
        ("name = name || '!'", "name = rtrim(name, '!')"),
        ("is_active = NOT is_active", "is_active = NOT is_active"),
        ("deleted_at = now()", "deleted_at = NULL"),
    ):
        shop.alter(ids[7], there)
        verification = verify(shop, run)
        assert not verification.holds
        assert verification.recomputed.altered_item_ids == [ids[7]]
        shop.alter(ids[7], and_back)
        assert verify(shop, run).holds


def test_a_certificate_fails_once_somebody_removes_a_row(shop: Shop) -> None:
    ids = shop.stock(50)
    run = shop.complete()
    shop.execute("DELETE FROM products WHERE zoho_item_id = %(id)s", id=ids[7])
    verification = verify(shop, run)
    assert (verification.holds, verification.recomputed.items) == (False, 49)


def test_only_a_complete_full_run_leaves_a_certificate(shop: Shop) -> None:
    shop.stock(250)
    shop.at_zoho.faults.add(Fault(LIST, after=1, status=400))
    partial = shop.run()
    shop.at_zoho.faults.clear()
    shop.complete()
    for run in (partial, shop.complete("recent")):
        with pytest.raises(RunRefused, match="no certificate"):
            verify(shop, run)


# Deletions


def hold(shop: Shop, count: int = 20, share: float = 0.6) -> tuple[Run, list[str]]:
    """Let so many of the products be missing; return the held run, and the ids that are missing."""
    ids = shop.stock(count)
    shop.complete()
    # The oldest and the newest ones, and those between.
    missing = [item_id for position, item_id in enumerate(ids) if (position * 7) % count < count * share]
    shop.remove(missing)
    run = shop.work(shop.open())
    assert run.state == "held"
    return run, missing


def test_a_run_that_misses_most_of_the_catalogue_is_held_and_tombstones_nothing(shop: Shop) -> None:
    run, missing = hold(shop)
    assert (len(missing), run.suspects, run.suspected_of, run.deleted) == (12, 12, 20, 0)
    assert shop.buried() == 0
    assert run.error is not None
    assert "12 of 20 products are missing in Zoho" in run.error
    with shop.pool.connection() as connection:
        problems = insights.problems(insights.overview(connection))
    assert any(f"run {run.id} is held" in problem.what for problem in problems)
    # It is nobody's work until an operator decides.
    shop.line.forget()
    assert shop.work(run).state == "held"
    assert shop.line.asked == []


def test_confirmed_deletions_are_made_after_zoho_was_asked_for_each(shop: Shop) -> None:
    run, missing = hold(shop)
    shop.line.forget()
    publisher = Publisher()
    operations.confirm_deletes(shop.pool, publisher, run.id, OLGA)
    assert publisher.runs == [run.id]
    run = shop.finish(run)
    assert (run.state, run.deleted, run.missed, run.deletes_confirmed_by) == ("complete", 12, 0, str(OLGA))
    asked = {url.path.removeprefix(f"{LIST}/") for url in shop.line.asked}
    assert asked == set(missing)
    assert shop.differences() == {}
    assert verify(shop, run).holds


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_an_item_that_came_back_before_the_deletions_were_confirmed_is_not_tombstoned(shop: Shop, which: str) -> None:
    run, missing = hold(shop)
    back = missing[0] if which == "oldest" else missing[-1]
    shop.catalogue.restore(back, webhook=False)
    operations.confirm_deletes(shop.pool, Publisher(), run.id, OLGA)
    run = shop.finish(run)
    assert shop.buried_alive() == set()
    assert (run.state, run.deleted, run.missed) == ("complete", 11, 1)
    assert shop.differences() == {}


def test_discarded_deletions_leave_every_row_as_it_is(shop: Shop) -> None:
    run, _ = hold(shop)
    before = shop.rows()
    run = operations.discard_deletes(shop.pool, run.id, OLGA)
    assert (run.state, shop.buried()) == ("partial", 0)
    assert "olga" in (run.error or "")
    assert shop.rows() == before
    with pytest.raises(RunRefused, match="not held"):
        operations.confirm_deletes(shop.pool, Publisher(), run.id, OLGA)


def test_a_later_complete_run_supersedes_a_held_one(shop: Shop) -> None:
    held, missing = hold(shop)
    for item_id in missing:
        shop.catalogue.restore(item_id, webhook=False)
    later = shop.complete()
    held = shop.find(held)
    assert (held.state, held.error) == ("partial", f"superseded by run {later.id}")
    assert (shop.differences(), shop.buried()) == ({}, 0)
    with pytest.raises(RunRefused, match="not held"):
        operations.confirm_deletes(shop.pool, Publisher(), held.id, OLGA)


def test_a_run_that_ends_incomplete_leaves_a_held_one_to_the_operator(shop: Shop) -> None:
    held, _ = hold(shop)
    shop.at_zoho.faults.add(Fault(LIST, status=400))
    assert shop.run().state == "failed"
    assert shop.find(held).state == "held"


def test_deletions_are_not_confirmed_while_another_full_run_is_under_way(shop: Shop) -> None:
    held, _ = hold(shop)
    shop.open()
    with pytest.raises(RunRefused, match="under way"):
        operations.confirm_deletes(shop.pool, Publisher(), held.id, OLGA)
    assert shop.find(held).state == "held"


def test_up_to_ten_missing_products_are_never_held(shop: Shop) -> None:
    ids = shop.stock(12)
    shop.complete()
    shop.remove(ids[:10])
    run = shop.complete()
    assert (run.deleted, shop.differences()) == (10, {})


def test_more_than_ten_are_held_only_above_the_share(shop: Shop) -> None:
    ids = shop.stock(220)
    shop.complete()
    shop.remove(ids[:11])
    run = shop.complete()
    assert (run.deleted, shop.differences()) == (11, {})
    shop.remove(ids[11:22])
    assert shop.run().state == "held"


def test_a_mass_deletion_that_a_sample_refutes_is_the_lists_fault_and_nobodys_decision(shop: Shop) -> None:
    ids = shop.stock(60)
    shop.complete()
    hidden = set(ids[:30])

    def hide(path: str, said: Any) -> Any:
        if path == "/items":
            said["items"] = [item for item in said["items"] if item["item_id"] not in hidden]
        return said

    shop.line.answers = hide
    run = shop.run()
    assert (run.state, run.error_class, shop.buried()) == ("partial", "ListUntrustworthy", 0)


# One bad item


def without_id(item: dict[str, Any]) -> Any:
    return {key: value for key, value in item.items() if key != "item_id"}


def no_object(item: dict[str, Any]) -> Any:
    return f"item {item['item_id']}"


def too_deep(item: dict[str, Any]) -> Any:
    deep: list[Any] = []
    for _ in range(150):
        deep = [deep]
    return {**item, "extra": deep}


def much_too_deep(item: dict[str, Any]) -> Any:
    return {**item, "extra": "DEEP"}


def without_name_and_status(item: dict[str, Any]) -> Any:
    return {**item, "name": "", "status": ""}


def spoiling(item_ids: set[str], spoil: Spoil) -> Callable[[str, Any], Any]:
    """Let Zoho say nonsense of some items, in its list and of each alone."""

    def answers(path: str, said: Any) -> Any:
        if path == "/items":
            said["items"] = [spoil(item) if item["item_id"] in item_ids else item for item in said["items"]]
        elif path == "/itemdetails":
            said["items"] = [
                without_name_and_status(item) if item["item_id"] in item_ids else item for item in said["items"]
            ]
        elif said["item"]["item_id"] in item_ids:
            said["item"] = without_name_and_status(said["item"])
        return encode_json(said).replace(b'"DEEP"', b"[" * 5_000 + b"]" * 5_000)

    return answers


EVERY_NONSENSE = pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_id, "item_id should be"),
        (no_object, "should be an object"),
        (too_deep, "nested too deeply"),
        (much_too_deep, "nested too deeply"),
        (without_name_and_status, "lacks"),
    ],
)


@EVERY_NONSENSE
def test_bad_items_are_kept_once_with_their_reason_and_stop_no_other(shop: Shop, spoil: Spoil, reason: str) -> None:
    ids = shop.stock(210)
    # In the middle of a page, and where a first run lets two pages overlap.
    bad = [ids[100], ids[198]]
    shop.line.answers = spoiling(set(bad), spoil)
    for _time in range(2):
        run = shop.complete()
        assert shop.differences() == dict.fromkeys(bad, "is missing")
        assert run.failed == 2
        events = shop.dead_events()
        assert len(events) == 2
        for item_id in bad:
            name = shop.catalogue.get(item_id).name
            known_by = name if spoil is without_id else item_id
            (event,) = (event for event in events if known_by.encode() in event["body"])
            assert reason in event["error"]
            assert name.encode() in event["body"] or spoil in (no_object, without_name_and_status)
    # Once they are well again, so is the mirror.
    shop.line.answers = None
    assert shop.complete().failed == 0
    assert shop.differences() == {}


@EVERY_NONSENSE
def test_a_known_product_whose_item_goes_bad_keeps_its_row(shop: Shop, spoil: Spoil, reason: str) -> None:
    ids = shop.stock(30)
    shop.complete()
    shop.edit([ids[10], ids[20]])
    shop.line.answers = spoiling({ids[20]}, spoil)
    run = shop.complete()
    assert run.failed >= 1
    assert any(reason in event["error"] for event in shop.dead_events())
    assert shop.buried_alive() == set()
    assert shop.differences().keys() == {ids[20]}


def test_an_item_that_only_the_list_spoils_is_taken_from_zohos_own_answer(shop: Shop) -> None:
    ids = shop.stock(20)
    bad = ids[10]

    def answers(path: str, said: Any) -> Any:
        if path == "/items":
            said["items"] = [{**item, "status": ""} if item["item_id"] == bad else item for item in said["items"]]
        return said

    shop.line.answers = answers
    run = shop.complete()
    assert (run.failed, run.seen, run.created, shop.differences()) == (0, 20, 20, {})


def test_a_page_of_nothing_but_bad_items_does_not_keep_the_others_away(shop: Shop) -> None:
    """Nothing tells either where the page before it ended."""
    ids = shop.stock(450)
    bad = set(ids[195:400])
    shop.line.answers = spoiling(bad, without_id)
    run = shop.work(shop.open())
    assert run.state in ("complete", "partial")
    assert run.state == "partial" or shop.differences().keys() == bad


# Deletions and edits between two pages


KNOWN = pytest.mark.parametrize("is_known", [False, True], ids=["empty mirror", "known mirror"])


@KNOWN
@pytest.mark.parametrize("count", [1, 6])
def test_items_deleted_between_two_pages_lose_no_other_item(shop: Shop, is_known: bool, count: int) -> None:
    ids = shop.stock(450)
    if is_known:
        shop.complete()
    shop.line.forget()
    shop.line.before_list_call[2] = lambda: shop.remove(ids[:count])
    run = shop.complete()
    # They were read as living ones before.
    assert shop.differences() == dict.fromkeys(ids[:count], "is not in Zoho")
    # What is known and slipped between the pages was looked up.
    assert run.missed == (count if is_known else 0)
    assert shop.complete().deleted == count
    assert shop.differences() == {}


@KNOWN
def test_a_mass_deletion_between_two_pages_loses_no_other_item(shop: Shop, is_known: bool) -> None:
    ids = shop.stock(650)
    if is_known:
        shop.complete()
    shop.line.forget()
    shop.line.before_list_call[2] = lambda: shop.remove(ids[:150])
    run = shop.run()
    # So many known ones slipped that the list is not to be trusted; unknown ones are read again.
    assert run.state == ("partial" if is_known else "complete")
    assert shop.buried_alive() == set()
    assert shop.differences() == dict.fromkeys(ids[:150], "is not in Zoho")


@KNOWN
def test_deletions_between_all_pages_lose_no_other_item(shop: Shop, is_known: bool) -> None:
    ids = shop.stock(700)
    if is_known:
        shop.complete()
    shop.line.forget()
    for call in range(2, 5):
        shop.line.before_list_call[call] = lambda call=call: shop.remove(ids[call * 10 : call * 10 + 3])  # type: ignore[misc]
    run = shop.run()
    assert run.state == "complete"
    assert set(shop.differences().values()) <= {"is not in Zoho"}
    shop.complete()
    assert shop.differences() == {}


@pytest.mark.parametrize("seconds", [-30, 0, 30], ids=["Zoho's clock is behind", "the clocks agree", "ahead"])
def test_new_items_are_not_lost_where_old_ones_are_deleted_between_two_pages(shop: Shop, seconds: int) -> None:
    """Known items first, then some created right after the last complete run began, across the end of a page."""
    ids = shop.stock(195)
    last = shop.complete()
    shop.clock.stand_at(last.started_at.replace(microsecond=0) + seconds * SECOND)
    shop.add(12)
    shop.clock.shift = seconds * SECOND
    shop.line.forget()
    shop.line.before_list_call[2] = lambda: shop.remove(ids[:2])
    run = shop.run()
    assert run.state == "complete"
    assert "is missing" not in shop.differences().values()


@KNOWN
@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_between_the_pages_no_item_is_lost(shop: Shop, is_known: bool, seed: int) -> None:
    shop.stock(450)
    if is_known:
        shop.complete()
    shop.line.forget()
    chance = random.Random(seed)

    def happen() -> None:
        shop.clock.shift += SECOND
        living = chance.sample(shop.ids(), 40)
        shop.remove(living[: chance.choice([0, 1, 3, 8])])
        shop.edit(living[20 : 20 + chance.choice([0, 5])], price=f"{chance.randint(1, 99)}.00")
        shop.add(chance.choice([0, 1, 7]))

    before = set(shop.ids())
    shop.line.before_list_call = dict.fromkeys(range(1, 7), happen)
    run = shop.run()
    assert run.state == "complete"
    assert shop.buried_alive() == set()
    live = {row["zoho_item_id"] for row in shop.execute("SELECT * FROM products WHERE deleted_at IS NULL")}
    assert {item_id for item_id in before if item_id in shop.catalogue} - live == set()
    shop.line.forget()
    shop.clock.shift = timedelta()
    shop.complete()
    assert shop.differences() == {}


@KNOWN
def test_edits_move_nothing_out_of_the_lists_order(shop: Shop, is_known: bool) -> None:
    ids = shop.stock(450)
    if is_known:
        shop.complete()
    shop.line.forget()

    def edit() -> None:
        shop.clock.shift = SECOND
        shop.edit(ids[:5] + ids[-5:])

    shop.line.before_list_call[2] = edit
    shop.complete()
    # What was edited behind the reading is the next run's, and the webhooks'.
    assert shop.differences().keys() == set(ids[:5])


# Sizes of pages


def taking(size: Callable[[int], int]) -> Callable[[httpx.Request], httpx.Request]:
    """Let Zoho take another size of pages than was asked for."""

    def ask(request: httpx.Request) -> httpx.Request:
        asked = request.url.params.get("per_page")
        if asked is None:
            return request
        url = request.url.copy_set_param("per_page", size(int(asked)))
        return httpx.Request(request.method, url, headers=request.headers)

    return ask


@pytest.mark.parametrize(
    "size",
    [lambda _: 200, lambda asked: asked // 50 * 50, lambda asked: min(asked, 100), lambda _: 37],
    ids=["always 200", "steps of 50", "at most 100", "always 37"],
)
def test_sizes_that_zoho_does_not_take_still_give_the_right_rows(shop: Shop, size: Callable[[int], int]) -> None:
    ids = shop.stock(430)
    shop.line.asks = taking(size)
    run = shop.complete()
    assert (run.seen, run.created, shop.differences()) == (430, 430, {})
    shop.edit(ids[200:210])
    shop.remove(ids[300:305])
    shop.add(3)
    run = shop.complete()
    assert (run.seen, run.updated, run.deleted, run.created) == (428, 10, 5, 3)
    assert shop.differences() == {}


@pytest.mark.parametrize(
    "size", [lambda asked: asked // 50 * 50, lambda asked: min(asked, 100)], ids=["steps of 50", "at most 100"]
)
def test_sizes_that_zoho_neither_takes_nor_tells_give_the_right_rows_or_an_honest_end(
    shop: Shop, size: Callable[[int], int]
) -> None:
    shop.stock(430)
    shop.line.asks = taking(size)

    def tell_nothing(path: str, said: Any) -> Any:
        if path == "/items":
            del said["page_context"]["per_page"]
        return said

    shop.line.answers = tell_nothing
    run = shop.run()
    assert run.state in ("complete", "partial", "failed")
    assert shop.is_right_or_honest(run)


def test_a_list_whose_pages_never_meet_is_given_up(shop: Shop) -> None:
    """Pages that begin where pages of 200 would, whatever their size: nobody said that Zoho does not count so."""
    shop.stock(450)
    whole: list[Any] = []

    def count_by_200(path: str, said: Any) -> Any:
        if path == "/items":
            start = (said["page_context"]["page"] - 1) * 200
            end = start + said["page_context"]["per_page"]
            said["items"] = whole[start:end]
            said["page_context"]["has_more_page"] = end < len(whole)
        return said

    for page in (1, 2, 3):
        envelope = shop.client._ask(_Question("/items", {"page": f"{page}", "sort_column": "created_time"}))
        assert envelope is not None
        whole += envelope["items"]
    shop.line.answers = count_by_200
    run = shop.work(shop.open())
    assert run.state in ("complete", "partial")
    assert shop.is_right_or_honest(run)


# What only a complete run moves


def test_only_a_complete_run_moves_the_watermark_and_the_last_full_run(shop: Shop) -> None:
    ids = shop.stock(450)
    complete = shop.complete()
    assert complete.watermark is not None
    assert complete.watermark == max(item.last_modified_time for item in shop.catalogue.all())
    for after, state in ((1, "partial"), (0, "failed")):
        shop.edit(ids[:1])
        shop.at_zoho.faults.add(Fault(LIST, after=after, status=400))
        cut_short = shop.run()
        shop.at_zoho.faults.clear()
        assert (cut_short.state, cut_short.watermark, cut_short.certificate) == (state, None, None)
        with shop.pool.connection() as connection:
            seen = insights.overview(connection).reconciliation
        assert seen.last_complete["full"].id == complete.id
        assert seen.watermark == complete.watermark
    full, recent = shop.open(), shop.open("recent")
    assert full.known_since == complete.started_at
    assert recent.modified_since == complete.watermark - timedelta(minutes=5)
