"""What the API answers to programs that may use it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from processors.errors import BudgetSpent, ItemUnusable, NotConnected, ZohoRefused, ZohoUnavailable
from processors.store import audit
from processors.store.database import Connection, Pool, only_row
from tests.receiver.programs import CUP, MUG, OLD, Program, fill, problem, program
from tests.receiver.serving import Rows, Web

BEYOND = "9223372036854775808"


@pytest.fixture
def mirror(pool: Pool) -> Pool:
    fill(pool)
    return pool


@pytest.fixture
def reader(web: Web, mirror: Pool) -> Program:
    return program(web, mirror, "read")


@pytest.fixture
def writer(web: Web, mirror: Pool) -> Program:
    return program(web, mirror, "write")


def walk(asking: Program, path: str, **params: Any) -> list[dict[str, Any]]:
    """Return all items of a list, page by page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = asking.found(path, **params, **cursor)
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"after" if path == "/changes" else "cursor": page["next_cursor"]}


def dead_ids(rows: Rows) -> list[str]:
    return [str(row["id"]) for row in rows("SELECT id FROM events WHERE state = 'dead' ORDER BY id")]


# Products


def test_products_are_listed_with_exact_numbers_and_ids_as_texts(reader: Program) -> None:
    first = reader.found("/products")["items"][0]
    assert first["zoho_item_id"] == MUG
    assert (first["name"], first["price"], first["stock_on_hand"], first["stock_quantity"]) == (
        "Mug <b>",
        "12.50",
        "7.25",
        7,
    )
    assert first["zoho_last_modified_at"] == "2026-10-05T16:02:21Z"
    assert first["deleted_at"] is None
    assert "raw" not in first


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, [MUG, CUP, OLD]),
        ({"state": "live"}, [MUG, CUP]),
        ({"state": "deleted"}, [OLD]),
        ({"text": MUG}, [MUG]),
        ({"text": "MUG-350"}, [MUG]),
        ({"text": "cup"}, [CUP, OLD]),
        ({"text": "%"}, []),
        ({"out_of_stock": "true"}, [CUP]),
        ({"category_id": "77"}, [MUG]),
        ({"changed_since": "2000-01-01T00:00:00Z"}, [MUG, CUP, OLD]),
        ({"changed_since": "9999-01-01T00:00:00+02:00"}, []),
        ({"changed_since": "0001-01-01T00:00:00+14:00"}, [MUG, CUP, OLD]),
    ],
)
def test_products_are_found_by(reader: Program, params: dict[str, str], ids: list[str]) -> None:
    assert [item["zoho_item_id"] for item in reader.found("/products", **params)["items"]] == ids


def test_pages_follow_each_other_without_gap_or_repetition(reader: Program) -> None:
    assert [item["zoho_item_id"] for item in walk(reader, "/products", limit=1)] == [MUG, CUP, OLD]
    assert [item["zoho_item_id"] for item in walk(reader, "/products", limit=3)] == [MUG, CUP, OLD]


def test_a_product_is_shown_with_all_that_zoho_said(reader: Program) -> None:
    raw = reader.found(f"/products/{MUG}")["raw"]
    assert raw == {"item_id": MUG, "rate": "12.50", "number": "9007199254740993"}


def test_a_product_that_is_not_there_is_told_as_such(reader: Program) -> None:
    assert "There is no product 1 here" in problem(reader.get("/products/1"), 404)["detail"]
    problem(reader.get("/products/1/changes"), 404)


def test_a_products_changes_come_newest_first(reader: Program) -> None:
    changes = walk(reader, f"/products/{MUG}/changes", limit=1)
    assert [change["changes"] for change in changes] == [
        {"stock_on_hand": ["7", "7.25"]},
        {"price": ["12.00", "12.50"]},
    ]
    assert all(isinstance(change["id"], str) for change in changes)
    assert reader.found(f"/products/{OLD}/changes") == {"items": [], "next_cursor": None}


