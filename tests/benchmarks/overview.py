"""What an operator waits for: the overview, beside lists and one item's timeline, over a month of a large shop.

A few statements fill the mirror; the page comes from a web process of the Procfile, over HTTP.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter

import httpx
import psycopg
from psycopg.rows import dict_row

from processors.store import database
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.store.event_filter import EventFilter
from processors.workflows import access, browsing, insights
from processors.workflows.browsing import ProductQuery
from tests.benchmarks import report
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

_PAGE = "GET /console/: the whole page"
_METRICS = "GET /metrics"
_NAME, _PASSWORD = "olga", "correct horse battery"
_ROWS = 25
_COUNTED = 10_000
_WARM_UP = 3
_HIDDEN_FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')

_EMPTY = """
TRUNCATE products, product_changes, events, event_attempts, reconciliation_runs, api_calls, rejections, processes
    RESTART IDENTITY
"""

# Over thirty days up to now, in the order of receipt: of a thousand events one is dead, half of these discarded, and
# the newest few are unfinished. Two of three events have changed something; of a hundred one needed a second attempt.
_FILL = (
    """
    INSERT INTO products (zoho_item_id, name, sku, description, price, stock_quantity, stock_on_hand, is_active,
                          category_id, category_name, brand, unit, zoho_last_modified_at, deleted_at, raw)
    SELECT (4100000000000000000 + n)::text, 'Product ' || n, 'SKU-' || n, repeat('What it is good for. ', 4),
           n %% 900 + 0.99, n %% 50, n %% 50, n %% 10 <> 0, n %% 60, 'Category ' || n %% 60, 'Brand ' || n %% 300,
           'pcs', now() - n * interval '30 days' / %(products)s, CASE n %% 100 WHEN 0 THEN now() END,
           jsonb_build_object('item_id', (4100000000000000000 + n)::text, 'name', 'Product ' || n, 'rate', n %% 900,
                              'description', repeat(md5(n::text), 20))
      FROM generate_series(1, %(products)s) AS n
    """,
    """
    INSERT INTO events (item_id, kind, received_at, claimable_at, state, outcome, processed_at, attempts, error_class,
                        error, discarded_at, discarded_by, discard_reason, fingerprint, body)
    SELECT (4100000000000000000 + n * 7919 %% %(products)s + 1)::text,
           CASE n %% 50 WHEN 0 THEN 'deleted' ELSE 'changed' END, received_at, received_at, state,
           CASE state WHEN 'processed' THEN CASE n %% 50
               WHEN 0 THEN 'tombstoned'
               ELSE (ARRAY['updated', 'unchanged', 'updated', 'stale', 'updated', 'created'])[n %% 6 + 1] END END,
           CASE state WHEN 'processed' THEN received_at + interval '400 ms' END,
           1 + (n %% 100 = 0)::integer,
           CASE state WHEN 'dead' THEN 'ItemUnusable' END,
           CASE state WHEN 'dead' THEN 'item ' || n || ' has no ' || (ARRAY['name', 'rate', 'status'])[n %% 3 + 1] END,
           CASE WHEN state = 'dead' AND n %% 2000 = 0 THEN received_at + interval '1 hour' END,
           CASE WHEN state = 'dead' AND n %% 2000 = 0 THEN 'cli:root' END,
           CASE WHEN state = 'dead' AND n %% 2000 = 0 THEN 'known' END,
           sha256(n::text::bytea),
           convert_to('{"item": {"item_id": "' || 4100000000000000000 + n * 7919 %% %(products)s + 1
                      || '", "name": "Product", "rate": 12.5, "status": "active", "last_modified_time": "'
                      || to_char(received_at, 'YYYY-MM-DD"T"HH24:MI:SS"+0000"') || '"}}', 'UTF8')
      FROM (SELECT n, now() - (%(events)s - n) * interval '30 days' / %(events)s AS received_at,
                   CASE WHEN n > %(events)s - 40 THEN 'queued' WHEN n %% 1000 = 0 THEN 'dead' ELSE 'processed' END
                       AS state
              FROM generate_series(1, %(events)s::bigint) AS n) AS delivered
     ORDER BY n
    """,
    """
    INSERT INTO event_attempts (event_id, attempt, worker, started_at, ended_at, error_class, error)
    SELECT id, 1, 'worker:1', received_at, received_at + interval '100 ms', 'ZohoUnavailable', 'no answer from Zoho'
      FROM events
     WHERE attempts > 1
    """,
    """
    INSERT INTO product_changes (item_id, changed_at, source, event_id, changes, zoho_modified_at)
    SELECT item_id, processed_at, 'webhook', id, '{"price": ["12.50", "13.00"]}', received_at - interval '1 second'
      FROM events
     WHERE outcome IN ('created', 'updated', 'tombstoned')
     ORDER BY id
    """,
    """
    INSERT INTO reconciliation_runs (kind, state, started_at, finished_at, pages, api_calls, seen, updated, unchanged,
                                     watermark)
    SELECT CASE n %% 144 WHEN 0 THEN 'full' ELSE 'recent' END, 'complete', at, at + interval '1 minute', 1, 1, 200, 20,
           180, at
      FROM (SELECT n, now() - (30 * 144 - n) * interval '10 minutes' AS at
              FROM generate_series(1, 30 * 144) AS n) AS started
     ORDER BY n
    """,
    """
    INSERT INTO product_changes (item_id, changed_at, source, run_id, changes, zoho_modified_at, cause, wrong_since)
    SELECT (4100000000000000000 + n)::text, started_at, kind, id, '{"stock_on_hand": ["7", "8"]}',
           started_at - interval '5 minutes', (ARRAY['stock_only', 'no_delivery', 'during_run'])[n %% 3 + 1],
           started_at - interval '5 minutes'
      FROM reconciliation_runs, generate_series(1, 20) AS n
     ORDER BY id, n
    """,
    """
    INSERT INTO api_calls (started_at, ends_at, purpose, is_running, status)
    SELECT now() - n * interval '45 seconds', now() - n * interval '45 seconds', 'item', false, 200
      FROM generate_series(0, 1900) AS n
    """,
    """
    INSERT INTO rejections (hour, route, reason, count)
    SELECT date_trunc('hour', now()) - n * interval '1 hour', 'changed', 'signature', n
      FROM generate_series(0, 30 * 24) AS n
    """,
    """
    INSERT INTO processes (name, role) SELECT role || ':1', role FROM unnest('{web,worker,clock}'::text[]) AS role
    """,
)
# A day's work since the last vacuum: what it wrote is read from the tables themselves, not from indexes alone.
_LATELY = (
    "UPDATE products SET revision = revision + 1 WHERE right(zoho_item_id, 2) < '05'",
    "UPDATE events SET claimed_at = processed_at WHERE received_at > now() - interval '1 day'",
    "UPDATE product_changes SET wrong_since = changed_at WHERE changed_at > now() - interval '1 day'",
)
_INDEXES = """
SELECT format('DROP INDEX %%I', indexname) AS drop, indexdef AS create
  FROM pg_indexes
 WHERE tablename = ANY('{products,events,event_attempts,product_changes}')
   AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""


