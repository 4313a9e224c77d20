"""What the endpoints share, and how they come by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from processors.messaging.messages import Publisher
from processors.settings import Settings
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import connection
from receiver.api import door
from receiver.zoho import LazyZoho


@dataclass(frozen=True, slots=True)
class Shared:
    """The process's resources."""

    settings: Settings
    pool: Pool
    publisher: Publisher
    zoho: LazyZoho

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection for a read, or fail soon."""
        with self.pool.connection(timeout=door.CONNECTION_WAIT.total_seconds()) as reading:
            yield reading

    def require_organisation(self) -> None:
        """See that Zoho can be asked for something.

        Raises:
            ConnectionRefused: no organisation is known.
        """
        with self.reading() as reading:
            connection.require_organisation(reading, self.settings)


# Coroutines, although they wait for nothing: anything else would be sent to a thread.
async def _shared(request: Request) -> Shared:
    return cast("Shared", request.app.state.shared)


async def _requester(request: Request) -> Requester:
    return door.requester(request)


async def _base(request: Request) -> str:
    return cast("str", request.scope.get("root_path", ""))


Mirror = Annotated[Shared, Depends(_shared)]
By = Annotated[Requester, Depends(_requester)]
Base = Annotated[str, Depends(_base)]
"""The address under which the API is mounted."""
