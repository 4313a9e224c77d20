"""Claims and settlements: who holds the lease writes, on the version it decided upon, wholly or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import psycopg
import pytest

from processors.store import inbox, settlement
from processors.store.database import Connection, encode_json
from processors.store.inbox import Event
from processors.store.products import Change, Current
from processors.store.settlement import ItemDecision, Verdict
from processors.workflows import merging
from processors.workflows.merging import FetchNeeded, Write
from processors.zoho import items
from tests.workflows.scene import DEADLINE, ITEM, Scene, fields, run_together, thin

LEASE = timedelta(seconds=30)
OTHER = "4100000000000099999"


@pytest.fixture
def two(scene: Scene) -> Iterator[tuple[Connection, Connection]]:
    """Two workers' connections."""
    with ExitStack() as stack:
        one, other = (stack.enter_context(scene.pool.connection()) for _ in range(2))
        yield one, other


def claim(connection: Connection, *event_ids: int, suspects: bool = False) -> tuple[Event, Current]:
    """Take exactly one event."""
    (claimed,) = inbox.claim(connection, event_ids, worker="w", lease=LEASE, suspects=suspects)
    return claimed


def decided(event: Event, current: Current, body: items.Body) -> ItemDecision:
    """Decide a change as the workflow does."""
    decision = ItemDecision(event.item_id, current)
    match merging.decide_change(current, event.item_id, body):
        case Write(outcome, product, changes):
            decision.product = product
            decision.changes = [Change("webhook", changes, event_id=event.id)] if changes else []
            decision.verdicts.append(Verdict(event, outcome))
        case FetchNeeded(reason):
            decision.verdicts.append(Verdict(event, None, reason))
        case settled:
            decision.verdicts.append(Verdict(event, settled.outcome))
    return decision


def gone(event: Event, current: Current) -> ItemDecision:
    return ItemDecision(event.item_id, current, verdicts=[Verdict(event, "gone")])


def body(second: int = 0, **changed: Any) -> items.Body:
    return items.read_body(fields(second, **changed))


def test_a_claimed_event_is_nobody_elses_until_its_lease_lapses(
    scene: Scene, two: tuple[Connection, Connection]
) -> None:
    event_id = scene.changed(fields())
    claim(two[0], event_id)
    assert inbox.claim(two[1], [event_id], worker="w2", lease=LEASE) == []
    assert inbox.claim(two[1], [event_id], worker="w2", lease=LEASE, suspects=True) == []
    scene.make_due()
    # Its worker vanished: it is taken only when suspects are asked for, and that counts as a failure.
    assert inbox.claim(two[1], [event_id], worker="w2", lease=LEASE, others=10) == []
    event, _ = claim(two[1], event_id, suspects=True)
    assert (event.attempt, event.failures) == (2, 1)


@pytest.mark.parametrize("state", ["processed", "dead"])
def test_a_finished_event_is_not_claimed(scene: Scene, connection: Connection, state: str) -> None:
    event_id = scene.changed(fields())
    if state == "dead":
        scene.execute("UPDATE events SET state = 'dead', error = 'x'")
    else:
        scene.apply(event_id)
    for suspects in (True, False):
        assert inbox.claim(connection, [event_id], worker="w", lease=LEASE, suspects=suspects, others=9) == []


def test_an_event_that_waits_for_its_next_try_is_not_claimed(scene: Scene, connection: Connection) -> None:
    event_id = scene.changed(fields())
    event, _ = claim(connection, event_id)
    assert inbox.fail(connection, event, ValueError("x"), retry_in=timedelta(hours=1), counts=True) == "recorded"
    for suspects in (True, False):
        assert inbox.claim(connection, [event_id], worker="w", lease=LEASE, suspects=suspects, others=9) == []


def test_claims_at_the_same_time_share_the_events_between_them(scene: Scene) -> None:
    event_ids = [scene.changed(fields(item_id=str(1 + n))) for n in range(40)]
    taken: list[int] = []

    def work() -> None:
        with scene.pool.connection() as connection:
            for _ in range(5):
                claimed = inbox.claim(connection, event_ids[:10], worker="w", lease=LEASE, others=10)
                taken.extend(event.id for event, _ in claimed)

    run_together([work] * 4)
    assert sorted(taken) == event_ids


