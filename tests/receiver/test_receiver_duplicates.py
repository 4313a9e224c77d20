"""The same body twice is one event, however it arrives."""

from __future__ import annotations

import asyncio
import base64
import itertools
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, quote_plus, urlencode

import pytest

from processors.store import database, inbox
from processors.store.inbox import Delivery
from processors.zoho import payloads, signatures
from tests.receiver.conftest import Serve
from tests.receiver.serving import (
    DELETED,
    FORM,
    ITEMS,
    JSON,
    MULTIPART,
    SECRET,
    Rows,
    Web,
    eventually,
    item,
    multipart,
    part,
    signed,
)

_PROCESS = """
    UPDATE events
       SET state = 'processed', outcome = 'created', processed_at = now() - %s::interval, claimable_at = now()
"""
_KILL = "UPDATE events SET state = 'dead', failures = 9, error_class = 'ZohoRefused', error = 'no', queued_at = now()"


def test_a_repeated_body_is_one_event(web: Web, rows: Rows) -> None:
    first, second = web.deliver(item()).json(), web.deliver(item()).json()

    assert first == {"event_id": rows.only_event()["id"], "state": "recorded"}
    assert second == {"event_id": first["event_id"], "state": "duplicate"}


@pytest.mark.parametrize("state", ["recorded", "queued", "processing"])
@pytest.mark.parametrize("path", [ITEMS, DELETED])
def test_a_copy_of_unfinished_work_is_a_duplicate(web: Web, rows: Rows, state: str, path: str) -> None:
    first = web.deliver(item(), path=path).json()
    eventually(lambda: rows.only_event()["state"] == "queued")
    rows("UPDATE events SET state = %s", state)

    assert web.deliver(item(), path=path).json() == {"event_id": first["event_id"], "state": "duplicate"}
    assert rows.only_event()["state"] == state


def test_the_same_body_at_the_two_routes_is_two_events(web: Web, rows: Rows) -> None:
    answers = [web.deliver(item(), path=path).json()["state"] for path in (ITEMS, DELETED)]

    assert answers == ["recorded", "recorded"]
    assert [event["kind"] for event in rows.events()] == ["changed", "deleted"]


def test_another_body_of_the_same_item_is_another_event(web: Web, rows: Rows) -> None:
    assert web.deliver(item(rate=1)).json()["state"] == "recorded"
    assert web.deliver(item(rate=2)).json()["state"] == "recorded"
    assert len(rows.events()) == 2


@pytest.mark.parametrize("path", [ITEMS, DELETED])
def test_a_body_whose_event_died_is_tried_again(web: Web, rows: Rows, path: str) -> None:
    first = web.deliver(item(), path=path).json()
    eventually(lambda: rows.only_event()["state"] == "queued")
    rows(_KILL)

    assert web.deliver(item(), path=path).json() == first
    event = eventually(lambda: [e for e in rows.events() if e["state"] == "queued"])[0]
    assert (event["failures"], event["error"], event["error_class"]) == (0, None, None)
    assert web.deliver(item(), path=path).json()["state"] == "duplicate"


def test_a_body_that_could_not_be_read_is_tried_again_with_what_can_be_read_now(web: Web, rows: Rows) -> None:
    """A version that understands the body, or the right content type, must not meet the old verdict."""
    first = web.deliver(item("77")).json()
    eventually(lambda: rows.only_event()["state"] == "queued")
    rows(_KILL + ", item_id = NULL, content_type = 'multipart/form-data', query_string = 'x'")

    assert web.deliver(item("77")).json() == first
    event = rows.only_event()
    assert (event["item_id"], event["content_type"], event["query_string"]) == ("77", "application/json", b"")


