"""Why a sweep had to make a change: the likeliest cause that is known, and since when the row was wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processors import field_table
from processors.store.drift import Evidence, Question
from processors.store.products import Cause, Change, Changes, Current, Product
from processors.store.runs import Run
from processors.workflows import drift
from processors.workflows.drift import Miss

ITEM = "4100000000000012345"
STARTED = datetime(2026, 10, 5, 12, tzinfo=UTC)
KNOWN_SINCE = STARTED - timedelta(days=1)
MODIFIED = STARTED - timedelta(hours=3)
ALTERED = STARTED - timedelta(hours=2)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

PRICE: Changes = {"price": ("12.50", "13.00")}
STOCK: Changes = {"stock_on_hand": ("7", "6"), "stock_quantity": (7, 6)}


def run(*, known_since: datetime | None = KNOWN_SINCE) -> Run:
    return Run(
        id=7,
        kind="full",
        trigger="cli",
        state="running",
        phase="listing",
        started_at=STARTED,
        finished_at=None,
        known_since=known_since,
        known_until=None,
        known_to_id=None,
        modified_since=None,
        expected_items=0,
        pages=0,
        read_to=0,
        newest_modified_at=None,
        api_calls=0,
        seen=0,
        created=0,
        updated=0,
        unchanged=0,
        failed=0,
        deleted=0,
        missed=0,
        suspects=0,
        suspected_of=0,
        listed_until=None,
        listed_to_id=None,
        deletes_confirmed_by=None,
        claimable_at=STARTED,
        attempts=1,
        claimed_by="w",
        failures=0,
        error_class=None,
        error=None,
        watermark=None,
        webhooks=None,
        certified_at=None,
        certified_items=None,
        certified_hash=None,
        certified_snapshot=None,
        certified_fields=None,
    )


def row(*, modified_at: datetime | None = MODIFIED, **changed: Any) -> Product:
    content = field_table.project({"name": "Mug", "sku": "MUG", "status": "active"})[0]
    return replace(Product(ITEM, content, modified_at, None, {}, {}), **changed)


BEFORE = row(modified_at=MODIFIED - 5 * HOUR)


def update(*, changes: Changes = PRICE, modified_at: datetime | None = MODIFIED) -> Miss:
    return Miss(ITEM, Current(BEFORE, 1, 0), row(modified_at=modified_at), changes)


def creation(*, modified_at: datetime | None = MODIFIED) -> Miss:
    return Miss(ITEM, Current(None, 0, 0), row(modified_at=modified_at), {"name": (None, "Mug")})


def deletion() -> Miss:
    buried = row(deleted_at=STARTED + HOUR)
    return Miss(ITEM, Current(BEFORE, 1, 0), buried, {"deleted_at": (None, "2026-10-05T13:00:00+00:00")})


def altered(miss: Miss) -> Miss:
    return replace(miss, current=Current(replace(BEFORE, altered_at=ALTERED), 1, 0))


NOTHING = Evidence(
    has_dead_event=False,
    has_unfinished_event=False,
    has_processed_event=False,
    has_rejections=False,
    has_history=False,
)
EVERYTHING = Evidence(
    has_dead_event=True,
    has_unfinished_event=True,
    has_processed_event=True,
    has_rejections=True,
    has_history=True,
)


def cause(miss: Miss, evidence: Evidence | None = NOTHING, *, known_since: datetime | None = KNOWN_SINCE) -> Any:
    return drift.change(run(known_since=known_since), miss, evidence).cause


def test_a_change_carries_its_run_its_kind_and_zohos_time() -> None:
    assert drift.change(run(), update(), NOTHING) == Change(
        "full", PRICE, MODIFIED, run_id=7, cause="no_delivery", wrong_since=MODIFIED
    )


def test_a_recent_runs_change_is_its_own() -> None:
    assert drift.change(replace(run(), kind="recent"), update(), NOTHING).source == "recent"


# Causes for which the deliveries do not matter


def test_what_the_first_full_run_creates_is_loaded_not_missed() -> None:
    change = drift.change(run(known_since=None), creation(), None)
    assert (change.cause, change.wrong_since, change.zoho_modified_at) == ("first_load", None, MODIFIED)


@pytest.mark.parametrize("miss", [update(), deletion()])
def test_what_the_first_full_run_corrects_was_missed(miss: Miss) -> None:
    assert cause(miss, known_since=None) == "no_delivery"


def test_a_row_altered_here_has_been_wrong_since_it_was_altered() -> None:
    change = drift.change(run(), altered(update()), None)
    assert (change.cause, change.wrong_since, change.zoho_modified_at) == ("altered_here", ALTERED, MODIFIED)


@pytest.mark.parametrize("known_since", [None, KNOWN_SINCE])
@pytest.mark.parametrize("miss", [update(), update(modified_at=STARTED + MINUTE), update(changes=STOCK), deletion()])
def test_that_a_row_was_altered_explains_every_change_of_it(miss: Miss, known_since: datetime | None) -> None:
    assert cause(altered(miss), EVERYTHING, known_since=known_since) == "altered_here"


@pytest.mark.parametrize("miss", [update, creation])
@pytest.mark.parametrize("later", [timedelta(), timedelta(seconds=1)])
def test_what_was_modified_during_the_run_was_not_missed(miss: Any, later: timedelta) -> None:
    change = drift.change(run(), miss(modified_at=STARTED + later), None)
    assert (change.cause, change.wrong_since) == ("during_run", STARTED + later)


def test_what_was_modified_just_before_the_run_was_missed() -> None:
    assert cause(update(modified_at=STARTED - timedelta(seconds=1))) == "no_delivery"


def test_a_first_load_is_one_even_of_what_is_created_during_the_run() -> None:
    assert cause(creation(modified_at=STARTED + MINUTE), known_since=None) == "first_load"


def test_a_deletion_is_not_taken_for_one_during_the_run_because_of_its_rows_time() -> None:
    buried = replace(deletion(), product=row(modified_at=STARTED + MINUTE, deleted_at=STARTED + HOUR))
    assert cause(buried) == "no_delivery"


# Which deliveries have to be known


@pytest.mark.parametrize(
    ("miss", "known_since"),
    [
        (altered(update()), KNOWN_SINCE),
        (altered(deletion()), KNOWN_SINCE),
        (creation(), None),
        (update(modified_at=STARTED), KNOWN_SINCE),
    ],
)
def test_nothing_is_asked_where_no_delivery_could_matter(miss: Miss, known_since: datetime | None) -> None:
    assert drift.question(run(known_since=known_since), miss) is None


@pytest.mark.parametrize("miss", [update(), creation(), update(changes=STOCK)])
def test_a_change_is_looked_for_from_a_minute_before_it_and_its_refusal_for_an_hour(miss: Miss) -> None:
    assert drift.question(run(), miss) == Question(ITEM, "changed", MODIFIED - MINUTE, MODIFIED + HOUR)


@pytest.mark.parametrize("known_since", [None, KNOWN_SINCE])
def test_a_deletion_is_looked_for_at_its_own_route_since_the_run_that_still_had_the_item(
    known_since: datetime | None,
) -> None:
    assert drift.question(run(known_since=known_since), deletion()) == Question(ITEM, "deleted", known_since, None)


def test_a_change_without_a_time_is_looked_for_since_the_last_full_run() -> None:
    assert drift.question(run(), update(modified_at=None)) == Question(ITEM, "changed", KNOWN_SINCE, None)


# What the deliveries tell


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, "no_delivery"),
        ({"has_history": True}, "no_delivery"),
        ({"has_rejections": True}, "delivery_rejected"),
        ({"has_processed_event": True}, "delivery_incomplete"),
        ({"has_unfinished_event": True}, "event_unfinished"),
        ({"has_dead_event": True}, "event_dead"),
        # Several: the one that a person can do most about.
        ({"has_processed_event": True, "has_rejections": True}, "delivery_incomplete"),
        ({"has_unfinished_event": True, "has_processed_event": True, "has_rejections": True}, "event_unfinished"),
        ({"has_dead_event": True, "has_unfinished_event": True, "has_rejections": True}, "event_dead"),
    ],
)
def test_the_evidence_decides(found: dict[str, bool], expected: Cause) -> None:
    change = drift.change(run(), update(), replace(NOTHING, **found))
    assert (change.cause, change.wrong_since) == (expected, MODIFIED)


def test_without_evidence_nothing_was_seen_of_it() -> None:
    assert cause(update(), None) == "no_delivery"


@pytest.mark.parametrize("changes", [STOCK, {"stock_on_hand": ("7.5", "7.2")}, {"stock_quantity": (7, 6)}])
@pytest.mark.parametrize("found", [{}, {"has_processed_event": True}, {"has_rejections": True}])
def test_where_only_stock_moved_zoho_need_not_have_said_so(changes: Changes, found: dict[str, bool]) -> None:
    assert cause(update(changes=changes), replace(NOTHING, **found)) == "stock_only"


@pytest.mark.parametrize("found", ["has_dead_event", "has_unfinished_event"])
def test_where_only_stock_moved_a_delivery_that_is_stuck_explains_it_better(found: str) -> None:
    expected = {"has_dead_event": "event_dead", "has_unfinished_event": "event_unfinished"}[found]
    assert cause(update(changes=STOCK), replace(NOTHING, **{found: True})) == expected


@pytest.mark.parametrize("changes", [STOCK | PRICE, {}])
def test_where_more_than_stock_moved_or_nothing_did_a_delivery_was_due(changes: Changes) -> None:
    assert cause(update(changes=changes)) == "no_delivery"


def test_a_row_that_was_there_and_is_gone_was_removed_by_others() -> None:
    change = drift.change(run(), creation(), replace(NOTHING, has_history=True))
    # When is not known: the last complete run still had it.
    assert (change.cause, change.wrong_since) == ("altered_here", KNOWN_SINCE)


def test_that_a_row_was_removed_explains_it_before_any_delivery_does() -> None:
    assert cause(creation(), EVERYTHING) == "altered_here"


def test_a_new_item_without_history_was_missed() -> None:
    change = drift.change(run(), creation(), NOTHING)
    assert (change.cause, change.wrong_since) == ("no_delivery", MODIFIED)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, "no_delivery"),
        ({"has_rejections": True}, "delivery_rejected"),
        ({"has_unfinished_event": True}, "event_unfinished"),
        ({"has_dead_event": True}, "event_dead"),
        # A deletion cannot be incomplete: one that was processed is of an earlier life of the item.
        ({"has_processed_event": True}, "no_delivery"),
        ({"has_processed_event": True, "has_rejections": True}, "delivery_rejected"),
    ],
)
def test_of_a_deletion_the_row_was_wrong_since_the_run_that_still_had_it_at_the_earliest(
    found: dict[str, bool], expected: Cause
) -> None:
    change = drift.change(run(), deletion(), replace(NOTHING, **found))
    assert (change.cause, change.wrong_since, change.zoho_modified_at) == (expected, KNOWN_SINCE, None)


def test_a_change_without_a_time_has_been_wrong_since_nobody_knows() -> None:
    change = drift.change(run(), update(modified_at=None), NOTHING)
    assert (change.cause, change.wrong_since, change.zoho_modified_at) == ("no_delivery", None, None)
