"""Alerts: people are told once a day of each cause, and once when it is over; whatever dies or is away meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from processors.errors import AlertNotSent
from processors.runtime import procfile
from processors.settings import Settings
from processors.store import alerts, timetable
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import alerting, insights
from processors.workflows.alerting import Alerting

MINUTE = timedelta(minutes=1)


@dataclass
class Chat:
    """Where alerts arrive."""

    url: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200

    def told(self) -> list[tuple[str, str]]:
        """Return state and cause of what arrived since it was asked last."""
        found = [(message["state"], message["cause"]) for message in self.messages]
        self.messages.clear()
        return found


@pytest.fixture
def chat() -> Iterator[Chat]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if here.status == 200:
                here.messages.append(message)
            self.send_response(here.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Chat(f"http://127.0.0.1:{server.server_port}/secret-path")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield here
        server.shutdown()


@dataclass
class Mirror:
    """A mirror whose time a test lets pass."""

    connection: Connection
    alerting: Alerting

    def look(self, *, after: timedelta = timedelta()) -> None:
        self.pass_time(after)
        self.connection.execute("UPDATE processes SET beat_at = now()")
        self.alerting.look()

    def pass_time(self, length: timedelta) -> None:
        self.connection.execute(
            """UPDATE alerts
                  SET opened_at = opened_at - %(by)s::interval, gone_since = gone_since - %(by)s::interval,
                      cleared_at = cleared_at - %(by)s::interval, sent_at = sent_at - %(by)s::interval,
                      try_at = try_at - %(by)s::interval""",
            {"by": length},
        )

    def die(self, role: str) -> None:
        self.connection.execute("DELETE FROM processes WHERE role = %s", (role,))

    def live(self, role: str) -> None:
        timetable.beat(self.connection, f"{role}:1", role)


@pytest.fixture
def mirror(connection: Connection, pool: Pool, database_url: str, chat: Chat) -> Mirror:
    """All is well here."""
    connection.execute("UPDATE zoho_connection SET refresh_token = 'x', organization_id = '10234695'")
    environ = {"DATABASE_URL": database_url, "ALERT_WEBHOOK_URL": chat.url, "PUBLIC_URL": "https://shop.example"}
    mirror = Mirror(connection, Alerting(pool, Settings.load(environ=environ)))
    for role in ("web", "worker", "clock"):
        mirror.live(role)
    return mirror


def test_where_all_is_well_nobody_is_told_anything(mirror: Mirror, chat: Chat) -> None:
    mirror.look()
    mirror.look(after=timedelta(days=2))
    assert chat.told() == []


def test_people_are_told_once_what_is_wrong_and_once_that_it_is_over(mirror: Mirror, chat: Chat) -> None:
    mirror.die("worker")
    mirror.look()
    assert chat.told() == [], "a restart is no outage"
    mirror.look(after=MINUTE)
    (message,) = chat.messages
    assert message["text"] == (
        "zoho-mirror: no worker is alive\n→ start one: python -m processors worker\nhttps://shop.example/console/"
    )
    assert (message["state"], message["cause"], message["what"]) == ("open", "worker.missing", "no worker is alive")
    chat.messages.clear()
    for _ in range(3):
        mirror.look(after=timedelta(hours=7))
    assert chat.told() == []
    mirror.look(after=timedelta(hours=7))
    assert chat.told() == [("open", "worker.missing")], "a day later once more"
    mirror.live("worker")
    mirror.look()
    assert chat.told() == [], "it may come and go"
    mirror.look(after=timedelta(minutes=5))
    assert chat.told() == [("cleared", "worker.missing")]
    mirror.look(after=timedelta(days=3))
    assert chat.told() == []


def test_what_comes_and_goes_is_told_once_a_day(mirror: Mirror, chat: Chat) -> None:
    for _ in range(10):
        mirror.die("clock")
        mirror.look()
        mirror.look(after=2 * MINUTE)
        mirror.live("clock")
        mirror.look()
        mirror.look(after=10 * MINUTE)
    assert chat.told() == [("open", "clock.missing"), ("cleared", "clock.missing")]


def test_what_nobody_was_told_of_is_over_without_a_word(mirror: Mirror, chat: Chat) -> None:
    mirror.die("clock")
    mirror.look()
    mirror.live("clock")
    mirror.look()
    mirror.look(after=6 * MINUTE)
    assert chat.told() == []
    assert [alert.is_open for alert in alerts.listed(mirror.connection)] == [False]


def test_a_message_that_did_not_arrive_is_sent_again_and_seen_on_the_screen(mirror: Mirror, chat: Chat) -> None:
    mirror.die("worker")
    chat.status = 500
    mirror.look()
    for _ in range(3):
        mirror.look(after=timedelta(minutes=10))
    found = insights.problems(insights.overview(mirror.connection))
    (failing,) = [problem.what for problem in found if problem.cause == "alerts.failing"]
    assert "ALERT_WEBHOOK_URL answered 500" in failing
    for _ in range(2):
        mirror.look(after=timedelta(hours=1))
    chat.status = 200
    mirror.look(after=timedelta(hours=1))
    assert chat.told() == [("open", "worker.missing")], "that it could not be told is no news once it is"
    found = insights.problems(insights.overview(mirror.connection))
    assert not [problem for problem in found if problem.cause == "alerts.failing"]


def test_failing_to_tell_is_tried_less_and_less_often(mirror: Mirror, chat: Chat) -> None:
    mirror.die("worker")
    chat.status = 500
    mirror.look()
    mirror.look(after=MINUTE)
    mirror.look()
    (alert,) = alerts.listed(mirror.connection)
    assert alert.failures == 1, "it rests"


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("UPDATE zoho_connection SET last_error = 'invalid_code'", "zoho.refused"),
        ("UPDATE zoho_connection SET refresh_token = NULL", "zoho.not_connected"),
        (
            """INSERT INTO events (kind, state, body, content_type, query_string, error, error_class)
               VALUES ('changed', 'dead', '', '', '', 'why', 'BodyUnreadable')""",
            "events.dead",
        ),
        (
            """INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at, error)
               VALUES ('full', 'held', 'schedule', now(), now(), 'many are missing')""",
            "run.held",
        ),
        (
            """INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at, error, error_class)
               VALUES ('full', 'failed', 'schedule', now(), now(), 'why', 'ZohoUnavailable')""",
            "run.failed",
        ),
        (
            """INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at)
               VALUES ('full', 'complete', 'schedule', now() - interval '3 days', now() - interval '3 days')""",
            "run.overdue",
        ),
        (
            """INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at, webhooks)
               VALUES ('full', 'complete', 'schedule', now(), now(), 'dead')""",
            "webhooks.dead",
        ),
        (
            """INSERT INTO rejections VALUES (date_trunc('hour', now()), 'changed', 'signature_mismatch', 9)""",
            "webhooks.signature_mismatch",
        ),
        (
            """INSERT INTO api_calls (purpose, started_at, ends_at)
               SELECT 'item', now(), now() FROM generate_series(1, 2000)""",
            "quota.exhausted",
        ),
        (
            """WITH run AS (
                   INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at)
                   VALUES ('full', 'complete', 'schedule', now(), now()) RETURNING id)
               INSERT INTO product_changes (item_id, source, run_id, changes, cause)
               SELECT '1', 'full', id, '{"price": ["1", "2"]}', 'no_delivery' FROM run""",
            "drift",
        ),
    ],
)
def test_people_are_told_of_each_cause(mirror: Mirror, chat: Chat, statement: str, cause: str) -> None:
    mirror.connection.execute(statement.encode())
    mirror.look()
    mirror.look(after=2 * MINUTE)
    assert ("open", cause) in chat.told()


def test_drift_is_told_but_calls_for_nobody(mirror: Mirror) -> None:
    mirror.connection.execute(
        """WITH run AS (
               INSERT INTO reconciliation_runs (kind, state, trigger, started_at, finished_at)
               VALUES ('full', 'complete', 'schedule', now(), now()) RETURNING id)
           INSERT INTO product_changes (item_id, source, run_id, changes, cause)
           SELECT '1', 'full', id, '{"price": ["1", "2"]}', 'no_delivery' FROM run"""
    )
    assert insights.problems(insights.overview(mirror.connection)) == []


def test_many_who_look_at_once_tell_it_once(mirror: Mirror, chat: Chat) -> None:
    mirror.die("worker")
    mirror.look()
    mirror.pass_time(2 * MINUTE)
    threads = [threading.Thread(target=mirror.alerting.look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert chat.told() == [("open", "worker.missing")]


def test_of_all_processes_one_looks_at_a_time(mirror: Mirror, connection: Connection) -> None:
    mirror.alerting.look_if_due()
    slot = connection.execute("SELECT slot FROM jobs WHERE name = 'alerts'").fetchone()
    assert slot is not None
    mirror.die("worker")
    mirror.alerting.look_if_due()
    assert alerts.listed(connection) == [], "this slot was taken"


def test_whoever_is_killed_between_sending_and_noting_tells_it_twice_and_not_never(
    mirror: Mirror, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """SIGKILL, as far as Postgres can tell."""

    def die(*_: object) -> None:
        raise Killed

    mirror.die("worker")
    mirror.look()
    with monkeypatch.context() as patched:
        patched.setattr(alerts, "note_sent", die)
        with pytest.raises(Killed):
            mirror.look(after=2 * MINUTE)
    mirror.look()
    assert chat.told() == [("open", "worker.missing")], "whoever has it may still be sending"
    mirror.look(after=MINUTE)
    assert chat.told() == [("open", "worker.missing")]


def test_without_an_address_nobody_looks(pool: Pool, connection: Connection, database_url: str) -> None:
    Alerting(pool, Settings.load(environ={"DATABASE_URL": database_url})).look_if_due()
    assert connection.execute("SELECT FROM jobs WHERE name = 'alerts'").fetchone() is None


def test_a_test_message_arrives_and_is_on_record(mirror: Mirror, chat: Chat, connection: Connection) -> None:
    alerting.send_test(mirror.alerting.pool, mirror.alerting.settings, Requester("console", "ada"))
    assert chat.messages[0]["text"].startswith("zoho-mirror: a test, sent by ada")
    assert connection.execute("SELECT action FROM audit_log").fetchall() == [{"action": "alerts.tested"}]


def test_an_address_that_does_not_answer_is_named_nowhere() -> None:
    settings = Settings.load(environ={"ALERT_WEBHOOK_URL": "http://127.0.0.1:9/secret-path"})
    with pytest.raises(AlertNotSent, match="did not answer") as raised:
        alerting.post(settings, {}, sleep=lambda _seconds: None)
    assert "secret-path" not in str(raised.value)


def test_the_commands(mirror: Mirror, chat: Chat, database_url: str) -> None:
    mirror.die("worker")
    mirror.look()
    mirror.look(after=2 * MINUTE)
    chat.told()
    environ = procfile.environment(DATABASE_URL=database_url, ALERT_WEBHOOK_URL=chat.url)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "processors", "alerts", *arguments]
        return subprocess.run(
            command, env=environ, cwd=procfile.ROOT, capture_output=True, text=True, timeout=30, check=False
        )

    assert "no worker is alive" in run().stdout
    assert json.loads(run("--json").stdout)["cause"] == "worker.missing"
    done = run("test")
    assert (done.returncode, chat.told()) == (0, [("test", "test")])
    chat.status = 404
    done = run("test")
    assert (done.returncode, done.stderr) == (1, "ALERT_WEBHOOK_URL answered 404\n")
