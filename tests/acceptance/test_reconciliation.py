"""Reconciliation by the Procfile's own processes, with everything real but Zoho: what holds through faults."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import psycopg
import pytest
import redis
from psycopg.rows import dict_row

import simulator
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from simulator import Catalogue, Fault, ManualClock, RetryPolicy
from tests.acceptance.installation import Installation, wait_for
from tests.acceptance.test_processes import edit, next_second, wait_until_delivered

LIST = "/inventory/v1/items"
SLOW = Fault(LIST, latency_seconds=0.8)
PER_PAGE = 200


class Mirror(Installation):
    """An installation with an operator at its command line."""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "processors", *arguments],
            env=self._env,
            cwd=procfile.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def execute(self, statement: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def queue_run(self) -> int:
        done = self.command("reconcile", "--json")
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["run_id"])

    def run_row(self, run_id: int) -> dict[str, Any]:
        query = f"SELECT *, claimable_at <= now() AS is_free FROM reconciliation_runs WHERE id = {run_id}"
        (row,) = self.execute(query)
        return row

    def wait_for_run(self, run_id: int, what: str, seconds: float, is_so: Callable[[dict[str, Any]], bool]) -> None:
        wait_for(lambda: is_so(self.run_row(run_id)), f"run {run_id} {what}", seconds)

    def wait_until_in_the_middle(self, run_id: int) -> None:
        self.wait_for_run(run_id, "to be in the middle", 20, lambda run: bool(run["pages"] >= 2))
        assert self.run_row(run_id)["state"] == "running"

    def wait_until_complete_run(self, run_id: int, seconds: float) -> None:
        self.wait_for_run(run_id, "to end", seconds, lambda run: bool(run["state"] != "running"))
        assert self.run_row(run_id)["state"] == "complete", self.run_row(run_id)["error"]

    def pages_asked_for(self) -> list[int]:
        """The pages of full runs, in the order of Zoho's answers."""
        queries = (parse_qs(request.query) for request in self.zoho.requests.all(LIST))
        return [int(query["page"][0]) for query in queries if query["sort_column"] == ["created_time"]]

    def change_silently(self) -> None:
        """Let every tenth item be wrong in the mirror."""
        next_second(self.zoho)
        for item in self.zoho.catalogue.all()[::10]:
            self.zoho.catalogue.edit(item.item_id, webhook=False, rate=item.rate + 1)
        assert self.mirrored() != self.in_zoho()

    def restore_quota(self) -> None:
        """Let the quotas have been left alone for long."""
        self.zoho.limits.per_day = None
        self.execute("UPDATE api_gate SET closed_until = 'epoch', strikes = 0")
        for column in ("started_at", "ends_at"):
            self.execute(f"UPDATE api_calls SET {column} = {column} - interval '2 minutes'")

    def calm(self) -> None:
        """Let everything go well again, and wait until nothing is under way."""
        self.zoho.faults.clear()
        self.redis.start()
        for line in ("web", "worker", "clock"):
            if line not in self.processes:
                self.start(line)
        self.restore_quota()
        running = "SELECT count(*) FROM reconciliation_runs WHERE state = 'running'"
        wait_for(lambda: self.one(running) == (0,), "what a test before left under way", 40)


def _install(stack: ExitStack, directory: Any, items: int) -> Mirror:
    # As for events: changes of one second would each cost a call to Zoho.
    clock = ManualClock(datetime.now(UTC) - timedelta(hours=1))
    zoho = simulator.Zoho(Catalogue.generate(items, clock=clock), limits=simulator.Limits.none())
    zoho.deliveries.retry = RetryPolicy(attempts=60, pause=timedelta(seconds=0.3), timeout=timedelta(seconds=8))
    postgres = stack.enter_context(LocalPostgres(directory / "postgres"))
    redis_server = stack.enter_context(LocalRedis())
    mirror = Mirror(postgres, redis_server, zoho, stack.enter_context(simulator.serve(zoho)), directory)
    stack.callback(mirror.close)
    mirror.run_release()
    for line in ("web", "worker", "clock"):
        mirror.start(line)
    mirror.wait_until_ready()
    zoho.deliveries.base_url = mirror.url
    mirror.wait_until_complete()
    return mirror


