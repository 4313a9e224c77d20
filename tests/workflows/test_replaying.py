"""Replays: all that match, a few at a time, on record, never a row put back; and what is discarded or trimmed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.errors import BudgetSpent, PublishFailed, ReplayRefused, ZohoRefused
from processors.store import inbox, replays, runs
from processors.store.audit import Requester
from processors.store.event_filter import EventFilter
from processors.store.replays import Replay
from processors.store.runs import Unusable
from processors.workflows import insights, replaying, retention
from tests.workflows.scene import ITEM, Scene, fields, thin

OTHER = "4100000000000099999"
DEAD = EventFilter(state="dead")
SOMEBODY = Requester("cli", "somebody")


def bury(scene: Scene, *event_ids: int, error: Exception | None = None) -> None:
    """Let these events die of an error, as by a fault that was mended since."""
    with scene.pool.connection() as connection:
        claimed = inbox.claim(connection, event_ids, worker="w", lease=timedelta(seconds=10))
        assert len(claimed) == len(event_ids)
        for event, _ in claimed:
            inbox.fail(connection, event, error or ValueError("broken"), retry_in=None, counts=True)


def start(scene: Scene, chosen: EventFilter, **asked: Any) -> Replay:
    return replaying.start(scene.pool, chosen, SOMEBODY, **asked)


def send(scene: Scene) -> list[int]:
    """Send what is due in one slot; return the published ids."""
    published: list[int] = []
    replaying.send_due(scene.pool, published.extend)
    return published


def replay(scene: Scene, chosen: EventFilter) -> replays.Progress:
    """Replay to the end."""
    started = start(scene, chosen, per_second=1_000)
    send(scene)
    scene.settle_all()
    with scene.pool.connection() as connection:
        return replays.progress(connection, started.id)


def test_a_replay_applies_what_had_died_and_says_so(scene: Scene) -> None:
    event_ids = [scene.changed(fields()), scene.changed(fields(item_id=OTHER))]
    bury(scene, *event_ids)
    done = replay(scene, DEAD)
    assert done.outcomes == {"created": 2}
    assert (done.dead, done.skipped, done.unfinished, done.unsent) == (0, 0, 0, 0)
    assert scene.live()["price"] == Decimal("12.50")
    (change,) = scene.changes()
    assert (change["source"], change["event_id"]) == ("replay", event_ids[0])


def test_a_second_replay_of_the_same_events_changes_nothing_and_says_unchanged(scene: Scene) -> None:
    event_ids = [scene.changed(fields()), scene.changed(fields(item_id=OTHER))]
    scene.apply(*event_ids)
    for _ in range(2):
        before = (scene.product(), scene.changes())
        assert replay(scene, EventFilter(event_ids=tuple(event_ids))).outcomes == {"unchanged": 2}
        assert (scene.product(), scene.changes()) == before


def test_an_old_event_never_puts_a_row_back(scene: Scene) -> None:
    old = scene.changed(fields(0))
    bury(scene, old)
    scene.apply(scene.changed(fields(5, rate=Decimal(99), name="Newer")))
    before = scene.live()
    assert replay(scene, DEAD).outcomes == {"stale": 1}
    assert scene.live() == before


def test_a_replayed_deletion_of_an_item_that_came_back_asks_zoho(scene: Scene) -> None:
    scene.apply(scene.changed(fields()))
    deletion = scene.deleted()
    scene.apply(deletion)
    scene.zoho.answers = {ITEM: fields(9)}
    scene.changed(fields(9))
    scene.settle_all()
    replay(scene, EventFilter(event_ids=(deletion,)))
    assert scene.live()["name"] == "Mug"
    assert scene.zoho.calls[-1] == ITEM


def test_an_event_that_dies_again_is_counted_and_keeps_all_its_attempts(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.zoho.answers = {ITEM: ZohoRefused("Zoho answered 400, code 2")}
    scene.settle_all()
    assert replay(scene, DEAD).dead == 1
    with scene.pool.connection() as connection:
        detail = insights.event_detail(connection, event_id)
    assert detail is not None
    died = [attempt for attempt in detail.attempts if attempt.error_class == "ZohoRefused"]
    assert len(died) == 2
    assert all(attempt.error_at and "raise" not in attempt.error_at for attempt in died)
    assert all(attempt.started_at and attempt.worker == "worker:test" for attempt in died)


def test_a_former_success_stays_among_the_attempts(scene: Scene) -> None:
    event_id = scene.changed(fields())
    scene.apply(event_id)
    replay(scene, EventFilter(event_ids=(event_id,)))
    with scene.pool.connection() as connection:
        detail = insights.event_detail(connection, event_id)
    assert detail is not None
    assert [attempt.outcome for attempt in detail.attempts] == ["created", "unchanged"]


def test_a_filter_means_all_that_match_and_nothing_else(scene: Scene) -> None:
    broken = [scene.changed(fields(item_id=str(1 + n))) for n in range(230)]
    bury(scene, *broken)
    other = scene.changed(fields(item_id=OTHER))
    bury(scene, other, error=KeyError("another fault"))
    processed = scene.changed(fields(item_id="77777"))
    scene.apply(processed)
    done = replay(scene, EventFilter(state="dead", error="BROK"))
    assert done.outcomes == {"created": 230}
    assert scene.event(other)["state"] == "dead"
    assert scene.event(processed)["replay_id"] is None


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (EventFilter(error_class="KeyError"), [1]),
        (EventFilter(item_id=OTHER), [1]),
        (EventFilter(kind="deleted"), [2]),
        (EventFilter(state="processed"), [2]),
        (EventFilter(outcome="gone"), [2]),
        (EventFilter(state="dead"), [0, 1]),
    ],
)
def test_each_part_of_a_filter(scene: Scene, chosen: EventFilter, expected: list[int]) -> None:
    events = [scene.changed(fields()), scene.changed(fields(item_id=OTHER)), scene.deleted("555")]
    bury(scene, events[0])
    bury(scene, events[1], error=KeyError("x"))
    scene.apply(events[2])
    with scene.pool.connection() as connection:
        assert replays.match(connection, chosen) == [events[position] for position in expected]


def test_a_time_chooses_by_receipt(scene: Scene) -> None:
    events = [scene.changed(fields()), scene.changed(fields(item_id=OTHER))]
    bury(scene, *events)
    scene.execute("UPDATE events SET received_at = now() - interval '2 days' WHERE id = %(id)s", id=events[0])
    (row,) = scene.execute("SELECT now() - interval '1 day' AS yesterday")
    with scene.pool.connection() as connection:
        assert replays.match(connection, EventFilter(since=row["yesterday"])) == [events[1]]
        assert replays.match(connection, EventFilter(until=row["yesterday"])) == [events[0]]


@pytest.mark.parametrize("chosen", [EventFilter(), DEAD, EventFilter(event_ids=(1,))])
def test_what_means_nothing_is_refused_with_a_reason(scene: Scene, chosen: EventFilter) -> None:
    scene.execute("SELECT 1")
    with pytest.raises(ReplayRefused):
        start(scene, chosen)


def test_an_event_under_way_is_not_replayed(scene: Scene) -> None:
    with pytest.raises(ReplayRefused, match="under way"):
        start(scene, EventFilter(event_ids=(scene.changed(fields()),)))


def test_a_replay_keeps_its_pace(scene: Scene) -> None:
    bury(scene, *(scene.changed(fields(item_id=str(1 + n))) for n in range(7)))
    started = start(scene, DEAD, per_second=3)
    assert [len(send(scene)) for _ in range(4)] == [3, 3, 1, 0]
    with scene.pool.connection() as connection:
        ended = replays.find(connection, started.id)
    assert ended is not None
    assert ended.state == "complete"
    assert ended.finished_at is not None


def test_a_cancelled_replay_sends_nothing_more(scene: Scene) -> None:
    events = [scene.changed(fields(item_id=str(1 + n))) for n in range(4)]
    bury(scene, *events)
    started = start(scene, DEAD, per_second=1)
    send(scene)
    replaying.cancel(scene.pool, started.id, SOMEBODY)
    assert send(scene) == []
    scene.settle_all()
    assert [scene.event(event_id)["state"] for event_id in events] == ["processed", "dead", "dead", "dead"]
    with pytest.raises(ReplayRefused, match="cancelled"):
        replaying.cancel(scene.pool, started.id, SOMEBODY)


def test_it_is_on_record_who_asked_when_and_why(scene: Scene) -> None:
    bury(scene, scene.changed(fields()))
    started = start(scene, DEAD, reason="the template is mended")
    with scene.pool.connection() as connection:
        (found,) = replays.latest(connection, most=5)
    assert found == started
    assert (found.requested_by, found.reason, found.filter) == (
        "cli:somebody",
        "the template is mended",
        {"state": "dead"},
    )


def test_redis_being_away_delays_a_replay_and_loses_nothing(scene: Scene) -> None:
    event_id = scene.changed(fields())
    bury(scene, event_id)
    start(scene, DEAD)

    def fail(_: Sequence[int]) -> None:
        raise PublishFailed("Redis is away")

    assert replaying.send_due(scene.pool, fail) == 1
    scene.settle_all()
    assert scene.event(event_id)["outcome"] == "created"


def test_a_body_that_can_be_read_by_now_is_read_anew(scene: Scene) -> None:
    event_id = scene.changed(fields())
    scene.execute(
        "UPDATE events SET state = 'dead', item_id = NULL, error = 'no item was found' WHERE id = %(id)s", id=event_id
    )
    assert replay(scene, DEAD).outcomes == {"created": 1}
    assert scene.event(event_id)["item_id"] == ITEM


def test_a_body_that_still_cannot_be_read_stays_dead_with_the_reason(scene: Scene) -> None:
    event_id = scene.changed(thin(), body=b'{"nothing": 1}')
    scene.execute("UPDATE events SET state = 'dead', item_id = NULL, error = 'no item' WHERE id = %(id)s", id=event_id)
    started = start(scene, DEAD)
    assert send(scene) == []
    with scene.pool.connection() as connection:
        (event,) = replays.replayed_events(connection, started.id, most=5)
        assert replays.progress(connection, started.id).skipped == 1
    assert "the body should hold an item" in (event.note or "")
    assert scene.event(event_id)["state"] == "dead"


def test_a_failed_item_of_a_run_is_replayed_like_a_delivery(scene: Scene) -> None:
    with scene.pool.connection() as connection:
        run = runs.open_run(connection, "full", "cli")
        assert run is not None
        body = b'{"item_id": "%b", "name": "", "status": ""}' % ITEM.encode()
        runs.keep_unusable(connection, run, [Unusable(ITEM, body, ValueError("unusable"))])
    scene.zoho.answers = {ITEM: fields()}
    assert replay(scene, EventFilter(run_id=run.id)).outcomes == {"created": 1}


# Rehearsals


def test_a_rehearsal_says_what_would_change_and_changes_nothing(scene: Scene) -> None:
    scene.apply(scene.changed(fields(5)))
    better, older, same = (
        scene.changed(fields(9, rate=Decimal(20))),
        scene.changed(fields(1, rate=Decimal(1))),
        scene.changed(fields(5)),
    )
    new, needy = scene.changed(fields(item_id=OTHER)), scene.changed(thin())
    unreadable = scene.changed(thin(), body=b"{}")
    deletion = scene.deleted()
    bury(scene, better, older, same, new, needy, unreadable, deletion)
    before = (scene.state(), scene.execute("SELECT * FROM replays"))
    told = {each.event_id: each for each in replaying.rehearse(scene.pool, DEAD)}
    assert (scene.state(), scene.execute("SELECT * FROM replays")) == before
    assert {event_id: each.effect for event_id, each in told.items()} == {
        better: "updated",
        older: "stale",
        same: "unchanged",
        new: "created",
        needy: "fetch",
        unreadable: "unreadable",
        deletion: "fetch",
    }
    assert told[better].changes == {"price": ("12.50", "20")}
    assert told[older].reason == "the row is newer"
    assert scene.zoho.calls == []


# Causes, discards, retention


def test_dead_events_are_grouped_by_the_root_of_their_cause(scene: Scene) -> None:
    for n in range(3):
        bury(scene, scene.changed(fields(item_id=str(1 + n))), error=ValueError(f"item {n}: '{n * 'x'}' is odd"))
    last = scene.changed(fields(item_id=OTHER))
    bury(scene, last, error=KeyError("else"))
    with scene.pool.connection() as connection:
        causes = insights.dead_by_cause(connection)
    assert [(cause.error_class, cause.cause, cause.count) for cause in causes] == [
        ("ValueError", "item …: … is odd", 3),
        ("KeyError", "…", 1),
    ]
    assert causes[0].first_received_at < causes[0].last_received_at
    assert causes[1].example_id == last


def test_a_discarded_event_stays_and_asks_for_nobody(scene: Scene) -> None:
    event_id = scene.changed(fields())
    bury(scene, event_id)
    assert replaying.discard(scene.pool, DEAD, SOMEBODY, reason="a test item") == [event_id]
    event = scene.event(event_id)
    assert (event["state"], event["discarded_by"], event["discard_reason"]) == ("dead", "cli:somebody", "a test item")
    with scene.pool.connection() as connection:
        assert insights.dead_by_cause(connection) == []
        assert insights.overview(connection).discarded == 1
    with pytest.raises(ReplayRefused):
        start(scene, DEAD)
    # By its id it can be brought back.
    assert replay(scene, EventFilter(event_ids=(event_id,))).outcomes == {"created": 1}
    assert scene.event(event_id)["discarded_at"] is None


def test_only_dead_events_are_discarded(scene: Scene) -> None:
    event_id = scene.changed(fields())
    scene.apply(event_id)
    with pytest.raises(ReplayRefused, match="no dead event that matches has the id"):
        replaying.discard(scene.pool, EventFilter(event_ids=(event_id,)), SOMEBODY, reason="x")


def age(scene: Scene, event_id: int, days: int) -> None:
    scene.execute(
        """UPDATE events SET received_at = received_at - %(age)s, processed_at = processed_at - %(age)s
            WHERE id = %(id)s""",
        id=event_id,
        age=timedelta(days=days),
    )


def test_bodies_are_trimmed_first_then_events_and_never_a_dead_one(scene: Scene) -> None:
    recent, middle, old, gone = (
        scene.changed(fields(1)),
        scene.changed(fields(2)),
        scene.changed(fields(3)),
        scene.deleted("555"),
    )
    scene.apply(recent, middle, old, gone)
    dead = scene.changed(fields(item_id=OTHER))
    bury(scene, dead)
    for event_id, days in ((recent, 29), (middle, 31), (old, 181), (gone, 400), (dead, 4_000)):
        age(scene, event_id, days)
    for _ in range(2):
        retention.trim(scene.pool)
        left = {row["id"]: bytes(row["body"]) for row in scene.execute("SELECT id, body FROM events")}
        assert left.keys() == {recent, middle, gone, dead}
        assert left[recent] != b""
        assert left[dead] != b""
        assert left[middle] == b""


def test_trimming_goes_on_where_it_was(scene: Scene) -> None:
    for n in range(3):
        event_id = scene.changed(fields(n))
        scene.apply(event_id)
        age(scene, event_id, 31 + n)
        retention.trim(scene.pool)
        retention.trim(scene.pool)
    newest_first = scene.execute("SELECT body FROM events ORDER BY id")
    # Those that finished before what was trimmed already are left to the deletion of their rows.
    assert bytes(newest_first[0]["body"]) == b""


def test_a_trimmed_event_is_not_replayed_and_says_why(scene: Scene) -> None:
    event_id = scene.changed(fields())
    scene.apply(event_id)
    age(scene, event_id, 31)
    retention.trim(scene.pool)
    started = start(scene, EventFilter(event_ids=(event_id,)))
    assert send(scene) == []
    with scene.pool.connection() as connection:
        (event,) = replays.replayed_events(connection, started.id, most=5)
    assert event.note == "its body was trimmed"
    assert scene.event(event_id)["state"] == "processed"


def test_repeated_waits_for_one_thing_are_one_attempt_with_a_count(scene: Scene) -> None:
    event_id = scene.changed(thin())
    scene.zoho.answers = {ITEM: BudgetSpent("the minute is used up", timedelta(seconds=5))}
    scene.apply(event_id)
    for _ in range(4):
        scene.make_due()
        scene.fetch(event_id)
    with scene.pool.connection() as connection:
        detail = insights.event_detail(connection, event_id)
    assert detail is not None
    (waited,) = (attempt for attempt in detail.attempts if attempt.is_wait)
    assert (waited.error_class, waited.times) == ("BudgetSpent", 4)


def test_an_attempt_whose_worker_vanished_is_told(scene: Scene) -> None:
    event_id = scene.changed(fields())
    with scene.pool.connection() as connection:
        inbox.claim(connection, [event_id], worker="worker:killed", lease=timedelta(seconds=10))
    scene.settle_all()
    with scene.pool.connection() as connection:
        detail = insights.event_detail(connection, event_id)
    assert detail is not None
    assert [(attempt.error_class, attempt.worker) for attempt in detail.attempts[:1]] == [
        ("WorkerVanished", "worker:killed")
    ]
    assert detail.attempts[-1].outcome == "created"
