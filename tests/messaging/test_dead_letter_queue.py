"""What ends in Dramatiq's own dead-letter queue is in `events` too, and is finished from there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from processors.messaging.broker import build_broker
from processors.messaging.messages import APPLY_EVENTS, EVENTS_QUEUE, FETCH_ITEMS, FETCHES_QUEUE, QUEUES, Publisher
from processors.runtime.local import LocalRedis
from processors.runtime.worker import run_worker
from processors.store import inbox
from processors.store.database import Pool
from processors.workflows import insights
from processors.workflows.relay import relay
from tests.workflows.scene import ITEM, Scene, fields, run_together, thin

ROOT = Path(__file__).parents[2]
NOW = timedelta()
Work = Callable[[list[int]], None]


@pytest.fixture
def scene(pool: Pool) -> Scene:
    return Scene(pool)


def raising(_: list[int]) -> None:
    raise RuntimeError("a fault that nobody foresaw")


@dataclass
class Actors:
    """What a running worker's actors do; a test may mend them."""

    apply_events: Work = raising
    fetch_items: Work = raising


@pytest.fixture
def actors(server: LocalRedis) -> Iterator[Actors]:
    """Run a worker in a thread, with actors that raise."""
    broker, actors, stop = build_broker(server.url, verify_tls=True), Actors(), threading.Event()

    def apply_events(event_ids: list[int]) -> None:
        actors.apply_events(event_ids)

    def fetch_items(event_ids: list[int]) -> None:
        actors.fetch_items(event_ids)

    dramatiq.actor(actor_name=APPLY_EVENTS, queue_name=EVENTS_QUEUE, broker=broker)(apply_events)
    dramatiq.actor(actor_name=FETCH_ITEMS, queue_name=FETCHES_QUEUE, broker=broker)(fetch_items)

    def work() -> None:
        run_worker(broker, threads={EVENTS_QUEUE: 1, FETCHES_QUEUE: 1}, stop=stop)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield actors
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def dead_letters(broker: RedisBroker, queue: str = EVENTS_QUEUE) -> int:
    """Count what Dramatiq keeps as dead."""
    kept: int = broker.client.zcard(f"{broker.namespace}:{queue}.XQ")
    return kept


