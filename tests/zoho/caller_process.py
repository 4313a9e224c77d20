"""One more process of the mirror, for tests of what processes do together.

Each line of standard input is a command, `{"command", "environ", …}`; each is answered with one line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import timedelta
from typing import Any

import httpx
import structlog

from processors.errors import BudgetSpent
from processors.settings import Settings
from processors.store import database
from processors.store.database import Pool
from processors.zoho.client import ZohoClient
from processors.zoho.limiter import Limiter
from processors.zoho.oauth import TokenSource
from tests.zoho.support import in_threads


def _say(answer: Any) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def _obey(command: str, settings: Settings, pool: Pool, arguments: dict[str, Any]) -> None:
    threads: int = arguments.get("threads", 1)
    match command:
        case "token":
            with httpx.Client() as http:
                tokens = TokenSource(pool, settings, http)
                _say([str(getattr(token, "value", token)) for token in in_threads([tokens.access_token] * threads)])
        case "item":
            with ZohoClient(pool, settings) as zoho:
                items = in_threads([lambda: zoho.item(arguments["item_id"])] * threads)
                _say([item["item_id"] if isinstance(item, dict) else repr(item) for item in items])
        case "spend":
            _say(_spend(_limiter(pool, settings), arguments["tries"]))
        case "hold":
            with _limiter(pool, settings).call("item", patience=timedelta()) as call:
                _say("holding")
                sys.stdin.readline()
                call.status = 200
            _say("released")
        case _:
            raise ValueError(command)


def _limiter(pool: Pool, settings: Settings) -> Limiter:
    return Limiter(
        pool,
        per_minute=settings.zoho_requests_per_minute,
        per_day=settings.zoho_requests_per_day,
        concurrent=settings.zoho_concurrent_requests,
    )


def _spend(limiter: Limiter, tries: int) -> int:
    made = 0
    for _ in range(tries):
        try:
            with limiter.call("item", patience=timedelta()) as call:
                call.status = 200
                made += 1
        except BudgetSpent:
            pass
    return made


def main() -> None:
    """Obey until standard input ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    _say("ready")
    for line in iter(sys.stdin.readline, ""):
        arguments = json.loads(line)
        settings = Settings.load(environ=arguments["environ"])
        with database.sync_pool(settings.database_url or "", size=8, name="tests") as pool:
            _obey(arguments["command"], settings, pool, arguments)


if __name__ == "__main__":
    main()
