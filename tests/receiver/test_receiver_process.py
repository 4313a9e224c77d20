"""The web process as the Procfile starts it: its settings, its logs, its end."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.receiver.serving import (
    DELETED,
    FORM,
    ITEMS,
    MULTIPART,
    OLDER_SECRET,
    SECRET,
    Rows,
    eventually,
    item,
    multipart,
    part,
    signed,
)

_ROOT = Path(__file__).parents[2]
_COMMAND = [sys.executable, "-m", "uvicorn", "receiver.app:create_app", "--factory", "--host", "127.0.0.1"]
_OPTIONS = [
    "--http",
    "receiver.protocol:BoundedProtocol",
    "--no-proxy-headers",
    "--no-server-header",
    "--no-access-log",
    "--backlog",
    "128",
]


def _environ(database_url: str, redis_url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")}
    secrets = f"{SECRET},{OLDER_SECRET}"
    return kept | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ZOHO_WEBHOOK_SECRETS": secrets,
        "LOG_LEVEL": "debug",
        **more,
    }


@contextmanager
def _running(
    environ: dict[str, str], log: Path, *, limited: str = "true"
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["sh", "-c", f'{limited} && exec "$@"', "sh", *_COMMAND, *_OPTIONS, "--port", "0"],
            cwd=_ROOT,
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            (url,) = eventually(lambda: re.findall(r"http://127\.0\.0\.1:\d+", log.read_text()), within_seconds=20)
            with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
                assert client.get("/health/live").status_code == 200
                yield process, client
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def test_refused_deliveries_leave_no_secret_and_no_body_in_the_log(
    database_url: str, redis_url: str, rows: Rows, tmp_path: Path
) -> None:
    mark, log = b"hushHushHush", tmp_path / "log"
    senders = itertools.count(1)
    # Each from an address of its own: many from one would be throttled, and logged no more.
    with _running(_environ(database_url, redis_url, TRUSTED_PROXIES="1"), log) as (process, client):
        for path in (ITEMS, DELETED, f"{ITEMS}?{mark.decode()}=1"):
            for headers in (
                {},
                signed(b"other"),
                signed(b"other", content_type=FORM),
                signed(b"other", content_type=MULTIPART),
                signed(b"other", content_type="text/plain"),
                signed(b"other", content_type="multipart/form-data"),
                {"X-Zoho-Webhook-Signature": mark.decode()},
            ):
                for body in (
                    mark,
                    item("1", name=mark.decode()),
                    multipart(part(mark.decode(), mark, b"\r\nContent-Transfer-Encoding: " + mark)),
                    mark * 100_000,
                ):
                    sent = {**headers, "X-Forwarded-For": f"203.0.113.{next(senders)}"}
                    assert client.post(path, content=body, headers=sent).status_code in {401, 413, 415}
        assert client.post(ITEMS, content=item("77"), headers=signed(item("77"))).status_code == 200
        process.send_signal(signal.SIGTERM)
        process.wait(20)

    text = log.read_text()
    for secret in (mark.decode(), SECRET, OLDER_SECRET):
        assert secret not in text
    lines = [json.loads(line) for line in text.splitlines()]
    rejected = [line for line in lines if line["event"] == "delivery.rejected"]
    assert len(rejected) == 3 * 7 * 4
    assert sum(rows.rejections().values()) == len(rejected)
    assert {(line["process"], line["level"]) for line in rejected} == {("web", "warning")}
    assert {line["client"] for line in rejected} == {f"203.0.113.{number + 1}" for number in range(len(rejected))}
    assert [event["item_id"] for event in rows.events()] == ["77"]
    (recorded,) = [line for line in lines if line["event"] == "delivery.recorded"]
    assert (recorded["item_id"], recorded["state"], recorded["event_id"]) == ("77", "recorded", rows.only_event()["id"])
    assert {"process.started", "process.stopped"} <= {line["event"] for line in lines}


def test_sigterm_ends_it_quickly_with_everything_committed_and_published(
    database_url: str, redis_url: str, rows: Rows, tmp_path: Path
) -> None:
    with _running(_environ(database_url, redis_url), tmp_path / "log") as (process, client):
        for number in range(50):
            assert client.post(ITEMS, content=item(str(number)), headers=signed(item(str(number)))).status_code == 200
        process.send_signal(signal.SIGTERM)
        process.wait(10)

    assert len(rows.events()) == 50
    eventually(lambda: {event["state"] for event in rows.events()} == {"queued"})


@pytest.mark.parametrize("limited", ["ulimit -n 1024", "ulimit -Sn 1024"])
def test_signed_deliveries_get_through_more_silent_connections_than_there_are_descriptors(
    database_url: str, redis_url: str, rows: Rows, tmp_path: Path, limited: str
) -> None:
    log = tmp_path / "log"
    with _running(_environ(database_url, redis_url), log, limited=limited) as (_, client), ExitStack() as stack:
        port = client.base_url.port
        assert port
        for number in range(1_100):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            silent.sendall(b"POST /webhooks/zoho/items HTTP/1.1\r\n"[: number % 36])
        for number in range(5):
            # A connection of its own for each.
            with httpx.Client(base_url=client.base_url, timeout=5, trust_env=False) as sender:
                answer = sender.post(ITEMS, content=item(str(number)), headers=signed(item(str(number))))
                assert answer.status_code == 200
                assert sender.get("/health/ready").status_code == 200
    assert len(rows.events()) == 5
    lines = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert not any("out of system resource" in line for line in lines)
    assert len(lines) < 200
    assert ("connection.dropped" in lines) is (limited == "ulimit -n 1024")


def _refusal(environ: dict[str, str]) -> str:
    done = subprocess.run(
        [*_COMMAND, *_OPTIONS, "--port", "0"],
        cwd=_ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr + done.stdout


@pytest.mark.parametrize("value", [None, ",", "tooShort,hushHushHush"])
def test_web_without_webhook_secrets_ends_at_once_with_one_line(value: str | None) -> None:
    environ = _environ("postgresql://x@localhost/x", "redis://localhost")
    del environ["ZOHO_WEBHOOK_SECRETS"]
    text = _refusal(environ if value is None else {**environ, "ZOHO_WEBHOOK_SECRETS": value})

    (line,) = [line for line in text.splitlines() if "ZOHO_WEBHOOK_SECRETS" in line]
    assert "should hold the secrets of Zoho's webhook form, newest first, comma-separated" in line
    assert "hushHushHush" not in text
    assert text.strip() == line


def test_web_names_everything_that_is_missing() -> None:
    text = _refusal({"PATH": os.environ["PATH"], "PORT": "x"})

    assert [line.split()[0] for line in text.splitlines()] == [
        "DATABASE_URL",
        "REDIS_URL",
        "ZOHO_WEBHOOK_SECRETS",
        "PORT",
    ]
