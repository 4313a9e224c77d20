"""Waiting for the database in a thread: this process's loop belongs to the webhooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from anyio import to_thread
from starlette.exceptions import HTTPException

from processors.store.database import AWAY, NOT_MIGRATED

P = ParamSpec("P")
T = TypeVar("T")

_AWAY: Final = "Postgres does not answer. Deliveries are answered 503 until it is back; Zoho may send them again."
_NOT_MIGRATED: Final = "The database is not up to date; run: python -m processors migrate"


async def in_a_thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function that asks the database comes to.

    Raises:
        HTTPException: 503; Postgres is away, or `migrate` did not run.
    """
    try:
        return await to_thread.run_sync(lambda: do(*args, **kwargs))
    except AWAY:
        raise HTTPException(503, _AWAY, {"Retry-After": "5"}) from None
    except NOT_MIGRATED:
        raise HTTPException(503, _NOT_MIGRATED) from None