@pytest.fixture(scope="module")
def large_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Six pages, mirrored."""
    with ExitStack() as stack:
        yield _install(stack, tmp_path_factory.mktemp("large"), 1_100)


@pytest.fixture(scope="module")
def small_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Thirty items, mirrored."""
    with ExitStack() as stack:
        yield _install(stack, tmp_path_factory.mktemp("small"), 30)


@pytest.fixture
def large(large_installation: Mirror) -> Mirror:
    large_installation.calm()
    return large_installation


@pytest.fixture
def small(small_installation: Mirror) -> Mirror:
    small_installation.calm()
    return small_installation


def test_the_first_full_run_starts_by_itself_as_soon_as_zoho_is_connected(large: Mirror) -> None:
    # The installation was left alone until then.
    first, *others = large.execute("SELECT * FROM reconciliation_runs WHERE kind = 'full' ORDER BY id")
    assert (first["state"], first["trigger"], first["created"]) == ("complete", "schedule", 1_100)
    assert (first["failed"], first["deleted"], others) == (0, 0, [])
    assert large.mirrored() == large.in_zoho()


def test_a_killed_workers_run_goes_on_after_its_last_page_whatever_redis_holds_and_webhooks_say(large: Mirror) -> None:
    zoho = large.zoho
    large.change_silently()
    zoho.faults.add(SLOW)
    run_id = large.queue_run()
    stream = threading.Thread(target=edit, args=(zoho, 60), kwargs={"pause_seconds": 0.1})
    stream.start()
    large.wait_until_in_the_middle(run_id)
    large.kill("worker")
    with redis.Redis.from_url(large.redis.url) as client:
        client.flushall()
    asked, read = len(large.pages_asked_for()), large.run_row(run_id)["pages"]
    large.start("worker")
    large.wait_for_run(run_id, "to go on", 30, lambda run: bool(run["pages"] > read))
    zoho.faults.clear()
    large.wait_until_complete_run(run_id, 20)
    stream.join()
    # A page that was asked for before the kill and not committed is asked for again; what was committed is not.
    assert min(large.pages_asked_for()[asked:]) > read
    assert large.run_row(run_id)["attempts"] > 1
    wait_until_delivered(zoho)
    large.wait_until_finished()
    # Stock also moved behind the run, where no webhook says so.
    large.wait_until_complete_run(large.queue_run(), 20)
    assert large.mirrored() == large.in_zoho()
    assert large.one("SELECT count(*) FROM events WHERE state = 'dead'") == (0,)


def test_sigterm_hands_the_run_back_at_once_and_another_worker_takes_it_up_without_redis(large: Mirror) -> None:
    large.change_silently()
    large.zoho.faults.add(SLOW)
    run_id = large.queue_run()
    large.wait_until_in_the_middle(run_id)
    code, seconds = large.terminate("worker")
    assert (code, seconds < 25) == (0, True)
    handed_back = large.run_row(run_id)
    assert (handed_back["state"], handed_back["is_free"]) == ("running", True)
    assert (handed_back["failures"], handed_back["error"]) == (0, None)
    large.redis.stop()
    asked = len(large.pages_asked_for())
    large.zoho.faults.clear()
    large.start("worker")
    large.wait_until_complete_run(run_id, 30)
    assert min(large.pages_asked_for()[asked:]) > handed_back["pages"]
    assert large.mirrored() == large.in_zoho()


def test_a_run_survives_a_postgres_that_crashes(large: Mirror) -> None:
    large.change_silently()
    large.zoho.faults.add(SLOW)
    run_id = large.queue_run()
    large.wait_until_in_the_middle(run_id)
    asked, read = len(large.pages_asked_for()), large.run_row(run_id)["pages"]
    large.postgres.restart(immediate=True)
    large.zoho.faults.clear()
    large.wait_until_complete_run(run_id, 40)
    assert min(large.pages_asked_for()[asked:]) > read
    assert large.mirrored() == large.in_zoho()
    assert all(process.poll() is None for process in large.processes.values())


