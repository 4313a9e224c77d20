"""The operator's commands about events, each in a process of its own, on a mirror without workers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import simulator
from processors.errors import ZohoRefused
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.store import database, runs, schema
from processors.store.audit import Requester
from processors.store.event_filter import EventFilter
from processors.store.runs import Unusable
from processors.workflows import replaying
from tests.runtime.test_operator_commands import COLUMNS, NOWHERE, PASSWORD, Said, Shop, fits, in_zoho, mirrored
from tests.workflows.scene import Scene, fields, thin

LONG_AGO, LATER = "2020-01-01", "2020-02-01"
REFUSAL = "Zoho answered 400, code 2: Invalid value passed for item"


@pytest.fixture
def shop(database_url: str, redis_server: LocalRedis) -> Iterator[Shop]:
    """Nothing mirrored yet of 30 items."""
    zoho = simulator.Zoho(simulator.Catalogue.generate(30), limits=simulator.Limits.none())
    with simulator.serve(zoho) as zoho_url:
        yield Shop(database_url, redis_server.url, zoho, zoho_url)


@contextlib.contextmanager
def scene_of(shop: Shop) -> Iterator[Scene]:
    with database.sync_pool(shop.database_url, size=4, name="tests") as pool:
        yield Scene(pool)


def refused(scene: Scene, *item_ids: str) -> list[int]:
    """Return events that died because Zoho refused their items, which it does not do any more."""
    event_ids = [scene.changed(thin(item_id)) for item_id in item_ids]
    scene.apply(*event_ids)
    scene.zoho.answers = {item_id: ZohoRefused(f"{REFUSAL} {item_id}") for item_id in item_ids}
    scene.fetch(*event_ids)
    assert {scene.event(event_id)["state"] for event_id in event_ids} == {"dead"}
    return event_ids


def unreadable(scene: Scene, error: str, body: bytes = b"nonsense") -> int:
    event_id = scene.record("changed", "0", body)
    scene.execute(
        "UPDATE events SET state = 'dead', item_id = NULL, error_class = 'BodyUnreadable', error = %(error)s"
        " WHERE id = %(id)s",
        id=event_id,
        error=error,
    )
    return event_id


# Starting Python takes ten times as long as what most commands do.
_IN_TURN = """
import json, sys, traceback
from click.testing import CliRunner
from processors.runtime.cli import main
for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(main, command)
    fault = "" if isinstance(done.exception, SystemExit | None) else "".join(traceback.format_exception(done.exception))
    print(json.dumps([done.exit_code, done.stdout, done.stderr + fault]))
