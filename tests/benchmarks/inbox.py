"""A large inbox: what workers, relay, receiver and retention ask of ten million events, and what an operator waits for.

Everything is asked of real rows, one statement at a time, and undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import perf_counter

from processors.store import database, drift, feed, inbox, retention
from processors.store.database import Connection
from processors.store.drift import Question
from processors.store.queries import Queries
from tests.benchmarks import overview, report
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

_NOTES = (
    "Each in a transaction that is undone; 50,000 more events wait than the statistics know of.",
    "Statements alone, from a connection of their own: nothing else runs.",
)
_WARM_UP = 2
_SECOND = timedelta(seconds=1)
_queries = Queries("inbox.sql")

# Nobody has analysed the table since: so it is when a backlog comes.
_BACKLOG = """
INSERT INTO events (item_id, state, fingerprint, body, needs_fetch, received_at, claimable_at)
SELECT (4100000000000000000 + n)::text, 'recorded', sha256(('late' || n)::bytea), '{}', n % 2 = 0,
       now() - interval '1 minute', now() - interval '1 minute'
  FROM generate_series(1, 50000) AS n
"""
_NEWEST = """
SELECT needs_fetch, array_agg(id ORDER BY id) AS ids
  FROM (SELECT id, needs_fetch FROM events ORDER BY id DESC LIMIT 400) AS newest
 GROUP BY needs_fetch
"""


def measure(system: System, scale: Scale) -> Iterator[Subject]:
    """Fill the mirror, look at it as an operator does, and then as the processes do."""
    yield from overview.measure(system, scale)
    system.execute("ALTER TABLE events SET (autovacuum_enabled = off)")
    system.execute(_BACKLOG)
    title = f"What the processes ask of it: {scale.seen_products:,} products, {scale.seen_events:,} events"
    subject = Subject(title, ("p50 ms", "slowest ms"), _NOTES)
    pool = database.sync_pool(system.installation.database_url, size=1, name="bench")
    with pool, pool.connection() as connection:
        ids: dict[bool, list[int]] = {row["needs_fetch"]: row["ids"] for row in connection.execute(_NEWEST)}
        for what, ask in _asked(ids[False], ids[True]).items():
            taken = [_timed(connection, ask) for _ in range(_WARM_UP + scale.looks)][_WARM_UP:]
            subject.add(what, report.percentile([taken], 0.5), report.percentile([taken], 1))
    yield subject


def _timed(connection: Connection, ask: Callable[[Connection], object]) -> float:
    with connection.transaction(force_rollback=True):
        began = perf_counter()
        ask(connection)
        return (perf_counter() - began) * 1000


def _asked(ids: list[int], fetches: list[int]) -> dict[str, Callable[[Connection], object]]:
    lease, now = 15 * _SECOND, datetime.now(UTC)
    items = [str(4_100_000_000_000_000_000 + number) for number in range(40)]
    questions = [Question(item_id, "changed", now - timedelta(hours=3), now) for item_id in items]
    prints = [bytes([number]) * 32 for number in range(40)]
    window = timedelta(minutes=10)
    return {
        "record 40 deliveries": lambda connection: connection.execute(_queries.record_events, _deliveries(prints)),
        "release 40 fingerprints": lambda connection: connection.execute(
            _queries.release_fingerprints, {"fingerprints": prints, "duplicate_window": window}
        ),
        "mark 40 as queued": lambda connection: connection.execute(_queries.mark_queued, {"event_ids": ids[:40]}),
        "claim one by its id": lambda connection: inbox.claim(connection, ids[:1], worker="bench", lease=lease),
        "claim 40 by their ids": lambda connection: inbox.claim(connection, ids[:40], worker="bench", lease=lease),
        "claim 200 that wait": lambda connection: inbox.claim(
            connection, ids[:1], worker="bench", lease=lease, others=200
        ),
        "find those that wait for one fetch": lambda connection: inbox.find_fetch_siblings(connection, fetches[0]),
        "relay 200": lambda connection: inbox.take_due(
            connection, needs_fetch=False, grace=_SECOND, patience=30 * _SECOND, most=200
        ),
        "evidence for 40 repairs": lambda connection: drift.evidence(connection, questions),
        "excuse late deliveries of a day": drift.excuse_late_deliveries,
        "the next 100 changes of the feed": lambda connection: feed.changes_after(connection, 1_000, most=100),
        "trim 1,000 bodies": lambda connection: retention.trim_bodies(
            connection, older_than=timedelta(days=20), most=1_000
        ),
        "trim 1,000 events": lambda connection: retention.trim_events(
            connection, older_than=timedelta(days=20), most=1_000
        ),
    }


def _deliveries(fingerprints: list[bytes]) -> dict[str, object]:
    count = len(fingerprints)
    return {
        "kind": ["changed"] * count,
        "item_id": ["4100000000000000042"] * count,
        "is_dated": [True] * count,
        "error": [None] * count,
        "body": [b"{}" * 500] * count,
        "content_type": ["application/json"] * count,
        "query_string": [b""] * count,
        "fingerprint": fingerprints,
    }