def test_slots_missed_while_no_clock_ran_start_one_run_even_with_two_clocks(small: Mirror) -> None:
    small.terminate("clock")
    small.execute("UPDATE jobs SET slot = slot - interval '3 days' WHERE name = 'reconcile-full'")
    small.execute("UPDATE jobs SET slot = 'epoch' WHERE name = 'relay-events'")
    (before,) = small.execute("SELECT max(id) AS id, now() AS at FROM reconciliation_runs WHERE kind = 'full'")
    for name in ("clock", "second clock"):
        small.start("clock", name)
    clocks = f"SELECT count(*) >= 2 FROM processes WHERE role = 'clock' AND started_at > '{before['at']}'"
    wait_for(lambda: small.one(clocks) == (True,), "both clocks")
    new = f"FROM reconciliation_runs WHERE kind = 'full' AND id > {before['id']}"
    wait_for(lambda: small.one(f"SELECT count(*) {new} AND state = 'complete'") == (1,), "the run")
    # Until both clocks have looked again, several times over.
    (then,) = small.execute("SELECT slot FROM jobs WHERE name = 'relay-events'")
    wait_for(
        lambda: small.one(f"SELECT slot > '{then['slot']}' FROM jobs WHERE name = 'relay-events'") == (True,),
        "the next slots",
    )
    assert [run["trigger"] for run in small.execute(f"SELECT trigger {new}")] == ["schedule"]
    small.terminate("second clock")


def test_status_fails_while_no_worker_is_alive_and_says_so(small: Mirror) -> None:
    beating = "SELECT count(*) FROM processes WHERE role = 'worker' AND beat_at > now() - interval '10 seconds'"
    wait_for(lambda: small.one(beating) == (1,), "the worker")
    well = small.command("status")
    assert (well.returncode, well.stderr) == (0, ""), well.stdout
    assert well.stdout.endswith("Nothing needs a person.\n")
    code, _ = small.terminate("worker")
    assert code == 0
    without = small.command("status")
    assert without.returncode == 1
    assert "no worker is alive" in without.stdout


def test_a_spent_quota_suspends_the_run_and_status_says_why(small: Mirror) -> None:
    small.zoho.limits.per_day = 0
    run_id = small.queue_run()
    small.wait_for_run(run_id, "to be suspended", 15, lambda run: run["error_class"] == "BudgetSpent")
    calls = small.zoho.calls(LIST)
    status = small.command("status")
    assert f"run {run_id} is under way and waits" in " ".join(status.stdout.split())
    assert "429 with code 45" in " ".join(status.stdout.split())
    # Nothing hands it over again before its time; the relay has looked by then.
    (then,) = small.execute("SELECT slot FROM jobs WHERE name = 'relay-runs'")
    wait_for(
        lambda: small.one(f"SELECT slot > '{then['slot']}' FROM jobs WHERE name = 'relay-runs'") == (True,), "the relay"
    )
    assert small.zoho.calls(LIST) == calls
    suspended = small.run_row(run_id)
    assert (suspended["state"], suspended["failures"], suspended["is_free"]) == ("running", 0, False)
    small.restore_quota()
    small.execute(f"UPDATE reconciliation_runs SET claimable_at = now() WHERE id = {run_id}")
    small.wait_until_complete_run(run_id, 20)


def test_a_held_mass_deletion_is_carried_out_when_a_person_confirms_it(small: Mirror) -> None:
    for item in small.zoho.catalogue.all()[:20]:
        small.zoho.catalogue.delete(item.item_id, webhook=False)
    run_id = small.queue_run()
    small.wait_for_run(run_id, "to be held", 15, lambda run: run["state"] == "held")
    assert len(small.mirrored()) == 30
    status = small.command("status")
    assert status.returncode == 1
    assert f"run {run_id} is held: 20 of 30 products are missing" in " ".join(status.stdout.split())
    confirmed = small.command("runs", "confirm-deletes", str(run_id))
    assert confirmed.returncode == 0, confirmed.stderr
    small.wait_until_complete_run(run_id, 30)
    assert small.run_row(run_id)["deleted"] == 20
    assert small.one("SELECT count(*) FROM products WHERE deleted_at IS NOT NULL") == (20,)
    assert small.mirrored() == small.in_zoho()
    assert "is held" not in small.command("status").stdout