"""


def run_in_turn(shop: Shop, *commands: Sequence[str], **changed: str) -> list[Said]:
    """Run several commands in one process without a terminal."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_TURN, json.dumps(commands)],
        env=shop.env | changed,
        cwd=procfile.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = [Said(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(said) == len(commands)
    return [shop._looked_through(each) for each in said]


def tables(shop: Shop) -> dict[str, list[str]]:
    """Return everything there is, to compare; but not who is alive: that changes by itself."""
    names = shop.execute(
        "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'processes'"
    )
    return {
        row["name"]: [each["line"] for each in shop.execute(f"SELECT t::text AS line FROM {row['name']} t ORDER BY 1")]
        for row in names
    }


def ids(said: Said) -> list[int]:
    assert said.code == 0, said
    return [each["id"] for each in said.json]


def text(ids_: list[int]) -> list[str]:
    return list(map(str, ids_))


@dataclass(frozen=True)
class Letters:
    """Events of each kind, which no test here changes."""

    shop: Shop
    item_ids: list[str]
    created: int
    gone: int
    refused: list[int]
    unreadable: int
    discarded: int
    of_a_run: int
    run_id: int
    waiting: int

    @property
    def dead(self) -> list[int]:
        return [self.of_a_run, self.unreadable, *reversed(self.refused)]


@pytest.fixture(scope="module")
def letters(postgres: LocalPostgres, redis_server: LocalRedis) -> Iterator[Letters]:
    database_url = postgres.create_database("letters")
    schema.migrate(database_url)
    zoho = simulator.Zoho(simulator.Catalogue.generate(10), limits=simulator.Limits.none())
    with simulator.serve(zoho) as zoho_url:
        shop = Shop(database_url, redis_server.url, zoho, zoho_url)
        item_ids = [item.item_id for item in zoho.catalogue.all()]
        with scene_of(shop) as scene:
            created, gone = scene.changed(fields(item_id=item_ids[0])), scene.deleted("555")
            scene.apply(created, gone)
            dead = refused(scene, item_ids[1], item_ids[2])
            unread = unreadable(scene, "the body should hold an item")
            (discarded,) = refused(scene, item_ids[3])
            meant = EventFilter(event_ids=(discarded,))
            replaying.discard(scene.pool, meant, Requester("cli", "somebody"), reason="a test item")
            with scene.pool.connection() as connection:
                run = runs.open_run(connection, "full", "cli")
                assert run is not None
                body = b'{"item_id": "%b", "name": ""}' % item_ids[4].encode()
                runs.keep_unusable(connection, run, [Unusable(item_ids[4], body, ValueError("it has no name"))])
            (of_a_run,) = scene.execute("SELECT id FROM events WHERE run_id = %(id)s", id=run.id)
            waiting = scene.changed(fields(item_id=item_ids[5]))
            scene.execute("UPDATE events SET received_at = %(at)s WHERE id = %(id)s", at=LONG_AGO, id=created)
        yield Letters(shop, item_ids, created, gone, dead, unread, discarded, of_a_run["id"], run.id, waiting)
    postgres.drop_database("letters")


# Looking


def test_events_lists_those_that_match_the_newest_first(letters: Letters) -> None:
    everything = [
        letters.waiting,
        letters.of_a_run,
        letters.discarded,
        letters.unreadable,
        *reversed(letters.refused),
        letters.gone,
        letters.created,
    ]
    expected: list[tuple[tuple[str, ...], list[int]]] = [
        ((), everything),
        (("--most", "2"), everything[:2]),
        (("--state", "dead"), letters.dead),
        (("--state", "recorded"), [letters.waiting]),
        (("--outcome", "gone"), [letters.gone]),
        (("--error", "CODE 2", "--state", "dead"), letters.refused[::-1]),
        (("--error-class", "BodyUnreadable"), [letters.unreadable]),
        (("--item", letters.item_ids[1]), letters.refused[:1]),
        (("--kind", "deleted"), [letters.gone]),
        (("--run", str(letters.run_id)), [letters.of_a_run]),
        (("--until", LATER), [letters.created]),
        (("--since", LATER, "--state", "processed"), [letters.gone]),
    ]
    said = run_in_turn(letters.shop, *(("events", *asked, "--json") for asked, _ in expected))
    assert [ids(each) for each in said] == [wanted for _, wanted in expected]
    first = said[0].json[-1]
    assert (first["state"], first["outcome"], first["received_at"][:10]) == ("processed", "created", LONG_AGO)
    assert "body" not in first


def test_events_fits_80_columns_and_is_whole_in_a_file(letters: Letters) -> None:
    on_terminal, plain = letters.shop.on_terminal("events"), letters.shop.run("events")
    for said in (on_terminal, plain):
        assert said.code == 0
        lines = {words[0]: words for words in map(str.split, said.lines) if words}
        assert {"processed", "created", letters.item_ids[0]} <= set(lines[str(letters.created)])
        assert {"dead", letters.item_ids[1]} <= set(lines[str(letters.refused[0])])
        assert {"dead", "?"} <= set(lines[str(letters.unreadable)])
        assert "discarded" in lines[str(letters.discarded)]
    assert all(len(line) <= COLUMNS for line in on_terminal.lines), on_terminal.out
    assert f"{REFUSAL} {letters.item_ids[1]}" in plain.out
    assert "\x1b" not in plain.out


def test_events_show_tells_each_attempt_and_the_body(letters: Letters) -> None:
    dead, discarded = str(letters.refused[0]), str(letters.discarded)
    on_terminal = letters.shop.on_terminal("events", "show", dead)
    plain, in_json, unknown, unknown_in_json = run_in_turn(
        letters.shop,
        ("events", "show", discarded),
        ("events", "show", dead, "--json"),
        ("events", "show", "999999"),
        ("events", "show", "999999", "--json"),
    )
    assert on_terminal.code == plain.code == in_json.code == 0
    assert f"Event {dead}, changed, item {letters.item_ids[1]}: dead" in on_terminal.text
    assert f"ZohoRefused: {REFUSAL}" in on_terminal.text
    assert "scene.py, line" in on_terminal.text
    assert f'{{"item": {{"item_id":"{letters.item_ids[1]}"}}}}' in on_terminal.text
    assert all(len(line) <= COLUMNS for line in on_terminal.lines), on_terminal.out
    assert "discarded by cli:somebody: a test item" in plain.text
    (event,) = in_json.json
    assert [(each["attempt"], each["error_class"], each["worker"]) for each in event["attempts"]][-1] == (
        2,
        "ZohoRefused",
        "worker:test",
    )
    assert json.loads(event["body"]) == {"item": {"item_id": letters.item_ids[1]}}
    assert (unknown.code, unknown.out, unknown.err) == (1, "", "there is no event 999999\n")
    assert (unknown_in_json.code, unknown_in_json.out) == (1, "")
    assert json.loads(unknown_in_json.err)["error"] == "there is no event 999999"


def test_events_causes_groups_the_dead_that_nobody_discarded(letters: Letters) -> None:
    on_terminal = letters.shop.on_terminal("events", "causes")
    plain, in_json = run_in_turn(letters.shop, ("events", "causes"), ("events", "causes", "--json"))
    assert on_terminal.code == plain.code == in_json.code == 0
    assert {each["error_class"]: each["count"] for each in in_json.json} == {
        "ZohoRefused": 2,
        "BodyUnreadable": 1,
        "ValueError": 1,
    }
    cause = in_json.json[0]
    assert cause["example_id"] in letters.refused
    assert letters.item_ids[1] not in cause["cause"]
    for said in (on_terminal, plain):
        assert f"2 ZohoRefused: {cause['cause']}" in said.text
        assert f"such as event {cause['example_id']}" in said.text
        assert "1 BodyUnreadable: the body should hold an item" in said.text
    assert all(len(line) <= COLUMNS for line in on_terminal.lines), on_terminal.out


def test_what_is_said_of_an_empty_inbox(shop: Shop) -> None:
    commands = [("events",), ("events", "causes"), ("replays",)]
    said = run_in_turn(shop, *commands, *((*command, "--json") for command in commands))
    assert [(each.code, each.out) for each in said] == [
        (0, "No event matches.\n"),
        (0, "No event is dead.\n"),
        (0, "Nothing was ever replayed.\n"),
        *[(0, "")] * 3,
    ]


def test_a_text_from_outside_is_shown_as_it_came(shop: Shop) -> None:
    """What looks like markup in an error, an item's id or a body is neither obeyed nor a fault."""
    error = "input [type=missing] [bold]was[/bold] odd [/red]"
    with scene_of(shop) as scene:
        event_id = str(unreadable(scene, error, b"[/green] [link]body"))
        scene.execute("UPDATE events SET item_id = '[/blue]7' WHERE id = %(id)s", id=int(event_id))
    listed, shown, causes, rehearsed = run_in_turn(
        shop, ("events",), ("events", "show", event_id), ("events", "causes"), ("replay", event_id, "--dry-run")
    )
    assert [each.code for each in (listed, shown, causes, rehearsed)] == [0] * 4
    assert error in causes.text
    assert "item [/blue]7 " in rehearsed.text
    assert "item [/blue]7: dead" in shown.text
    assert "[/green] [link]body" in shown.text
    assert error in listed.text
    assert "[/blue]7" in listed.text


# Rehearsals and refusals


def test_a_dry_run_says_what_each_event_would_change_and_changes_nothing(letters: Letters) -> None:
    before = tables(letters.shop)
    on_terminal = letters.shop.on_terminal("replay", "--state", "dead", "--dry-run")
    plain, in_json, finished = run_in_turn(
        letters.shop,
        ("replay", "--state", "dead", "--dry-run"),
        ("replay", "--state", "dead", "--dry-run", "--json"),
        ("replay", "--since", LONG_AGO, "--state", "processed", "--dry-run", "--json", "--reason", "to see"),
    )
    assert tables(letters.shop) == before
    assert len(before) > 10
    assert on_terminal.code == plain.code == in_json.code == finished.code == 0
    effects = {each["event_id"]: each["effect"] for each in in_json.json}
    assert effects == {
        **dict.fromkeys(letters.refused, "fetch"),
        letters.unreadable: "unreadable",
        letters.of_a_run: "fetch",
    }
    assert {each["event_id"]: each["effect"] for each in finished.json} == {
        letters.created: "unchanged",
        letters.gone: "gone",
    }
    for said in (on_terminal, plain):
        assert f"event {letters.refused[0]} item {letters.item_ids[1]} fetch" in said.text
        assert "A rehearsal of 4 events: 3 fetch, 1 unreadable. Nothing was changed." in said.text
    assert fits(on_terminal), on_terminal.out


def test_a_replay_that_names_no_event_is_wrong_usage_and_changes_nothing(letters: Letters) -> None:
    before = tables(letters.shop)
    said = run_in_turn(letters.shop, ("replay",), ("replay", "--no-wait", "--reason", "x"), ("replay", "--dry-run"))
    assert tables(letters.shop) == before
    assert [(each.code, each.out) for each in said] == [(2, "")] * 3
    assert all("name the events that are meant" in each.err for each in said)


def test_a_discard_that_names_no_event_is_wrong_usage_and_changes_nothing(shop: Shop) -> None:
    """That all dead events are meant has to be said."""
    with scene_of(shop) as scene:
        unreadable(scene, "odd")
    before = tables(shop)
    (said,) = run_in_turn(shop, ("discard", "--reason", "a test item"))
    assert tables(shop) == before
    assert (said.code, said.out) == (2, "")
    assert "name the events that are meant" in said.err


def test_wrong_usage_is_exit_code_2(letters: Letters) -> None:
    commands = [
        ("replay", "one"),
        ("replay", "1", "--per-second", "0"),
        ("replay", "--state", "recorded"),
        ("replay", "--since", "yesterday"),
        ("discard", str(letters.refused[0])),
        ("events", "--state", "odd"),
        ("events", "show"),
        ("replays", "show", "x"),
    ]
    assert [said.code for said in run_in_turn(letters.shop, *commands)] == [2] * len(commands)


def test_what_matches_nothing_is_one_line_and_exit_code_1(letters: Letters) -> None:
    before = tables(letters.shop)
    expected = {
        ("replay", "999999"): "no finished event that matches has the id 999999",
        ("replay", str(letters.waiting), "--no-wait"): "still under way",
        ("replay", "--error", "nothing like it"): "no finished event matches",
        ("replay", "--error-class", "KeyError", "--dry-run"): "no finished event matches",
        ("replays", "show", "77"): "there is no replay 77",
        ("replays", "cancel", "77"): "replay 77 is not there",
        ("discard", str(letters.created), "--reason", "x"): "no dead event that matches has the id",
    }
    plain = run_in_turn(letters.shop, *expected)
    in_json = run_in_turn(letters.shop, *((*command, "--json") for command in list(expected)[:2]))
    for (command, reason), said in zip(expected.items(), plain, strict=True):
        assert (said.code, said.out) == (1, ""), command
        assert reason in said.err, command
        assert len(said.err.splitlines()) == 1, command
    for said, reason in zip(in_json, expected.values(), strict=False):
        assert (said.code, said.out) == (1, "")
        assert reason in json.loads(said.err)["error"]
    assert tables(letters.shop) == before


def test_an_absent_postgres_is_one_line_and_exit_code_1(letters: Letters) -> None:
    commands = [("events",), ("replay", "1", "--json"), ("replays", "cancel", "1"), ("discard", "1", "--reason", "x")]
    for command, said in zip(commands, run_in_turn(letters.shop, *commands, DATABASE_URL=NOWHERE), strict=True):
        assert (said.code, said.out) == (1, ""), command
        (line,) = said.err.splitlines()
        error = json.loads(line)["error"] if "--json" in command else line
        assert error.startswith("Postgres does not answer: connection failed"), command


# Replays


def test_once_the_cause_is_mended_a_replay_applies_all_and_a_second_one_finds_each_unchanged(shop: Shop) -> None:
    item_ids = [item.item_id for item in shop.zoho.catalogue.all()[:4]]
    with scene_of(shop) as scene:
        event_ids, other = refused(scene, *item_ids), unreadable(scene, "another fault")
    started = time.monotonic()
    first = shop.on_terminal("replay", "--state", "dead", "--error", "CODE 2", "--reason", "the template is mended")
    assert time.monotonic() - started > 3  # the workers come first
    assert first.code == 0, first
    for event_id, item_id in zip(event_ids, item_ids, strict=True):
        assert f"event {event_id} item {item_id} created" in first.text
    assert "4 created." in first.text
    assert fits(first), first.out
    assert mirrored(shop) == {item_id: row for item_id, row in in_zoho(shop).items() if item_id in item_ids}
    assert shop.execute("SELECT state FROM events WHERE id = %(id)s", id=other) == [{"state": "dead"}]
    before = shop.execute("SELECT * FROM products ORDER BY 1"), shop.execute("SELECT * FROM product_changes ORDER BY 1")

    (second,) = shop.run("replay", *text(event_ids), "--json").json
    assert second["outcomes"] == {"unchanged": 4}
    assert [(each["event_id"], each["outcome"]) for each in second["events"]] == [
        (event_id, "unchanged") for event_id in event_ids
    ]
    after = shop.execute("SELECT * FROM products ORDER BY 1"), shop.execute("SELECT * FROM product_changes ORDER BY 1")
    assert after == before

    on_terminal = shop.on_terminal("replays")
    plain, in_json, one, shown, superseded = run_in_turn(
        shop,
        ("replays",),
        ("replays", "--json"),
        ("replays", "--most", "1", "--json"),
        ("replays", "show", str(second["replay_id"])),
        ("replays", "show", str(second["replay_id"] - 1), "--json"),
    )
    newest, oldest = in_json.json
    assert one.json == [newest]
    assert (newest["id"], newest["state"], newest["total"]) == (second["replay_id"], "complete", 4)
    assert newest["filter"] == {"event_ids": event_ids}
    assert (oldest["reason"], oldest["filter"]) == ("the template is mended", {"state": "dead", "error": "CODE 2"})
    assert oldest["requested_by"].startswith("cli:")
    for said in (on_terminal, plain):
        assert said.code == 0
        assert "(the template is mended): complete" in said.text
        assert "4 events, error CODE 2, state dead" in said.text
        assert "4 unchanged" in said.text
    assert fits(on_terminal), on_terminal.out
    assert [line for line in shown.lines[1:] if line.endswith("unchanged")] == shown.lines[1:]
    assert [each["outcome"] for each in superseded.json[0]["events"]] == [None] * 4


def test_a_replay_without_waiting_is_left_to_the_clock_until_somebody_cancels_it(shop: Shop) -> None:
    with scene_of(shop) as scene:
        event_ids = refused(scene, *(item.item_id for item in shop.zoho.catalogue.all()[:3]))
        scene.execute("UPDATE events SET received_at = %(at)s WHERE id = %(id)s", at=LONG_AGO, id=event_ids[0])
    events = shop.execute("SELECT * FROM events ORDER BY id")
    said, named_too = run_in_turn(
        shop,
        ("replay", "--since", LATER, "--no-wait", "--per-second", "7", "--reason", "later"),
        ("replay", *text(event_ids), "--no-wait", "--json"),
    )
    assert said.code == named_too.code == 0
    (in_json,) = named_too.json
    (row, named) = shop.execute("SELECT * FROM replays ORDER BY id")
    assert (row["state"], row["total"], row["per_second"], row["reason"]) == ("running", 2, 7, "later")
    assert f"Replay {row['id']}: 2 events are sent again, 7 a second" in said.text
    assert in_json == {"replay_id": named["id"], "total": 3, "per_second": 50}
    assert shop.execute("SELECT * FROM events ORDER BY id") == events

    cancelled, in_json_too = run_in_turn(
        shop, ("replays", "cancel", str(row["id"])), ("replays", "cancel", str(named["id"]), "--json")
    )
    assert (cancelled.code, cancelled.lines) == (
        0,
        [f"Replay {row['id']} is cancelled; what was sent stays sent."],
    )
    assert in_json_too.json[0]["state"] == "cancelled"
    again, shown = run_in_turn(
        shop, ("replays", "cancel", str(row["id"])), ("replays", "show", str(row["id"]), "--json")
    )
    assert (again.code, again.err) == (1, f"replay {row['id']} is cancelled already\n")
    assert (shown.json[0]["state"], shown.json[0]["progress"]["unsent"]) == ("cancelled", 2)
    assert shop.execute("SELECT * FROM events ORDER BY id") == events


def test_a_replay_of_which_one_dies_again_fails_and_the_others_are_applied_also_without_redis(shop: Shop) -> None:
    broken, good, trimmed = (item.item_id for item in shop.zoho.catalogue.all()[:3])
    with scene_of(shop) as scene:
        event_ids = refused(scene, broken, good, trimmed)
        scene.execute("UPDATE events SET body = '' WHERE id = %(id)s", id=event_ids[2])
    for path in (f"/inventory/v1/items/{broken}", "/inventory/v1/itemdetails"):
        shop.zoho.faults.add(simulator.Fault(path, status=400, code=2, message="Still odd"))
    said = shop.run("replay", *text(event_ids), REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:1/0")
    assert said.code == 1, said
    assert f"event {event_ids[0]} item {broken} dead: Zoho answered 400, code 2" in said.text
    assert f"event {event_ids[1]} item {good} created" in said.text
    assert f"event {event_ids[2]} item {trimmed} not sent: its body was trimmed" in said.text
    assert "1 created, 1 dead again, 1 not sent." in said.text
    assert mirrored(shop).keys() == {good}


def test_ctrl_c_leaves_a_replay_to_the_clock(shop: Shop) -> None:
    with scene_of(shop) as scene:
        event_ids = refused(scene, *(item.item_id for item in shop.zoho.catalogue.all()[:3]))
    said = shop.on_terminal("replay", *text(event_ids), "--per-second", "1", interrupted_at="unfinished")
    assert said.code == 1
    (row,) = shop.execute("SELECT * FROM replays")
    assert row["state"] == "running"
    assert not shop.execute("SELECT id FROM events WHERE state = 'processing'")


# Discards


def test_discarded_events_are_no_longer_among_the_dead(shop: Shop) -> None:
    def discards() -> list[dict[str, Any]]:
        return shop.execute(
            "SELECT id, state, discarded_by LIKE 'cli:%%' AS by_cli, discard_reason AS why FROM events"
            " WHERE discarded_at IS NOT NULL ORDER BY id"
        )

    with scene_of(shop) as scene:
        first, second, third = refused(scene, *(item.item_id for item in shop.zoho.catalogue.all()[:3]))
        odd = unreadable(scene, "odd")
    named, matching = run_in_turn(
        shop,
        ("discard", str(first), "--reason", "a test item", "--json"),
        ("discard", "--error-class", "BodyUnreadable", "--reason", "nonsense"),
    )
    assert (named.code, named.json) == (0, [{"discarded": [first]}])
    assert matching.code == 0
    assert "1 dead events are discarded" in matching.text
    assert discards() == [
        {"id": first, "state": "dead", "by_cli": True, "why": "a test item"},
        {"id": odd, "state": "dead", "by_cli": True, "why": "nonsense"},
    ]
    again, dead, rehearsed = run_in_turn(
        shop,
        ("discard", str(first), "--reason", "once more"),
        ("events", "--state", "dead", "--json"),
        ("replay", "--state", "dead", "--dry-run", "--json"),
    )
    assert (again.code, again.err) == (1, "none of these events is dead, or all are discarded already\n")
    assert ids(dead) == [third, second]
    assert [each["event_id"] for each in rehearsed.json] == [second, third]
    assert len(discards()) == 2
