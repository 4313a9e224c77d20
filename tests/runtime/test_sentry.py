"""Sentry hears what went wrong and where, once, and none of the secrets."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from processors.runtime import procfile

SECRETS = {
    "DATABASE_URL": "postgres://mirror:database-password@127.0.0.1:5/x",
    "REDIS_URL": "redis://:redis-password@127.0.0.1:5/0",
    "BROKER_URL": "amqp://mirror:broker-password@127.0.0.1:5/x",
    "ZOHO_CLIENT_SECRET": "the-clients-secret",
    "ZOHO_REFRESH_TOKEN": "1000.the-refresh-token",
    "ZOHO_WEBHOOK_SECRETS": "newestSecret1,olderSecret12",
    "ENCRYPTION_KEYS": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "SESSION_SECRET": "signs-the-sessions-of-the-console-xyz",
    "ALERT_WEBHOOK_URL": "https://hooks.example/secret-path",
}
HIDDEN = [
    "database-password", "redis-password", "broker-password", "the-clients-secret", "the-refresh-token",
    "newestSecret1", "olderSecret12", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "signs-the-sessions",
    "secret-path", "a local variable", "consent-code",
]  # fmt: skip

PROGRAM = """
import logging, os, sentry_sdk
from processors import logs, sentry
from processors.settings import Settings
settings = Settings.load()
logs.configure("json", "info", process="web")
sentry.start(settings, process="web")
log = logs.get("ours")

def fail(everything):
    kept = "".join(["a local", " variable"])
    raise ValueError(everything)

log.info("delivery.recorded", event_id=1)
log.warning("delivery.rejected", event_id=2)
try:
    fail(" ".join(os.environ[name] for name in os.environ["NAMES"].split()))
except ValueError:
    log.exception("work.failed", event_id=7, item_id="41")
try:
    fail("theirs")
except ValueError:
    logging.getLogger("theirs").exception("it failed")
log.error("run.held", suspects=12)
sentry_sdk.flush(10)
"""


@dataclass
class Heard:
    url: str
    envelopes: list[bytes] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        found = []
        for envelope in self.envelopes:
            lines = envelope.split(b"\n")
            found += [json.loads(line) for line in lines if b'"event_id"' in line and b'"level"' in line]
        return found


@pytest.fixture
def heard() -> Iterator[Heard]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.envelopes.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Heard(f"http://publickey@127.0.0.1:{server.server_port}/1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield here
        server.shutdown()


def run(**environ: str) -> subprocess.CompletedProcess[str]:
    whole = procfile.environment(**SECRETS, NAMES=" ".join(SECRETS), **environ)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=whole, cwd=procfile.ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip


def test_an_error_arrives_once_with_its_ids_and_no_secret(heard: Heard) -> None:
    done = run(SENTRY_DSN=heard.url)
    assert len(done.stdout.splitlines()) == 5
    events = heard.events()
    assert len(events) == 3
    ours, theirs, message = events
    assert ours["exception"]["values"][0]["type"] == "ValueError"
    assert ours["tags"] == {"process": "web", "event": "work.failed"}
    assert (ours["contexts"]["line"]["event_id"], ours["contexts"]["line"]["item_id"]) == (7, "41")
    assert theirs["exception"]["values"][0]["value"] == "theirs"
    assert message["message"] == "run.held"
    assert {event["release"] for event in events} == {"zoho-mirror@0.1.0"}
    told = json.dumps(events)
    assert [secret for secret in HIDDEN if secret in told] == []
    assert "[filtered]" in told


def test_without_a_dsn_it_is_not_even_imported() -> None:
    program = (
        "import sys; from processors import sentry; from processors.settings import Settings; "
        "sentry.start(Settings.load(environ={}), process='web'); sys.exit('sentry_sdk' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=procfile.ROOT, check=True, timeout=30)
