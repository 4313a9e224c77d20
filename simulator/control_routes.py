"""The simulator's own controls, for people and the demo. Nothing of this exists at Zoho."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator import shapes
from simulator.catalogue import NoSuchItem
from simulator.deliveries import Delivery
from simulator.faults import Fault
from simulator.gate import zoho_of
from simulator.items import ItemChanges
from simulator.life import Editor
from simulator.responses import json_response
from simulator.zoho import Zoho

_TEXTS: Final = frozenset(
    {"name", "sku", "description", "unit", "brand", "manufacturer", "category_id", "category_name"},
)
_NUMBERS: Final = frozenset({"rate", "purchase_rate", "stock_on_hand", "reorder_level"})
_CHOICES: Final = (
    ("status", "active"),
    ("status", "inactive"),
    ("track_inventory", True),
    ("track_inventory", False),
)
_MOST_EDITS: Final = 10_000
_DELIVERIES_SHOWN: Final = 50


async def _show_state(request: Request) -> Response:
    return JSONResponse(_state(zoho_of(request)))


async def _show_deliveries(request: Request) -> Response:
    latest = zoho_of(request).deliveries.log()[-_DELIVERIES_SHOWN:]
    return JSONResponse([_shown(delivery) for delivery in latest])


async def _edit_item(request: Request) -> Response:
    try:
        changes = _changes(await _json_object(request))
        item = zoho_of(request).catalogue.edit(request.path_params["item_id"], **changes)
    except NoSuchItem:
        return JSONResponse({"error": "no such item"}, 404)
    except ValueError as problem:
        return JSONResponse({"error": str(problem)}, 400)
    return json_response(shapes.detail(item))


async def _edit_at_random(request: Request) -> Response:
    try:
        count = int(str((await _json_object(request)).get("count", 1)))
    except ValueError as problem:
        return JSONResponse({"error": str(problem)}, 400)
    if not 0 < count <= _MOST_EDITS:
        return JSONResponse({"error": f"count is 1 to {_MOST_EDITS}"}, 400)
    editor: Editor = request.app.state.editor
    return JSONResponse({"edits": [editor.step() for _ in range(count)]})


async def _add_fault(request: Request) -> Response:
    try:
        fault = Fault.from_mapping(await _json_object(request))
    except ValueError as problem:
        return JSONResponse({"error": str(problem)}, 400)
    zoho_of(request).faults.add(fault)
    return JSONResponse(asdict(fault), 201)


async def _clear_faults(request: Request) -> Response:
    zoho_of(request).faults.clear()
    return Response(status_code=204)


def _state(zoho: Zoho) -> dict[str, object]:
    return {
        "items": len(zoho.catalogue),
        "deleted_items": len(zoho.catalogue.deleted_ids()),
        "requests": zoho.requests.count(),
        "api_requests": zoho.requests.count("/inventory/*"),
        "most_api_requests_in_a_minute": zoho.requests.most_within(timedelta(minutes=1), "/inventory/*"),
        "most_api_requests_at_once": zoho.limits.most_at_once,
        "token_calls": zoho.tokens.calls,
        "token_refreshes": zoho.token_refreshes,
        "webhook_url": zoho.deliveries.base_url,
        "deliveries": {state.value: count for state, count in zoho.deliveries.counts.items()},
        "faults": [asdict(fault) for fault in zoho.faults.all()],
    }


def _shown(delivery: Delivery) -> dict[str, object]:
    return {
        "id": delivery.id,
        "item_id": delivery.item_id,
        "event": delivery.event,
        "rule": delivery.rule,
        "state": delivery.state,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "sent_at": delivery.sent_at and delivery.sent_at.isoformat(),
        "answered_at": delivery.answered_at and delivery.answered_at.isoformat(),
        "duration_ms": delivery.duration and delivery.duration / timedelta(milliseconds=1),
        "error": delivery.error,
    }


async def _json_object(request: Request) -> Mapping[str, object]:
    body = json.loads(await request.body() or b"{}")
    if not isinstance(body, dict):
        raise ValueError("the body is a JSON object")  # noqa: TRY004 -- a person's mistake, answered 400
    return body


def _changes(values: Mapping[str, object]) -> ItemChanges:
    changes: dict[str, object] = {}
    for key, value in values.items():
        if key in _TEXTS:
            changes[key] = str(value)
        elif key in _NUMBERS:
            try:
                changes[key] = Decimal(str(value))
            except InvalidOperation:
                raise ValueError(f"{key} is a number") from None
        elif (key, value) in _CHOICES:
            changes[key] = value
        else:
            raise ValueError(f"{key} cannot be {value!r}")
    return changes  # type: ignore[return-value]  # each value was made what its key wants


ROUTES: Final = (
    Route("/simulator/state", _show_state, methods=["GET"]),
    Route("/simulator/deliveries", _show_deliveries, methods=["GET"]),
    Route("/simulator/items/{item_id}/edit", _edit_item, methods=["POST"]),
    Route("/simulator/edits", _edit_at_random, methods=["POST"]),
    Route("/simulator/faults", _add_fault, methods=["POST"]),
    Route("/simulator/faults", _clear_faults, methods=["DELETE"]),
)