def test_settling_writes_row_change_and_outcome_together(scene: Scene, connection: Connection) -> None:
    event_id = scene.changed(fields())
    event, current = claim(connection, event_id)
    decision = decided(event, current, body())
    decision.verdicts = [replace(decision.verdicts[0], warnings=["brand: odd"])]
    assert settlement.settle(connection, [decision]) == {ITEM}
    row = scene.live()
    assert (row["revision"], row["price"], row["stock_quantity"]) == (1, Decimal("12.50"), 7)
    assert row["raw"] == fields()
    settled = scene.event(event_id)
    assert (settled["state"], settled["outcome"], settled["warnings"]) == ("processed", "created", ["brand: odd"])
    (change,) = scene.changes()
    assert (change["source"], change["event_id"], change["run_id"]) == ("webhook", event_id, None)


def test_a_lost_lease_settles_nothing(scene: Scene, two: tuple[Connection, Connection]) -> None:
    event_id = scene.changed(fields())
    frozen = decided(*claim(two[0], event_id), body())
    scene.make_due()
    second = claim(two[1], event_id, suspects=True)
    assert settlement.settle(two[0], [frozen]) == set()
    assert scene.product() is None
    assert scene.changes() == []
    assert settlement.settle(two[1], [decided(*second, body())]) == {ITEM}
    before = scene.state()
    assert settlement.settle(two[0], [frozen]) == set()
    assert scene.state() == before


def test_a_lost_lease_fails_nothing(scene: Scene, two: tuple[Connection, Connection]) -> None:
    event_id = scene.changed(fields())
    frozen, _ = claim(two[0], event_id)
    scene.make_due()
    claim(two[1], event_id, suspects=True)
    assert inbox.fail(two[0], frozen, ValueError("late"), retry_in=None, counts=True) is None
    assert scene.event(event_id)["state"] == "processing"


def test_an_outdated_revision_settles_nothing(scene: Scene, two: tuple[Connection, Connection]) -> None:
    scene.apply(scene.changed(fields(0)))
    older, newer = scene.changed(fields(1, name="Older")), scene.changed(fields(2, name="Newer"))
    late = decided(*claim(two[0], older), body(1, name="Older"))
    assert settlement.settle(two[1], [decided(*claim(two[1], newer), body(2, name="Newer"))]) == {ITEM}
    before = scene.state()
    assert settlement.settle(two[0], [late]) == set()
    assert scene.state() == before
    assert scene.event(older)["state"] == "processing"


def test_each_item_is_settled_wholly_or_not_at_all(scene: Scene, two: tuple[Connection, Connection]) -> None:
    mine = [scene.changed(fields(1)), scene.changed(fields(2)), scene.changed(fields(1, OTHER))]
    claimed = inbox.claim(two[0], mine, worker="w", lease=LEASE)
    decisions = [ItemDecision(ITEM, claimed[0][1]), ItemDecision(OTHER, claimed[2][1])]
    for event, current in claimed:
        decision = decisions[event.item_id == OTHER]
        single = decided(event, replace(current, product=decision.product), body(item_id=event.item_id))
        decision.verdicts += single.verdicts
        decision.changes += single.changes
        decision.product = single.product or decision.product
    # Another worker took one of the two events of the first item.
    scene.execute("UPDATE events SET attempts = attempts + 1 WHERE id = %(id)s", id=mine[1])
    assert settlement.settle(two[0], decisions) == {OTHER}
    assert scene.product() is None
    assert scene.changes() == []
    assert [scene.event(event_id)["state"] for event_id in mine] == ["processing", "processing", "processed"]


def test_a_refused_value_leaves_nothing_of_its_batch(scene: Scene, connection: Connection) -> None:
    event_ids = [scene.changed(fields()), scene.changed(fields(item_id=OTHER))]
    claimed = inbox.claim(connection, event_ids, worker="w", lease=LEASE)
    decisions = [decided(event, current, body(item_id=event.item_id)) for event, current in claimed]
    assert decisions[0].product is not None
    refused = replace(decisions[0].product.content, name="a\0b")
    decisions[0].product = replace(decisions[0].product, content=refused)
    with pytest.raises(psycopg.DataError):
        settlement.settle(connection, decisions)
    assert (scene.product(), scene.product(OTHER), scene.changes()) == (None, None, [])
    assert settlement.settle(connection, decisions[1:]) == {decisions[1].item_id}


