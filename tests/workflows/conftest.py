"""A mirror whose deliveries, workers and time are in the hands of a test."""

from __future__ import annotations

import pytest

from processors.store.database import Pool
from tests.workflows.scene import Scene


@pytest.fixture
def scene(pool: Pool) -> Scene:
    return Scene(pool)
