"""The web process's own way to Zoho, for what people and programs ask for; webhooks never take it."""

from __future__ import annotations

import threading

from processors.settings import Settings
from processors.store.database import Pool
from processors.zoho.client import ZohoClient


class LazyZoho:
    """One client for the whole process, opened at its first use: most web processes never call Zoho."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        """Take what the client will stand on."""
        self._pool = pool
        self._settings = settings
        self._client: ZohoClient | None = None
        self._opening = threading.Lock()

    def client(self) -> ZohoClient:
        """Return the client; safe to call from any thread."""
        with self._opening:
            if self._client is None:
                self._client = ZohoClient(self._pool, self._settings)
            return self._client

    def close(self) -> None:
        """Close what was opened."""
        with self._opening:
            if self._client is not None:
                self._client.__exit__()
                self._client = None
