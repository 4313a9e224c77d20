"""Work that takes longer than its lease keeps it; work of a worker that vanished is free within the lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.errors import ZohoRefused, ZohoUnavailable
from processors.runtime.local import LocalPostgres
from processors.store import database, inbox, schema
from processors.store.database import Connection, Pool
from processors.store.inbox import Event
from processors.workflows import item_events, leases
from processors.workflows.item_events import Workshop
from processors.zoho import items
from tests.workflows.scene import DEADLINE, FakeZoho, Scene, fields, thin

SHORT = timedelta(seconds=1)
LONG = timedelta(minutes=5)


@pytest.fixture
def quick_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.05)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_events, "FETCH_LEASE", SHORT)


def eventually(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not look():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def claim(pool: Pool, *event_ids: int, lease: timedelta = LONG) -> list[Event]:
    with pool.connection() as connection:
        found = inbox.claim(connection, event_ids, worker="worker:test", lease=lease, suspects=False)
        found += inbox.claim(connection, event_ids, worker="worker:test", lease=lease, suspects=True)
    return [event for event, _ in found]


def waiting_for_zoho(scene: Scene) -> int:
    """Return an event that only Zoho can settle."""
    event_id = scene.changed(thin())
    scene.apply(event_id)
    assert scene.event(event_id)["needs_fetch"]
    return event_id


class OtherWorker:
    """Another process that is told of the same event."""

    def __init__(self, scene: Scene) -> None:
        self.zoho = FakeZoho()
        self.zoho.answers = {fields()["item_id"]: fields(9, name="Of the other")}
        self.fetch = partial(item_events.fetch_items, Workshop(scene.pool, self.zoho, scene.publisher, "worker:other"))


@contextmanager
def fetching(scene: Scene, event_id: int, answer: items.Fields | Exception) -> Iterator[threading.Event]:
    """Fetch in a thread; Zoho answers when the given event is set, and then the block's end waits for the thread."""
    is_asked, may_answer = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def think() -> items.Fields:
        is_asked.set()
        assert may_answer.wait(DEADLINE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def work() -> None:
        try:
            scene.fetch(event_id)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    scene.zoho.answers = {fields()["item_id"]: think}
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert is_asked.wait(DEADLINE)
        yield may_answer
    finally:
        may_answer.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert failures == []


def lapsed(scene: Scene, event_id: int) -> bool:
    return bool(scene.event(event_id)["due_in"] <= timedelta())


@pytest.mark.usefixtures("quick_renewals", "short_lease")
def test_a_fetch_that_takes_longer_than_its_lease_keeps_it(scene: Scene) -> None:
    event_id, other = waiting_for_zoho(scene), OtherWorker(scene)
    with fetching(scene, event_id, fields(3)):
        claimed = scene.event(event_id)
        until = claimed["claimed_at"] + 2 * SHORT
        while not scene.execute("SELECT now() > %(until)s AS is_over", until=until)[0]["is_over"]:
            assert not lapsed(scene, event_id)
            other.fetch([event_id])
        renewed = scene.event(event_id)
        assert renewed["claimable_at"] > until
        assert (renewed["state"], renewed["attempts"]) == ("processing", claimed["attempts"])
    assert other.zoho.calls == []
    event = scene.event(event_id)
    assert (event["outcome"], event["attempts"], event["failures"]) == ("created", claimed["attempts"], 0)
    assert scene.live()["name"] == "Mug"


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize(
    "late_answer",
    [fields(20, name="Late"), ZohoUnavailable("Zoho answered 502"), ZohoRefused("Zoho answered 400, code 2")],
    ids=lambda answer: type(answer).__name__,
)
def test_a_worker_that_renews_nothing_loses_its_lease_and_its_late_answer_changes_nothing(
    scene: Scene, late_answer: items.Fields | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker that was frozen, and thawed after its lease."""
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 3_600.0)
    event_id, other = waiting_for_zoho(scene), OtherWorker(scene)
    with fetching(scene, event_id, late_answer) as may_answer:
        claimed = scene.event(event_id)
        assert claimed["claimable_at"] - claimed["claimed_at"] <= SHORT
        eventually(lambda: lapsed(scene, event_id))
        other.fetch([event_id])
        assert scene.event(event_id)["outcome"] == "created"
        before = (scene.state(), scene.event(event_id)["error"])
        may_answer.set()
    assert (scene.state(), scene.event(event_id)["error"]) == before
    assert scene.live()["name"] == "Of the other"
    assert scene.event(event_id)["claimed_by"] == "worker:other"
    (vanished,) = scene.execute("SELECT * FROM event_attempts WHERE error_class = 'WorkerVanished'")
    assert (vanished["event_id"], vanished["worker"], vanished["attempt"]) == (
        event_id,
        "worker:test",
        claimed["attempts"],
    )


@pytest.mark.usefixtures("short_lease")
def test_a_late_answer_does_not_take_the_lease_from_who_works_on_it_now(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 3_600.0)
    event_id = waiting_for_zoho(scene)
    with fetching(scene, event_id, fields(20, name="Late")):
        scene.make_due()
        with scene.pool.connection() as connection:
            ((event, _),) = inbox.claim(
                connection, [event_id], worker="worker:other", lease=LONG, needs_fetch=True, suspects=True
            )
        held = scene.event(event_id)
    now = scene.event(event_id)
    assert (now["state"], now["attempts"], now["claimable_at"]) == ("processing", event.attempt, held["claimable_at"])
    assert (scene.product(), scene.changes()) == (None, [])


# What is renewed


def test_a_lease_is_renewed_only_for_the_attempt_that_holds_it(scene: Scene) -> None:
    event_id = scene.changed(fields())
    first = claim(scene.pool, event_id)
    scene.make_due()
    second = claim(scene.pool, event_id)
    before = scene.event(event_id)["claimable_at"]
    with scene.pool.connection() as connection:
        assert not inbox.renew_leases(connection, first, 2 * LONG)
        assert scene.event(event_id)["claimable_at"] == before
        assert inbox.renew_leases(connection, second, 2 * LONG)
    assert scene.event(event_id)["claimable_at"] > before


def test_a_lease_that_lapsed_unnoticed_is_renewed(scene: Scene) -> None:
    event_id = scene.changed(fields())
    events = claim(scene.pool, event_id)
    scene.make_due()
    with scene.pool.connection() as connection:
        assert inbox.renew_leases(connection, events, LONG)
    assert claim(scene.pool, event_id) == []


def test_a_finished_event_is_not_held_any_more(scene: Scene) -> None:
    event_id = scene.changed(fields())
    (event,) = claim(scene.pool, event_id)
    with scene.pool.connection() as connection:
        inbox.fail(connection, event, ValueError("broken"), retry_in=None, counts=True)
        before = scene.event(event_id)
        assert not inbox.renew_leases(connection, [event], LONG)
    assert scene.event(event_id)["claimable_at"] == before["claimable_at"]


def test_those_of_several_that_are_still_held_are_renewed(scene: Scene) -> None:
    kept, lost = scene.changed(fields()), scene.changed(fields(1))
    events = claim(scene.pool, kept, lost)
    scene.make_due()
    claim(scene.pool, lost)
    before = scene.event(lost)["claimable_at"]
    with scene.pool.connection() as connection:
        assert inbox.renew_leases(connection, events, LONG)
    assert not lapsed(scene, kept)
    assert scene.event(lost)["claimable_at"] == before


# The thread that renews


class Renewals:
    """Counts its calls, and fails or says no as it is told."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.calls = 0
        self.thread: threading.Thread | None = None

    def __call__(self, _connection: Connection) -> bool:
        self.thread = threading.current_thread()
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def is_thread_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


@pytest.mark.usefixtures("quick_renewals")
@pytest.mark.parametrize("error", [None, KeyError("of the work")])
def test_the_thread_ends_with_the_block(pool: Pool, error: Exception | None) -> None:
    renewals, raised = Renewals(), None
    try:
        with leases.kept(pool, renewals):
            eventually(lambda: renewals.calls >= 2)
            assert renewals.is_thread_alive()
            if error:
                raise error
    except KeyError as caught:
        raised = caught
    assert raised is error
    assert not renewals.is_thread_alive()


def test_a_block_that_is_quick_renews_nothing_and_waits_for_nothing(pool: Pool) -> None:
    renewals, started = Renewals(), time.monotonic()
    with leases.kept(pool, renewals):
        pass
    assert renewals.calls == 0
    assert time.monotonic() - started < leases._RENEW_SECONDS / 2


@pytest.mark.usefixtures("quick_renewals")
def test_nothing_is_renewed_any_more_once_the_lease_is_somebody_elses(pool: Pool) -> None:
    renewals = Renewals(True, False)
    with leases.kept(pool, renewals):
        eventually(lambda: renewals.calls == 2 and not renewals.is_thread_alive())
    assert renewals.calls == 2


@pytest.mark.usefixtures("quick_renewals")
@pytest.mark.parametrize("error", [psycopg.OperationalError("away"), psycopg.errors.QueryCanceled("too slow")])
def test_a_renewal_that_fails_is_tried_again(pool: Pool, error: Exception) -> None:
    renewals = Renewals(True, error, error)
    with leases.kept(pool, renewals):
        eventually(lambda: renewals.calls >= 5)


@pytest.mark.usefixtures("quick_renewals")
def test_a_lease_outlives_a_restart_of_postgres(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path) as server:
        url = server.create_database("mirror")
        schema.migrate(url)
        with database.sync_pool(url, size=2, name="tests") as pool:
            scene = Scene(pool)
            event_id = scene.changed(fields())
            events = claim(pool, event_id, lease=LONG)

            def until() -> Any:
                with psycopg.connect(url) as connection:
                    row = connection.execute("SELECT claimable_at FROM events").fetchone()
                assert row
                return row[0]

            with leases.kept(pool, partial(inbox.renew_leases, events=events, lease=LONG)):
                before = until()
                eventually(lambda: until() > before)
                server.restart(immediate=True)
                # The first look may come before the first renewal: what counts is that it goes on.
                again = until()
                eventually(lambda: until() > again)
            assert claim(pool, event_id) == []
