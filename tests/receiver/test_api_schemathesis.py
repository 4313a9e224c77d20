"""The API against its own document: whatever is sent, it answers as documented, and never that it failed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from processors.store.api_tokens import Scope
from processors.store.database import Pool
from tests.receiver.programs import MUG, fill, program, unconnected
from tests.receiver.serving import Web

# The document is the same whatever stands behind it.
SCHEMA = schemathesis.openapi.from_dict(unconnected().openapi())


@SCHEMA.hook
def filter_query(_context: schemathesis.HookContext, query: dict[str, Any] | None) -> bool:
    """Leave out what cannot be sent: an empty list in an address is nothing, and nothing is not wrong."""
    return not any(value in ([], {}) for value in (query or {}).values())


bounded = hypothesis.settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    # One database for all examples of an operation: they come upon what former ones left.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)

Case = schemathesis.Case[Any]
Call = Callable[[Case], Any]


class AnsweringZoho:
    """A Zoho that has one item, and knows nothing of any other."""

    def item(self, item_id: str, **_run: Any) -> dict[str, Any] | None:
        if item_id != MUG:
            return None
        return {
            "item_id": MUG,
            "name": "Mug",
            "status": "active",
            "rate": Decimal("12.75"),
            "last_modified_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S+0000"),
        }


@pytest.fixture
def calling(web: Web, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scope], Call]:
    fill(pool)
    monkeypatch.setattr("receiver.zoho.LazyZoho.client", lambda _self: AnsweringZoho())

    def with_a_token(scope: Scope) -> Call:
        headers = program(web, pool, scope).headers
        return lambda case: case.call_and_validate(base_url=f"http://127.0.0.1:{web.port}/api", headers=headers)

    return with_a_token


@pytest.fixture
def call_as_writer(calling: Callable[[Scope], Call]) -> Call:
    return calling("write")


@pytest.fixture
def call_as_reader(calling: Callable[[Scope], Call]) -> Call:
    return calling("read")


@SCHEMA.parametrize()
@bounded
def test_to_a_program_that_may_change_things_the_api_keeps_its_word(case: Case, call_as_writer: Call) -> None:
    call_as_writer(case)


@SCHEMA.parametrize()
@bounded
def test_to_a_program_that_may_only_read_the_api_keeps_its_word(case: Case, call_as_reader: Call) -> None:
    answer = call_as_reader(case)
    assert case.method != "POST" or answer.status_code >= 400