def test_what_was_kept_dead_in_a_writing_without_an_item_is_kept_anew_as_it_comes_with_one(
    web: Web, rows: Rows
) -> None:
    """Cut anew, it came first: the delivery itself must not be read from that body."""
    text = item("77").decode()
    pairs = [("JSONString", text)]
    cut = urlencode({"JSONStri": f"ng{text}"})
    refused = web.client.request("PUT", f"{ITEMS}?{cut}", headers=signed(b"", pairs=pairs, content_type=None)).json()
    assert refused["state"] == "dead"

    assert web.deliver_form(pairs).json() == {"event_id": refused["event_id"], "state": "recorded"}
    event = rows.only_event()
    assert (event["item_id"], event["is_dated"]) == ("77", True)
    kept = payloads.read_item(bytes(event["body"]), event["content_type"], bytes(event["query_string"]))
    assert kept[0] == "77"


def test_an_unreadable_body_stays_one_dead_event_however_often_it_comes(web: Web, rows: Rows) -> None:
    answers = [web.deliver(b"nonsense").json()["state"] for _ in range(3)]

    assert answers == ["dead", "duplicate", "duplicate"]
    assert rows.only_event()["state"] == "dead"


def test_a_copy_counts_as_a_duplicate_for_ten_minutes_after_success(web: Web, rows: Rows) -> None:
    first = web.deliver(item()).json()
    eventually(lambda: rows.only_event()["state"] == "queued")
    rows(_PROCESS, "9 minutes 50 seconds")
    assert web.deliver(item()).json() == {"event_id": first["event_id"], "state": "duplicate"}

    rows(_PROCESS, "10 minutes")
    again = web.deliver(item()).json()

    assert again["state"] == "recorded"
    assert again["event_id"] != first["event_id"]
    assert [event["fingerprint"] is None for event in rows.events()] == [True, False]
    assert web.deliver(item()).json() == {"event_id": again["event_id"], "state": "duplicate"}


@pytest.mark.parametrize(
    ("state", "answer"),
    [("recorded", "duplicate"), ("queued", "duplicate"), ("processing", "recorded"), ("processed", "recorded")],
)
def test_a_body_that_tells_no_time_is_a_duplicate_only_until_its_first_copy_is_worked_on(
    web: Web, rows: Rows, state: str, answer: str
) -> None:
    """Two changes may have the same body then, and Zoho may have been asked between them."""
    body = b'{"item": {"item_id": "4100000000000012345"}}'
    web.deliver(body)
    eventually(lambda: rows.only_event()["state"] == "queued")
    if state == "processed":
        rows(_PROCESS, "1 second")
    else:
        rows("UPDATE events SET state = %s", state)

    assert web.deliver(body).json()["state"] == answer


def test_a_second_deletion_counts_as_new_as_soon_as_the_first_is_finished(web: Web, rows: Rows) -> None:
    """Its body carries only the id: the item may have come back in between."""
    first = web.deliver(item(), path=DELETED).json()
    eventually(lambda: rows.only_event()["state"] == "queued")
    rows(_PROCESS, "0 seconds")

    second = web.deliver(item(), path=DELETED).json()

    assert second["state"] == "recorded"
    assert second["event_id"] != first["event_id"]


def test_deletions_without_a_body_are_told_apart_by_their_query(web: Web, rows: Rows) -> None:
    """Also where the empty body is a line break."""
    for body in (b"", b"\r\n"):
        for item_id in ("1", "2"):
            answer = web.deliver(
                body, path=f"{DELETED}?item_id={item_id}", method="DELETE", pairs=[("item_id", item_id)]
            )
            assert answer.status_code == 200

    assert [event["item_id"] for event in rows.events()] == ["1", "2"]


