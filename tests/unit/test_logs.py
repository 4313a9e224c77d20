"""Log lines: one form for ours and the libraries', with process and bound ids, without local variables."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
import structlog
from structlog.typing import EventDict

from processors import logs, redaction
from tests import reference


def configure(log_format: Literal["json", "console"], level: str = "info", process: str = "worker") -> None:
    logs.configure(log_format, level, process=process)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def _fail() -> None:
    # Put together here, so that the traceback's line of source does not show it.
    secret = "-".join(("local", str(7)))
    raise ValueError(len(secret))


def test_a_line_is_json_with_event_level_logger_time_and_process(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    logs.get("mirror.part").info("event.recorded", event_id=7)
    (line,) = _lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "event.recorded",
        "event_id": 7,
        "level": "info",
        "logger": "mirror.part",
        "process": "worker",
    }


def test_ids_bound_to_a_unit_of_work_are_in_each_of_its_lines_and_in_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("json")
    with structlog.contextvars.bound_contextvars(event_id=7, item_id="41"):
        logs.get("ours").info("item.upserted")
        logging.getLogger("theirs").warning("careful with %s", "that")
    logs.get("ours").info("worker.idle")
    ours, theirs, after = _lines(capsys)
    assert (ours["event_id"], ours["item_id"]) == (theirs["event_id"], theirs["item_id"]) == (7, "41")
    assert "event_id" not in after


def test_a_librarys_line_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    extra = {"color_message": "\x1b[1mStarted\x1b[0m", "port": 8000}
    logging.getLogger("theirs.server").info("Started on %d", 8000, extra=extra)
    (line,) = _lines(capsys)
    assert (line["event"], line["process"], line["logger"]) == ("Started on 8000", "worker", "theirs.server")
    assert line["port"] == 8000
    assert "color_message" not in line


def test_any_value_fits_into_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    logs.get("x").info("a\nb", d=Decimal("1.50"), t=timedelta(seconds=1), b=b"\xff", s="\ud800", n=None, line="1\n2")
    (line,) = _lines(capsys)
    assert (line["event"], line["d"], line["t"], "n" in line) == ("a\nb", "1.50", "0:00:01", False)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_says_where_but_shows_no_local_variable(
    capsys: pytest.CaptureFixture[str], log_format: Literal["json", "console"]
) -> None:
    configure(log_format)
    for logger in (logs.get("ours"), logging.getLogger("theirs")):
        try:
            _fail()
        except ValueError:
            logger.exception("it.failed")
    printed = capsys.readouterr().out
    assert printed.count("_fail") >= 2
    assert "ValueError" in printed
    assert "local-7" not in printed
    if log_format == "json":
        assert len(printed.splitlines()) == 2
        assert all(json.loads(line)["exception"] for line in printed.splitlines())


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", level="warning")
    logs.get("ours").info("unimportant")
    logging.getLogger("theirs").info("unimportant")
    logs.get("ours").warning("important")
    assert [line["event"] for line in _lines(capsys)] == ["important"]


@pytest.mark.parametrize("name", ["httpx", "httpcore", "httpcore.http11", "uvicorn.access"])
def test_libraries_that_would_log_addresses_and_headers_are_silent_even_at_debug(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    configure("json", level="debug")
    logging.getLogger(name).info("GET https://api.test/?secret")
    logging.getLogger(name).debug("Authorization: token")
    assert capsys.readouterr().out == ""


def test_it_may_be_configured_again(capsys: pytest.CaptureFixture[str]) -> None:
    log = logs.get("ours")
    configure("json", process="first")
    log.info("one")
    configure("json", process="second")
    log.info("two")
    assert [(line["event"], line["process"]) for line in _lines(capsys)] == [("one", "first"), ("two", "second")]


def test_the_console_form_is_one_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console")
    logs.get("ours").info("event.recorded", event_id=7)
    (line,) = capsys.readouterr().out.splitlines()
    assert "event.recorded" in line
    assert "event_id=7" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_that_nobody_reads_any_more_stops_nothing(log_format: Literal["json", "console"]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w") as stream:
        logs.configure(log_format, "info", process="web", stream=stream)
        logs.get("ours").info("delivery.recorded", event_id=7)
        stream.flush()
        pytest.fail("somebody reads")
    logs.get("ours").info("delivery.recorded", event_id=8)


# What anybody may cause to be logged


@pytest.mark.parametrize("event", sorted(logs.LIMITED))
def test_a_strangers_flood_is_so_many_lines_and_one_that_counts_the_rest(
    capsys: pytest.CaptureFixture[str], event: str
) -> None:
    configure("json", process="web")
    log = logs.get("ours")
    for number in range(logs.MOST_LINES + 5_000):
        log.warning(event, client="x" * 10_000, number=number)
    log.info("operator.added", operator="olga")
    logs._limit.report()
    logs._limit.report()
    *first, added, told = _lines(capsys)
    assert [line["number"] for line in first] == list(range(logs.MOST_LINES))
    assert max(len(line["client"]) for line in first) <= 200
    assert added["event"] == "operator.added"
    assert (told["event"], told["of"], told["count"]) == ("lines.left_out", event, 5_000)


def test_a_flood_of_one_kind_leaves_the_lines_of_others_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", process="web")
    for _ in range(logs.MOST_LINES + 1):
        logging.getLogger("theirs").warning("Invalid HTTP request received.")
        logging.getLogger("theirs.too").error("socket.accept() out of system resource")
    logging.getLogger("theirs").error("Exception in ASGI application")
    logs.get("ours").warning("delivery.rejected")
    written = Counter((line["logger"], line["level"]) for line in _lines(capsys))
    assert written == {
        ("theirs", "warning"): logs.MOST_LINES,
        ("theirs.too", "error"): logs.MOST_LINES,
        ("theirs", "error"): 1,
        ("ours", "warning"): 1,
    }


def test_what_is_ours_and_no_strangers_is_never_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    for number in range(3 * logs.MOST_LINES):
        logs.get("ours").warning("event.failed", event_id=number)
    assert len(_lines(capsys)) == 3 * logs.MOST_LINES


def test_a_flood_that_ended_is_reported_without_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    limit = logs.Limit(seconds=0.05)
    reported = threading.Event()

    def observe(_logger: object, _method: str, event: EventDict) -> EventDict:
        reported.set()
        return event

    logs._observers.append(observe)
    try:
        for _ in range(logs.MOST_LINES + 7):
            limit.admits("kind")
        assert reported.wait(5)
    finally:
        logs._observers.clear()
    (line,) = _lines(capsys)
    assert (line["of"], line["count"]) == ("kind", 7)
    assert limit.admits("kind"), "the next window begins"


def test_each_limited_event_is_one_that_is_logged() -> None:
    assert {f"`{event}`" for event in logs.LIMITED} <= {event for event, *_ in reference._log_events()}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_holds_a_secret_of_the_settings(
    capsys: pytest.CaptureFixture[str], log_format: Literal["json", "console"]
) -> None:
    configure(log_format)
    redaction.hide(['pass"word-of-postgres'])
    try:
        logs.get("ours").warning("postgres.lost", error='no pass"word-of-postgres')
        logging.getLogger("theirs").warning("for %s", 'pass"word-of-postgres')
        try:
            int('pass"word-of-postgres')
        except ValueError:
            logs.get("ours").exception("work.failed")
    finally:
        redaction.hide([])
    written = capsys.readouterr().out
    assert "word-of-postgres" not in written
    assert written.count(redaction.FILTERED) >= 3
