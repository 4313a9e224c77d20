"""Lists, counts, timelines and charts: what is found is what was asked for, in an order that pages can follow."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.errors import BudgetSpent, ReplayRefused, ZohoUnavailable
from processors.store import audit, inbox, replays
from processors.store.audit import Requester
from processors.store.database import Connection, only_row
from processors.store.event_filter import EventFilter
from processors.store.runs import RunKind
from processors.workflows import browsing, insights, replaying
from processors.workflows.browsing import ProductQuery, ProductSort, TimelineEntry
from tests.workflows.scene import ITEM, START, Scene, fields, thin

SOMEBODY = Requester("console", "olga", "192.0.2.7")

_PRODUCTS = """
INSERT INTO products (zoho_item_id, name, sku, price, stock_on_hand, stock_quantity, is_active, category_id,
                      category_name, zoho_last_modified_at, updated_at, deleted_at)
VALUES ('1', 'Blue mug', 'MUG-1', 3, 5, 5, true, '10', 'Mugs', '2026-10-01Z', '2026-10-01Z', NULL),
       ('2', 'Red mug', 'mug-2', 2, 0, 0, true, '10', 'Mugs', '2026-10-03Z', '2026-10-03Z', NULL),
       ('3', '100% wool', NULL, 9, NULL, NULL, true, '20', 'Cloth', '2026-10-02Z', '2026-10-02Z', NULL),
       ('4', '100 pins', 'P_1', NULL, -2, -2, false, NULL, NULL, NULL, '2026-10-04Z', NULL),
       ('5', 'Gone mug', 'PX1', 1, 0, 0, true, '10', 'Mugs', '2026-10-01Z', '2026-10-05Z', '2026-10-05Z')
"""


@pytest.fixture
def shelf(connection: Connection) -> Connection:
    """Five products: three that are live and active, one inactive, one deleted."""
    connection.execute(_PRODUCTS)
    return connection


def ids(connection: Connection, query: ProductQuery, **asked: object) -> str:
    """Return the ids that a list finds, one letter each, which the count has to agree with."""
    found = browsing.find_products(connection, query, most=10, **asked)  # type: ignore[arg-type]
    if not asked:
        assert browsing.count_products(connection, query, at_most=10) == len(found)
    return "".join(row.zoho_item_id for row in found)


# Products


def test_nothing_asked_for_is_everything_by_id(shelf: Connection) -> None:
    assert ids(shelf, ProductQuery()) == "12345"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3", "3"),
        ("MUG-1", "1"),
        ("MUG", "125"),
        ("mug-", "12"),
        ("wool", "3"),
        ("100%", "3"),
        ("P_1", "4"),
        ("\\", ""),
        ("' OR true --", ""),
    ],
)
def test_a_text_is_an_id_or_a_part_of_name_or_sku_in_whatever_case_and_its_signs_are_literal(
    shelf: Connection, text: str, found: str
) -> None:
    assert ids(shelf, ProductQuery(text=text)) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (ProductQuery(state="live"), "1234"),
        (ProductQuery(state="active"), "123"),
        (ProductQuery(state="inactive"), "4"),
        (ProductQuery(state="deleted"), "5"),
        (ProductQuery(is_out_of_stock=True), "24"),
        (ProductQuery(is_out_of_stock=True, state="active"), "2"),
        (ProductQuery(category_id="10"), "125"),
        (ProductQuery(changed_since=datetime(2026, 10, 3, tzinfo=UTC)), "245"),
        (ProductQuery(text="mug", state="live", category_id="10"), "12"),
    ],
)
def test_a_filter_finds_what_it_says(shelf: Connection, query: ProductQuery, found: str) -> None:
    assert ids(shelf, query) == found


@pytest.mark.parametrize(
    ("sort", "upwards", "downwards"),
    [
        ("id", "12345", "54321"),
        ("name", "43152", "25134"),
        ("sku", "12453", "54213"),
        ("price", "52134", "31254"),
        ("stock", "42513", "12543"),
        ("modified", "15324", "23154"),
        ("updated", "13245", "54231"),
    ],
)
def test_a_list_is_sorted_with_what_has_no_value_last_and_ties_by_id(
    shelf: Connection, sort: ProductSort, upwards: str, downwards: str
) -> None:
    assert ids(shelf, ProductQuery(), sort=sort) == upwards
    assert ids(shelf, ProductQuery(), sort=sort, descending=True) == downwards


def test_pages_go_on_after_an_id_or_after_so_many(shelf: Connection) -> None:
    assert ids(shelf, ProductQuery(state="live"), after="2") == "34"
    assert ids(shelf, ProductQuery(), skip=3) == "45"
    assert ids(shelf, ProductQuery(), sort="price", skip=2) == "134"


def test_a_count_goes_no_further_than_asked(shelf: Connection) -> None:
    assert browsing.count_products(shelf, ProductQuery(), at_most=2) == 2


def test_a_product_is_shown_with_all_that_zoho_said(scene: Scene, connection: Connection) -> None:
    scene.apply(scene.changed(fields(rate=Decimal("12.50"))))
    found = browsing.product(connection, ITEM)
    assert found is not None
    assert (found.price, found.raw["rate"], found.revision) == (Decimal("12.50"), Decimal("12.50"), 1)
    assert browsing.product(connection, "nobody") is None


def test_categories_are_those_of_live_products_by_name(shelf: Connection) -> None:
    found = [(each.id, each.name, each.products) for each in browsing.categories(shelf)]
    assert found == [("20", "Cloth", 1), ("10", "Mugs", 2)]
    assert len(browsing.categories(shelf, most=1)) == 1


def test_a_new_price_leaves_the_indexes_of_products_alone(shelf: Connection) -> None:
    """Counting products by state must not make every write of a row dearer."""
    with shelf.transaction():
        shelf.execute("UPDATE products SET price = 4, stock_on_hand = 3, revision = revision + 1")
        hot = "SELECT pg_stat_get_xact_tuples_hot_updated('products'::regclass) AS hot"
        assert shelf.execute(hot).fetchall() == [{"hot": 5}]


# Events

_EVENTS = """
INSERT INTO events (item_id, kind, state, outcome, processed_at, error_class, error, received_at, run_id,
                    discarded_at, discarded_by, discard_reason)
