"""What the tests of the Zoho side share: settings, time that passes on demand, and other processes."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import respx

from processors.settings import Settings
from processors.store.database import Connection
from simulator import CLIENT_ID, CLIENT_SECRET, ORGANIZATION_ID, REFRESH_TOKEN

ROOT = Path(__file__).resolve().parents[2]
KEYS = [base64.urlsafe_b64encode(bytes([letter]) * 32).decode() for letter in b"ABC"]
ACCOUNTS = "http://accounts.test"
API = "http://api.test"
TOKEN_URL = f"{ACCOUNTS}/oauth/v2/token"
PATIENCE_SECONDS = 20.0
"""A deadline for what should happen at once, even on a busy machine."""


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that is connected to the simulator's organisation at made-up hosts."""
    return {
        "ZOHO_ACCOUNTS_URL": ACCOUNTS,
        "ZOHO_API_URL": API,
        "ZOHO_ORGANIZATION_ID": ORGANIZATION_ID,
        "ZOHO_CLIENT_ID": CLIENT_ID,
        "ZOHO_CLIENT_SECRET": CLIENT_SECRET,
        "ZOHO_REFRESH_TOKEN": REFRESH_TOKEN,
        "ENCRYPTION_KEYS": KEYS[0],
        **changes,
    }


def settings(**changes: str) -> Settings:
    """Those settings; an empty value unsets one."""
    return Settings.load(environ=environment(**changes))


def answering(router: respx.MockRouter) -> httpx.Client:
    """A client whose every request is answered by `router`."""
    return httpx.Client(transport=httpx.MockTransport(router.handler))


def let_pass(connection: Connection, time: timedelta) -> None:
    """Make everything that Postgres remembers of tokens and calls so much older."""
    for statement in (
        """UPDATE zoho_connection SET access_token_expires_at = access_token_expires_at - %(time)s::interval,
                                      refresh_allowed_at = refresh_allowed_at - %(time)s::interval""",
        "UPDATE token_calls SET ends_at = ends_at - %(time)s::interval",
        """UPDATE api_calls SET started_at = started_at - %(time)s::interval,
                                ends_at = ends_at - %(time)s::interval""",
        """UPDATE api_gate SET closed_until = closed_until - %(time)s::interval,
                               closed_since = closed_since - %(time)s::interval,
                               closed_at = closed_at - %(time)s::interval""",
    ):
        connection.execute(statement, {"time": time})


def forget_answers(connection: Connection) -> None:
    """Let nothing be known of earlier calls, and the breaker stand as in the beginning."""
    connection.execute("DELETE FROM api_calls")
    connection.execute("DELETE FROM api_gate")
    connection.execute("INSERT INTO api_gate DEFAULT VALUES")


def expire_token(connection: Connection) -> None:
    """Let the stored access token be too old, as after an hour without work."""
    connection.execute("UPDATE zoho_connection SET access_token_expires_at = now() - interval '1 hour'")


class Caller:
    """Another process of the mirror (`caller_process.py`), which does as it is told, one command after the other."""

    def __init__(self) -> None:
        """Start it; it answers when it is there."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zoho.caller_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, command: str, environ: dict[str, str], **arguments: Any) -> None:
        """Start a command."""
        self.say(json.dumps({"command": command, "environ": environ, **arguments}))

    def say(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Wait for the next answer."""
        line = self._lines.get(timeout=PATIENCE_SECONDS)
        assert line, "the other process ended"
        return json.loads(line)

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        """It was started already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        self.kill()
        self._reader.join(PATIENCE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class SlowAccounts:
    """An accounts server on a real port that keeps callers waiting until it is told to answer."""

    def __init__(self) -> None:
        """Answer nobody yet."""
        self.arrived = threading.Event()
        self.may_answer = threading.Event()
        self.calls = 0
        self.url = ""


@contextmanager
def slow_accounts() -> Iterator[SlowAccounts]:
    """Run one."""
    state = SlowAccounts()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            state.calls += 1
            number = state.calls
            state.arrived.set()
            state.may_answer.wait(PATIENCE_SECONDS)
            body = json.dumps({"access_token": f"1000.slow.{number}", "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A caller that was killed does not take its answer."""

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            state.may_answer.set()
            server.shutdown()
            thread.join(PATIENCE_SECONDS)


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    """Do all at once, each in a thread; return the results, or the exceptions."""
    results: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(index: int, work: Callable[[], Any]) -> None:
        start.wait(PATIENCE_SECONDS)
        try:
            results[index] = work()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index, work)) for index, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "a thread did not end in time"
    return results
