"""The timetable: each slot is run once, whatever the number of clocks, and one job's fault is its own."""

from __future__ import annotations

import threading
from datetime import timedelta

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from processors.runtime import clock
from processors.runtime.clock import Job
from processors.runtime.local import LocalRedis
from processors.settings import Settings
from processors.store import database, timetable
from processors.store.database import Pool
from tests.workflows.scene import DEADLINE, Scene, fields, run_together, thin

DAY = timedelta(days=1)


def look(pool: Pool, jobs: list[Job], *, times: int = 1) -> None:
    """Let a clock look at its timetable so many times."""
    stop = threading.Event()
    looks = iter(range(times - 1))

    def wait(_: float) -> bool:
        if next(looks, None) is None:
            stop.set()
        return stop.is_set()

    stop.wait = wait  # type: ignore[method-assign, assignment]
    clock.run(pool, jobs, stop)


def miss(scene: Scene, slots: float, every: timedelta = DAY) -> None:
    """Pretend that the newest slots went by while no clock was up."""
    scene.execute("UPDATE jobs SET slot = slot - %(missed)s", missed=slots * every)


def test_a_slot_is_run_once(scene: Scene) -> None:
    runs: list[int] = []
    look(scene.pool, [Job("daily", DAY, lambda: runs.append(1))], times=5)
    assert runs == [1]


@pytest.mark.parametrize("missed", [1, 3, 400])
def test_slots_that_were_missed_are_made_up_for_once(scene: Scene, missed: int) -> None:
    runs: list[int] = []
    job = Job("daily", DAY, lambda: runs.append(1))
    look(scene.pool, [job])
    miss(scene, missed)
    look(scene.pool, [job], times=5)
    assert runs == [1, 1]


def test_clocks_at_the_same_time_share_the_slots(scene: Scene) -> None:
    runs: list[str] = []
    jobs = [Job(f"job {n}", DAY, lambda n=n: runs.append(f"job {n}")) for n in range(5)]  # type: ignore[misc]
    for _ in range(3):
        run_together([lambda: look(scene.pool, jobs, times=3)] * 4)
        miss(scene, 1)
    assert sorted(runs) == sorted(job.name for job in jobs for _ in range(3))


def test_a_slot_is_cut_by_the_databases_clock(scene: Scene) -> None:
    with scene.pool.connection() as connection:
        slot = timetable.take_slot(connection, "every seven seconds", timedelta(seconds=7))
    assert slot is not None
    assert slot.timestamp() % 7 == 0
    (row,) = scene.execute("SELECT now() - slot AS ago FROM jobs")
    assert timedelta(0) <= row["ago"] < timedelta(seconds=8)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), psycopg.errors.SyntaxError("a bug")])
def test_one_jobs_failure_does_not_stop_the_others_nor_its_own_next_slot(scene: Scene, error: Exception) -> None:
    runs: list[str] = []

    def fail() -> None:
        runs.append("failing")
        raise error

    jobs = [Job("failing", DAY, fail), Job("healthy", DAY, lambda: runs.append("healthy"))]
    look(scene.pool, jobs, times=2)
    miss(scene, 1)
    look(scene.pool, jobs)
    assert runs == ["failing", "healthy"] * 2


def test_the_clock_outlives_an_absence_of_postgres(scene: Scene) -> None:
    runs: list[int] = []
    absences = [psycopg.OperationalError("the server went away"), PoolTimeout("no connection")]

    def work() -> None:
        runs.append(1)
        if absences:
            raise absences.pop()

    every = timedelta(microseconds=1)
    look(scene.pool, [Job("often", every, work)], times=3)
    assert runs == [1, 1, 1]


def test_the_clock_waits_for_a_postgres_that_is_not_there_yet() -> None:
    pool = database.sync_pool("postgresql://nobody@127.0.0.1:1/none", size=1, name="absent")
    pool.timeout = 0.05
    pool.open(wait=False)
    try:
        look(pool, [Job("never", DAY, lambda: pytest.fail("ran without its slot"))], times=2)
    finally:
        pool.close()


def test_a_clock_stops_at_once(scene: Scene) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=clock.run, args=(scene.pool, [Job("daily", DAY, stop.set)], stop), daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_the_timetable_relays_to_both_queues_and_two_clocks_double_nothing(
    scene: Scene, redis_server: LocalRedis
) -> None:
    broker = build_broker(redis_server.url, verify_tls=True)
    try:
        broker.flush_all()
        broker.client.flushdb()
        publisher = Publisher(broker)
        needing = scene.changed(thin())
        scene.apply(needing)
        scene.changed(fields())
        scene.execute("UPDATE events SET claimable_at = claimable_at - interval '1 minute'")
        jobs = clock.jobs(scene.pool, publisher, Settings.load(environ={}))
        run_together([lambda: look(scene.pool, jobs, times=2)] * 2)
        assert publisher.queue_sizes() == {"events": 1, "fetches": 1, "runs": 0}
    finally:
        broker.close()


def test_processes_that_are_silent_are_not_counted_and_forgotten_after_a_day(scene: Scene) -> None:
    with scene.pool.connection() as connection:
        for name in ("a", "b", "c"):
            timetable.beat(connection, name, "worker")
        connection.execute("UPDATE processes SET beat_at = now() - interval '1 minute' WHERE name = 'b'")
        connection.execute("UPDATE processes SET beat_at = now() - interval '2 days' WHERE name = 'c'")
        assert {role: alive.count for role, alive in timetable.alive(connection).items()} == {"worker": 1}
        timetable.forget_silent_processes(connection)
        timetable.beat(connection, "b", "worker")
        timetable.leave(connection, "a")
        assert [row["name"] for row in connection.execute("SELECT name FROM processes")] == ["b"]
