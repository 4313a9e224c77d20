"""The settings API for webhooks and workflow rules, as integrators use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulator.automation import SettingsRefusal
from simulator.gate import API_PREFIX, zoho_of
from simulator.limits import Refusal
from simulator.responses import refused, success
from simulator.wire import Json

_WEBHOOKS: Final = f"{API_PREFIX}settings/webhooks"
_WORKFLOWS: Final = f"{API_PREFIX}settings/workflows"


async def _webhooks(request: Request) -> Response:
    automation = zoho_of(request).automation
    if request.method == "GET":
        return success(webhooks=automation.list_webhooks())
    fields = await _fields(request)
    return _answered(lambda: automation.keep_webhook(fields), "webhook")


async def _webhook(request: Request) -> Response:
    automation, webhook_id = zoho_of(request).automation, request.path_params["id"]
    if request.method == "DELETE":
        return _answered(lambda: automation.delete_webhook(webhook_id))
    fields = await _fields(request)
    return _answered(lambda: automation.keep_webhook(fields, webhook_id), "webhook")


async def _workflows(request: Request) -> Response:
    automation = zoho_of(request).automation
    if request.method == "GET":
        return success(workflows=automation.list_workflows())
    fields = await _fields(request)
    return _answered(lambda: automation.keep_workflow(fields), "workflow")


async def _workflow(request: Request) -> Response:
    automation, workflow_id = zoho_of(request).automation, request.path_params["id"]
    if request.method == "DELETE":
        return _answered(lambda: automation.delete_workflow(workflow_id))
    fields = await _fields(request)
    return _answered(lambda: automation.keep_workflow(fields, workflow_id), "workflow")


async def _switch(request: Request) -> Response:
    automation, parameters = zoho_of(request).automation, request.path_params
    is_active = parameters["state"] == "active"
    return _answered(lambda: automation.switch_workflow(parameters["id"], is_active=is_active))


def _answered(act: Callable[[], Json], name: str | None = None) -> Response:
    """Answer with what `act` made, under its name, or with nothing but success."""
    try:
        made = act()
    except SettingsRefusal as refusal:
        return refused(Refusal(refusal.status, refusal.code, refusal.message))
    return success(**{name: made} if name else {})


async def _fields(request: Request) -> dict[str, Any]:
    try:
        fields = json.loads(await request.body())
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


ROUTES: Final = (
    Route(_WEBHOOKS, _webhooks, methods=["GET", "POST"]),
    Route(f"{_WEBHOOKS}/{{id}}", _webhook, methods=["PUT", "DELETE"]),
    Route(_WORKFLOWS, _workflows, methods=["GET", "POST"]),
    Route(f"{_WORKFLOWS}/{{id}}", _workflow, methods=["PUT", "DELETE"]),
    Route(f"{_WORKFLOWS}/{{id}}/{{state:str}}", _switch, methods=["POST"]),
)
