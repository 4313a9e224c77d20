"""The relay hands over what nobody else would, once, and gives back what Redis did not take."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest

from processors.errors import PublishFailed, ZohoUnavailable
from processors.store import inbox
from processors.workflows import relay
from tests.workflows.scene import ITEM, Scene, fields, run_together, thin

GRACE = timedelta(seconds=2)


def relayed(scene: Scene, *, needs_fetch: bool = False, grace: timedelta = GRACE, most: int = 4_000) -> list[int]:
    """Run the relay once; return what it handed over."""
    handed_over: list[int] = []
    count = relay.relay(scene.pool, handed_over.extend, needs_fetch=needs_fetch, grace=grace, most=most)
    assert count == len(handed_over)
    return handed_over


def age(scene: Scene, event_id: int, seconds: float) -> None:
    """Let `seconds` pass for one event."""
    scene.execute(
        """UPDATE events
              SET received_at = received_at - %(passed)s,
                  claimable_at = claimable_at - %(passed)s,
                  queued_at = queued_at - %(passed)s
            WHERE id = %(id)s""",
        passed=timedelta(seconds=seconds),
        id=event_id,
    )


def queue(scene: Scene, event_id: int) -> None:
    scene.execute("UPDATE events SET state = 'queued', queued_at = now() WHERE id = %(id)s", id=event_id)


def test_an_event_recorded_but_never_queued_is_handed_over_once(scene: Scene) -> None:
    event_id = scene.changed(fields())
    assert relayed(scene) == []
    age(scene, event_id, 3)
    assert relayed(scene) == [event_id]
    assert scene.event(event_id)["state"] == "queued"
    assert relayed(scene) == []
    scene.apply(event_id)
    assert scene.event(event_id)["outcome"] == "created"


def test_an_event_whose_message_was_lost_is_handed_over_again_after_a_while(scene: Scene) -> None:
    event_id = scene.changed(fields())
    queue(scene, event_id)
    age(scene, event_id, 5)
    assert relayed(scene) == []
    age(scene, event_id, 10)
    assert relayed(scene) == [event_id]
    assert relayed(scene) == []


def test_an_event_whose_lease_lapsed_is_handed_over(scene: Scene) -> None:
    event_id = scene.changed(fields())
    queue(scene, event_id)
    with scene.pool.connection() as connection:
        inbox.claim(connection, [event_id], worker="killed", lease=timedelta(seconds=10))
    assert relayed(scene) == []
    age(scene, event_id, 9)
    assert relayed(scene) == []
    age(scene, event_id, 4)
    assert relayed(scene) == [event_id]
    # Until it is claimed its state tells that a worker vanished with it.
    assert scene.event(event_id)["state"] == "processing"
    assert relayed(scene) == []
    scene.apply(event_id)
    assert (scene.event(event_id)["outcome"], scene.event(event_id)["failures"]) == ("created", 1)


def test_an_event_whose_next_try_has_come_is_handed_over(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    scene.zoho.answers = {ITEM: ZohoUnavailable("no answer")}
    scene.fetch(event_id)
    assert relayed(scene, needs_fetch=True) == []
    age(scene, event_id, 10)
    assert relayed(scene, needs_fetch=True) == []
    age(scene, event_id, 12)
    assert relayed(scene) == []
    assert relayed(scene, needs_fetch=True) == [event_id]
    scene.zoho.answers = {ITEM: fields()}
    scene.fetch(event_id)
    assert scene.event(event_id)["outcome"] == "created"


def test_a_next_try_soon_after_the_last_message_does_not_wait_for_that_to_be_given_up(scene: Scene) -> None:
    event_id = scene.changed(fields())
    queue(scene, event_id)
    with scene.pool.connection() as connection:
        ((event, _),) = inbox.claim(connection, [event_id], worker="w", lease=timedelta(seconds=10))
        inbox.fail(connection, event, ValueError("x"), retry_in=timedelta(seconds=1), counts=False)
    age(scene, event_id, 2)
    assert relayed(scene) == []
    age(scene, event_id, 2)
    assert relayed(scene) == [event_id]


@pytest.mark.parametrize("state", ["processed", "dead"])
def test_finished_events_are_left_alone(scene: Scene, state: str) -> None:
    event_id = scene.changed(fields())
    if state == "dead":
        scene.execute("UPDATE events SET state = 'dead', error = 'x'")
    else:
        scene.apply(event_id)
    age(scene, event_id, 3600)
    assert relayed(scene) == []


def test_an_event_that_needs_a_fetch_goes_where_calls_are_made(scene: Scene) -> None:
    scene.publisher.is_failing = True
    event_id = scene.changed(thin())
    scene.apply(event_id)
    age(scene, event_id, 3)
    assert relayed(scene) == []
    assert relayed(scene, needs_fetch=True) == [event_id]


def test_relays_at_the_same_time_double_nothing(scene: Scene) -> None:
    event_ids = [scene.changed(fields(item_id=str(1 + n))) for n in range(300)]
    scene.execute("UPDATE events SET claimable_at = claimable_at - interval '1 minute'")
    handed_over: list[int] = []
    run_together([lambda: handed_over.extend(relayed(scene, most=70))] * 6)
    assert sorted(handed_over + relayed(scene)) == event_ids


def test_the_oldest_come_first_and_no_more_than_asked(scene: Scene) -> None:
    event_ids = [scene.changed(fields(item_id=str(1 + n))) for n in range(5)]
    for event_id in event_ids:
        age(scene, event_id, 10 + event_id)
    assert relayed(scene, most=2) == event_ids[-2:]


def test_what_redis_does_not_take_is_given_back_and_handed_over_next_time(scene: Scene) -> None:
    event_ids = [scene.changed(fields(item_id=str(1 + n))) for n in range(450)]
    scene.execute("UPDATE events SET claimable_at = claimable_at - interval '1 minute'")
    taken: list[int] = []

    def flaky(portion: Sequence[int]) -> None:
        if taken:
            raise PublishFailed("Redis went away")
        taken.extend(portion)

    assert relay.relay(scene.pool, flaky, needs_fetch=False, grace=GRACE) == len(taken) == 200
    states = scene.execute("SELECT state, count(*) FROM events GROUP BY state ORDER BY state")
    assert states == [{"state": "queued", "count": 200}, {"state": "recorded", "count": 250}]
    assert sorted(taken + relayed(scene)) == event_ids


def test_a_lapsed_lease_that_redis_does_not_take_stays_one(scene: Scene) -> None:
    event_id = scene.changed(fields())
    with scene.pool.connection() as connection:
        inbox.claim(connection, [event_id], worker="killed", lease=timedelta(seconds=10))
    age(scene, event_id, 20)

    def failing(_: Sequence[int]) -> None:
        raise PublishFailed("Redis is away")

    assert relay.relay(scene.pool, failing, needs_fetch=False, grace=GRACE) == 0
    assert scene.event(event_id)["state"] == "processing"
    assert relayed(scene) == [event_id]


def test_a_worker_may_be_its_own_relay(scene: Scene) -> None:
    event_ids = [scene.changed(fields(item_id=str(1 + n))) for n in range(5)] + [scene.changed(thin())]
    scene.publisher.is_failing = True
    scene.zoho.answers = {ITEM: fields()}
    for needs_fetch, work in ((False, scene.apply), (True, scene.fetch)):
        for event_id in event_ids:
            age(scene, event_id, 60)
        relay.relay(scene.pool, lambda ids, work=work: work(*ids), needs_fetch=needs_fetch, grace=GRACE)  # type: ignore[misc]
    assert scene.outcomes(event_ids) == ["created"] * 6


def test_a_relay_and_a_worker_at_the_same_time_finish_each_event_once(scene: Scene) -> None:
    event_ids = [scene.changed(fields(n % 3, item_id=str(1 + n % 20))) for n in range(120)]
    scene.execute("UPDATE events SET claimable_at = claimable_at - interval '1 minute'")
    is_over = threading.Event()

    def relay_on() -> None:
        while not is_over.is_set():
            relayed(scene, grace=timedelta(0))

    def work() -> None:
        try:
            scene.apply(*event_ids)
        finally:
            is_over.set()

    run_together([relay_on, work])
    scene.settle_all()
    assert all(scene.outcomes(event_ids))
    assert {row["zoho_last_modified_at"].second for row in scene.execute("SELECT * FROM products")} == {2}
