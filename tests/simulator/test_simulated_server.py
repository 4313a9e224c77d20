"""The simulator as a whole, on real ports: serving, delivering, controls, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from simulator import (
    CLIENT_ID,
    CLIENT_SECRET,
    ORGANIZATION_ID,
    REFRESH_TOKEN,
    Catalogue,
    Editor,
    Fault,
    Zoho,
    in_process,
    serve,
)

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def receiving() -> Iterator[tuple[str, list[bytes]]]:
    """Run a receiver that takes everything; give its base URL and the bodies it got."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
        server.shutdown()
        thread.join()


def _sign_in(base_url: str) -> httpx.Client:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH_TOKEN,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    token = httpx.post(f"{base_url}/oauth/v2/token", data=form).json()
    return httpx.Client(
        base_url=f"{token['api_domain']}/inventory/v1/",
        headers={"Authorization": f"Zoho-oauthtoken {token['access_token']}"},
        params={"organization_id": ORGANIZATION_ID},
    )


def test_an_edit_reaches_a_receiver_and_the_api_on_real_ports() -> None:
    zoho = Zoho(Catalogue.generate(20))
    item = zoho.catalogue.create("Mug", rate=Decimal("360.00"))
    with serve(zoho) as base_url, receiving() as (receiver_url, bodies), _sign_in(base_url) as client:
        zoho.deliveries.base_url = receiver_url
        zoho.catalogue.edit(item.item_id, rate=Decimal("361.50"))
        zoho.deliveries.drain()
        fetched = client.get(f"items/{item.item_id}")
        assert '"rate":361.50,' in fetched.text
        (body,) = bodies
        assert json.loads(body)["item"]["last_modified_time"] == fetched.json()["item"]["last_modified_time"]
        zoho.deliveries.close()


def test_a_connection_can_be_dropped_on_a_real_port() -> None:
    zoho = Zoho(Catalogue.generate(5))
    with serve(zoho) as base_url, _sign_in(base_url) as client:
        zoho.faults.add(Fault("/inventory/v1/items", drop_connection=True, times=1))
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("items")
        assert len(client.get("items").json()["items"]) == 5
    assert zoho.calls("/inventory/v1/items") == 2


def test_the_editor_works_in_the_background_until_told_to_stop() -> None:
    catalogue = Catalogue.generate(20)
    edited = threading.Semaphore(0)
    catalogue.on_change(lambda _: edited.release())
    with Editor(catalogue).at_work(per_second=500):
        assert all(edited.acquire(timeout=5) for _ in range(10))
    while edited.acquire(blocking=False):
        pass
    assert not edited.acquire(timeout=0.05)


def test_the_controls_edit_count_and_disturb() -> None:
    zoho = Zoho(Catalogue.generate(20))
    item_id = zoho.catalogue.all()[0].item_id
    with in_process.client(zoho) as client:
        edited = client.post(
            f"/simulator/items/{item_id}/edit",
            json={"rate": "12.50", "name": "Cup", "status": "inactive", "track_inventory": True},
        )
        assert '"rate":12.50,' in edited.text
        assert (edited.json()["name"], edited.json()["status"]) == ("Cup", "inactive")
        assert len(client.post("/simulator/edits", json={"count": 7}).json()["edits"]) == 7
        fault = {"path": "/oauth/*", "status": 500, "times": 1}
        assert client.post("/simulator/faults", json=fault).status_code == 201
        state = client.get("/simulator/state").json()
        assert state["items"] == len(zoho.catalogue)
        assert [fault["path"] for fault in state["faults"]] == ["/oauth/*"]
        assert client.get("/oauth/serverinfo").status_code == 500
        assert client.delete("/simulator/faults").status_code == 204
        assert client.get("/simulator/state").json()["requests"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("items/1/edit", '{"name": "Cup"}', 404),
        ("items/{item_id}/edit", '{"colour": "red"}', 400),
        ("items/{item_id}/edit", '{"rate": "much"}', 400),
        ("items/{item_id}/edit", "[]", 400),
        ("items/{item_id}/edit", "{", 400),
        ("edits", '{"count": 0}', 400),
        ("edits", '{"count": "many"}', 400),
        ("faults", '{"path": "*", "colour": "red"}', 400),
        ("faults", '{"status": 500}', 400),
        ("faults", '{"path": "*", "latency_seconds": "long"}', 400),
    ],
)
def test_a_control_that_makes_no_sense_says_so(path: str, body: str, status: int) -> None:
    zoho = Zoho(Catalogue.generate(1))
    with in_process.client(zoho) as client:
        path = path.format(item_id=zoho.catalogue.all()[0].item_id)
        response = client.post(f"/simulator/{path}", content=body)
    assert response.status_code == status
    assert response.json()["error"]


def test_the_controls_show_the_latest_deliveries() -> None:
    zoho = Zoho(Catalogue.generate(1))
    with receiving() as (receiver_url, _), in_process.client(zoho) as client:
        zoho.deliveries.base_url = receiver_url
        item = zoho.catalogue.create("Mug")
        zoho.deliveries.drain()
        (shown,) = client.get("/simulator/deliveries").json()
        zoho.deliveries.close()
    assert (shown["item_id"], shown["state"], shown["status"]) == (item.item_id, "delivered", 200)
    assert shown["duration_ms"] > 0


def test_the_command_prints_its_address_lives_and_ends_on_sigterm() -> None:
    options = ["--port", "0", "--items", "50", "--edits-per-second", "50"]
    with receiving() as (receiver_url, bodies):
        process = subprocess.Popen(
            [sys.executable, "-m", "simulator", *options, "--webhook-url", receiver_url],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        with process:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            assert ORGANIZATION_ID in process.stdout.readline()
            state = httpx.get(f"{base_url}/simulator/state").json()
            assert state["webhook_url"] == receiver_url
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(timeout=10) == 0
            finally:
                process.kill()
    assert all(json.loads(body)["item"]["item_id"] for body in bodies)


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--webhook-url", "https://example.com"], "loopback only"), (["--secret", "short"], "12 to 50")],
)
def test_the_command_refuses_what_it_must_not_do(options: list[str], reason: str) -> None:
    command = [sys.executable, "-m", "simulator", "--items", "1", *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=20)
    assert result.returncode == 2
    assert reason in result.stderr
