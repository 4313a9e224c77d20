"""The runs' rows: one of a kind at a time, worked on by whoever claimed it last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from processors.errors import LeaseLost
from processors.store import runs
from processors.store.certificates import Certificate
from processors.store.database import Connection, Pool
from processors.store.runs import Check, Counts, KeptPage, Run, RunKind, RunState, Unusable
from processors.workflows import browsing
from tests.workflows.scene import Scene, run_together

HOUR = timedelta(hours=1)
MOMENT = datetime(2026, 10, 5, 12, tzinfo=UTC)
GRACE = timedelta(seconds=2)
PATIENCE = timedelta(seconds=10)
INCOMPLETE: tuple[RunState, ...] = ("partial", "held", "failed")
ENDS: tuple[RunState, ...] = ("complete", *INCOMPLETE)
PAGE = KeptPage(["1"], MOMENT)


def opened(connection: Connection, kind: RunKind = "full") -> Run:
    run = runs.open_run(connection, kind, "cli")
    assert run is not None
    return run


def claimed(connection: Connection, run: Run, worker: str = "w") -> Run:
    run_claimed = runs.claim(connection, run.id, worker=worker)
    assert run_claimed is not None
    return run_claimed


def working(connection: Connection, kind: RunKind = "full") -> Run:
    """Open a run and claim it."""
    return claimed(connection, opened(connection, kind))


def now(connection: Connection, run: Run) -> Run:
    found = runs.find(connection, run.id)
    assert found is not None
    return found


def let_lapse(connection: Connection, by: timedelta = HOUR) -> None:
    """Let every lease and every wait be over."""
    connection.execute("UPDATE reconciliation_runs SET claimable_at = now() - %s::interval", [by])


def product(connection: Connection, item_id: str, **columns: Any) -> None:
    values = {"zoho_item_id": item_id, "zoho_last_modified_at": MOMENT, "created_at": MOMENT, **columns}
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    connection.execute(f"INSERT INTO products ({names}) VALUES ({places})", values)


# Opened


@pytest.mark.parametrize("kind", ["full", "recent"])
def test_one_run_of_a_kind_is_under_way_at_a_time(connection: Connection, kind: RunKind) -> None:
    run = opened(connection, kind)
    assert runs.open_run(connection, kind, "console") is None
    assert runs.find_running(connection, kind) == run
    runs.finish(connection, claimed(connection, run), "complete")
    assert runs.find_running(connection, kind) is None
    assert opened(connection, kind).id != run.id


def test_a_run_of_one_kind_does_not_keep_the_other_from_running(connection: Connection) -> None:
    assert opened(connection, "full").id != opened(connection, "recent").id


def test_a_run_that_ended_keeps_nothing_from_running(connection: Connection) -> None:
    for state in ENDS:
        runs.finish(connection, working(connection), state, error="x")
    opened(connection)


def test_of_many_that_open_a_run_at_once_one_does(pool: Pool) -> None:
    found: list[Run | None] = []

    def work() -> None:
        with pool.connection() as connection:
            found.append(runs.open_run(connection, "full", "schedule"))

    run_together([work] * 6)
    assert len([run for run in found if run]) == 1


def test_a_run_notes_what_is_known_at_its_beginning(connection: Connection) -> None:
    assert (opened(connection).known_since, opened(connection, "recent").modified_since) == (None, None)
    for kind, running in (("full", runs.find_running(connection, "full")), ("recent", None)):
        run = running or runs.find_running(connection, "recent")
        assert run is not None
        assert run.kind == kind
        watermark = MOMENT if kind == "full" else MOMENT + HOUR
        runs.finish(connection, claimed(connection, run), "complete", watermark=watermark)
    first = runs.last_complete(connection)["full"]
    for number in range(3):
        product(connection, str(number))
    product(connection, "gone", deleted_at=MOMENT)
    full, recent = opened(connection), opened(connection, "recent")
    assert (full.known_since, full.modified_since, full.expected_items) == (first.started_at, None, 3)
    assert (recent.known_since, recent.expected_items) == (first.started_at, 0)
    assert recent.modified_since == MOMENT + HOUR - runs.RECENT_OVERLAP


def test_only_a_complete_run_makes_anything_known(connection: Connection) -> None:
    for state in INCOMPLETE:
        runs.finish(connection, working(connection), state, error="x", watermark=MOMENT)
    assert (opened(connection).known_since, opened(connection, "recent").modified_since) == (None, None)


# Claims and leases


def test_a_claimed_run_is_nobody_elses_until_its_lease_lapses(connection: Connection) -> None:
    run = working(connection)
    assert (run.attempts, run.claimed_by) == (1, "w")
    assert runs.claim(connection, run.id, worker="other") is None
    let_lapse(connection)
    again = claimed(connection, run, "other")
    assert (again.attempts, again.claimed_by) == (2, "other")


def test_a_lease_lasts_from_the_claim_and_is_renewed_from_then(connection: Connection) -> None:
    run = working(connection)
    let_lapse(connection)
    assert runs.renew_lease(connection, run)
    assert runs.claim(connection, run.id, worker="other") is None
    (row,) = connection.execute("SELECT claimable_at - now() AS lease FROM reconciliation_runs").fetchall()
    assert timedelta(0) < row["lease"] <= runs.LEASE


def test_a_run_that_ended_is_not_claimed(connection: Connection) -> None:
    for state in ENDS:
        run = working(connection)
        runs.finish(connection, run, state, error="x")
        let_lapse(connection)
        assert runs.claim(connection, run.id, worker="w") is None
        assert not runs.renew_lease(connection, run)


def test_of_many_that_claim_a_run_at_once_one_has_it(pool: Pool, connection: Connection) -> None:
    run = opened(connection)
    found: list[Run | None] = []

    def work() -> None:
        with pool.connection() as own:
            found.append(runs.claim(own, run.id, worker="w"))

    run_together([work] * 6)
    assert len([run for run in found if run]) == 1


def test_a_released_run_may_be_taken_up_after_its_wait_by_anybody(connection: Connection) -> None:
    run = working(connection)
    assert runs.release(connection, run, wait=HOUR, error=ValueError("later"))
    assert runs.claim(connection, run.id, worker="other") is None
    released = now(connection, run)
    assert (released.error_class, released.error, released.failures) == ("ValueError", "later", 0)
    let_lapse(connection)
    run = claimed(connection, run, "other")
    assert runs.release(connection, run, wait=timedelta())
    assert now(connection, run).error is None
    claimed(connection, run)


def test_failures_are_counted_until_something_goes_well(connection: Connection) -> None:
    run = working(connection)
    for failures in (1, 2):
        assert runs.release(connection, run, wait=timedelta(), error=KeyError(), counts=True)
        assert now(connection, run).failures == failures
        assert now(connection, run).error == "KeyError"
        run = claimed(connection, run)
    assert runs.release(connection, run, wait=timedelta(), error=ValueError("only waits"))
    assert now(connection, run).failures == 2
    run = claimed(connection, run)
    runs.advance(connection, run, Counts())
    advanced = now(connection, run)
    assert (advanced.failures, advanced.error_class, advanced.error) == (0, None, None)


def test_whoever_was_frozen_past_his_lease_does_nothing_more(connection: Connection) -> None:
    frozen = working(connection)
    let_lapse(connection)
    claimed(connection, frozen, "other")
    before = now(connection, frozen)
    assert not runs.renew_lease(connection, frozen)
    assert not runs.release(connection, frozen, wait=timedelta())
    with pytest.raises(LeaseLost):
        runs.advance(connection, frozen, Counts(seen=1), page=PAGE)
    with pytest.raises(LeaseLost):
        runs.end_listing(connection, frozen)
    with pytest.raises(LeaseLost):
        runs.finish(connection, frozen, "complete")
    assert now(connection, frozen) == before


def test_a_lapsed_lease_that_nobody_took_is_still_good(connection: Connection) -> None:
    run = working(connection)
    let_lapse(connection)
    runs.advance(connection, run, Counts(), page=PAGE)
    assert now(connection, run).pages == 1
    assert runs.claim(connection, run.id, worker="other") is None


# Progress


def test_progress_adds_up(connection: Connection) -> None:
    run = working(connection)
    counts = Counts(seen=5, created=1, updated=2, unchanged=3, failed=4, deleted=6, missed=7)
    runs.advance(connection, run, counts, page=PAGE, read_to=200, newest_modified_at=MOMENT)
    runs.advance(connection, run, counts, page=PAGE, read_to=400, newest_modified_at=MOMENT - HOUR)
    runs.advance(connection, run, Counts())
    made = now(connection, run)
    assert (made.pages, made.read_to, made.newest_modified_at) == (2, 400, MOMENT)
    assert (made.seen, made.created, made.updated, made.unchanged) == (10, 2, 4, 6)
    assert (made.failed, made.deleted, made.missed) == (8, 12, 14)


def test_a_runs_calls_are_those_on_its_account(connection: Connection) -> None:
    run = working(connection)
    for run_id in (run.id, run.id, None, run.id + 1):
        connection.execute("INSERT INTO api_calls (ends_at, purpose, run_id) VALUES (now(), 'sweep', %s)", [run_id])
    runs.advance(connection, run, Counts())
    assert now(connection, run).api_calls == 2
    connection.execute("INSERT INTO api_calls (ends_at, purpose, run_id) VALUES (now(), 'sweep', %s)", [run.id])
    assert runs.finish(connection, run, "complete").api_calls == 3


def test_the_last_page_is_kept_with_the_run(connection: Connection) -> None:
    run = working(connection)
    assert runs.last_page(connection, run) is None
    for page in (KeptPage(["1", "2"], MOMENT), KeptPage(["3"], None), KeptPage([], None)):
        runs.advance(connection, run, Counts(), page=page)
        # One that shows nothing tells nothing of where the reading is.
        assert runs.last_page(connection, run) == (page if page.item_ids else KeptPage(["3"], None))
    assert runs.last_page(connection, working(connection, "recent")) is None


def test_what_cannot_be_applied_is_kept_once_as_a_dead_event(scene: Scene, connection: Connection) -> None:
    run = working(connection)
    odd = [Unusable("1", b'{"item_id": "1"}', ValueError("odd")), Unusable(None, b"7", KeyError())]
    runs.keep_unusable(connection, run, odd)
    runs.keep_unusable(connection, run, [*odd, Unusable("1", b'{"item_id": "1", "more": 1}', ValueError("odder"))])
    runs.keep_unusable(connection, run, [])
    kept = scene.execute("SELECT kind, item_id, state, error_class, error, body, run_id FROM events ORDER BY error")
    assert [tuple(row.values()) for row in kept] == [
        ("changed", None, "dead", "KeyError", "KeyError", b"7", run.id),
        ("changed", "1", "dead", "ValueError", "odd", b'{"item_id": "1"}', run.id),
        ("changed", "1", "dead", "ValueError", "odder", b'{"item_id": "1", "more": 1}', run.id),
    ]


# Checks and suspects


def listing_of(connection: Connection, run: Run, *pages: Sequence[str]) -> None:
    for page in pages:
        runs.advance(connection, run, Counts(seen=len(page)), page=KeptPage(page, MOMENT if page else None))


def checks(connection: Connection, run: Run, *, is_suspect: bool, most: int = 100) -> list[str]:
    return [check.item_id for check in runs.next_checks(connection, run, is_suspect=is_suspect, most=most)]


def test_what_no_page_showed_is_suspect_if_it_was_there_and_live_when_the_run_began(connection: Connection) -> None:
    for item_id in ("shown first", "shown last", "missing", "missing too"):
        product(connection, item_id)
    product(connection, "tombstoned", deleted_at=MOMENT)
    run = working(connection)
    product(connection, "created since", created_at=run.started_at + timedelta(milliseconds=1))
    listing_of(connection, run, ["shown first", "unknown"], ["unknown", "shown last"])
    runs.add_checks(connection, run, [("unknown", "two contents of one second")])
    ended = runs.end_listing(connection, run)
    assert (ended.phase, ended.seen, ended.suspects, ended.suspected_of) == ("checking", 3, 2, 4)
    assert ended.listed_until == MOMENT
    assert runs.next_checks(connection, run, is_suspect=True, most=9) == [
        Check("missing", "no page showed it", is_suspect=True),
        Check("missing too", "no page showed it", is_suspect=True),
    ]
    assert runs.next_checks(connection, run, is_suspect=False, most=9) == [
        Check("unknown", "two contents of one second", is_suspect=False)
    ]
    assert runs.last_page(connection, run) is None


def test_a_row_that_was_created_at_the_very_start_is_no_suspect(connection: Connection) -> None:
    run = working(connection)
    product(connection, "at the start", created_at=run.started_at)
    product(connection, "just before", created_at=run.started_at - timedelta(microseconds=1))
    listing_of(connection, run, [])
    runs.end_listing(connection, run)
    assert checks(connection, run, is_suspect=True) == ["just before"]


def test_a_recent_run_suspects_nothing(connection: Connection) -> None:
    product(connection, "1")
    run = working(connection, "recent")
    listing_of(connection, run, [])
    assert runs.end_listing(connection, run).suspects == 0
    assert checks(connection, run, is_suspect=True) == []


def test_a_run_does_not_suspect_what_another_runs_pages_showed(connection: Connection) -> None:
    product(connection, "1")
    recent, full = working(connection, "recent"), working(connection)
    listing_of(connection, recent, ["1"])
    listing_of(connection, full, ["2"])
    runs.end_listing(connection, full)
    assert checks(connection, full, is_suspect=True) == ["1"]
    assert runs.last_page(connection, recent) == KeptPage(["1"], MOMENT)


def test_the_listing_ends_once(connection: Connection) -> None:
    run = working(connection)
    listing_of(connection, run, ["1"])
    ended = runs.end_listing(connection, run)
    with pytest.raises(LeaseLost):
        runs.end_listing(connection, run)
    assert now(connection, run) == ended


def test_the_end_of_a_list_is_the_last_item_that_a_page_showed(connection: Connection) -> None:
    run = working(connection)
    listing_of(connection, run, ["1", "2"], [])
    ended = runs.end_listing(connection, run)
    assert ended.listed_until is not None
    assert ended.listed_to_id == "2"


def test_checks_are_worked_through_and_cleared(connection: Connection) -> None:
    run, other = working(connection), working(connection, "recent")
    runs.add_checks(connection, run, [(str(number), "why") for number in range(9)])
    runs.add_checks(connection, run, [("3", "another reason")])
    runs.add_checks(connection, other, [("0", "why")])
    assert checks(connection, run, is_suspect=False, most=3) == ["0", "1", "2"]
    runs.clear_checks(connection, run, ["0", "2"])
    assert checks(connection, run, is_suspect=False, most=3) == ["1", "3", "4"]
    assert checks(connection, other, is_suspect=False) == ["0"]
    (check,) = [check for check in runs.next_checks(connection, run, is_suspect=False, most=9) if check.item_id == "3"]
    assert check.reason == "why"


def test_a_sample_is_spread_over_the_suspects_and_always_the_same(connection: Connection) -> None:
    for number in range(1000, 1200):
        product(connection, str(number))
    run = working(connection)
    listing_of(connection, run, [])
    runs.end_listing(connection, run)
    runs.add_checks(connection, run, [("0", "no suspect")])
    sample = [int(check.item_id) for check in runs.sample_suspects(connection, run, most=10)]
    assert len(set(sample)) == 10
    assert min(sample) >= 1000
    assert max(sample) - min(sample) > 50
    assert sample == [int(check.item_id) for check in runs.sample_suspects(connection, run, most=10)]


# The end


def test_a_complete_run_leaves_watermark_and_certificate(connection: Connection) -> None:
    run = working(connection)
    certificate = Certificate(3, "ab" * 16, MOMENT, "1:2:")
    ended = runs.finish(connection, run, "complete", watermark=MOMENT, webhooks="quiet", certificate=certificate)
    assert (ended.state, ended.watermark, ended.webhooks, ended.certificate) == (
        "complete",
        MOMENT,
        "quiet",
        certificate,
    )
    assert ended.finished_at is not None
    assert now(connection, run) == ended
    assert runs.last_complete(connection) == {"full": ended}


def test_a_run_that_ends_incomplete_says_why(connection: Connection) -> None:
    ended = runs.finish(connection, working(connection), "partial", error=ValueError("a fault"))
    assert (ended.state, ended.error_class, ended.error, ended.certificate) == (
        "partial",
        "ValueError",
        "a fault",
        None,
    )
    assert runs.last_complete(connection) == {}


def test_a_run_cannot_end_incomplete_without_a_reason(connection: Connection) -> None:
    run = working(connection)
    for state in INCOMPLETE:
        with pytest.raises(psycopg.errors.CheckViolation):
            runs.finish(connection, run, state)


@pytest.mark.parametrize("state", ["complete", "partial"])
def test_a_run_that_ended_leaves_neither_pages_nor_checks(connection: Connection, state: RunState) -> None:
    run = working(connection)
    listing_of(connection, run, ["1"])
    runs.add_checks(connection, run, [("1", "why")])
    runs.finish(connection, run, state, error="x")
    assert connection.execute("SELECT FROM run_pages UNION ALL SELECT FROM run_checks").fetchall() == []


def held(connection: Connection) -> Run:
    run = working(connection)
    runs.add_checks(connection, run, [("1", "why")])
    return runs.finish(connection, run, "held", error="too many")


def test_a_held_run_keeps_its_suspects_until_it_is_decided(connection: Connection) -> None:
    run = held(connection)
    assert checks(connection, run, is_suspect=False) == ["1"]
    confirmed = runs.confirm_deletes(connection, run.id, "ada")
    assert confirmed is not None
    assert (confirmed.state, confirmed.deletes_confirmed_by, confirmed.finished_at) == ("running", "ada", None)
    assert checks(connection, claimed(connection, run), is_suspect=False) == ["1"]


def test_a_held_run_whose_deletions_are_discarded_is_partial(connection: Connection) -> None:
    run = held(connection)
    discarded = runs.discard_deletes(connection, run.id, "ada")
    assert discarded is not None
    assert (discarded.state, discarded.error_class) == ("partial", None)
    assert "ada" in (discarded.error or "")
    assert checks(connection, run, is_suspect=False) == []


@pytest.mark.parametrize("state", ["complete", "partial", None])
def test_what_is_not_held_is_not_decided(connection: Connection, state: RunState | None) -> None:
    run = working(connection)
    if state:
        runs.finish(connection, run, state, error="x")
    before = now(connection, run)
    assert runs.confirm_deletes(connection, run.id, "ada") is None
    assert runs.discard_deletes(connection, run.id, "ada") is None
    assert now(connection, run) == before


def test_a_held_run_does_not_go_on_beside_another(connection: Connection) -> None:
    run = held(connection)
    opened(connection)
    with pytest.raises(psycopg.errors.UniqueViolation):
        runs.confirm_deletes(connection, run.id, "ada")
    assert now(connection, run).state == "held"


@pytest.mark.parametrize("state", ["complete", "held"])
def test_a_later_full_run_supersedes_what_is_held(connection: Connection, state: RunState) -> None:
    former, older = held(connection), working(connection)
    older = runs.finish(connection, older, "failed", error="of its own")
    later = working(connection)
    runs.add_checks(connection, later, [("2", "why")])
    runs.finish(connection, later, state, error="too many" if state == "held" else None)
    superseded = now(connection, former)
    assert (superseded.state, superseded.error) == ("partial", f"superseded by run {later.id}")
    assert checks(connection, former, is_suspect=False) == []
    assert checks(connection, later, is_suspect=False) == (["2"] if state == "held" else [])
    assert now(connection, older) == older


@pytest.mark.parametrize(("kind", "state"), [("full", "partial"), ("full", "failed"), ("recent", "complete")])
def test_a_run_that_cannot_stand_for_it_leaves_what_is_held(
    connection: Connection, kind: RunKind, state: RunState
) -> None:
    former = held(connection)
    runs.finish(connection, working(connection, kind), state, error="x")
    assert now(connection, former) == former
    assert checks(connection, former, is_suspect=False) == ["1"]


def test_a_held_run_that_goes_on_and_ends_does_not_supersede_itself(connection: Connection) -> None:
    run = held(connection)
    runs.confirm_deletes(connection, run.id, "ada")
    assert runs.finish(connection, claimed(connection, run), "complete").state == "complete"


# Due again


def due(connection: Connection, grace: timedelta = timedelta()) -> list[int]:
    return runs.take_due(connection, grace=grace, patience=PATIENCE)


def published_ago(connection: Connection, ago: timedelta) -> None:
    connection.execute("UPDATE reconciliation_runs SET published_at = now() - %s::interval", [ago])


def test_a_run_that_nobody_works_on_is_handed_over_once_within_the_patience(connection: Connection) -> None:
    run = opened(connection)
    assert due(connection) == [run.id]
    assert due(connection) == []
    published_ago(connection, PATIENCE + timedelta(seconds=1))
    let_lapse(connection)
    assert due(connection) == [run.id]


def test_a_run_that_is_worked_on_is_not_due(connection: Connection) -> None:
    working(connection)
    assert due(connection) == []


def test_a_run_whose_worker_vanished_is_due_when_its_lease_lapses(connection: Connection) -> None:
    run = opened(connection)
    assert due(connection) == [run.id]
    claimed(connection, run)
    # It was handed over before the lease that has lapsed.
    published_ago(connection, timedelta(seconds=3))
    let_lapse(connection, timedelta(seconds=1))
    assert due(connection) == [run.id]


def test_a_run_that_waits_is_due_after_its_wait(connection: Connection) -> None:
    run = opened(connection)
    assert due(connection) == [run.id]
    runs.release(connection, claimed(connection, run), wait=HOUR)
    assert due(connection) == []
    let_lapse(connection, timedelta())
    assert due(connection) == [run.id]


def test_a_run_that_was_handed_back_is_due_at_once(connection: Connection) -> None:
    run = opened(connection)
    assert due(connection) == [run.id]
    runs.release(connection, claimed(connection, run), wait=timedelta())
    assert due(connection) == [run.id]


def test_the_more_patient_relay_leaves_a_run_to_the_other_for_a_while(connection: Connection) -> None:
    run = opened(connection)
    assert due(connection, GRACE) == []
    let_lapse(connection, GRACE)
    assert due(connection, GRACE) == [run.id]


def test_what_could_not_be_handed_over_is_due_at_once(connection: Connection) -> None:
    ids = {opened(connection, "full").id, opened(connection, "recent").id}
    assert set(due(connection)) == ids
    runs.give_back(connection, list(ids))
    assert set(due(connection)) == ids


def test_a_run_that_ended_is_not_due_but_one_that_was_confirmed_is(connection: Connection) -> None:
    ended = {state: runs.finish(connection, working(connection), state, error="x") for state in ENDS}
    let_lapse(connection)
    assert due(connection) == []
    runs.confirm_deletes(connection, ended["held"].id, "ada")
    assert due(connection) == [ended["held"].id]


def test_relays_at_the_same_time_share_the_runs_between_them(pool: Pool, connection: Connection) -> None:
    ids = [opened(connection, "full").id, opened(connection, "recent").id]
    taken: list[int] = []

    def work() -> None:
        with pool.connection() as own:
            taken.extend(due(own))

    run_together([work] * 6)
    assert sorted(taken) == ids


# Read


def test_runs_are_found_the_newest_first(connection: Connection) -> None:
    ended = [runs.finish(connection, working(connection, kind), "complete") for kind in ("full", "recent", "full")]
    failed = runs.finish(connection, working(connection, "recent"), "failed", error="x")
    assert browsing.find_runs(connection, most=3) == [failed, ended[2], ended[1]]
    assert runs.newest(connection) == [ended[2], failed]
    assert runs.last_complete(connection) == {"full": ended[2], "recent": ended[1]}
    assert runs.find(connection, failed.id + 100) is None


def test_what_a_run_has_to_expect_is_told_before_it(connection: Connection) -> None:
    first = runs.prospects(connection)
    assert (first.was_full_once, first.is_connected) == (False, False)
    assert (first.last_full_state, first.last_full_ended_ago) == (None, None)
    connection.execute("UPDATE zoho_connection SET refresh_token = 'x'")
    runs.finish(connection, working(connection), "complete")
    runs.finish(connection, working(connection), "partial", error=ValueError("x"))
    runs.finish(connection, working(connection, "recent"), "complete")
    then = runs.prospects(connection)
    assert (then.was_full_once, then.is_connected) == (True, True)
    assert (then.last_full_state, then.last_full_error_class) == ("partial", "ValueError")
    assert then.last_full_ended_ago is not None


def test_only_live_products_are_counted(connection: Connection) -> None:
    product(connection, "1")
    product(connection, "2", deleted_at=MOMENT)
    assert runs.count_products(connection) == 1
