"""What went wrong, as `application/problem+json` (RFC 9457): always the same form, and a sentence that helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

import psycopg
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from processors import logs
from processors.errors import (
    ConnectionRefused,
    MirrorError,
    MustWait,
    PermanentError,
    ReplayRefused,
    RunRefused,
    TransientError,
)
from processors.store.database import AWAY, NOT_MIGRATED

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER = timedelta(seconds=5)
"""What a program is told to wait where nobody knows better."""

# Names of alternatives within a body; they say nothing to whoever wrote it.
_INTERNAL = ("ByIds", "ByFilter")

_log = logs.get(__name__)


class FieldError(BaseModel):
    """One part of the request that will not do."""

    field: str = Field(description="Where it stands, such as `limit` or `filter.since`.")
    message: str


class ProblemDetails(BaseModel):
    """What went wrong, and what to do."""

    type: str = Field(description="`urn:zoho-mirror:…`, for programs: it stays the same while texts may change.")
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = Field(
        default=None, description="Of a request that will not do (422): each part of it, with the reason."
    )


class NotFound(Exception):
    """What the address names is not there; the text says so."""


def answer(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    errors: Sequence[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as an answer; `kind` is the end of its type, where the status alone does not tell."""
    title = HTTPStatus(status).phrase
    problem = ProblemDetails(
        type=f"urn:zoho-mirror:{kind or title.lower().replace(' ', '-')}",
        title=title,
        status=status,
        detail=detail,
        errors=None if errors is None else list(errors),
    )
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)


def try_again(detail: str, *, kind: str, wait: timedelta = RETRY_AFTER) -> Response:
    """Return a 503 that says when to come back."""
    seconds = max(1, math.ceil(wait.total_seconds()))
    return answer(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind=kind, headers={"Retry-After": str(seconds)})


async def of_database(_request: Request | None, error: Exception) -> Response:
    """Answer where Postgres is away, or not up to date."""
    if isinstance(error, NOT_MIGRATED):
        return try_again("The database is not up to date; run: python -m processors migrate", kind="not-migrated")
    _log.warning("api.postgres_lost", error=str(error) or type(error).__name__)
    return try_again("Postgres does not answer, or not in time; try again.", kind="database-away")


async def of_values(_request: Request, error: Exception) -> Response:
    """Answer where the database cannot take a value that passed all checks."""
    _log.warning("api.value_refused", error=str(error))
    return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "The database cannot compare with one of these values.")


async def of_mirror(_request: Request, error: Exception) -> Response:
    """Answer what an action came to that could not be done; the branch of the error decides."""
    match error:
        case RunRefused():
            return answer(HTTPStatus.CONFLICT, _sentence(error), kind="run-refused")
        case ReplayRefused():
            return answer(HTTPStatus.CONFLICT, _sentence(error), kind="replay-refused")
        case ConnectionRefused():
            return answer(HTTPStatus.CONFLICT, _sentence(error), kind="connection-refused")
        case MustWait(retry_after=wait):
            return try_again(_sentence(error), kind="zoho-must-wait", wait=wait)
        case TransientError():
            return try_again(_sentence(error), kind="zoho-unavailable", wait=RETRY_AFTER)
        case PermanentError():
            return answer(HTTPStatus.BAD_GATEWAY, _sentence(error), kind="zoho-refused")
        case _:
            return await of_anything(_request, error)


async def of_not_found(_request: Request, error: Exception) -> Response:
    """Answer 404."""
    return answer(HTTPStatus.NOT_FOUND, _sentence(error))


async def of_http(request: Request, error: Exception) -> Response:
    """Answer what the router or the door raised: no such route, no such method, too large a body."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(methods_at(request.scope) | {"OPTIONS"}))
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": allowed})
        return answer(status, f"Here one may use {allowed}, not {request.method}.", headers={"Allow": allowed})
    if status is HTTPStatus.NOT_FOUND:
        return answer(status, "Nothing is at this address; see /api/openapi.json.")
    return answer(status, error.detail, headers=error.headers)


def methods_at(scope: Scope) -> set[str]:
    """Return the methods that the routes at an address take."""
    routes = [route for route in scope["app"].router.routes if route.matches(scope)[1]]
    methods = {method for route in routes for method in getattr(route, "methods", None) or ()}
    return methods | {"HEAD"} if "GET" in methods else methods


async def of_validation(_request: Request, error: Exception) -> Response:
    """Answer a request that will not do, with each part and the reason; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        return answer(HTTPStatus.BAD_REQUEST, "The body is not JSON.", kind="body-unreadable")
    errors = [FieldError(field=_field(each["loc"]), message=_message(each)) for each in found]
    parts = ", ".join(dict.fromkeys(each.field for each in errors))
    detail = f"The request will not do; look at: {parts}."
    return answer(HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="request-invalid", errors=errors)


def _field(location: Sequence[str | int]) -> str:
    place, *names = [str(part) for part in location if part not in _INTERNAL]
    return ".".join(names) or place


def _message(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "string_pattern_mismatch":
            return f"should have the form {error['ctx']['pattern']}"
        case "extra_forbidden":
            return "there is no such parameter"
        case _:
            text = str(error["msg"])
            return text[:1].lower() + text[1:]


async def of_anything(_request: Request, error: Exception) -> Response:
    """Answer where nobody foresaw what happened; the log has the traceback."""
    _log.error("api.failed", error_class=type(error).__name__, error=str(error))
    headers = {"Cache-Control": "no-store"}
    return answer(HTTPStatus.INTERNAL_SERVER_ERROR, "This went wrong here; the log says how.", headers=headers)


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    RequestValidationError: of_validation,
    HTTPException: of_http,
    NotFound: of_not_found,
    MirrorError: of_mirror,
    psycopg.DataError: of_values,
    **dict.fromkeys((*AWAY, *NOT_MIGRATED), of_database),
    Exception: of_anything,
}
"""Which answer is given for which exception."""