def test_what_makes_a_copy_is_what_was_signed_and_not_how_it_is_written(web: Web, rows: Rows) -> None:
    """Whoever saw one delivery could otherwise make any number of events of it."""
    pairs = [("JSONString", item(name="a + b").decode()), ("a", "ü"), ("z", "")]
    digest = bytes.fromhex(signatures.sign(SECRET, pairs=pairs))
    spellings = [digest.hex(), digest.hex().upper(), base64.b64encode(digest).decode()]
    written: list[tuple[str, str, bytes]] = []
    for order, how in itertools.product(itertools.permutations(pairs), (quote, quote_plus)):
        for split in range(3):
            query = urlencode(order[:split], quote_via=how)
            if "JSONString" not in query:
                written.append((query, FORM, urlencode(order[split:], quote_via=how).encode()))
                for boundary in ("B", "C"):
                    body = multipart(*(part(key, value.encode()) for key, value in order[split:]))
                    written.append(
                        (
                            query,
                            f"multipart/form-data; boundary={boundary}",
                            body.replace(b"--B", f"--{boundary}".encode()),
                        )
                    )
    states = []
    for number, (query, content_type, body) in enumerate(written):
        headers = {
            signatures.HEADER: spellings[number % 3],
            "Content-Type": content_type + "; charset=x" * (number % 2),
        }
        answer = web.client.post(f"{ITEMS}?{query}", content=body, headers=headers)
        assert answer.status_code == 200, (query, content_type, body)
        states.append(answer.json()["state"])

    assert len(written) > 60
    assert states == ["recorded"] + ["duplicate"] * (len(written) - 1)
    assert rows.only_event()["item_id"] == "4100000000000012345"


def test_a_signed_json_body_is_one_event_under_every_content_type(web: Web, rows: Rows) -> None:
    types = [JSON, "", "text/plain", FORM, MULTIPART, "application/json; charset=x", None]
    assert [web.deliver(item(), content_type=each).json()["state"] for each in types] == [
        "recorded",
        *["duplicate"] * 6,
    ]
    assert len(rows.events()) == 1


def test_fifty_copies_at_once_are_one_event(web: Web, rows: Rows) -> None:
    with ThreadPoolExecutor(50) as senders:
        answers = [answer.json() for answer in senders.map(web.deliver, [item()] * 50)]

    assert sorted(answer["state"] for answer in answers) == ["duplicate"] * 49 + ["recorded"]
    assert {answer["event_id"] for answer in answers} == {rows.only_event()["id"]}


def test_copies_at_two_web_processes_at_once_are_one_event(web: Web, rows: Rows, serve: Serve) -> None:
    other = serve()
    bodies = [item(str(number)) for number in range(40)]

    with ThreadPoolExecutor(40) as senders:
        sent = [senders.submit(process.deliver, body) for body in bodies for process in (web, other)]
        answers = [answer.result().json() for answer in sent]

    assert len(rows.events()) == 40
    assert sorted(answer["state"] for answer in answers) == ["duplicate"] * 40 + ["recorded"] * 40
    assert answers[0]["event_id"] == answers[1]["event_id"]


@pytest.mark.parametrize("is_dead", [False, True], ids=["new", "dead"])
def test_two_processes_with_the_same_bodies_in_another_order_never_block_each_other(
    database_url: str, rows: Rows, is_dead: bool
) -> None:
    """Without one order for all, each holds the row that the other waits for, and Postgres ends one of them."""
    deliveries = [
        Delivery("changed", str(n), b"{}", "application/json", b"", n.to_bytes(2, "big") * 16) for n in range(1_000)
    ]

    async def record(order: list[Delivery]) -> list[str]:
        async with database.async_pool(database_url, size=1, name="test", timeout_seconds=5) as pool:
            states: list[str] = []
            async with pool.connection() as connection:
                for start in range(0, len(order), 250):
                    recorded = await inbox.record(connection, order[start : start + 250])
                    states += [one.state for one in recorded]
            return states

    async def both() -> tuple[list[str], list[str]]:
        pieces = [deliveries[start : start + 250] for start in range(0, 1_000, 250)]
        turned = [delivery for piece in pieces for delivery in reversed(piece)]
        return await asyncio.gather(record(deliveries), record(turned))

    for _round in range(4):
        one, other = asyncio.run(both())
        assert sorted(one + other) == ["duplicate"] * 1_000 + ["recorded"] * 1_000
        assert rows("SELECT count(*) FROM events")[0]["count"] == 1_000
        rows(_KILL if is_dead else "TRUNCATE events")
