"""Keeps a lease for as long as its work takes: it can be short, so that a killed worker's work is soon taken over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from processors.store.database import AWAY, Connection, Pool

_RENEW_SECONDS = 3.0


@contextlib.contextmanager
def kept(pool: Pool, renew: Callable[[Connection], bool]) -> Iterator[None]:
    """Call `renew` every few seconds until the block ends, or until it says that the lease is somebody else's.

    A process that is killed or frozen renews nothing; one whose database is away tries on.
    """
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(_RENEW_SECONDS):
            with contextlib.suppress(*AWAY), pool.connection() as connection:
                if not renew(connection):
                    return

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