def test_whoever_follows_the_changes_gets_each_of_them_once_and_the_oldest_first(
    reader: Program, connection: Connection
) -> None:
    changes = walk(reader, "/changes", limit=2)
    assert [change["item_id"] for change in changes] == [MUG, CUP, MUG]
    last = changes[-1]["id"]
    assert reader.found("/changes", after=last) == {"items": [], "next_cursor": None}
    connection.execute("INSERT INTO product_changes (item_id, source, changes) VALUES ('5', 'webhook', '{}')")
    assert [change["item_id"] for change in reader.found("/changes", after=last)["items"]] == ["5"]


class FakeZoho:
    """Answers for every item with the same, or fails so."""

    def __init__(self, answer: dict[str, Any] | Exception | None) -> None:
        self.answer = answer

    def item(self, _item_id: str, **_run: Any) -> dict[str, Any] | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | Exception | None) -> None:
    zoho = FakeZoho(answer)
    monkeypatch.setattr("receiver.zoho.LazyZoho.client", lambda _self: zoho)


def test_a_fetch_writes_what_zoho_says_now(
    writer: Program, monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    told = {"item_id": CUP, "name": "Cup", "status": "active", "rate": 4, "last_modified_time": "2026-10-07T00:00:00Z"}
    answer_with(monkeypatch, told)
    answer = writer.post(f"/products/{CUP}/fetch")
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == "updated"
    assert answer.json()["changes"]["price"] == ["3", "4"]
    assert writer.found(f"/products/{CUP}")["price"] == "4"
    entry = audit.find_entries(connection, most=1)[0]
    assert (entry.action, entry.targets, entry.requester) == ("item.fetched", [CUP], "writer")


def test_a_fetch_of_what_zoho_does_not_have_says_that_it_is_gone(
    writer: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, None)
    assert writer.post("/products/77/fetch").json() == {"item_id": "77", "outcome": "gone", "changes": {}}


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry_after"),
    [
        (BudgetSpent("the minute is used up", timedelta(seconds=30.5)), 503, "zoho-must-wait", "31"),
        (NotConnected("Zoho is not connected", timedelta(seconds=15)), 503, "zoho-must-wait", "15"),
        (ZohoUnavailable("no answer from Zoho"), 503, "zoho-unavailable", "5"),
        (ZohoRefused("Zoho answered 400"), 502, "zoho-refused", None),
        (ItemUnusable("it has no name"), 502, "zoho-refused", None),
    ],
)
def test_why_zoho_could_not_be_asked_is_told_and_when_to_come_back(
    writer: Program,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    kind: str,
    retry_after: str | None,
) -> None:
    answer_with(monkeypatch, error)
    answer = writer.post(f"/products/{CUP}/fetch")
    told = problem(answer, status)
    assert told["type"] == f"urn:zoho-mirror:{kind}"
    assert str(error)[1:] in told["detail"]
    assert answer.headers.get("retry-after") == retry_after


def test_without_an_organisation_nothing_is_asked_of_zoho(writer: Program, connection: Connection) -> None:
    connection.execute("UPDATE zoho_connection SET organization_id = NULL")
    for answer in (writer.post(f"/products/{CUP}/fetch"), writer.post("/reconciliation-runs", {"kind": "full"})):
        assert problem(answer, 409)["type"] == "urn:zoho-mirror:connection-refused"


# Events


def test_events_are_found_by_their_state_cause_and_error(reader: Program) -> None:
    assert len(reader.found("/events")["items"]) == 4
    assert len(reader.found("/events", state="dead")["items"]) == 3
    assert len(reader.found("/events", error="NO JSON")["items"]) == 1
    assert len(reader.found("/events", error_class="BodyUnreadable")["items"]) == 2
    assert len(reader.found("/events", cause="the body at … is …")["items"]) == 2
    assert len(reader.found("/events", item_id=MUG, outcome="updated")["items"]) == 1
    assert len(reader.found("/events", until="2000-01-01T00:00:00Z")["items"]) == 0
    ids = [int(event["id"]) for event in walk(reader, "/events", limit=1)]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 4


