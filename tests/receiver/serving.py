"""The web process as it is reached in production, through a socket, but in a thread of the test."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import httpx
import psycopg
import uvicorn
from psycopg.rows import dict_row

from processors.settings import Settings
from processors.zoho import signatures
from processors.zoho.items import item_id_of
from processors.zoho.signatures import Pair
from receiver.app import build_app
from receiver.protocol import BoundedProtocol

SECRET = "newestSecret12345"
OLDER_SECRET = "olderSecret67890"
ITEMS = "/webhooks/zoho/items"
DELETED = "/webhooks/zoho/items/deleted"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=B"

T = TypeVar("T")


def settings(database_url: str, redis_url: str, **environ: str) -> Settings:
    """Return what the environment would give, with two webhook secrets."""
    return Settings.load(
        environ={
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ZOHO_WEBHOOK_SECRETS": f"{SECRET},{OLDER_SECRET}",
            **environ,
        }
    )


def eventually(look: Callable[[], T], *, within_seconds: float = 10.0) -> T:
    """Return the first true answer of `look`."""
    deadline = time.monotonic() + within_seconds
    while not (answer := look()):
        assert time.monotonic() < deadline, f"still {answer!r} after {within_seconds} s"
        time.sleep(0.01)
    return answer


def id_of(name: str) -> str:
    """Return the id of the item that a test calls by this name; a name that is an id is its own."""
    return name if item_id_of(name) == name else str(int.from_bytes(name.encode()) % 10**18 + 10**18)


def item(called: str = "4100000000000012345", /, **fields: object) -> bytes:
    """Return a body as Zoho's default payload has it, of the item that is called so."""
    dated = {"item_id": id_of(called), "name": "Widget", "last_modified_time": "2026-10-05T21:32:21+0530"}
    return json.dumps({"item": {**dated, **fields}}).encode()


def part(name: str, value: bytes, more: bytes = b"") -> bytes:
    return (
        b'--B\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more + b"\r\n\r\n" + value + b"\r\n"
    )


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


def signed(
    body: bytes, *, pairs: Sequence[Pair] = (), secret: str = SECRET, content_type: str | None = JSON
) -> dict[str, str]:
    """Return the headers of a delivery; `pairs` are signed before `body`."""
    headers = {signatures.HEADER: signatures.sign(secret, body=body, pairs=pairs)}
    return headers if content_type is None else {**headers, "Content-Type": content_type}


class Web:
    """One web process on a port of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # asyncio turns Nagle's algorithm off only where the protocol is spelled out; with it each answer takes 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        # As in the Procfile.
        config = uvicorn.Config(
            build_app(settings),
            http=BoundedProtocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=95,
            timeout_graceful_shutdown=20,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            timeout=20,
            trust_env=False,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=100),
        )

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def begin_to_stop(self) -> None:
        """Do what SIGTERM does."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Stop in order, as SIGTERM would; safe to repeat."""
        self.client.close()
        self.begin_to_stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the web process did not stop"
        self._socket.close()

    def deliver(
        self,
        body: bytes,
        *,
        path: str = ITEMS,
        method: str = "POST",
        pairs: Sequence[Pair] = (),
        content_type: str | None = JSON,
    ) -> httpx.Response:
        """Send a body signed as JSON is; `pairs` are those of the query string in `path`."""
        headers = signed(body, pairs=pairs, content_type=content_type)
        return self.client.request(method, path, content=body, headers=headers)

    def deliver_form(self, pairs: Sequence[Pair], *, path: str = ITEMS, method: str = "POST") -> httpx.Response:
        """Send pairs as a form."""
        body = urlencode(list(pairs)).encode()
        headers = signed(b"", pairs=pairs, content_type=FORM)
        return self.client.request(method, path, content=body, headers=headers)

    def deliver_multipart(self, body: bytes, *, path: str = ITEMS) -> httpx.Response:
        """Send a multipart body, signed as a whole."""
        return self.client.post(path, content=body, headers=signed(body, content_type=MULTIPART))

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, *chunks: bytes) -> bytes:
        """Send raw bytes and return everything that comes back until the connection is closed by the server."""
        with self.connect() as connection:
            for chunk in chunks:
                connection.sendall(chunk)
            return read_all(connection)

    def is_alive(self) -> bool:
        """Tell whether it still takes deliveries."""
        return self.client.get("/health/live").status_code == 200 and self.deliver(item("1")).status_code == 200


def head(path: str = ITEMS, *, method: str = "POST", **headers: str) -> bytes:
    """Return the head of a raw request; underscores in the names of headers become dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    answer = b""
    while True:
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return answer
        if not chunk:
            return answer
        answer += chunk


def read_answer(connection: socket.socket) -> tuple[int, Mapping[str, str], bytes]:
    """Read one answer of a connection that stays open."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        chunk = connection.recv(65536)
        assert chunk, f"closed after {answer!r}"
        answer += chunk
    first, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = answer.partition(b"\r\n\r\n")[2]
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


class Rows:
    """What is in the database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def events(self) -> list[dict[str, Any]]:
        return self("SELECT * FROM events ORDER BY id")

    def only_event(self) -> dict[str, Any]:
        (event,) = self.events()
        return event

    def rejections(self) -> dict[tuple[str, str], int]:
        rows = self("SELECT route, reason, sum(count)::int AS count FROM rejections GROUP BY route, reason")
        return {(row["route"], row["reason"]): row["count"] for row in rows}

    def wait_for_a_lock(self) -> None:
        """Return as soon as somebody waits for a lock in this database."""
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        eventually(lambda: self(waiting))
