"""Answers in Zoho's shapes."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from simulator.limits import Refusal
from simulator.wire import Json, dumps

_JSON = "application/json;charset=UTF-8"


def json_response(value: Json, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer JSON with exact decimals."""
    return Response(dumps(value), status, dict(headers or {}), media_type=_JSON)


def success(**parts: Json) -> Response:
    """Answer `{"code": 0, "message": "success", …}`."""
    return json_response({"code": 0, "message": "success", **parts})


def refused(refusal: Refusal, *, headers: Mapping[str, str] | None = None) -> Response:
    """Answer an error, `{"code", "message"}`."""
    body: dict[str, Json] = {"code": refusal.code, "message": refusal.message}
    return json_response(body, status=refusal.status, headers=headers)