def test_an_event_is_shown_with_its_attempts_and_its_body(reader: Program) -> None:
    event_id = reader.found("/events", error="no json")["items"][0]["id"]
    event = reader.found(f"/events/{event_id}")
    assert (event["id"], event["body"], event["state"], event["warnings"]) == (event_id, "no json", "dead", [])
    assert [attempt["error_class"] for attempt in event["attempts"]] == ["BodyUnreadable"]


def test_dead_events_are_discarded_with_a_reason(writer: Program, rows: Rows) -> None:
    answer = writer.post("/discards", {"filter": {"error_class": "BodyUnreadable"}, "reason": "test bodies"})
    assert answer.status_code == 200
    assert answer.json()["count"] == 2
    (told,) = {
        (row["discarded_by"], row["discard_reason"]) for row in rows("SELECT * FROM events WHERE error LIKE 'the%%'")
    }
    assert told == ("api:writer", "test bodies")
    problem(writer.post("/discards", {"event_ids": answer.json()["event_ids"], "reason": "again"}), 409)


def test_a_filter_that_names_nothing_is_no_order_to_take_all(writer: Program, rows: Rows) -> None:
    for path in ("/discards", "/replays"):
        for filter_ in ({}, {"kind": None}):
            answer = writer.post(path, {"filter": filter_, "reason": "all"})
            assert "The filter names nothing" in problem(answer, 409)["detail"]
    assert rows("SELECT id FROM replays") == []


def test_events_are_replayed_by_id_and_by_what_they_share(writer: Program, rows: Rows) -> None:
    ids = dead_ids(rows)
    by_id = writer.post("/replays", {"event_ids": ids[:1], "reason": "mended", "per_second": 5})
    assert by_id.status_code == 202
    replay = by_id.json()
    assert (replay["total"], replay["per_second"], replay["requested_by"]) == (1, 5, "api:writer")
    assert by_id.headers["location"] == f"/api/replays/{replay['id']}"
    by_filter = writer.post("/replays", {"filter": {"state": "dead"}}).json()
    assert by_filter["total"] == 3

    shown = writer.found(f"/replays/{replay['id']}")
    assert shown["progress"] == {"unsent": 1, "skipped": 0, "unfinished": 0, "dead": 0, "outcomes": {}}
    assert [each["id"] for each in walk(writer, "/replays", limit=1)] == [by_filter["id"], replay["id"]]

    assert writer.post(f"/replays/{replay['id']}/cancel").json()["state"] == "cancelled"
    assert "cancelled already" in problem(writer.post(f"/replays/{replay['id']}/cancel"), 409)["detail"]


def test_a_rehearsal_tells_and_changes_nothing(writer: Program, rows: Rows, connection: Connection) -> None:
    answer = writer.post("/replays", {"filter": {"state": "dead"}, "dry_run": True})
    assert answer.status_code == 200
    told = answer.json()
    assert told["total"] == 3
    assert [each["effect"] for each in told["items"]] == ["unreadable", "unreadable", "fetch"]
    assert [each["event_id"] for each in told["items"]] == dead_ids(rows)
    assert rows("SELECT id FROM replays") == []
    assert [entry.action for entry in audit.find_entries(connection, most=10)] == ["token.created"]


# Runs


def test_a_run_is_started_once_and_then_taken_up(writer: Program, rows: Rows) -> None:
    first = writer.post("/reconciliation-runs", {"kind": "full"})
    assert first.status_code == 202
    started = first.json()
    assert started["is_new"] is True
    assert (started["run"]["state"], started["run"]["trigger"]) == ("running", "api")
    assert set(started["estimate"]) == {"calls", "budget", "used"}
    assert first.headers["location"] == f"/api/reconciliation-runs/{started['id']}"
    assert writer.found(f"/reconciliation-runs/{started['id']}")["id"] == started["id"]
    again = writer.post("/reconciliation-runs", {"kind": "full"})
    assert (again.status_code, again.json()["is_new"], again.json()["id"]) == (202, False, started["id"])
    assert len(rows("SELECT id FROM reconciliation_runs WHERE state = 'running'")) == 1