def test_of_two_creations_the_second_is_decided_anew(scene: Scene, two: tuple[Connection, Connection]) -> None:
    older, newer = scene.changed(fields(1, name="Older")), scene.changed(fields(2, name="Newer"))
    one = decided(*claim(two[0], older), body(1, name="Older"))
    other = decided(*claim(two[1], newer), body(2, name="Newer"))
    assert settlement.settle(two[0], [one]) == {ITEM}
    assert settlement.settle(two[1], [other]) == set()
    assert scene.live()["name"] == "Older"
    current = settlement.read_current(two[1], [ITEM])[ITEM]
    assert settlement.settle(two[1], [decided(other.verdicts[0].event, current, body(2, name="Newer"))]) == {ITEM}
    assert (scene.live()["name"], len(scene.changes())) == ("Newer", 2)


def test_a_creation_decided_before_the_item_was_found_gone_is_decided_anew(
    scene: Scene, two: tuple[Connection, Connection]
) -> None:
    change, deletion = scene.changed(fields()), scene.deleted()
    creation = decided(*claim(two[0], change), body())
    assert settlement.settle(two[1], [gone(*claim(two[1], deletion))]) == {ITEM}
    assert settlement.settle(two[0], [creation]) == set()
    assert scene.product() is None
    assert settlement.read_current(two[0], [ITEM])[ITEM] == Current(None, 0, 1)


def test_gone_decided_before_the_item_was_created_is_decided_anew(
    scene: Scene, two: tuple[Connection, Connection]
) -> None:
    change, deletion = scene.changed(fields()), scene.deleted()
    absence = gone(*claim(two[1], deletion))
    assert settlement.settle(two[0], [decided(*claim(two[0], change), body())]) == {ITEM}
    assert settlement.settle(two[1], [absence]) == set()
    assert scene.event(deletion)["state"] == "processing"


@pytest.mark.parametrize("first", ["creation", "absence"])
def test_creation_and_absence_wait_for_each_other(scene: Scene, two: tuple[Connection, Connection], first: str) -> None:
    """The second starts while the first is not committed yet: it must see what the first did."""
    change, deletion = scene.changed(fields()), scene.deleted()
    decisions = [decided(*claim(two[0], change), body()), gone(*claim(two[0], deletion))]
    if first == "absence":
        decisions.reverse()
    results: list[set[str]] = []
    second = threading.Thread(target=lambda: results.append(settlement.settle(two[1], [decisions[1]])), daemon=True)
    with two[0].transaction():
        assert len(settlement.settle(two[0], [decisions[0]])) == 1
        second.start()
        _await_lock(scene, two[1])
    second.join(DEADLINE)
    assert results == [set()]
    assert (scene.product() is None) == (first == "absence")


