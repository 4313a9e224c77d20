"""Whatever strangers do, the log grows by so many lines a minute; what is signed is never left out."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from processors import logs
from processors.logs import MOST_LINES
from tests.receiver.conftest import Serve
from tests.receiver.serving import ITEMS, JSON, Web, item

FLOOD = MOST_LINES + 60


def garbage(web: Web, _number: int) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
        while connection.recv(4096):
            pass


def break_off(web: Web, number: int) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        sender = f"X-Forwarded-For: 203.0.113.{number % 200}"
        connection.sendall(f"POST {ITEMS} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n{sender}\r\n\r\n1".encode())


def refuse(web: Web, number: int) -> None:
    """Each from another sender, with much that it made up in front of its address."""
    sender = f"{number}-{'x' * 2_000}, 198.51.{number // 200}.{1 + number % 200}"
    headers = {"Content-Type": JSON, "X-Forwarded-For": sender}
    assert web.client.post(ITEMS, content=item(), headers=headers).status_code == 401


def ask_without_a_token(web: Web, _number: int) -> None:
    assert web.client.get("/api/products", headers={"Authorization": "Bearer x"}).status_code == 401


def sign_in(web: Web, number: int) -> None:
    web.client.post("/console/login", data={"username": f"name{number}", "password": "x"})


def test_a_flood_of_any_kind_is_a_bounded_number_of_short_lines(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    # As `create_app` has it; a server of another test of this process may have set it up otherwise.
    for name in ("uvicorn", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
        logging.getLogger(name).setLevel(logging.NOTSET)
    logs.configure("json", "debug", process="web", stream=stream)
    web = serve(TRUSTED_PROXIES="1", SESSION_SECRET="s" * 40)
    with ThreadPoolExecutor(8) as threads:
        for act in (garbage, break_off, refuse, ask_without_a_token):
            list(threads.map(lambda number, act=act: act(web, number), range(FLOOD)))
        list(threads.map(lambda number: sign_in(web, number), range(5)))
    assert web.deliver(item()).status_code == 200
    web.stop()
    logs._limit.report()

    lines: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = Counter(line["event"] for line in lines)
    assert told["delivery.rejected"] == told["Invalid HTTP request received."] == MOST_LINES
    assert told["delivery.recorded"] == 1
    left_out = {line["of"]: line["count"] for line in lines if line["event"] == "lines.left_out"}
    assert left_out["delivery.rejected"] == left_out["uvicorn.error warning"] == FLOOD - MOST_LINES
    assert max(told.values()) <= MOST_LINES
    assert max(len(json.dumps(line)) for line in lines if line["event"] in logs.LIMITED) < 1_000