def test_runs_are_found_and_shown_with_their_drift(reader: Program, connection: Connection) -> None:
    complete = only_row(connection.execute("SELECT id FROM reconciliation_runs WHERE state = 'complete'"))["id"]
    connection.execute(
        """INSERT INTO product_changes (item_id, source, changes, run_id, cause)
           VALUES (%s, 'full', '{"price": ["1", "2"]}', %s, 'no_delivery')""",
        [MUG, complete],
    )
    assert [run["state"] for run in walk(reader, "/reconciliation-runs", limit=1)] == ["held", "complete"]
    assert [run["id"] for run in reader.found("/reconciliation-runs", state="complete")["items"]] == [str(complete)]
    assert reader.found("/reconciliation-runs", kind="recent")["items"] == []
    shown = reader.found(f"/reconciliation-runs/{complete}")
    assert shown["drift"] == 1
    assert [(each["cause"], each["count"]) for each in shown["causes"]] == [("no_delivery", 1)]
    assert [(each["item_id"], each["changes"]) for each in shown["repairs"]] == [(MUG, {"price": ["1", "2"]})]


def test_held_deletes_are_confirmed_or_discarded(writer: Program, rows: Rows) -> None:
    held = rows("SELECT id FROM reconciliation_runs WHERE state = 'held'")[0]["id"]
    complete = rows("SELECT id FROM reconciliation_runs WHERE state = 'complete'")[0]["id"]
    answer = problem(writer.post(f"/reconciliation-runs/{complete}/confirm-deletes"), 409)
    assert (answer["type"], "not held" in answer["detail"]) == ("urn:zoho-mirror:run-refused", True)
    assert writer.post(f"/reconciliation-runs/{held}/discard-deletes").json()["state"] == "partial"
    problem(writer.post(f"/reconciliation-runs/{held}/confirm-deletes"), 409)


def test_a_confirmed_run_goes_on(writer: Program, rows: Rows) -> None:
    held = rows("SELECT id FROM reconciliation_runs WHERE state = 'held'")[0]["id"]
    answer = writer.post(f"/reconciliation-runs/{held}/confirm-deletes")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["deletes_confirmed_by"]) == ("running", "api:writer")


# Status


def test_the_status_says_what_needs_a_person(reader: Program) -> None:
    status = reader.found("/status")
    assert status["is_healthy"] is False
    whats = [each["what"] for each in status["problems"]]
    assert "Zoho is not connected" in whats
    assert all(each["do"] for each in status["problems"])
    assert status["products"] == {"active": 2, "inactive": 0, "deleted": 1}
    assert (status["events"]["dead"], status["events"]["unfinished"]) == (3, 0)
    assert status["quota"]["day_limit"] == 2000
    assert status["reconciliation"]["held"]["state"] == "held"
    assert status["connection"]["has_refresh_token"] is False
    # The process that answers.
    assert set(status["processes"]) <= {"web"}


def test_the_status_holds_no_secret(reader: Program, connection: Connection) -> None:
    connection.execute("UPDATE zoho_connection SET refresh_token = 'secret-1', access_token = 'secret-2'")
    text = reader.get("/status").text
    assert '"has_refresh_token":true' in text
    assert "secret-" not in text