class Watched:
    """A connection of which it is noted what it holds when the statement that settles is about to be sent."""

    def __init__(self, connection: Connection, scene: Scene) -> None:
        self._connection = connection
        self._scene = scene
        self.held: list[tuple[int, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        if "settled" in statement:
            pid = self._connection.info.backend_pid
            (row,) = self._scene.execute(
                """SELECT (SELECT count(*) FROM pg_locks WHERE pid = %(pid)s AND locktype <> 'virtualxid') AS locks,
                          xact_start IS NOT NULL AS has_begun
                     FROM pg_stat_activity WHERE pid = %(pid)s""",
                pid=pid,
            )
            self.held.append((row["locks"], row["has_begun"]))
        return self._connection.execute(statement, *arguments)


@pytest.mark.parametrize("kind", ["creation", "absence"])
def test_a_worker_that_is_frozen_while_it_settles_holds_nothing(
    scene: Scene, two: tuple[Connection, Connection], kind: str
) -> None:
    """The lock is taken by the statement that needs it: there is no transaction between two messages of a worker."""
    event = scene.changed(fields()) if kind == "creation" else scene.deleted()
    claimed = claim(two[0], event)
    watched = Watched(two[0], scene)
    decision = decided(*claimed, body()) if kind == "creation" else gone(*claimed)
    assert settlement.settle(cast("Connection", watched), [decision]) == {ITEM}
    assert watched.held == [(0, False)]


def _await_lock(scene: Scene, connection: Connection) -> None:
    """Return when `connection` waits for a lock."""
    pid = connection.info.backend_pid
    for _ in range(int(DEADLINE / 0.005)):
        query = "SELECT wait_event_type AS waits_for, pg_sleep(0.005) FROM pg_stat_activity WHERE pid = %(pid)s"
        if scene.execute(query, pid=pid)[0]["waits_for"] == "Lock":
            return
    raise AssertionError("the second never waited")


def test_many_creations_and_absences_at_once_agree(scene: Scene) -> None:
    """Whoever is first, row and absences never both stand as if the other had not happened."""
    item_ids = [str(1 + n) for n in range(30)]
    for item_id in item_ids:
        scene.changed(fields(item_id=item_id))
        scene.deleted(item_id)
    with scene.pool.connection() as connection:
        claimed = inbox.claim(connection, [], worker="w", lease=LEASE, others=100)
    decisions = [
        decided(event, current, body(item_id=event.item_id)) if event.kind == "changed" else gone(event, current)
        for event, current in claimed
    ]

    def settle(mine: list[ItemDecision]) -> None:
        with scene.pool.connection() as connection:
            for decision in mine:
                settlement.settle(connection, [decision])

    creations = [decision for decision in decisions if decision.product]
    absences = [decision for decision in decisions if not decision.product]
    run_together([lambda: settle(creations), lambda: settle(absences)])
    for item_id in item_ids:
        rows = scene.execute("SELECT outcome FROM events WHERE item_id = %(id)s AND state = 'processed'", id=item_id)
        assert [row["outcome"] for row in rows] == (["gone"] if scene.product(item_id) is None else ["created"])


def test_many_settlements_of_the_same_items_in_any_order_do_not_deadlock(scene: Scene) -> None:
    item_ids = [str(1 + n) for n in range(20)]
    with scene.pool.connection() as connection:
        batches = []
        for turn in range(4):
            event_ids = [scene.changed(fields(turn, item_id)) for item_id in item_ids[:: (-1) ** turn]]
            claimed = inbox.claim(connection, event_ids, worker="w", lease=LEASE)
            batches.append([decided(event, current, body(turn, item_id=event.item_id)) for event, current in claimed])

    def settle(batch: list[ItemDecision]) -> None:
        with scene.pool.connection() as connection:
            for _ in range(5):
                settlement.settle(connection, batch)

    run_together([lambda batch=batch: settle(batch) for batch in batches])  # type: ignore[misc]
    assert {row["revision"] for row in scene.execute("SELECT revision FROM products")} == {1}
    assert len(scene.changes("1")) == 1


def test_what_needs_a_fetch_stays_unfinished_and_says_why(scene: Scene, connection: Connection) -> None:
    event_id = scene.changed(thin())
    event, current = claim(connection, event_id)
    assert settlement.settle(connection, [decided(event, current, items.read_body(thin()))]) == {ITEM}
    row = scene.event(event_id)
    assert (row["state"], row["needs_fetch"], row["outcome"], row["processed_at"]) == ("recorded", True, None, None)
    assert "lacks name, rate, status" in row["error"]
    assert inbox.find_fetch_siblings(connection, event_id) == [event_id]


def test_numbers_keep_their_digits_in_columns_and_body(scene: Scene, connection: Connection) -> None:
    text = (
        '{"item_id": "1", "name": "x", "status": "active", "last_modified_time": "2026-10-05", "rate": 12.500000,'
        ' "stock_on_hand": 1234567890123456.789012, "weight": 0.1, "big": 12345678901234567890123, "tiny": 1E-30}'
    )
    event_id = scene.record("changed", "1", text.encode())
    event, current = claim(connection, event_id)
    settlement.settle(connection, [decided(event, current, items.read_body(items.read_json(text)))])
    (row,) = scene.execute("SELECT price::text, stock_on_hand::text, raw FROM products")
    assert (row["price"], row["stock_on_hand"]) == ("12.500000", "1234567890123456.789012")
    assert row["raw"] == items.read_json(text)
    assert encode_json(row["raw"]["weight"]) == b"0.1"
    assert row["raw"]["big"] == 12345678901234567890123