def seed(connection: Connection, *, products: int, events: int) -> None:
    """Fill an empty, migrated database with what a month of a shop leaves; its indexes are built at the end.

    The connection's rows are dicts, and it may take its time: a million events are half a minute's work.
    """
    indexes = connection.execute(_INDEXES, {}).fetchall()
    for index in indexes:
        connection.execute(index["drop"])
    for statement in _FILL:
        connection.execute(statement, {"products": products, "events": events})
    for index in indexes:
        connection.execute(index["create"])
    connection.execute("VACUUM (ANALYZE)")
    for statement in _LATELY:
        connection.execute(statement)


def measure(system: System, scale: Scale) -> Iterator[Subject]:
    """Look at a full mirror again and again: what the database answers, and then the whole page."""
    system.execute(_EMPTY)
    with psycopg.connect(system.installation.database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET synchronous_commit = off")
        seed(connection, products=scale.seen_products, events=scale.seen_events)
    size = f"{scale.seen_products:,} products, {scale.seen_events:,} events"
    subject = Subject(f"What an operator waits for: {size}", ("p50 ms", "slowest ms"), _NOTES)
    with database.sync_pool(system.installation.database_url, size=1, name="bench") as pool:
        with system.running("web"), _signed_in(system.installation.url, pool) as client:
            _add(subject, _PAGE, _timed(lambda: _require_ok(client.get("/console/")), scale.looks))
            _add(subject, _METRICS, _timed(lambda: _require_ok(client.get("/metrics")), scale.looks))
        with pool.connection() as connection:
            for what, look in _LOOKS.items():
                _add(subject, what, _timed(partial(look, connection), scale.looks))
    yield subject


_NOTES = (
    "The whole page is to take less than 100 ms.",
    "One look at a time. Pages come from one web process, over HTTP; the rest from Postgres directly.",
    "A search for a part of a name, and the exact totals of /metrics, read whole tables or indexes.",
)


def _overview(connection: Connection) -> None:
    insights.problems(insights.overview(connection))


def _charts(connection: Connection) -> None:
    insights.dead_by_cause(connection)
    browsing.deliveries_by_hour(connection)
    browsing.drift_by_run(connection, most=30)


def _products(connection: Connection) -> None:
    browsing.find_products(connection, ProductQuery(state="live"), most=_ROWS)
    browsing.count_products(connection, ProductQuery(state="live"), at_most=_COUNTED)


def _part_of_a_name(connection: Connection) -> None:
    browsing.find_products(connection, ProductQuery(text="duct 77"), sort="name", most=_ROWS)


def _newest_events(connection: Connection) -> None:
    browsing.find_events(connection, EventFilter(), most=_ROWS)
    browsing.count_events(connection, EventFilter(), at_most=_COUNTED)


def _an_hour_weeks_ago(connection: Connection) -> None:
    since = datetime.now(UTC) - timedelta(days=20)
    query = EventFilter(since=since, until=since + timedelta(hours=1))
    browsing.find_events(connection, query, most=_ROWS)
    browsing.count_events(connection, query, at_most=_COUNTED)


def _dead(connection: Connection) -> None:
    browsing.find_events(connection, EventFilter(state="dead"), most=_ROWS)
    browsing.count_events(connection, EventFilter(state="dead"), at_most=_COUNTED)


def _timeline(connection: Connection) -> None:
    browsing.timeline(connection, "4100000000000000042", most=200)


def _totals(connection: Connection) -> None:
    insights.totals(connection)


_LOOKS: dict[str, Callable[[Connection], None]] = {
    "overview, as status reads it": _overview,
    "charts and dead events by cause": _charts,
    "products: the first page and the count": _products,
    "products by a part of the name": _part_of_a_name,
    "events: the first page and the count": _newest_events,
    "events of an hour weeks ago: page and count": _an_hour_weeks_ago,
    "dead events: the first page and the count": _dead,
    "one item's timeline": _timeline,
    "exact totals, for /metrics": _totals,
}


@contextlib.contextmanager
def _signed_in(url: str, pool: Pool) -> Iterator[httpx.Client]:
    """Give a client that sends what a browser sends once somebody has signed in."""
    access.add_operator(pool, _NAME, _PASSWORD, "viewer", Requester("cli", "bench"))
    with httpx.Client(base_url=url, timeout=30) as client:
        form = client.get("/console/login")
        hidden = dict(_HIDDEN_FIELD.findall(form.text))
        fields = {**hidden, "username": _NAME, "password": _PASSWORD}
        answer = client.post("/console/login", data=fields, headers={"Cookie": _cookies(form)})
        assert answer.status_code == httpx.codes.SEE_OTHER, f"signing in was answered {answer.status_code}"
        client.headers["Cookie"] = _cookies(form, answer)
        yield client


def _cookies(*answers: httpx.Response) -> str:
    # The console's cookies are for TLS alone, and httpx keeps to that on its own machine, too, where browsers do not.
    given = [cookie.partition(";")[0] for answer in answers for cookie in answer.headers.get_list("set-cookie")]
    return "; ".join(f"{name}={value}" for name, value in dict(each.split("=", 1) for each in given).items())


def _require_ok(answer: httpx.Response) -> None:
    assert answer.status_code == httpx.codes.OK, f"{answer.url.path} was answered {answer.status_code}"


def _timed(look: Callable[[], object], times: int) -> list[float]:
    """Return the milliseconds of each look; the first ones, which plan and connect, are not counted."""
    taken = []
    for number in range(_WARM_UP + times):
        began = perf_counter()
        look()
        if number >= _WARM_UP:
            taken.append((perf_counter() - began) * 1000)
    return taken


def _add(subject: Subject, what: str, taken: list[float]) -> None:
    subject.add(what, report.percentile([taken], 0.5), report.percentile([taken], 1))
