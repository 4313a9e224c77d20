"""Who may use the API, and what is answered to everybody else."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from processors.store import audit
from processors.store.database import Connection, Pool
from processors.workflows import tokens
from tests.receiver.conftest import Serve
from tests.receiver.programs import SHELL, Program, fill, problem, program, unconnected
from tests.receiver.serving import Web, eventually

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ELSEWHERE = (
    "",
    "/",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/nothing",
    "/products/",
    "//products",
    "/products/1/2/3",
    "/%00",
    "/a%0Ab",
)


def routes() -> list[tuple[str, set[str]]]:
    """Every route that the API has, by its own table, with something in place of its parameters."""
    found = [route for route in unconnected().routes if isinstance(route, Route)]
    assert len(found) == len(unconnected().routes) >= 19
    return [(re.sub(r"\{\w+\}", "1", route.path), set(route.methods or ())) for route in found]


@pytest.fixture
def reader(web: Web, pool: Pool) -> Program:
    return program(web, pool, "read")


@pytest.fixture
def writer(web: Web, pool: Pool) -> Program:
    return program(web, pool, "write")


@pytest.mark.parametrize("path", sorted({path for path, _ in routes()} | set(ELSEWHERE)))
def test_without_a_token_every_method_at_every_address_is_answered_401(web: Web, path: str) -> None:
    for method in METHODS:
        answer = web.client.request(method, f"/api{path}", follow_redirects=False)
        assert answer.status_code == 401, method
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert "token create NAME" in problem(answer, 401)["detail"]


def test_a_token_that_is_none_opens_nothing(web: Web, pool: Pool, reader: Program) -> None:
    revoked = tokens.create(pool, "old", "write", SHELL)
    tokens.revoke(pool, revoked.token.id, SHELL)
    token = reader.headers["Authorization"].partition(" ")[2]
    for sent in (
        f"Bearer {revoked.text}",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Basic {token}",
        token,
        "Bearer",
        "Bearer zm_" + "A" * 43,
        "Bearer zm_" + "A" * 60_000,
        f"Bearer {token}, Bearer {token}",
    ):
        problem(web.client.get("/api/status", headers={"Authorization": sent}), 401)
    for header in ({"Cookie": f"token={token}"}, {"X-Api-Key": token}):
        problem(web.client.get(f"/api/status?access_token={token}", headers=header), 401)


def test_the_scheme_may_be_written_in_any_case(web: Web, reader: Program) -> None:
    token = reader.headers["Authorization"].partition(" ")[2]
    assert web.client.get("/api/status", headers={"Authorization": f"bearer {token}"}).status_code == 200


@pytest.mark.parametrize("body", [None, "not json", '{"kind": "full"}', "[" * 10_000])
def test_a_reading_token_changes_nothing(reader: Program, pool: Pool, connection: Connection, body: str | None) -> None:
    fill(pool)
    changing = [path for path, methods in routes() if "POST" in methods]
    assert len(changing) == 7
    for path in changing:
        answer = reader.request("POST", path, content=body)
        assert "this needs one with the scope write" in problem(answer, 403)["detail"]
    actions = [entry.action for entry in audit.find_entries(connection, most=100)]
    assert actions == ["token.created"]


def test_a_revoked_token_is_refused_from_its_next_request(pool: Pool, reader: Program) -> None:
    assert reader.get("/status").status_code == 200
    (token,) = tokens.list_tokens(pool)
    tokens.revoke(pool, token.id, SHELL)
    problem(reader.get("/status"), 401)


def test_what_a_program_does_is_on_record_with_its_name_and_address(
    writer: Program, pool: Pool, connection: Connection
) -> None:
    fill(pool)
    started = writer.post("/reconciliation-runs", {"kind": "full"})
    assert started.status_code == 202
    entry = audit.find_entries(connection, most=1)[0]
    assert (entry.action, entry.channel, entry.requester) == ("run.started", "api", "writer")
    assert (entry.targets, entry.address) == ([started.json()["id"]], "127.0.0.1")


def test_behind_proxies_the_record_has_the_programs_own_address(
    serve: Serve, pool: Pool, connection: Connection
) -> None:
    fill(pool)
    behind = program(serve(TRUSTED_PROXIES="1"), pool, "write")
    behind.post("/reconciliation-runs", {"kind": "full"}, **{"X-Forwarded-For": "198.51.100.1, 192.0.2.7"})
    assert audit.find_entries(connection, most=1)[0].address == "192.0.2.7"


@pytest.mark.parametrize("path", [path for path in ELSEWHERE if path != "/openapi.json"])
def test_an_address_where_nothing_is_says_so(reader: Program, path: str) -> None:
    problem(reader.request("GET", path, follow_redirects=False), 404)


def test_a_wrong_method_is_told_the_right_ones(writer: Program) -> None:
    answer = writer.request("DELETE", "/replays")
    assert "GET, HEAD, OPTIONS, POST" in problem(answer, 405)["detail"]
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    asked = writer.request("OPTIONS", "/products/1/fetch")
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, "OPTIONS, POST", b"")


def test_head_is_answered_as_get_without_a_body(reader: Program) -> None:
    answer = reader.request("HEAD", "/products")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/json"
    assert reader.request("HEAD", "/products/1").status_code == 404


def test_no_answer_is_kept_or_read_as_something_else(reader: Program) -> None:
    for answer in (reader.get("/status"), reader.get("/nothing"), reader.get("/openapi.json")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] in ("application/json", "application/problem+json")


def test_a_body_is_json_of_bounded_size(writer: Program) -> None:
    problem(writer.request("POST", "/discards", content="{", headers={"Content-Type": "application/json"}), 400)
    problem(writer.post("/discards"), 415)
    problem(writer.request("POST", "/discards", content="reason=x", headers={"Content-Type": "text/plain"}), 415)
    large = '{"reason": "' + "x" * 1_100_000 + '"}'
    problem(writer.request("POST", "/discards", content=large, headers={"Content-Type": "application/json"}), 413)
    deep = "[" * 100_000
    problem(writer.request("POST", "/discards", content=deep, headers={"Content-Type": "application/json"}), 400)


def test_while_postgres_is_away_programs_are_told_when_to_come_back(serve: Serve, reader: Program) -> None:
    away = serve(DATABASE_URL="postgresql://postgres@127.0.0.1:9/mirror")
    answer = away.client.get("/api/products", headers=reader.headers)
    assert "Postgres does not answer" in problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0
    # Who has no token costs nothing, and is told nothing else than usual.
    problem(away.client.get("/api/products"), 401)


def test_where_migrate_did_not_run_programs_are_told_so(serve: Serve, reader: Program, database_url: str) -> None:
    bare = serve(DATABASE_URL=database_url.rsplit("/", 1)[0] + "/postgres")
    answer = bare.client.get("/api/products", headers=reader.headers)
    assert "migrate" in problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0


def test_deliveries_are_taken_while_programs_ask_for_much(web: Web, reader: Program) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(reader.get("/products", limit=200))

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    assert web.is_alive()
    for thread in threads:
        thread.join(20)
    assert {answer.status_code for answer in answers} <= {200, 503}
    eventually(lambda: len(answers) == 40)


def test_the_document_is_whole(reader: Program) -> None:
    document: dict[str, Any] = reader.found("/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert document["security"] == [{"token": []}]
    operations = [
        (method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    assert len(operations) == 18
    for method, _, operation in operations:
        assert {"401", "503"} <= set(operation["responses"])
        assert ("403" in operation["responses"]) == (method == "post")
        assert operation["summary"].endswith(".")
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_no_answer_is_kept_guessed_or_run_by_a_browser(web: Web) -> None:
    for path in ("/api", "/api/products", "/api/nothing", "/api/openapi.json"):
        headers = web.client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
