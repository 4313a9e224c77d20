"""A process that is frozen, stops reading or vanishes keeps what it locked for seconds: others' deliveries go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import Trace

from processors.store import api_calls, inbox, runs, schema, settlement, zoho_connection
from processors.store.api_calls import Limits
from processors.store.database import AWAY, Connection, Pool
from processors.store.settlement import ItemDecision, Verdict
from processors.workflows import merging, steps
from processors.workflows.merging import Write
from processors.workflows.steps import Step
from processors.zoho import items
from tests.workflows.scene import DEADLINE, ITEM, Scene, fields, run_together

MOST_MS = 10_000
"""What others may have to wait for: less than two leases of an event."""

LIMITS = Limits(per_minute=90, per_day=2000, concurrent=4)


def messages(connection: Connection, file: Path, work: Callable[[], object]) -> list[str]:
    """Return the types of the messages that `work` sends, in order."""
    with file.open("w") as trace:
        connection.pgconn.trace(trace.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            work()
        finally:
            connection.pgconn.untrace()
    lines = [line.split("\t") for line in file.read_text("utf-8", "replace").splitlines()]
    return [parts[2] for parts in lines if parts[0] == "F"]


def test_a_call_to_zoho_is_admitted_by_one_statement_that_ends_its_transaction(
    connection: Connection, tmp_path: Path
) -> None:
    def admit() -> None:
        assert api_calls.admit(connection, "item", LIMITS).call_id is not None

    for _ in range(3):
        # However it is prepared: one Execute, and a Sync right behind what went before.
        sent = messages(connection, tmp_path / "trace", admit)
        assert (sent.count("Execute"), sent.count("Query"), sent[-1]) == (1, 0, "Sync")


@pytest.mark.parametrize("name", ["idle_in_transaction_session_timeout", "tcp_user_timeout"])
def test_what_a_silent_process_locks_is_free_before_two_leases_of_an_event_have_passed(
    pool: Pool, database_url: str, name: str
) -> None:
    statement = "SELECT setting::integer AS ms FROM pg_settings WHERE name = %s"
    with pool.connection() as ours, schema.connect(database_url) as migrating:
        for each in (ours, migrating):
            (row,) = each.execute(statement, [name]).fetchall()
            assert 0 < row["ms"] <= MOST_MS


def test_a_machine_that_vanished_is_missed_as_soon(connection: Connection) -> None:
    idle, interval, count = (
        int(str(connection.execute(f"SHOW tcp_keepalives_{part}".encode()).fetchall()[0][f"tcp_keepalives_{part}"]))
        for part in ("idle", "interval", "count")
    )
    assert 0 < (idle + interval * count) * 1000 <= MOST_MS


def test_the_lock_around_a_call_to_the_token_endpoint_outlives_no_such_call(connection: Connection) -> None:
    statement = "SELECT setting::integer AS ms FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
    with connection.transaction():
        zoho_connection.lock(connection)
        (within,) = connection.execute(statement).fetchall()
    (after,) = connection.execute(statement).fetchall()
    assert after["ms"] < within["ms"] == zoho_connection.LONGEST_TOKEN_CALL / timedelta(milliseconds=1) <= MOST_MS


def test_a_process_that_stops_reading_in_the_middle_of_an_answer_loses_its_locks(
    scene: Scene, database_url: str
) -> None:
    """The answer does not fit what lies between the two: its transaction waits for the reader before it commits."""
    scene.apply(scene.changed(fields()))
    silent = psycopg.connect(database_url, autocommit=True)
    silent.execute("SET tcp_user_timeout = 1000")
    silent.pgconn.send_query(b"UPDATE products SET updated_at = now() RETURNING repeat('x', 100000000)")
    assert silent.pgconn.flush() == 0
    _await_wait(scene, silent.info.backend_pid, "ClientWrite")
    # Whether what it did is undone or committed is nobody's business: its lease lapses.
    scene.execute("SELECT FROM products FOR UPDATE")
    silent.close()


def test_a_run_that_is_frozen_in_the_middle_of_a_page_holds_up_a_delivery_for_moments_and_writes_nothing(
    scene: Scene,
) -> None:
    scene.apply(scene.changed(fields()))
    is_frozen, may_go_on = threading.Event(), threading.Event()
    ended_by: list[BaseException] = []

    def work() -> None:
        with scene.pool.connection() as connection:
            opened = runs.open_run(connection, "full", "schedule")
            assert opened is not None
            run = runs.claim(connection, opened.id, worker="worker:frozen")
            assert run is not None
            connection.execute("SET idle_in_transaction_session_timeout = 200")

            def decide(*_: object) -> Step:
                current = settlement.read_current(connection, [ITEM])[ITEM]
                step = Step()
                body = items.read_body(fields(5, name="Of the run"))
                step.take_down(ITEM, current, merging.decide_change(current, ITEM, body))
                return step

            def freeze(_connection: Connection, _step: Step) -> None:
                is_frozen.set()
                assert may_go_on.wait(DEADLINE)

            try:
                steps.commit(connection, run, decide, freeze)
            except AWAY as error:
                ended_by.append(error)

    frozen = threading.Thread(target=work, daemon=True)
    frozen.start()
    assert is_frozen.wait(DEADLINE)
    # Waits for the row, and goes on when Postgres has ended the frozen transaction.
    delivery = scene.changed(fields(9, name="Delivered"))
    scene.apply(delivery)
    assert scene.outcomes([delivery]) == ["updated"]
    may_go_on.set()
    frozen.join(DEADLINE)
    assert len(ended_by) == 1
    assert scene.live()["name"] == "Delivered"
    assert [change["source"] for change in scene.changes()] == ["webhook", "webhook"]


def test_of_a_creation_and_an_absence_at_the_same_time_never_both_are_settled_on_what_was_known_before(
    scene: Scene,
) -> None:
    """Real concurrency, both orders: whichever is second sees what the first one did, and is decided anew."""
    ids = [str(4_100_000_000_000_000_000 + number) for number in range(60)]
    settled: dict[str, list[set[str]]] = {"creation": [], "absence": []}
    start = threading.Barrier(2)

    def settle_all(kind: str, decisions: list[ItemDecision]) -> None:
        with scene.pool.connection() as connection:
            for decision in decisions:
                start.wait(DEADLINE)
                settled[kind].append(settlement.settle(connection, [decision]))

    creations = [_creation(scene, item_id) for item_id in ids]
    absences = [_absence(scene, item_id) for item_id in ids]
    run_together([lambda: settle_all("creation", creations), lambda: settle_all("absence", absences)])
    both = [(bool(one), bool(other)) for one, other in zip(settled["creation"], settled["absence"], strict=True)]
    assert (True, True) not in both
    assert (False, False) not in both
    rows = {row["zoho_item_id"] for row in scene.execute("SELECT zoho_item_id FROM products")}
    assert rows == {item_id for item_id, (is_created, _) in zip(ids, both, strict=True) if is_created}


def _creation(scene: Scene, item_id: str) -> ItemDecision:
    event_id = scene.changed(fields(item_id=item_id))
    with scene.pool.connection() as connection:
        ((event, current),) = inbox.claim(connection, [event_id], worker="w", lease=timedelta(minutes=5))
    decided = merging.decide_change(current, item_id, items.read_body(fields(item_id=item_id)))
    assert isinstance(decided, Write)
    return ItemDecision(item_id, current, decided.product, verdicts=[Verdict(event, "created")])


def _absence(scene: Scene, item_id: str) -> ItemDecision:
    event_id = scene.deleted(item_id)
    with scene.pool.connection() as connection:
        ((event, current),) = inbox.claim(connection, [event_id], worker="w", lease=timedelta(minutes=5))
    return ItemDecision(item_id, current, verdicts=[Verdict(event, "gone")])


def _await_wait(scene: Scene, pid: int, event: str) -> None:
    """Return when the server's process `pid` waits for `event`."""
    deadline = time.monotonic() + DEADLINE
    statement = "SELECT wait_event, pg_sleep(0.005) FROM pg_stat_activity WHERE pid = %(pid)s"
    while [row["wait_event"] for row in scene.execute(statement, pid=pid)] != [event]:
        assert time.monotonic() < deadline, f"{event} is never waited for"
