"""Puts the API together: its routes, its door, its document."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, get_type_hints

from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as PlainRoute

from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store.database import Pool
from receiver.api import door, events, problems, products, runs, status
from receiver.api.problems import FieldError, ProblemDetails
from receiver.api.shared import Shared
from receiver.headers import AddedHeaders
from receiver.proxies import BehindProxies
from receiver.zoho import LazyZoho

PATH: Final = "/api"

_ABOUT = """The mirror for programs: the same reads and the same actions as in the console and on the command line.

- Ids are texts. Times are ISO 8601 in UTC. Prices and exact stock are texts, so that nothing is rounded.
- A list is `{"items": […], "next_cursor": "…" or null}`; give the cursor back as it is, with the same filter.
- What goes wrong is told as `application/problem+json`, with a `type` that does not change.
"""

# (path, methods, endpoint, status, what else it may answer)
_ROUTES: Final[list[tuple[str, str, Callable[..., Any], int, tuple[int, ...]]]] = [
    ("/status", "GET", status.show, 200, ()),
    ("/products", "GET", products.find, 200, ()),
    ("/products/{item_id}", "GET", products.show, 200, (404,)),
    ("/products/{item_id}/changes", "GET", products.changes, 200, (404,)),
    ("/products/{item_id}/fetch", "POST", products.fetch, 200, (409, 502)),
    ("/changes", "GET", products.follow, 200, ()),
    ("/events", "GET", events.find, 200, ()),
    ("/events/{event_id}", "GET", events.show, 200, (404,)),
    ("/replays", "GET", events.list_replays, 200, ()),
    ("/replays", "POST", events.start_replay, 202, (409,)),
    ("/replays/{replay_id}", "GET", events.show_replay, 200, (404,)),
    ("/replays/{replay_id}/cancel", "POST", events.cancel_replay, 200, (404, 409)),
    ("/discards", "POST", events.discard, 200, (409,)),
    ("/reconciliation-runs", "GET", runs.find, 200, ()),
    ("/reconciliation-runs", "POST", runs.start, 202, (409,)),
    ("/reconciliation-runs/{run_id}", "GET", runs.show, 200, (404,)),
    ("/reconciliation-runs/{run_id}/confirm-deletes", "POST", runs.confirm_deletes, 200, (404, 409)),
    ("/reconciliation-runs/{run_id}/discard-deletes", "POST", runs.discard_deletes, 200, (404, 409)),
]

# A rehearsal starts nothing, and is answered at once.
_REHEARSAL: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": events.Rehearsal, "description": "With `dry_run`: what it would change."}
}

# Should a browser be led here, it neither keeps nor runs anything.
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

_MEANINGS: Final = {
    400: "The body is not JSON.",
    401: "No token, or none that is valid.",
    403: "The token only reads.",
    404: "What the address names is not there.",
    408: "The body did not arrive in time.",
    409: "What is asked for cannot be done in this state; the text says why.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "A part of the request will not do; `errors` names each.",
    500: "Something went wrong that nobody foresaw.",
    502: "Zoho refuses this, or its answer is of no use; trying again will not help.",
    503: "Postgres or Zoho cannot be asked now, or too much is going on; come back after `Retry-After` seconds.",
}


def routes(settings: Settings, pool: Pool, publisher: Publisher, zoho: LazyZoho) -> list[BaseRoute]:
    """Return what to add to the web process: everything at and under `PATH`."""
    api = AddedHeaders(build_api(settings, pool, publisher, zoho), lambda _scope: _HEADERS)
    app = BehindProxies(api, trusted_proxies=settings.trusted_proxies)
    below = Mount(PATH, app)
    # A mount knows no address with a line break, and leaves the bare path to a redirect: both are answered by the API.
    below.path_regex = re.compile(f"^{PATH}/(?P<path>.*)$", re.DOTALL)
    return [PlainRoute(PATH, app), below]


def build_api(settings: Settings, pool: Pool, publisher: Publisher, zoho: LazyZoho) -> FastAPI:
    """Build the API; the pool may still be closed, and Postgres away."""
    api = FastAPI(
        title="zoho-mirror",
        version="1",
        description=_ABOUT,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": PATH}],
        root_path_in_servers=False,
        exception_handlers=problems.HANDLERS,
    )
    api.state.shared = Shared(settings, pool, publisher, zoho)
    api.router.route_class = door.Route
    for path, method, endpoint, answered, others in _ROUTES:
        api.add_api_route(
            path,
            endpoint,
            methods=[method],
            status_code=answered,
            operation_id=f"{endpoint.__module__.rsplit('.', 1)[-1]}_{endpoint.__name__}",
            summary=(endpoint.__doc__ or "").partition("\n")[0],
            tags=[path.split("/")[1]],
            responses={**{other: {} for other in others}, **(_REHEARSAL if endpoint is events.start_replay else {})},
            response_model=events.Replay if endpoint is events.start_replay else get_type_hints(endpoint)["return"],
        )
    api.add_middleware(door.Door, pool=pool)
    # How FastAPI lets its document be completed.
    api.openapi = lambda: _document(api)  # type: ignore[method-assign]
    return api


def _document(api: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the problems that each operation may answer."""
    if api.openapi_schema is None:
        document = FastAPI.openapi(api)
        components = document["components"]
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        components["schemas"]["FieldError"] = FieldError.model_json_schema()
        components["schemas"]["ProblemDetails"] = ProblemDetails.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        components["schemas"]["ProblemDetails"].pop("$defs", None)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "zm_…"}}
        components["responses"] = {HTTPStatus(code).name: _problem(code) for code in _MEANINGS}
        document["security"] = [{"token": []}]
        for path in document["paths"].values():
            for method, operation in path.items():
                _complete(method, operation)
        api.openapi_schema = document
    return api.openapi_schema


def _complete(method: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    may = {int(code) for code in answers if int(code) in _MEANINGS} | {401, 500, 503}
    if method != "get":
        may |= {403}
    if "requestBody" in operation:
        may |= {400, 408, 413, 415, 422}
    for parameter in operation.get("parameters", ()):
        may |= {422}
        # What an address leaves out is not null, which it could not say.
        given = [each for each in parameter["schema"].pop("anyOf", ()) if each != {"type": "null"}]
        parameter["schema"] |= given[0] if given else {}
    for code in sorted(may):
        answers[str(code)] = {"$ref": f"#/components/responses/{HTTPStatus(code).name}"}


def _problem(code: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    found: dict[str, Any] = {"description": _MEANINGS[code], "content": {problems.MEDIA_TYPE: {"schema": schema}}}
    headers = {401: "WWW-Authenticate", 503: "Retry-After"}
    if code in headers:
        found["headers"] = {headers[code]: {"schema": {"type": "string"}, "required": True}}
    return found
