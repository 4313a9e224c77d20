"""The operator's commands about runs and items, each in a process of its own, on a mirror without workers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import simulator
from processors.runtime import demo, procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.runtime.processes import build_reconciler
from processors.settings import Settings
from processors.store import database, runs, schema, timetable
from processors.zoho.client import ZohoClient

COLUMNS = 80
PASSWORD = "kept-to-itself"
LIST = "/inventory/v1/items"
UNKNOWN = "4100000000000999999"
NOWHERE = f"postgres://mirror:{PASSWORD}@127.0.0.1:1/none"

# A command that goes on showing its progress for so long shows not what it should.
_SECONDS_ON_TERMINAL = 45.0
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What rich and click read of the terminal they are started from.
_OF_A_TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str = ""

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def text(self) -> str:
        """Everything on standard output, wherever it was wrapped."""
        return " ".join(self.out.split())

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


class Shop:
    """A mirror without a worker or a clock, its Zoho, and an operator."""

    def __init__(self, database_url: str, redis_url: str, zoho: simulator.Zoho, zoho_url: str) -> None:
        self.zoho, self.database_url = zoho, database_url
        with_password = database_url.replace("postgres@", f"postgres:{PASSWORD}@")
        env = demo.environment(with_password, redis_url, zoho_url, 8000)
        self.env = {name: value for name, value in env.items() if name not in _OF_A_TERMINAL}

    def run(self, *arguments: str, **changed: str) -> Said:
        """Run a command without a terminal."""
        done = subprocess.run(
            _command(arguments),
            env=self.env | changed,
            cwd=procfile.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return self._looked_through(Said(done.returncode, done.stdout, done.stderr))

    def run_all(self, *commands: Sequence[str], **changed: str) -> list[Said]:
        """Run several commands at the same time."""
        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(lambda command: self.run(*command, **changed), commands))

    def on_terminal(self, *arguments: str, interrupted_at: str = "") -> Said:
        """Run a command on a terminal of 80 columns; Ctrl-C is pressed when a text appears."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, COLUMNS))
        env = self.env | {"TERM": "xterm-256color"}
        with subprocess.Popen(
            _command(arguments), env=env, cwd=procfile.ROOT, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            received, shown = b"", ""
            # Reading fails once the last process has closed its end.
            deadline = time.monotonic() + _SECONDS_ON_TERMINAL
            with contextlib.suppress(OSError):
                while chunk := os.read(ours, 65_536):
                    if time.monotonic() > deadline:
                        process.kill()
                    received += chunk
                    shown = _TERMINAL_CODE.sub("", received.decode("utf-8", "replace"))
                    if interrupted_at and interrupted_at in " ".join(shown.split()):
                        interrupted_at = ""
                        process.send_signal(signal.SIGINT)
            os.close(ours)
            code = process.wait(20)
        assert not interrupted_at, f"never showed {interrupted_at!r}, but {shown}"
        lines = [line.rstrip() for line in re.split(r"[\r\n]+", _TERMINAL_CODE.sub("", received.decode()))]
        return self._looked_through(Said(code, "\n".join(lines).strip()))

    def _looked_through(self, said: Said) -> Said:
        """What holds for everything that any command says: no secret, and no traceback."""
        told = said.out + said.err
        for name in (
            "ZOHO_CLIENT_SECRET",
            "ZOHO_REFRESH_TOKEN",
            "ZOHO_WEBHOOK_SECRETS",
            "ENCRYPTION_KEYS",
            "SESSION_SECRET",
        ):
            assert self.env[name] not in told, f"{name} was said"
        assert PASSWORD not in told
        assert "1000.access" not in told
        assert "Traceback" not in told, told
        return said

    def execute(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def row(self, run_id: int) -> dict[str, Any]:
        (row,) = self.execute("SELECT * FROM reconciliation_runs WHERE id = %(id)s", id=run_id)
        return row

    def reconcile(self, kind: runs.RunKind = "full") -> dict[str, Any]:
        """Do a whole run in this process, and return its row."""
        settings = Settings.load(environ=self.env)
        with database.sync_pool(self.database_url, size=6, name="tests") as pool, ZohoClient(pool, settings) as zoho:
            with pool.connection() as connection:
                run = runs.open_run(connection, kind, "cli")
            assert run is not None
            build_reconciler(pool, zoho, settings, "worker:test", is_stopping=lambda: False).work(run.id)
        return self.row(run.id)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Work in this process on whatever run there is, as a worker would."""
        settings, is_over = Settings.load(environ=self.env), threading.Event()

        def work() -> None:
            with (
                database.sync_pool(self.database_url, size=6, name="tests") as pool,
                ZohoClient(pool, settings) as zoho,
            ):
                reconciler = build_reconciler(pool, zoho, settings, "worker:test", is_stopping=is_over.is_set)
                while not is_over.wait(0.05):
                    for row in self.execute("SELECT id FROM reconciliation_runs WHERE state = 'running'"):
                        reconciler.work(row["id"])

        with ThreadPoolExecutor(1) as thread:
            worker = thread.submit(work)
            try:
                yield
            finally:
                is_over.set()
            worker.result(20)

    def have_worker(self) -> None:
        """Let it look as if a worker were alive."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            timetable.beat(connection, "worker:test", "worker")

    def delete_silently(self, count: int) -> None:
        for item in self.zoho.catalogue.all()[:count]:
            self.zoho.catalogue.delete(item.item_id, webhook=False)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "processors", *arguments]


@pytest.fixture
def shop(database_url: str, redis_server: LocalRedis) -> Iterator[Shop]:
    """Nothing mirrored yet of 30 items."""
    zoho = simulator.Zoho(simulator.Catalogue.generate(30), limits=simulator.Limits.none())
    with simulator.serve(zoho) as zoho_url:
        yield Shop(database_url, redis_server.url, zoho, zoho_url)


@dataclass(frozen=True)
class History:
    """A mirror with three complete runs, which no test here changes."""

    shop: Shop
    first: dict[str, Any]
    second: dict[str, Any]
    recent: dict[str, Any]
    edited: simulator.Item
    deleted: simulator.Item
    altered: simulator.Item


@pytest.fixture(scope="module")
def history(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[History]:
    zoho = simulator.Zoho(simulator.Catalogue.generate(250), limits=simulator.Limits.none())
    database_url = postgres.create_database("history")
    schema.migrate(database_url)
    with simulator.serve(zoho) as zoho_url:
        shop = Shop(database_url, redis_server.url, zoho, zoho_url)
        first = shop.reconcile()
        found = zoho.catalogue.all()
        for item in found[:12]:
            zoho.catalogue.edit(item.item_id, webhook=False, name=f"{item.name}, another", rate=item.rate + 1)
        for item in found[12:15]:
            zoho.catalogue.delete(item.item_id, webhook=False)
        shop.execute("UPDATE products SET price = 0.01 WHERE zoho_item_id = %(id)s", id=found[15].item_id)
        second = shop.reconcile()
        zoho.catalogue.edit(found[16].item_id, webhook=False, rate=found[16].rate + 1)
        yield History(shop, first, second, shop.reconcile("recent"), found[0], found[12], found[15])
    postgres.drop_database("history")


def fits(said: Said) -> bool:
    """Tell whether each line fits, and none was cut to make it fit."""
    return all(len(line) <= COLUMNS and "…" not in line for line in said.lines)


def mirrored(shop: Shop) -> dict[str, tuple[object, ...]]:
    rows = shop.execute("SELECT zoho_item_id, name, price, is_active FROM products WHERE deleted_at IS NULL")
    return {row["zoho_item_id"]: (row["name"], row["price"], row["is_active"]) for row in rows}


def in_zoho(shop: Shop) -> dict[str, tuple[object, ...]]:
    return {item.item_id: (item.name, item.rate, item.status == "active") for item in shop.zoho.catalogue.all()}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def test_reconcile_queues_a_run_or_names_the_one_under_way(shop: Shop) -> None:
    (queued,) = shop.run("reconcile", "--json").json
    assert queued["is_new"]
    assert queued["estimate"] == {"calls": None, "budget": 2000, "used": 0}
    plain, again, recent = shop.run_all(("reconcile",), ("reconcile", "--json"), ("reconcile", "--recent", "--json"))
    assert plain.code == again.code == recent.code == 0
    assert plain.out == f"Run {queued['run_id']} (full) is under way already; no second one was started.\n"
    assert again.json == [{**queued, "is_new": False}]
    assert [row["kind"] for row in shop.execute("SELECT kind FROM reconciliation_runs ORDER BY id")] == [
        "full",
        "recent",
    ]
    assert shop.row(recent.json[0]["run_id"])["kind"] == "recent"
    assert shop.zoho.calls() == 0


def test_waiting_takes_up_an_interrupted_run_and_does_the_work_where_no_worker_is(shop: Shop) -> None:
    run_id = shop.run("reconcile", "--json").json[0]["run_id"]
    started = time.monotonic()
    said = shop.run("reconcile", "--wait")
    assert time.monotonic() - started > 3  # the workers come first
    assert said.code == 0
    assert said.err == ""
    assert said.lines[0].startswith(f"Run {run_id} (full) is under way already")
    assert "\x1b" not in said.out
    assert f"Run {run_id}, full, complete" in said.lines
    assert "30 created, 0 updated, 0 unchanged, 0 deleted, 0 failed" in said.text
    assert "certificate 30 items, " in said.text
    assert mirrored(shop) == in_zoho(shop)
    assert shop.row(run_id)["trigger"] == "cli"


def test_waiting_in_json_says_the_start_the_progress_and_the_end(shop: Shop) -> None:
    shop.reconcile()
    item = shop.zoho.catalogue.all()[0]
    shop.zoho.catalogue.edit(item.item_id, webhook=False, rate=item.rate + 1)
    shop.zoho.faults.add(simulator.Fault(LIST, latency_seconds=0.8))
    with shop.working():
        said = shop.run("reconcile", "--recent", "--wait", "--json")
    assert said.code == 0
    start, *progress, end = said.json
    assert start["is_new"]
    assert start["estimate"]["calls"] == 1
    assert progress
    assert all(each.keys() == {"run_id", "phase", "pages", "waits_for"} for each in progress)
    assert {each["run_id"] for each in progress} == {start["run_id"]} == {end["id"]}
    assert (end["state"], end["kind"], end["updated"], end["drift"]) == ("complete", "recent", 1, 1)
    assert mirrored(shop) == in_zoho(shop)


def test_waiting_fails_with_the_reason_when_the_run_fails(shop: Shop) -> None:
    shop.zoho.faults.add(simulator.Fault(LIST, status=400, code=2, message="Invalid value passed"))
    with shop.working():
        said = shop.run("reconcile", "--wait")
    assert said.code == 1
    assert "full, failed" in said.text
    assert "Zoho answered 400, code 2" in said.text
    shop.have_worker()
    assert "ended failed: Zoho answered 400, code 2" in shop.run("status").text


def test_a_held_run_waits_for_a_person_who_confirms_or_discards(shop: Shop) -> None:
    shop.reconcile()
    shop.delete_silently(20)
    said = shop.on_terminal("reconcile", "--wait")
    assert said.code == 1
    (run,) = shop.execute("SELECT id FROM reconciliation_runs WHERE state = 'held'")
    run_id = str(run["id"])
    assert f"Run {run_id}, full, held" in said.text
    assert "20 of 30 products are missing in Zoho, more than 5 %" in said.text
    shop.have_worker()
    status, on_terminal = shop.run("status", "--json"), shop.on_terminal("status")
    assert status.code == on_terminal.code == 1
    assert f"run {run_id} is held" in status.json[0]["problems"][0]["what"]
    assert f"run {run_id} is held" in on_terminal.text
    assert f"confirm-deletes {run_id}" in on_terminal.text

    confirmed = shop.run("runs", "confirm-deletes", run_id)
    assert confirmed.code == 0
    assert "20 items" in confirmed.text
    row = shop.row(run["id"])
    assert row["state"] == "running"
    assert row["deletes_confirmed_by"].startswith("cli:")
    again = shop.run_all(("runs", "confirm-deletes", run_id), ("runs", "discard-deletes", run_id, "--json"))
    assert [each.code for each in again] == [1, 1]
    assert all("is running, not held" in each.err for each in again)

    shop.execute("UPDATE reconciliation_runs SET state = 'held', finished_at = now(), error = 'held'")
    (discarded,) = shop.run("runs", "discard-deletes", run_id, "--json").json
    assert (discarded["id"], discarded["state"], discarded["suspects"]) == (run["id"], "partial", 20)
    assert len(mirrored(shop)) == 30
    assert fits(said), said.out
    assert fits(on_terminal), on_terminal.out


def test_ctrl_c_hands_the_run_back_after_the_page_in_hand(shop: Shop) -> None:
    shop.zoho.faults.add(simulator.Fault(LIST, latency_seconds=0.7))
    with subprocess.Popen(
        _command(["reconcile", "--wait"]),
        env=shop.env,
        cwd=procfile.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        claimed = "SELECT id FROM reconciliation_runs WHERE attempts = 1"
        wait_for(lambda: bool(shop.execute(claimed)), "the command to take up the run")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in out
    (run,) = shop.execute("SELECT state, claimable_at <= now() AS is_free FROM reconciliation_runs")
    assert run == {"state": "running", "is_free": True}


def test_a_terminal_shows_why_a_run_waits_and_for_how_long(shop: Shop) -> None:
    shop.reconcile()
    shop.zoho.limits.per_day = 0
    with shop.working():
        said = shop.on_terminal("reconcile", "--wait", interrupted_at="answered 429, code 45")
    assert said.code == 1
    assert re.search(r"waits \d+ (min|h): Zoho's quota is used up: Zoho answered 429, code 45", said.text)
    assert fits(said), said.out
    shop.have_worker()
    on_terminal, in_json = shop.on_terminal("status"), shop.run("status", "--json").json[0]
    # The quota comes back by itself; but what keeps work from being done for hours is a problem with a name.
    assert on_terminal.code == 1
    assert "Zoho's quota is used up, since" in on_terminal.text
    assert "is under way and waits: Zoho's quota is used up: Zoho answered 429, code 45" in on_terminal.text
    assert re.search(r"none for \d+ (min|h): Zoho answered 429 with code 45", on_terminal.text)
    assert fits(on_terminal), on_terminal.out
    assert in_json["overview"]["api_usage"]["closed_for"] > timedelta(minutes=1).total_seconds()
    # Four were the first run's, one found out.
    assert shop.zoho.calls(LIST) == 5


def test_fetch_says_of_each_item_what_became_of_it(shop: Shop) -> None:
    shop.reconcile()
    same, edited, deleted, created = shop.zoho.catalogue.all()[:4]
    shop.zoho.catalogue.edit(edited.item_id, webhook=False, rate=edited.rate + 1)
    shop.zoho.catalogue.delete(deleted.item_id, webhook=False)
    shop.execute("DELETE FROM products WHERE zoho_item_id = %(id)s", id=created.item_id)
    said = shop.run("fetch", same.item_id, edited.item_id, deleted.item_id, created.item_id, UNKNOWN)
    assert said.code == 0
    told = {line.split()[0]: " ".join(line.split()[1:]) for line in said.lines}
    assert told[same.item_id] == "unchanged"
    assert told[edited.item_id] == f"updated price {edited.rate} → {edited.rate + 1}"
    assert told[deleted.item_id] == "tombstoned deleted"
    assert told[created.item_id].startswith("created ")
    assert told[UNKNOWN] == "gone"
    assert mirrored(shop) == in_zoho(shop)
    assert shop.execute("SELECT source, run_id FROM product_changes ORDER BY id DESC LIMIT 1") == [
        {"source": "fetch", "run_id": None}
    ]


def test_fetch_goes_on_behind_an_item_that_fails_and_fails_in_the_end(shop: Shop) -> None:
    broken, good = shop.zoho.catalogue.all()[:2]
    shop.zoho.faults.add(simulator.Fault(f"{LIST}/{broken.item_id}", status=500))
    shop.zoho.faults.add(simulator.Fault("*/itemdetails", status=500))
    said = shop.run("fetch", broken.item_id, good.item_id, "--json")
    assert said.code == 1
    failed, created = said.json
    assert (failed["item_id"], failed["outcome"]) == (broken.item_id, None)
    assert "500" in failed["error"]
    assert (created["item_id"], created["outcome"], created["error"]) == (good.item_id, "created", None)
    assert mirrored(shop).keys() == {good.item_id}


def test_fetch_says_when_zoho_is_not_connected_or_refuses_the_connection(shop: Shop) -> None:
    for token, reason in ((" ", "Zoho is not connected"), ("1000.wrong.one", "invalid_code")):
        said = shop.run("fetch", UNKNOWN, ZOHO_REFRESH_TOKEN=token)
        assert said.code == 1
        assert said.out.startswith(f"{UNKNOWN}  not fetched: ")
        assert reason in said.out
        assert "1000.wrong" not in said.out + said.err


def test_runs_lists_each_with_its_state_and_counts_on_80_columns(history: History) -> None:
    on_terminal, plain, in_json = (
        history.shop.on_terminal("runs"),
        history.shop.run("runs"),
        history.shop.run("runs", "--json"),
    )
    runs_newest_first = [history.recent, history.second, history.first]
    assert [each["id"] for each in in_json.json] == [run["id"] for run in runs_newest_first]
    assert [each["updated"] for each in in_json.json] == [run["updated"] for run in runs_newest_first]
    for said in (on_terminal, plain):
        assert said.code == 0
        assert fits(said), said.out
        lines = {words[0]: words for words in map(str.split, said.lines) if words}
        for run in runs_newest_first:
            words = lines[str(run["id"])]
            assert {run["kind"], run["state"]} <= set(words)
            assert {str(run[count]) for count in ("api_calls", "seen", "created", "updated", "deleted")} <= set(words)
    assert "\x1b" not in plain.out
    assert len(history.shop.run("runs", "--most", "1", "--json").json) == 1


def test_runs_of_a_large_catalogue_fit_too(shop: Shop) -> None:
    shop.execute(
        """INSERT INTO reconciliation_runs (id, kind, state, started_at, finished_at, pages, api_calls, seen, created,
                                            updated, deleted, failed)
           OVERRIDING SYSTEM VALUE
           VALUES (98765, 'full', 'complete', now() - interval '3 hours', now(), 523, 1987, 100321, 100311,
                   4321, 1234, 567)"""
    )
    said = shop.on_terminal("runs")
    assert fits(said), said.out
    for told in ("98765", "full", "complete", "1,987", "100,321", "100,311", "4,321", "1,234", "567"):
        assert told in said.text.split()


def test_runs_show_explains_every_repair(history: History) -> None:
    run = history.second
    run_id = str(run["id"])
    assert (run["updated"], run["deleted"], run["state"]) == (13, 3, "complete")
    on_terminal, (in_json,) = (
        history.shop.on_terminal("runs", "show", run_id),
        history.shop.run("runs", "show", run_id, "--json").json,
    )
    # Names may be shortened; what identifies and explains a repair is not.
    assert all(len(line) <= COLUMNS for line in on_terminal.lines), on_terminal.out
    assert f"Run {run_id}, full, complete" in on_terminal.lines
    assert "247 items on 2 pages" in on_terminal.text
    assert "0 created, 13 updated, 234 unchanged, 3 deleted, 0 failed" in on_terminal.text
    assert "Drift: 16 changes" in on_terminal.text
    assert run["certified_hash"] in on_terminal.text
    for item, cause in (
        (history.edited, "no_delivery"),
        (history.deleted, "no_delivery"),
        (history.altered, "altered_here"),
    ):
        assert item.item_id in on_terminal.text
        assert cause in on_terminal.text.split()
    causes = {cause["cause"]: cause["count"] for cause in in_json["causes"]}
    assert causes == {"no_delivery": 15, "altered_here": 1}
    assert in_json["drift"] == 16
    assert len(in_json["repairs"]) == 16
    altered = next(each for each in in_json["repairs"] if each["item_id"] == history.altered.item_id)
    assert altered["changes"]["price"] == ["0.01", str(history.altered.rate)]


def test_runs_show_says_that_there_was_no_drift(history: History) -> None:
    said = history.shop.run("runs", "show", str(history.first["id"]))
    assert said.code == 0
    assert "No drift" in said.text
    assert "250 loaded for the first time" in said.text


@pytest.mark.parametrize("state", ["partial", "held", "failed"])
def test_a_run_that_is_not_complete_does_not_say_that_there_was_no_drift(shop: Shop, state: str) -> None:
    (run,) = shop.execute(
        "INSERT INTO reconciliation_runs (kind, state, finished_at, error) VALUES ('full', %(state)s, now(), 'why')"
        " RETURNING id",
        state=state,
    )
    said = shop.run("runs", "show", str(run["id"]))
    assert f"full, {state}" in said.text
    assert "No drift" not in said.text


def test_runs_verify_computes_a_certificate_again(history: History) -> None:
    second, recent = str(history.second["id"]), str(history.recent["id"])
    on_terminal = history.shop.on_terminal("runs", "verify", second)
    in_json, without = history.shop.run_all(("runs", "verify", second, "--json"), ("runs", "verify", recent))
    assert on_terminal.code == in_json.code == 0
    assert history.second["certified_hash"] in on_terminal.text
    assert "It holds" in on_terminal.text
    assert fits(on_terminal), on_terminal.out
    assert in_json.json[0]["holds"]
    recomputed = in_json.json[0]["recomputed"]
    # One item was changed since; that is taken back.
    assert (recomputed["hash"], recomputed["changed_since"]) == (history.second["certified_hash"], 1)
    assert without.code == 1
    assert f"run {recent} has no certificate" in without.err


def test_runs_verify_notices_a_row_that_something_else_wrote(shop: Shop) -> None:
    run_id = str(shop.reconcile()["id"])
    item = shop.zoho.catalogue.all()[0]
    shop.execute("UPDATE products SET price = price + 1 WHERE zoho_item_id = %(id)s", id=item.item_id)
    plain, in_json = shop.run_all(("runs", "verify", run_id), ("runs", "verify", run_id, "--json"))
    assert plain.code == in_json.code == 1
    assert "It does not hold" in plain.text
    assert item.item_id in plain.text
    assert not in_json.json[0]["holds"]
    assert in_json.json[0]["recomputed"]["altered_item_ids"] == [item.item_id]


def test_changes_lists_what_was_changed_of_an_item_and_by_what(history: History) -> None:
    item = history.edited
    on_terminal = history.shop.on_terminal("changes", item.item_id)
    in_json, one, nothing = history.shop.run_all(
        ("changes", item.item_id, "--json"),
        ("changes", item.item_id, "--most", "1", "--json"),
        ("changes", UNKNOWN),
    )
    newest, oldest = in_json.json
    assert newest["changes"] == {
        "name": [item.name, f"{item.name}, another"],
        "price": [str(item.rate), str(item.rate + 1)],
        # In the simulator each item has a group of its own name.
        "group_name": [item.name, f"{item.name}, another"],
    }
    assert (newest["source"], newest["run_id"], newest["cause"]) == ("full", history.second["id"], "no_delivery")
    assert (oldest["run_id"], oldest["cause"]) == (history.first["id"], "first_load")
    assert one.json == [newest]
    assert on_terminal.code == nothing.code == 0
    assert f"price {item.rate} → {item.rate + 1}" in on_terminal.text
    assert f"full, run {history.second['id']}" in on_terminal.text
    assert all(len(line) <= COLUMNS for line in on_terminal.lines), on_terminal.out
    assert UNKNOWN in nothing.out


def test_status_fails_exactly_when_something_needs_a_person(shop: Shop) -> None:
    plain, in_json = shop.run_all(("status",), ("status", "--json"))
    assert plain.code == in_json.code == 1
    whats = [problem["what"] for problem in in_json.json[0]["problems"]]
    assert whats == ["Zoho is not connected", "no worker is alive", "no clock is alive: no run starts by itself"]
    assert all(what in plain.text for what in whats)
    run = shop.reconcile()
    shop.have_worker()
    plain, in_json, on_terminal = *shop.run_all(("status",), ("status", "--json")), shop.on_terminal("status")
    assert plain.code == in_json.code == on_terminal.code == 0
    assert in_json.json[0]["problems"] == []
    assert in_json.json[0]["overview"]["reconciliation"]["last_complete"]["full"]["id"] == run["id"]
    assert plain.lines[-1] == "Nothing needs a person."
    assert f"(run {run['id']})" in on_terminal.text
    assert "1 worker" in on_terminal.text
    assert fits(on_terminal), on_terminal.out


@pytest.mark.parametrize(
    "command", [("status",), ("runs",), ("reconcile",), ("changes", UNKNOWN)], ids=lambda command: str(command[0])
)
def test_what_is_said_of_an_empty_mirror_fits_80_columns(shop: Shop, command: tuple[str, ...]) -> None:
    said = shop.on_terminal(*command)
    assert said.out
    assert fits(said), said.out


COMMANDS = [
    ("reconcile", "--wait", "--json"),
    ("fetch", UNKNOWN),
    ("runs", "show", "1", "--json"),
]


def test_an_absent_postgres_is_one_line_and_exit_code_1(shop: Shop) -> None:
    for command, said in zip(COMMANDS, shop.run_all(*COMMANDS, DATABASE_URL=NOWHERE), strict=True):
        assert (said.code, said.out) == (1, ""), command
        (line,) = said.err.splitlines()
        text = json.loads(line)["error"] if "--json" in command else line
        assert text.startswith("Postgres does not answer: connection failed"), command


def test_a_database_that_was_not_migrated_is_one_line_that_says_so(shop: Shop, postgres: LocalPostgres) -> None:
    url = postgres.create_database("empty")
    try:
        for command, said in zip(COMMANDS, shop.run_all(*COMMANDS, DATABASE_URL=url), strict=True):
            assert (said.code, said.out) == (1, ""), command
            (line,) = said.err.splitlines()
            text = json.loads(line)["error"] if "--json" in command else line
            assert text == "the database is not up to date; run: python -m processors migrate", command
    finally:
        postgres.drop_database("empty")


def test_an_unknown_run_is_one_line_and_exit_code_1(shop: Shop) -> None:
    commands = [("runs", name, "77") for name in ("show", "confirm-deletes", "discard-deletes", "verify")]
    for said in shop.run_all(*commands):
        assert (said.code, said.out, said.err) == (1, "", "there is no run 77\n")


def test_wrong_usage_is_exit_code_2(shop: Shop) -> None:
    commands = [
        ("fetch",),
        ("runs", "show", "one"),
        ("runs", "--most", "-1"),
        ("changes", UNKNOWN, "--most", "-1"),
    ]
    assert [said.code for said in shop.run_all(*commands)] == [2] * len(commands)


def test_a_wrong_setting_is_a_line_that_names_it_and_exit_code_2(shop: Shop) -> None:
    for command, name, value in (
        ("status", "DATABASE_URL", "mysql://here"),
        ("status", "ENCRYPTION_KEYS", "short"),
        ("reconcile", "REDIS_URL", ""),
    ):
        said = shop.run(command, **{name: value})
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"{name} ")
        assert len(said.err.splitlines()) == 1


def test_an_absent_redis_does_not_keep_a_run_from_being_queued(shop: Shop) -> None:
    said = shop.run("reconcile", "--json", REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:1/0")
    assert said.code == 0
    assert shop.row(said.json[0]["run_id"])["state"] == "running"
