"""A mirror whose deliveries, workers and time are in the hands of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from processors.store.database import Pool
from tests.workflows.runs_scene import ServedZoho, Shop, open_shop, serve_zoho
from tests.workflows.scene import Scene


@pytest.fixture
def scene(pool: Pool) -> Scene:
    return Scene(pool)


@pytest.fixture(scope="module")
def served() -> Iterator[ServedZoho]:
    with serve_zoho() as served:
        yield served


@pytest.fixture
def shop(served: ServedZoho, pool: Pool, database_url: str) -> Iterator[Shop]:
    with open_shop(served, pool, database_url) as shop:
        yield shop