# What will not do


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("/products", {"limit": "0"}, "limit"),
        ("/products", {"limit": "201"}, "limit"),
        ("/products", {"limit": "many"}, "limit"),
        ("/products", {"state": "gone"}, "state"),
        ("/products", {"stat": "live"}, "stat"),
        ("/products", {"cursor": "after-"}, "cursor"),
        ("/products", {"cursor": "before-5"}, "cursor"),
        ("/products", {"cursor": "after-\x00"}, "cursor"),
        ("/products", {"text": "a\x00b"}, "text"),
        ("/products", {"text": ""}, "text"),
        ("/products", {"text": "x" * 501}, "text"),
        ("/products", {"category_id": "\x00"}, "category_id"),
        ("/products", {"changed_since": "yesterday"}, "changed_since"),
        ("/products", {"changed_since": "1759680000"}, "changed_since"),
        ("/products", {"changed_since": "2026-10-05"}, "changed_since"),
        ("/products", {"changed_since": "2026-10-05T16:02:21"}, "changed_since"),
        ("/products", {"changed_since": "2026-02-30T16:02:21Z"}, "changed_since"),
        (f"/products/{MUG}/changes", {"cursor": "after-5"}, "cursor"),
        ("/changes", {"after": "-1"}, "after"),
        ("/changes", {"after": BEYOND}, "after"),
        ("/events", {"run_id": BEYOND}, "run_id"),
        ("/events", {"cursor": f"before-{BEYOND}"}, "cursor"),
        ("/events", {"item_id": "a b"}, "item_id"),
        ("/events", {"error": "\x00"}, "error"),
        (f"/events/{BEYOND}", {}, "event_id"),
        ("/events/-1", {}, "event_id"),
        ("/events/1.0", {}, "event_id"),
        (f"/replays/{BEYOND}", {}, "replay_id"),
        (f"/reconciliation-runs/{BEYOND}", {}, "run_id"),
        ("/products/%00", {}, "item_id"),
        (f"/products/{'1' * 65}", {}, "item_id"),
    ],
)
def test_a_parameter_that_will_not_do_is_named(reader: Program, path: str, params: dict[str, str], field: str) -> None:
    told = problem(reader.get(path, **params), 422)
    assert [error["field"] for error in told["errors"]] == [field]
    assert field in told["detail"]
    assert told["errors"][0]["message"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/replays", {}, "event_ids"),
        ("/replays", [], "body"),
        ("/replays", {"event_ids": []}, "event_ids"),
        ("/replays", {"event_ids": [1]}, "event_ids.0"),
        ("/replays", {"event_ids": [BEYOND]}, "event_ids.0"),
        ("/replays", {"event_ids": ["1"], "per_second": 0}, "per_second"),
        ("/replays", {"event_ids": ["1"], "per_second": "5"}, "per_second"),
        ("/replays", {"event_ids": ["1"], "reason": "a\x00b"}, "reason"),
        ("/replays", {"event_ids": ["1"], "reson": "x"}, "reson"),
        ("/replays", {"filter": {"state": "queued"}}, "filter.state"),
        ("/replays", {"filter": {"error": "\ud800"}}, "filter.error"),
        ("/replays", {"filter": {"states": "dead"}}, "filter.states"),
        ("/replays", {"filter": {"since": 0}}, "filter.since"),
        ("/replays", {"filter": {"state": "dead"}, "event_ids": ["1"]}, "event_ids"),
        ("/discards", {"event_ids": ["1"]}, "reason"),
        ("/discards", {"event_ids": ["1"], "reason": ""}, "reason"),
        ("/discards", {"filter": {"state": "processed"}, "reason": "x"}, "filter.state"),
        ("/reconciliation-runs", {"kind": "whole"}, "kind"),
    ],
)
def test_a_part_of_a_body_that_will_not_do_is_named(writer: Program, path: str, body: Any, field: str) -> None:
    told = problem(writer.post(path, body), 422)
    assert field in [error["field"] for error in told["errors"]]


@pytest.mark.parametrize(
    "path", ["/events/999999999", "/replays/999999999", "/reconciliation-runs/999999999", "/events/999999999999999999"]
)
def test_what_is_not_there_is_told_as_such(reader: Program, path: str) -> None:
    assert "999" in problem(reader.get(path), 404)["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/replays/999999999/cancel",
        "/reconciliation-runs/999999999/confirm-deletes",
        "/reconciliation-runs/999999999/discard-deletes",
    ],
)
def test_nothing_is_done_to_what_is_not_there(writer: Program, path: str) -> None:
    problem(writer.post(path), 404)


def test_an_event_that_is_not_there_cannot_be_replayed(writer: Program) -> None:
    told = problem(writer.post("/replays", {"event_ids": ["999999999"]}), 409)
    assert (told["type"], "999999999" in told["detail"]) == ("urn:zoho-mirror:replay-refused", True)
