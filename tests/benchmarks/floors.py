"""What the mirror is measured against: the same work with nothing else around it.

The apps run under the Procfile's uvicorn flags. Each writes to a table of its own, made like the mirror's table.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import simulator
from tests.benchmarks.bodies import CONTENT_TYPE, ITEMS_PATH

TABLES = """
CREATE TABLE floor_events (LIKE events INCLUDING ALL);
CREATE TABLE floor_products (LIKE products INCLUDING ALL);
"""

# More connections than these gained nothing on two cores.
_CONNECTIONS = 8

_INSERT = """
INSERT INTO floor_events (item_id, body, content_type, fingerprint)
VALUES (%b, %b, %b, %b) ON CONFLICT (fingerprint) DO NOTHING RETURNING id
"""

_UPSERT = """
INSERT INTO floor_products (zoho_item_id, name, sku, description, price, is_active, category_id, category_name, brand,
                            unit, zoho_last_modified_at, raw)
SELECT item_id, name, sku, description, price, is_active, category_id, category_name, brand, unit, modified, raw::jsonb
  FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::numeric[], %b::boolean[], %b::text[], %b::text[],
              %b::text[], %b::text[], %b::text[]::timestamptz[], %b::text[])
       AS item (item_id, name, sku, description, price, is_active, category_id, category_name, brand, unit, modified,
                raw)
    ON CONFLICT (zoho_item_id) DO UPDATE
   SET name = excluded.name, sku = excluded.sku, description = excluded.description, price = excluded.price,
       is_active = excluded.is_active, category_id = excluded.category_id, category_name = excluded.category_name,
       brand = excluded.brand, unit = excluded.unit, zoho_last_modified_at = excluded.zoho_last_modified_at,
       raw = excluded.raw
"""


class Item(msgspec.Struct):
    """What a row is made of."""

    item_id: str
    name: str
    sku: str
    description: str
    rate: Decimal
    status: str
    category_id: str
    category_name: str
    brand: str
    unit: str
    last_modified_time: str


class _Envelope(msgspec.Struct):
    item: msgspec.Raw


_read_envelope = msgspec.json.Decoder(_Envelope).decode
_read_item = msgspec.json.Decoder(Item, strict=False).decode


def upsert(bodies: Sequence[bytes]) -> tuple[str, Sequence[Any]]:
    """Return the one statement, and its parameters, that leaves the last of each item's bodies in the table."""
    rows = {}
    for body in bodies:
        raw = _read_envelope(body).item
        item = _read_item(raw)
        rows[item.item_id] = (
            item.item_id,
            item.name,
            item.sku,
            item.description,
            item.rate,
            item.status == "active",
            item.category_id,
            item.category_name,
            item.brand,
            item.unit,
            item.last_modified_time,
            bytes(raw).decode(),
        )
    return _UPSERT, [list(column) for column in zip(*rows.values(), strict=True)]


def hmac_only() -> Starlette:
    """Accept what is signed, and forget it."""

    async def receive(request: Request) -> Response:
        await _signed_body(request)
        return JSONResponse({"state": "recorded"})

    return Starlette(routes=[Route(ITEMS_PATH, receive, methods=["POST"])])


def one_insert_each() -> Starlette:
    """Record each delivery with a statement, and so a commit, of its own."""
    pool = _pool()

    async def receive(request: Request) -> Response:
        body = await _signed_body(request)
        item_id = _read_item(_read_envelope(body).item).item_id
        async with pool.connection() as connection:
            fingerprint = hashlib.sha256(body).digest()
            cursor = await connection.execute(_INSERT, (item_id, body, CONTENT_TYPE, fingerprint))
            row = await cursor.fetchone()
        return JSONResponse({"event_id": row and row[0], "state": "recorded"})

    return _app(pool, receive)


def upsert_at_once() -> Starlette:
    """Write the product before answering: no inbox, no queue, no other process."""
    pool = _pool()

    async def receive(request: Request) -> Response:
        statement, parameters = upsert([await _signed_body(request)])
        async with pool.connection() as connection:
            await connection.execute(statement.encode(), parameters)
        return JSONResponse({"state": "written"})

    return _app(pool, receive)


def _pool() -> AsyncConnectionPool:
    options = {"autocommit": True, "prepare_threshold": 1}
    return AsyncConnectionPool(
        os.environ["DATABASE_URL"], min_size=_CONNECTIONS, max_size=_CONNECTIONS, kwargs=options, open=False
    )


def _app(pool: AsyncConnectionPool, receive: Any) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with pool:
            yield

    return Starlette(routes=[Route(ITEMS_PATH, receive, methods=["POST"])], lifespan=lifespan)


async def _signed_body(request: Request) -> bytes:
    body = await request.body()
    signature = hmac.new(simulator.WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signature, request.headers[simulator.SIGNATURE_HEADER]), "only the bench calls this"
    return body