def eventually(look: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(2_000):
        if look():
            return
        deadline.wait(0.01)
    pytest.fail("it never came to that")


def hand_over(scene: Scene, publisher: Publisher, *, needs_fetch: bool = False) -> int:
    """Do what a clock does every two seconds, without its patience."""
    scene.execute("UPDATE events SET queued_at = NULL")
    publish = publisher.publish_fetches if needs_fetch else publisher.publish_events
    return relay(scene.pool, publish, needs_fetch=needs_fetch, grace=NOW)


def test_the_events_of_a_dead_message_stay_unfinished_and_a_working_worker_finishes_them(
    scene: Scene, actors: Actors, broker: RedisBroker, publisher: Publisher
) -> None:
    event_ids = [scene.changed(fields()), scene.changed(fields(item_id="4100000000000099999"))]
    publisher.publish_events(event_ids)
    eventually(lambda: dead_letters(broker) == 1)
    assert {scene.event(event_id)["state"] for event_id in event_ids} <= {"recorded", "queued"}
    with scene.pool.connection() as connection:
        assert insights.overview(connection).oldest_unfinished_age is not None

    actors.apply_events = lambda ids: scene.apply(*ids)
    assert hand_over(scene, publisher) == 2
    eventually(lambda: scene.outcomes(event_ids) == ["created", "created"])
    assert dead_letters(broker) == 1


def test_an_actor_that_raises_after_its_claim_keeps_its_events_no_longer_than_the_lease(
    scene: Scene, actors: Actors, broker: RedisBroker, publisher: Publisher
) -> None:
    event_id = scene.changed(fields())

    def claim_and_raise(event_ids: list[int]) -> None:
        with scene.pool.connection() as connection:
            assert inbox.claim(connection, event_ids, worker="worker:broken", lease=timedelta(minutes=5))
        raise RuntimeError("a fault that nobody foresaw")

    actors.apply_events = claim_and_raise
    publisher.publish_events([event_id])
    eventually(lambda: dead_letters(broker) == 1)
    assert scene.event(event_id)["state"] == "processing"
    assert hand_over(scene, publisher) == 0

    scene.make_due()
    actors.apply_events = lambda ids: scene.apply(*ids)
    assert hand_over(scene, publisher) == 1
    eventually(lambda: scene.outcomes([event_id]) == ["created"])
    (attempt,) = scene.execute("SELECT * FROM event_attempts")
    assert (attempt["error_class"], attempt["worker"]) == ("WorkerVanished", "worker:broken")


def test_a_dead_message_for_a_fetch_leaves_its_event_waiting_for_zoho(
    scene: Scene, actors: Actors, broker: RedisBroker, publisher: Publisher
) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    publisher.publish_fetches(scene.publisher.fetches)
    eventually(lambda: dead_letters(broker, FETCHES_QUEUE) == 1)
    event = scene.event(event_id)
    assert (event["state"], event["needs_fetch"]) == ("recorded", True)

    scene.zoho.answers = {ITEM: fields()}
    actors.fetch_items = lambda ids: scene.fetch(*ids)
    assert hand_over(scene, publisher, needs_fetch=True) == 1
    eventually(lambda: scene.outcomes([event_id]) == ["created"])


def test_a_message_that_no_actor_can_take_costs_its_events_nothing(
    scene: Scene, actors: Actors, broker: RedisBroker, publisher: Publisher
) -> None:
    """As one that a newer or older version of this program has sent."""
    event_id = scene.changed(fields())
    broker.enqueue(
        Message(
            queue_name=EVENTS_QUEUE,
            actor_name=APPLY_EVENTS,
            args=(),
            kwargs={"of_a_later_version": [event_id]},
            options={},
        )
    )
    actors.apply_events = lambda ids: scene.apply(*ids)
    eventually(lambda: dead_letters(broker) == 1)
    assert scene.event(event_id)["state"] == "recorded"
    assert hand_over(scene, publisher) == 1
    eventually(lambda: scene.outcomes([event_id]) == ["created"])


def test_the_dead_letter_queue_may_be_lost(
    scene: Scene, actors: Actors, broker: RedisBroker, publisher: Publisher
) -> None:
    event_ids = [scene.changed(fields(number, item_id=str(4_100_000 + number))) for number in range(5)]
    for event_id in event_ids:
        publisher.publish_events([event_id])
    eventually(lambda: dead_letters(broker) == 5)
    broker.client.flushall()
    broker.client.script_flush()
    actors.apply_events = lambda ids: scene.apply(*ids)
    assert hand_over(scene, publisher) == 5
    eventually(lambda: scene.outcomes(event_ids) == ["created"] * 5)


@pytest.mark.usefixtures("actors")
def test_dead_messages_are_counted_nowhere(scene: Scene, broker: RedisBroker, publisher: Publisher) -> None:
    """A dead message is no dead event: what needs a person is told from the rows alone."""
    event_id = scene.changed(fields())
    publisher.publish_events([event_id])
    eventually(lambda: dead_letters(broker) == 1)
    assert publisher.queue_sizes() == dict.fromkeys(QUEUES, 0)
    scene.settle_all()
    with scene.pool.connection() as connection:
        overview, totals = insights.overview(connection), insights.totals(connection)
        assert insights.dead_by_cause(connection) == []
    assert [(count.state, count.count) for count in totals.events] == [("processed", 1)]
    assert (overview.events, overview.dead, overview.unfinished) == ([], 0, 0)
    assert not any("dead event" in problem.what for problem in insights.problems(overview))
    assert dead_letters(broker) == 1


def test_nothing_in_the_product_reads_dramatiqs_dead_letter_queue() -> None:
    sources = [path for top in ("processors", "receiver") for path in (ROOT / top).rglob("*") if path.is_file()]
    texts = {path: path.read_text("utf-8") for path in sources if path.suffix in {".py", ".sql", ".html"}}
    assert len(texts) > 50
    readers = [path.name for path, text in texts.items() if re.search(r"\bXQ\b|\bxq_name\b|dead_letter_queue", text)]
    assert readers == []


def test_hints_that_come_twice_do_the_work_once(scene: Scene) -> None:
    """The message in the dead-letter queue and the relay's own may both be delivered, at the same time."""
    event_id = scene.changed(fields())
    run_together([lambda: scene.apply(event_id)] * 4)
    scene.settle_all()
    assert scene.outcomes([event_id]) == ["created"]
    assert len(scene.changes()) == 1