VALUES ('1', 'changed', 'processed', 'updated', now(), NULL, NULL, '2026-10-01Z', NULL, NULL, NULL, NULL),
       ('1', 'deleted', 'processed', 'gone', now(), NULL, NULL, '2026-10-02Z', NULL, NULL, NULL, NULL),
       ('2', 'changed', 'queued', NULL, NULL, NULL, NULL, '2026-10-03Z', NULL, NULL, NULL, NULL),
       ('2', 'changed', 'dead', NULL, NULL, 'ItemUnusable', 'item 2 has no ''rate''', '2026-10-04Z', NULL, NULL, NULL,
        NULL),
       ('3', 'changed', 'dead', NULL, NULL, 'ItemUnusable', 'item 3 has no ''name''', '2026-10-05Z', 7, NULL, NULL,
        NULL),
       (NULL, 'changed', 'dead', NULL, NULL, 'BodyUnreadable', '50% of it is missing', '2026-10-06Z', NULL, now(),
        'cli:root', 'known')
"""
UPDATED, GONE, QUEUED, DEAD, FOUND_BY_RUN, DISCARDED = range(6)


@pytest.fixture
def deliveries(connection: Connection) -> list[int]:
    """Six events, whose ids come in the order of the names above."""
    connection.execute(_EVENTS)
    return [row["id"] for row in connection.execute("SELECT id FROM events ORDER BY id")]


QUERIES: list[tuple[EventFilter, list[int]]] = [
    (EventFilter(), [DISCARDED, FOUND_BY_RUN, DEAD, QUEUED, GONE, UPDATED]),
    (EventFilter(state="queued"), [QUEUED]),
    (EventFilter(state="dead"), [FOUND_BY_RUN, DEAD]),
    (EventFilter(state="dead", is_discarded=True), [DISCARDED]),
    (EventFilter(outcome="gone"), [GONE]),
    (EventFilter(kind="deleted"), [GONE]),
    (EventFilter(item_id="2"), [DEAD, QUEUED]),
    (EventFilter(run_id=7), [FOUND_BY_RUN]),
    (EventFilter(error="HAS NO"), [FOUND_BY_RUN, DEAD]),
    (EventFilter(error="50%"), [DISCARDED]),
    (EventFilter(error="5_%"), []),
    (EventFilter(error_class="ItemUnusable"), [FOUND_BY_RUN, DEAD]),
    (EventFilter(state="dead", cause="item … has no …"), [FOUND_BY_RUN, DEAD]),
    (EventFilter(since=datetime(2026, 10, 5, tzinfo=UTC)), [DISCARDED, FOUND_BY_RUN]),
    (EventFilter(until=datetime(2026, 10, 2, tzinfo=UTC)), [UPDATED]),
    (EventFilter(state="dead", item_id="2", error_class="ItemUnusable"), [DEAD]),
]


@pytest.mark.parametrize(("query", "found"), QUERIES)
def test_events_are_found_the_newest_first(
    connection: Connection, deliveries: list[int], query: EventFilter, found: list[int]
) -> None:
    assert [each.id for each in browsing.find_events(connection, query, most=10)] == [deliveries[n] for n in found]
    assert browsing.count_events(connection, query, at_most=10) == len(found)


def test_pages_of_events_go_on_before_an_id_or_after_so_many(connection: Connection, deliveries: list[int]) -> None:
    first = browsing.find_events(connection, EventFilter(), most=2)
    assert [each.id for each in first] == [deliveries[DISCARDED], deliveries[FOUND_BY_RUN]]
    then = browsing.find_events(connection, EventFilter(), before=first[-1].id, most=2)
    assert [each.id for each in then] == [deliveries[DEAD], deliveries[QUEUED]]
    assert browsing.find_events(connection, EventFilter(), skip=2, most=2) == then
    assert browsing.count_events(connection, EventFilter(), at_most=4) == 4


@pytest.mark.parametrize(
    ("query", "found"), [each for each in QUERIES if each[0].state != "queued" and not each[0].is_discarded]
)
def test_a_replay_means_the_finished_ones_of_what_a_list_shows(
    connection: Connection, deliveries: list[int], query: EventFilter, found: list[int]
) -> None:
    """Discarded events asked to be left alone: they are meant by their ids only."""
    meant = sorted(deliveries[n] for n in found if n not in (QUEUED, DISCARDED))
    assert replays.match(connection, query) == meant


def test_events_named_by_id_are_found_whether_discarded_or_not(connection: Connection, deliveries: list[int]) -> None:
    named = EventFilter(event_ids=(deliveries[DEAD], deliveries[DISCARDED], deliveries[GONE]))
    dead = replace(named, state="dead")
    assert [each.id for each in browsing.find_events(connection, dead, most=10)] == [
        deliveries[DISCARDED],
        deliveries[DEAD],
    ]
    assert browsing.count_events(connection, named, at_most=10) == len(replays.match(connection, named)) == 3
    assert replays.match(connection, dead) == [deliveries[DEAD], deliveries[DISCARDED]]


@pytest.mark.parametrize(
    "filtered",
    [
        EventFilter(),
        EventFilter(state="queued"),
        EventFilter(state="dead", is_discarded=True),
        EventFilter(run_id=10**9),
    ],
)
def test_what_is_no_filter_of_finished_events_is_refused_for_replays_and_discards_alike(
    connection: Connection, deliveries: list[int], filtered: EventFilter
) -> None:
    assert deliveries
    for matching in (replaying.matching, replaying.matching_dead):
        with pytest.raises(ReplayRefused):
            matching(connection, filtered)


def test_a_discard_takes_no_filter_that_asks_for_processed_events(
    connection: Connection, deliveries: list[int]
) -> None:
    """Such a filter was taken for one of dead events."""
    with pytest.raises(ReplayRefused, match="only dead events can be discarded"):
        replaying.matching_dead(connection, EventFilter(state="processed"))
    assert replaying.matching_dead(connection, EventFilter(error="has no")) == sorted(
        (deliveries[DEAD], deliveries[FOUND_BY_RUN])
    )


PARTS: dict[str, list[object]] = {
    "state": [None, "dead", "processed"],
    "outcome": [None, "gone", "stale"],
    "kind": [None, "changed", "deleted"],
    "item_id": [None, "2", "17"],
    "run_id": [None, 7],
    "error": [None, "ITEM", "50%"],
    "error_class": [None, "ItemUnusable"],
    "cause": [None, "item … has no …"],
    "since": [None, datetime(2026, 10, 2, tzinfo=UTC), datetime(2026, 10, 5, tzinfo=UTC)],
    "until": [None, datetime(2026, 10, 2, tzinfo=UTC), datetime(2026, 10, 5, tzinfo=UTC)],
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PARTS, 2)))
def test_whichever_parts_are_asked_for_together_a_list_and_a_replay_mean_the_same(
    connection: Connection, deliveries: list[int], one: str, other: str
) -> None:
    assert deliveries
    for asked in itertools.product(PARTS[one], PARTS[other]):
        parts: dict[str, Any] = dict(zip((one, other), asked, strict=True))
        listed = browsing.find_events(connection, EventFilter(**parts), most=10)
        finished = [each.id for each in listed if each.state in ("dead", "processed") and not each.discarded_at]
        assert replays.match(connection, EventFilter(**parts)) == finished[::-1], parts


def test_each_cause_of_death_leads_to_its_events(connection: Connection, deliveries: list[int]) -> None:
    (cause,) = insights.dead_by_cause(connection)
    query = EventFilter(state="dead", cause=cause.cause, error_class=cause.error_class)
    assert browsing.count_events(connection, query, at_most=10) == cause.count == 2
    assert cause.example_id == deliveries[FOUND_BY_RUN]


# Changes and runs


def test_changes_are_listed_of_one_item_or_of_all_the_newest_first(scene: Scene, connection: Connection) -> None:
    scene.apply(scene.changed(fields(0)), scene.changed(fields(0, item_id="77")))
    scene.apply(scene.changed(fields(1, rate=Decimal(13))))
    everything = browsing.find_changes(connection, most=10)
    assert everything[0].item_id == ITEM
    assert sorted(each.id for each in everything) == [each.id for each in reversed(everything)]
    newest, first = browsing.find_changes(connection, item_id=ITEM, most=10)
    assert list(newest.changes["price"]) == ["12.50", "13"]
    assert browsing.find_changes(connection, item_id=ITEM, before=newest.id, most=10) == [first]


def add_run(connection: Connection, kind: RunKind, state: str, **counts: int) -> int:
    row = connection.execute(
        """INSERT INTO reconciliation_runs (kind, state, finished_at, error, created, updated, deleted)
           VALUES (%(kind)s, %(state)s, CASE WHEN %(state)s <> 'running' THEN now() END, 'why', %(created)s,
                   %(updated)s, 0)
           RETURNING id""",
        {"kind": kind, "state": state, "created": 0, "updated": 0, **counts},
    )
    return int(only_row(row)["id"])


def test_runs_are_found_by_kind_and_state_the_newest_first(connection: Connection) -> None:
    full, recent, held = (
        add_run(connection, "full", "complete"),
        add_run(connection, "recent", "complete"),
        add_run(connection, "full", "held"),
    )
    assert [run.id for run in browsing.find_runs(connection, most=10)] == [held, recent, full]
    assert [run.id for run in browsing.find_runs(connection, kind="full", most=10)] == [held, full]
    assert [run.id for run in browsing.find_runs(connection, state="complete", before=recent, most=10)] == [full]
    assert [run.id for run in browsing.find_runs(connection, skip=1, most=1)] == [recent]
    assert browsing.count_runs(connection, kind="full", at_most=10) == 2
    assert browsing.count_runs(connection, kind="full", state="held", at_most=10) == 1


# The timeline


def told(connection: Connection, most: int = 50) -> list[TimelineEntry]:
    """Return what happened about the item, the oldest first."""
    entries = browsing.timeline(connection, ITEM, most=most)
    assert [entry.at for entry in entries] == sorted((entry.at for entry in entries), reverse=True)
    return entries[::-1]


def titles(connection: Connection) -> list[str]:
    return [entry.title for entry in told(connection)]


def test_a_timeline_tells_deliveries_changes_and_why_something_was_skipped(
    scene: Scene, connection: Connection
) -> None:
    for second, price in ((5, "12.50"), (9, "13"), (0, "99"), (9, "13")):
        scene.apply(scene.changed(fields(second, rate=Decimal(price))))
    entries = told(connection)
    assert [(entry.what, entry.title) for entry in entries] == [
        ("delivery", "Delivered: created or edited"),
        ("change", "Created by a webhook"),
        ("delivery", "Delivered: created or edited"),
        ("change", "Changed by a webhook"),
        ("delivery", "Delivered: created or edited"),
        ("skip", "Skipped: stale"),
        ("delivery", "Delivered: created or edited"),
        ("skip", "Skipped: unchanged"),
    ]
    assert list(entries[3].changes["price"]) == ["12.50", "13"]
    modified, newest = (f"{START + timedelta(seconds=n):%Y-%m-%d %H:%M:%S} UTC" for n in (0, 9))
    assert entries[5].detail == f"It is of {modified}, older than what the row had, which is of {newest} by now."
    assert entries[7].detail == "Nothing in it differs from the row."
    assert entries[5].event_id == entries[4].event_id != entries[7].event_id


def test_a_timeline_tells_that_zoho_does_not_have_the_item(scene: Scene, connection: Connection) -> None:
    scene.zoho.answers[ITEM] = None
    scene.changed(thin())
    scene.settle_all()
    assert [(entry.what, entry.title, entry.detail) for entry in told(connection)][1:] == [
        ("fetch", "Zoho was asked for the item", "What was delivered could not be decided by itself."),
        ("skip", "Skipped: gone", "Zoho does not have the item, and there was no row."),
    ]


def test_a_timeline_tells_what_came_of_asking_zoho(scene: Scene, connection: Connection) -> None:
    scene.zoho.answers[ITEM] = fields(5)
    for _ in range(2):
        scene.changed(thin())
        scene.settle_all()
    assert [(entry.what, entry.title) for entry in told(connection)] == [
        ("delivery", "Delivered: created or edited"),
        ("fetch", "Zoho was asked for the item"),
        ("change", "Created by a webhook"),
        ("delivery", "Delivered: created or edited"),
        ("fetch", "Zoho was asked for the item"),
        ("skip", "Skipped: unchanged"),
    ]
    assert told(connection)[-1].detail == "Nothing in what Zoho answered differs from the row."


def test_a_timeline_tells_tombstones_and_returns(scene: Scene, connection: Connection) -> None:
    scene.apply(scene.changed(fields(0)))
    scene.deleted()
    scene.settle_all()
    scene.zoho.answers[ITEM] = fields(60)
    scene.changed(fields(60))
    scene.settle_all()
    changes = [entry.title for entry in told(connection) if entry.what == "change"]
    assert changes == ["Created by a webhook", "Tombstoned by a webhook", "Brought back by a webhook"]


def test_a_timeline_tells_failed_attempts_and_waits(scene: Scene, connection: Connection) -> None:
    event_id = scene.changed(thin())
    scene.apply(event_id)
    spent = BudgetSpent("the day's calls are used up", retry_after=timedelta(hours=1))
    for error in (ZohoUnavailable("no answer from Zoho"), spent, spent):
        scene.zoho.answers[ITEM] = error
        scene.make_due()
        scene.fetch(event_id)
    assert [(entry.what, entry.title, entry.detail) for entry in told(connection)][1:] == [
        ("attempt", "Attempt 2 failed: ZohoUnavailable", "no answer from Zoho"),
        ("attempt", "Waited, 2 times: BudgetSpent", "the day's calls are used up"),
        ("skip", "Not applied yet: Zoho is asked first", "the day's calls are used up"),
    ]


def test_a_timeline_tells_whether_a_worker_has_the_event(scene: Scene, connection: Connection) -> None:
    event_id = scene.changed(fields())
    assert titles(connection) == ["Delivered: created or edited", "Not applied yet: waiting for a worker"]
    inbox.claim(connection, [event_id], worker="worker:1", lease=timedelta(seconds=10))
    assert titles(connection) == ["Delivered: created or edited", "Not applied yet: a worker is at it"]


def test_a_timeline_says_that_an_event_is_dead_and_who_discarded_one(scene: Scene, connection: Connection) -> None:
    dead, discarded = scene.changed(fields(0)), scene.changed(fields(1))
    with connection.transaction():
        for event, _ in inbox.claim(connection, [dead, discarded], worker="w", lease=timedelta(seconds=10)):
            inbox.fail(connection, event, ValueError("broken"), retry_in=None, counts=True)
    replays.discard(connection, [discarded], operator="console:olga", reason="tried by hand")
    skips = {entry.event_id: (entry.title, entry.detail) for entry in told(connection) if entry.what == "skip"}
    assert skips == {
        dead: ("Not applied: the event is dead", "broken"),
        discarded: ("Discarded by console:olga", "tried by hand (broken)"),
    }


def test_a_timeline_tells_who_asked_zoho_for_the_item(connection: Connection) -> None:
    audit.note(connection, SOMEBODY, "item.fetched", [ITEM], {"outcome": "unchanged"})
    audit.note(connection, SOMEBODY, "item.fetched", ["77"], {"outcome": "updated"})
    (entry,) = told(connection)
    assert (entry.what, entry.requester, entry.detail) == (
        "fetch",
        "olga (console)",
        "Zoho's answer came to: unchanged.",
    )


def test_a_timeline_gives_the_cause_of_a_runs_repair_in_words(connection: Connection) -> None:
    connection.execute(
        """INSERT INTO product_changes (item_id, source, run_id, cause, changes)
           VALUES (%s, 'full', 7, 'event_dead', '{"price": ["1", "2"]}')""",
        (ITEM,),
    )
    (entry,) = told(connection)
    assert (entry.title, entry.run_id) == ("Changed by a full run", 7)
    assert entry.detail == "Why no webhook had made it: delivered, but its event is dead."


@pytest.mark.parametrize("body", [b"", b"\xff{", b'{"item": {"item_id": "1", "last_modified_time": "soon"}}'])
def test_a_body_that_cannot_be_read_breaks_no_timeline(scene: Scene, connection: Connection, body: bytes) -> None:
    event_id = scene.record("changed", ITEM, body)
    scene.execute(
        "UPDATE events SET state = 'processed', outcome = 'stale', processed_at = now() WHERE id = %(id)s", id=event_id
    )
    delivered, skipped = told(connection)
    assert delivered.detail == ""
    assert skipped.detail == "It is older than what the row had."


def test_a_timeline_is_as_long_as_asked_and_keeps_the_newest(scene: Scene, connection: Connection) -> None:
    for second in range(5):
        scene.apply(scene.changed(fields(second, rate=Decimal(second))))
    newest = browsing.timeline(connection, ITEM, most=3)
    assert newest == browsing.timeline(connection, ITEM, most=50)[:3]


def test_an_item_that_nobody_ever_heard_of_has_no_timeline(connection: Connection) -> None:
    assert browsing.timeline(connection, ITEM, most=50) == []


# Charts


def test_deliveries_are_counted_by_hour_and_by_what_they_came_to(connection: Connection) -> None:
    connection.execute(
        """INSERT INTO events (item_id, state, outcome, received_at, processed_at, error, run_id)
           SELECT '1', state, outcome, date_trunc('hour', now()) - hours * interval '1 hour',
                  CASE state WHEN 'processed' THEN now() END, CASE state WHEN 'dead' THEN 'why' END, run_id
             FROM (VALUES ('processed', 'updated', 1, NULL), ('processed', 'updated', 1, NULL),
                          ('processed', 'stale', 1, NULL), ('queued', NULL, 1, NULL), ('recorded', NULL, 1, NULL),
                          ('dead', NULL, 0, NULL), ('processed', 'created', 23, NULL),
                          ('processed', 'created', 24, NULL), ('dead', NULL, 1, 7), ('processed', 'updated', 1, 7)
                  ) AS given (state, outcome, hours, run_id)"""
    )
    now = insights.overview(connection).now.replace(minute=0, second=0, microsecond=0)
    found = {(now - each.hour, each.what): each.count for each in browsing.deliveries_by_hour(connection)}
    hour = timedelta(hours=1)
    assert found == {
        (hour, "updated"): 2,
        (hour, "stale"): 1,
        (hour, "unfinished"): 2,
        (timedelta(0), "dead"): 1,
        (hour * 23, "created"): 1,
    }


def test_drift_is_told_of_ended_runs_the_oldest_first_and_as_their_reports_count_it(connection: Connection) -> None:
    first = add_run(connection, "full", "complete", updated=3)
    second = add_run(connection, "recent", "partial")
    add_run(connection, "full", "running")
    connection.execute(
        """INSERT INTO product_changes (item_id, source, run_id, cause, changes)
           SELECT '1', 'full', %s, cause, '{}' FROM unnest('{no_delivery,stock_only,during_run,first_load}'::text[])
               AS cause""",
        (first,),
    )
    found = browsing.drift_by_run(connection, most=30)
    assert [(each.run_id, each.drift, each.updated) for each in found] == [(first, 2, 3), (second, 0, 0)]
    report = insights.run_report(connection, first, most=0)
    assert report is not None
    assert report.drift == 2
    assert [each.run_id for each in browsing.drift_by_run(connection, most=1)] == [second]


# The overview


def test_the_overview_counts_what_needs_work_or_a_person(connection: Connection, deliveries: list[int]) -> None:
    assert len(deliveries) == 6
    seen, totals = insights.overview(connection), insights.totals(connection)
    assert (seen.unfinished, seen.dead, seen.discarded) == (1, 2, 1)
    assert {(each.state, each.outcome): each.count for each in totals.events} == {
        ("queued", None): 1,
        ("dead", None): 3,
        ("processed", "gone"): 1,
        ("processed", "updated"): 1,
    }


def test_products_are_counted_by_state(shelf: Connection) -> None:
    assert insights.overview(shelf).products == {"active": 3, "inactive": 1, "deleted": 1}


def test_rejections_lately_are_those_of_the_last_day(connection: Connection) -> None:
    connection.execute(
        """INSERT INTO rejections (hour, route, reason, count)
           SELECT date_trunc('hour', now()) - hours * interval '1 hour', 'changed', reason, count
             FROM (VALUES (0, 'content_type', 1), (23, 'content_type', 2), (1, 'signature_absent', 9),
                          (48, 'signature_absent', 100)) AS given (hours, reason, count)"""
    )
    found = [(each.reason, each.count) for each in insights.rejections_lately(connection)]
    assert found == [("signature_absent", 9), ("content_type", 3)]


def test_processes_are_told_by_role_with_the_beat_of_the_one_longest_silent(connection: Connection) -> None:
    connection.execute(
        """INSERT INTO processes (name, role, beat_at)
           VALUES ('a', 'worker', now() - interval '9 s'), ('b', 'worker', now()), ('c', 'clock', now()),
                  ('d', 'web', now() - interval '1 hour')"""
    )
    seen = insights.overview(connection)
    assert {role: alive.count for role, alive in seen.processes.items()} == {"worker": 2, "clock": 1}
    assert seen.now - seen.processes["worker"].beat_at >= timedelta(seconds=9)
    whats = [problem.what for problem in insights.problems(seen)]
    assert not any("is alive" in what for what in whats)


def test_a_silent_clock_needs_a_person_unless_something_else_starts_runs(connection: Connection) -> None:
    def whats() -> list[str]:
        return [problem.what for problem in insights.problems(insights.overview(connection))]

    assert any("no clock is alive" in what for what in whats())
    add_run(connection, "full", "complete")
    connection.execute("UPDATE reconciliation_runs SET trigger = 'cli'")
    assert not any("no clock is alive" in what for what in whats())


def test_each_problem_names_the_page_where_something_can_be_done(connection: Connection, deliveries: list[int]) -> None:
    assert deliveries
    held = add_run(connection, "full", "held")
    pages = {problem.page for problem in insights.problems(insights.overview(connection))}
    assert {"zoho", "", "events/list?state=dead", f"runs/detail?pk={held}"} <= pages


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("Zoho's number of an item holds digits only, not 'aa'", "Zoho's number of an item holds digits only, not …"),
        ("Zoho answered 400, code 2, 'Invalid' for /items/17", "Zoho answered …, code …, … for /items/…"),
        ('it is "one" or ("two")', "it is … or (…)"),
    ],
)
def test_the_root_of_a_cause_has_no_numbers_and_nothing_quoted(connection: Connection, error: str, cause: str) -> None:
    (row,) = connection.execute("SELECT root_cause(%(error)s) AS cause", {"error": error}).fetchall()
    assert row["cause"] == cause


def test_the_drift_of_listed_runs_is_counted_as_their_reports_count_it(connection: Connection) -> None:
    changes = [(1, "no_delivery"), (1, "stock_only"), (1, "first_load"), (2, "delivery_late"), (3, "no_delivery")]
    for run_id, cause in changes:
        connection.execute(
            "INSERT INTO product_changes (item_id, source, run_id, cause, changes)"
            " VALUES ('1', 'full', %(run_id)s, %(cause)s, '{}')",
            {"run_id": run_id, "cause": cause},
        )
    assert browsing.drift_counts(connection, [1, 2]) == {1: 2}
