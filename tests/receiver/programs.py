"""Programs that use the API, and a mirror with something in it."""

from __future__ import annotations

import json
from typing import Any

import httpx
from fastapi import FastAPI

from processors.messaging.broker import build_broker
from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store import database
from processors.store.api_tokens import Scope
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.workflows import tokens
from receiver.api.app import build_api
from receiver.zoho import LazyZoho
from tests.receiver.serving import Web

SHELL = Requester("cli", "root")
MUG, CUP, OLD = "4100000000000000001", "4100000000000000002", "4100000000000000003"

_FILL = """
UPDATE zoho_connection SET organization_id = '10234695';
INSERT INTO products (zoho_item_id, name, sku, price, stock_quantity, stock_on_hand, is_active, zoho_last_modified_at,
                      category_id, deleted_at, raw)
VALUES ('4100000000000000001', 'Mug <b>', 'MUG-350', 12.50, 7, 7.25, true, '2026-10-05 16:02:21Z', '77', NULL,
        '{"item_id": "4100000000000000001", "rate": 12.50, "number": 9007199254740993}'),
       ('4100000000000000002', 'Cup', 'CUP', 3, 0, 0, true, '2026-10-05 16:02:22Z', NULL, NULL, '{}'),
       ('4100000000000000003', 'Old cup', NULL, NULL, NULL, NULL, false, NULL, NULL, '2026-10-06 00:00:00Z', '{}');
INSERT INTO product_changes (item_id, source, changes)
VALUES ('4100000000000000001', 'webhook', '{"price": ["12.00", "12.50"]}'),
       ('4100000000000000002', 'full', '{"name": [null, "Cup"]}'),
       ('4100000000000000001', 'webhook', '{"stock_on_hand": ["7", "7.25"]}');
INSERT INTO events (item_id, body, state, outcome, processed_at, error, error_class)
VALUES ('4100000000000000001', '{"item": {"item_id": "4100000000000000001"}}', 'processed', 'updated', now(), NULL,
        NULL),
       (NULL, 'no json', 'dead', NULL, NULL, 'the body at 7 is ''no json''', 'BodyUnreadable'),
       (NULL, 'nor this', 'dead', NULL, NULL, 'the body at 8 is ''nor this''', 'BodyUnreadable'),
       ('4100000000000000002', '{"item": {"item_id": "4100000000000000002"}}', 'dead', NULL, NULL, 'Zoho says no',
        'ZohoRefused');
INSERT INTO event_attempts (event_id, attempt, worker, error_class, error)
SELECT id, 1, 'worker:1', error_class, error FROM events WHERE state = 'dead';
INSERT INTO reconciliation_runs (kind, trigger, state, finished_at, seen, suspects, error)
VALUES ('full', 'schedule', 'complete', now(), 3, 0, NULL),
       ('full', 'cli', 'held', now(), 3, 20, '20 of 23 products would be tombstoned');
"""


class Program:
    """A program with a token."""

    def __init__(self, web: Web, token: str, name: str) -> None:
        self._web = web
        self.name = name
        self.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self._web.client.get(f"/api{path}", params=params, headers=self.headers)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        if body is None:
            return self.request("POST", path, headers=headers)
        headers = {"Content-Type": "application/json", **headers}
        # With everything beyond ASCII escaped: what is no text can be sent, too.
        return self.request("POST", path, content=json.dumps(body), headers=headers)

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        headers = {**self.headers, **given.pop("headers", {})}
        return self._web.client.request(method, f"/api{path}", headers=headers, **given)

    def found(self, path: str, **params: Any) -> Any:
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()


def program(web: Web, pool: Pool, scope: Scope) -> Program:
    """Return a program that was given a new token."""
    name = {"read": "reader", "write": "writer"}[scope]
    created = tokens.create(pool, name, scope, SHELL)
    return Program(web, created.text, created.token.name)


def unconnected() -> FastAPI:
    """Return the API with nothing behind it, to read its routes and its document."""
    settings = Settings.load(environ={})
    pool = database.sync_pool("postgresql://127.0.0.1:9/nowhere", size=1, name="tests")
    publisher = Publisher(build_broker("redis://127.0.0.1:9", verify_tls=True))
    return build_api(settings, pool, publisher, LazyZoho(pool, settings))


def fill(pool: Pool) -> None:
    """Put some of everything into the database."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute(_FILL.encode())


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return what went wrong, told in the one form there is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["type"].startswith("urn:zoho-mirror:")
    assert told["title"]
    assert told["detail"]
    return told
