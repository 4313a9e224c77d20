"""Full reconciliation runs, with what client and Postgres pay for each item, beside the least that could be done.

Each role is a process of its own, `python -m tests.benchmarks.sweep ROLE`: a list that answers in Zoho's place, whose
cost is not counted; three mirrors, so that a first load, a run that finds nothing changed and one that finds 1 %
changed each have a peak of their own; and the two floors and the peer, which read the same list.

- A mirror is what `worker` builds, and works on runs by the same call, with the settings' own limits. Only that a call
  was made is forgotten at once: in this database a trigger dates each call that ended two days back. Otherwise the
  quota of some 70 calls a minute would be all that is measured.
- Autovacuum is off here, since it would strike some figures and not others. Between the first load and the runs after
  it stands a VACUUM ANALYZE that is not counted.
- In Zoho's place everything is plain HTTP on this machine: TLS and gzip are in none of the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import psycopg

from processors import logs
from processors.runtime import processes, procfile
from processors.settings import Settings
from processors.store import runs, schema
from processors.zoho.client import API_PATH, ZohoClient
from tests.benchmarks import floors, report, usage
from tests.benchmarks.report import Figure, Subject
from tests.benchmarks.scale import Scale

if TYPE_CHECKING:
    # What runs the servers would only add to the memory of the roles.
    from tests.benchmarks.system import System

_PER_PAGE = 200
_CHANGED_SHARE = 100
_WARM_UP_ITEMS = 600
_PASSES = 5
_ITEMS_AT_ZOHOS_LIMIT = 20_000

_SET_UP = """
CREATE FUNCTION forget_call() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.ends_at := NEW.ends_at - interval '2 days';
    RETURN NEW;
END $$;
CREATE TRIGGER forgotten BEFORE UPDATE ON api_calls FOR EACH ROW EXECUTE FUNCTION forget_call();
CREATE TABLE floor_products (LIKE products INCLUDING ALL);
CREATE TABLE floor_digests (zoho_item_id text PRIMARY KEY, digest bytea NOT NULL);
CREATE TABLE peer_products (LIKE products INCLUDING ALL);
ALTER TABLE products SET (autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE product_changes SET (autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE floor_products SET (autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE floor_digests SET (autovacuum_enabled = false);
ALTER TABLE peer_products SET (autovacuum_enabled = false, toast.autovacuum_enabled = false);
"""
_EMPTY = """
TRUNCATE products, product_changes, events, reconciliation_runs, run_pages, run_checks, listed_digests, api_calls,
         floor_products, peer_products;
"""
_SETTLE_DOWN = "VACUUM (ANALYZE) products, product_changes"
_MOMENT = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_wal_insert_lsn()::text"
_WAL_SINCE = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s::pg_lsn)::bigint"
_WRITTEN_SINCE = "SELECT count(*) FROM products WHERE xmin::text::bigint >= %s"
_LAST_RUN = """
SELECT state, seen, created, updated, unchanged, api_calls, error FROM reconciliation_runs ORDER BY id DESC LIMIT 1
"""

_STAGE = """
CREATE TEMP TABLE stage (
    item_id text, name text, sku text, description text, price numeric, stock numeric, is_active boolean,
    category_id text, category_name text, brand text, unit text, modified text, raw text
) ON COMMIT DELETE ROWS
"""
_COPY = "COPY stage FROM STDIN (FORMAT binary)"
_STAGE_TYPES = ["text"] * 4 + ["numeric"] * 2 + ["bool"] + ["text"] * 6
_UPSERT = """
INSERT INTO floor_products (zoho_item_id, name, sku, description, price, stock_quantity, stock_on_hand, is_active,
                            category_id, category_name, brand, unit, zoho_last_modified_at, raw)
SELECT item_id, name, sku, description, price, floor(stock)::integer, stock, is_active, category_id, category_name,
       brand, unit, modified::timestamptz, raw::jsonb
  FROM stage
    ON CONFLICT (zoho_item_id) DO UPDATE
   SET name = excluded.name, sku = excluded.sku, description = excluded.description, price = excluded.price,
       stock_quantity = excluded.stock_quantity, stock_on_hand = excluded.stock_on_hand,
       is_active = excluded.is_active, category_id = excluded.category_id, category_name = excluded.category_name,
       brand = excluded.brand, unit = excluded.unit, zoho_last_modified_at = excluded.zoho_last_modified_at,
       raw = excluded.raw
"""
_DIGESTS = "SELECT zoho_item_id, digest FROM floor_digests WHERE zoho_item_id = ANY(%b)"
_KEEP_DIGESTS = """
INSERT INTO floor_digests SELECT * FROM unnest(%b::text[], %b::bytea[]) ON CONFLICT (zoho_item_id) DO NOTHING
"""


# The bench's side


class _Role:
    """A process of one role, which does its work when told to."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self) -> dict[str, Any]:
        """Return what it says.

        Raises:
            RuntimeError: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a role of the bench ended:\n{self._log.read_text('utf-8', 'replace')[-4000:]}")
        said: dict[str, Any] = json.loads(line)
        return said

    def work(self, what: str = "work") -> dict[str, Any]:
        """Let it work, and return the seconds that this took, and those of its own CPU."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self.read()


@dataclass(slots=True)
class _Contender:
    """A role and what was measured of it, round by round."""

    role: _Role
    items: int
    passes: int = 1
    """So many make one measurement: Postgres's time comes in steps of 10 ms."""
    seconds: list[float] = field(default_factory=list)
    postgres_cpu: list[float] = field(default_factory=list)
    """Microseconds for each item, as all costs here."""
    cpu: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    @property
    def peak(self) -> Figure:
        return report.over_rounds([usage.peak_mb(self.role.pid)])

    @property
    def each(self) -> list[float]:
        """The time for each item."""
        return [seconds / self.items * 1e6 for seconds in self.seconds]


class _Bench:
    """A database of its own, the list, and the roles that read it."""

    def __init__(self, system: System, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._postgres_pid = system.postgres_pid
        self._logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._numbers = 0
        database_url = system.installation.postgres.create_database("sweep")
        schema.migrate(database_url)
        self.connection = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        self.connection.execute(_SET_UP)
        self._env = system.installation._env | {"DATABASE_URL": database_url}
        self._port: int = self._role("list").read()["port"]
        url = f"http://127.0.0.1:{self._port}"
        self._env |= {"ZOHO_ACCOUNTS_URL": url, "ZOHO_API_URL": url}

    def _role(self, name: str) -> _Role:
        self._numbers += 1
        path = self._logs / f"{self._numbers}-{name}.log"
        log = self._stack.enter_context(path.open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.sweep", name],
            cwd=procfile.ROOT,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return _Role(process, path)

    def contender(self, role: str, items: int, *, passes: int = 1) -> _Contender:
        """Start a role that has not worked yet."""
        return _Contender(self._role(role), items, passes)

    def show(self, items: int, *, changed: bool = False) -> None:
        """Let the list be that long, and 1 % of it other than before."""
        http = HTTPConnection("127.0.0.1", self._port)
        http.request("PUT", f"/{items}/{int(changed)}")
        assert http.getresponse().status == HTTPStatus.OK
        http.close()

    def empty(self) -> None:
        self.connection.execute(_EMPTY)
        self.connection.execute("CHECKPOINT")

    def settle_down(self) -> None:
        self.connection.execute(_SETTLE_DOWN)

    def work(self, contender: _Contender) -> None:
        """Let a contender work once, and note what that took."""
        moment, lsn = self._first(_MOMENT)
        used = usage.cpu_seconds([self._postgres_pid])
        done = [contender.role.work() for _ in range(contender.passes)]
        used = usage.cpu_seconds([self._postgres_pid]) - used
        items = contender.items * contender.passes
        contender.wal.append(self._first(_WAL_SINCE, lsn)[0] / items)
        contender.written.append(self._first(_WRITTEN_SINCE, moment)[0])
        contender.seconds.append(sum(each["seconds"] for each in done) / contender.passes)
        contender.postgres_cpu.append(used / items * 1e6)
        contender.cpu.append((used + sum(each["cpu_seconds"] for each in done)) / items * 1e6)

    def sweep(self, contender: _Contender, *, created: int = 0, updated: int = 0) -> None:
        """Let a mirror work on a run, and make sure that it did what it should."""
        self.work(contender)
        state, seen, *counts, calls, error = self._first(_LAST_RUN)
        expected = [created, updated, contender.items - created - updated]
        assert (state, seen, counts) == ("complete", contender.items, expected), f"{state} {counts}: {error}"
        contender.calls.append(calls)

    def count(self, table: str) -> int:
        count: int = self._first(f"SELECT count(*) FROM {table}")[0]
        return count

    def _first(self, statement: str, *parameters: object) -> tuple[Any, ...]:
        row = self.connection.execute(statement.encode(), parameters).fetchone()
        assert row is not None
        return row


@contextlib.contextmanager
def _bench(system: System) -> Iterator[_Bench]:
    with contextlib.ExitStack() as stack:
        stack.callback(system.installation.postgres.drop_database, "sweep")
        yield _Bench(system, stack)


@dataclass(slots=True)
class _Mirrors:
    """The three runs: on an empty database, on one where nothing changed, and where 1 % did."""

    first: _Contender
    unchanged: _Contender
    changed: _Contender

    @classmethod
    def start(cls, bench: _Bench, items: int) -> _Mirrors:
        """Start three mirrors, and let each have worked once on a short list."""
        roles = [bench.contender("mirror", _WARM_UP_ITEMS).role for _ in range(3)]
        cls(*(_Contender(role, _WARM_UP_ITEMS) for role in roles)).work(bench)
        return cls(*(_Contender(role, items) for role in roles))

    def named(self) -> dict[str, _Contender]:
        return {"first load": self.first, "nothing changed": self.unchanged, "1 % changed": self.changed}

    def work(
        self,
        bench: _Bench,
        after_load: Callable[[], None] = lambda: None,
        after_unchanged: Callable[[], None] = lambda: None,
    ) -> None:
        items = self.first.items
        bench.show(items)
        bench.empty()
        bench.sweep(self.first, created=items)
        after_load()
        bench.settle_down()
        bench.sweep(self.unchanged)
        after_unchanged()
        bench.show(items, changed=True)
        bench.sweep(self.changed, updated=items // _CHANGED_SHARE)


@dataclass(slots=True)
class _Peer:
    """The loop by an ORM, one process, on a list short enough for it: everything anew, then nothing changed."""

    load: _Contender
    unchanged: _Contender

    @classmethod
    def start(cls, bench: _Bench, items: int) -> _Peer:
        role = bench.contender("orm", items).role
        peer = cls(_Contender(role, items), _Contender(role, items))
        bench.show(_WARM_UP_ITEMS)
        role.work()
        return peer

    def work(self, bench: _Bench) -> None:
        bench.show(self.load.items)
        bench.connection.execute("TRUNCATE peer_products")
        bench.work(self.load)
        bench.work(self.unchanged)
        assert bench.count("peer_products") == self.load.items, "every item is a row"


def measure(system: System, scale: Scale) -> list[Subject]:
    """Load, compare and compare again, each beside its floor."""
    items = scale.sweep_items
    with _bench(system) as bench:
        peer = _Peer.start(bench, scale.peer_items) if importlib.util.find_spec("sqlalchemy") else None
        mirrors = _Mirrors.start(bench, items)
        loading, digests = bench.contender("loading", items), bench.contender("digests", items, passes=_PASSES)
        bench.show(_WARM_UP_ITEMS)
        loading.role.work()
        bench.show(items)
        digests.role.work("keep")
        for _ in range(scale.rounds):
            mirrors.work(bench, lambda: bench.work(loading), lambda: bench.work(digests))
            if peer:
                peer.work(bench)
                bench.show(items)
        subject = Subject(
            f"Full runs: {items:,} items of {_SIZE:,} bytes; CPU and WAL for each item",
            ("seconds", "/ floor", "CPU µs", "Postgres", "× floor's", "WAL bytes", "rows", "calls", "MB"),
            (
                "Floors: fetch, parse, COPY into a temporary table, one INSERT … ON CONFLICT; or fetch, parse,",
                "a digest of each item's bytes, one SELECT for each page of the digests that are known. 1 % changed",
                "is compared with the run that finds nothing changed. CPU is of the client and Postgres; MB is the",
                "client's own peak. Rows are those of products that were written, in the round with most of them.",
                "ORM: the loop of most teams, SQLAlchemy's update or create item by item; its ratios are for each item."
                if peer
                else "The loop by an ORM was left out: SQLAlchemy is not installed (the extra `bench` brings it).",
            ),
        )
        floors = {"first load": loading, "nothing changed": digests, "1 % changed": mirrors.unchanged}
        for name, each in mirrors.named().items():
            subject.add(name, *_cells(each, floors[name]))
        subject.add("floor: load", *_cells(loading))
        subject.add("floor: digests", *_cells(digests))
        if peer:
            # Not its memory: the process holds modules of the mirror that such a loop would not.
            subject.add(f"ORM: load {peer.load.items:,}", *_cells(peer.load, loading)[:-1], None)
            subject.add("ORM: no change", *_cells(peer.unchanged, digests)[:-1], None)
    return [subject, _at_zohos_limit(mirrors)]


def _cells(each: _Contender, floor: _Contender | None = None) -> Sequence[Figure | None]:
    return (
        report.over_rounds(each.seconds),
        report.ratio(each.each, floor.each) if floor else None,
        report.over_rounds(each.cpu),
        report.over_rounds(each.postgres_cpu),
        report.ratio(each.cpu, floor.cpu) if floor else None,
        report.over_rounds(each.wal),
        report.over_rounds([max(each.written)]) if each.calls else None,
        report.over_rounds([max(each.calls)]) if each.calls else None,
        each.peak,
    )


def _at_zohos_limit(mirrors: _Mirrors) -> Subject:
    named = mirrors.named()
    subject = Subject(
        f"The same at Zoho's limit of {_ITEMS_AT_ZOHOS_LIMIT:,} items a minute, in % of one core", [*named]
    )
    shares = [[cost * _ITEMS_AT_ZOHOS_LIMIT / 60 / 1e6 * 100 for cost in each.cpu] for each in named.values()]
    subject.add("client and Postgres", *map(report.over_rounds, shares))
    return subject


def soak(system: System, rounds: Mapping[int, int]) -> Iterator[Subject]:
    """Show how time and memory grow with the list; `rounds` says how often each size is measured."""
    subject = Subject(
        "Full runs, by the number of items",
        ("seconds", "µs/item", "CPU µs/item", "of it Postgres", "WAL B/item", "MB"),
        ("CPU is of the client and Postgres; MB is the peak of a client that did nothing else.",),
    )
    for items, count in sorted(rounds.items()):
        with _bench(system) as bench:
            mirrors = _Mirrors.start(bench, items)
            for _ in range(count):
                mirrors.work(bench)
            for name, each in mirrors.named().items():
                subject.add(
                    f"{name}, {items:,}",
                    report.over_rounds(each.seconds),
                    report.over_rounds(each.each),
                    report.over_rounds(each.cpu),
                    report.over_rounds(each.postgres_cpu),
                    report.over_rounds(each.wal),
                    each.peak,
                )
    yield subject


# The roles


def _main(role: str) -> None:
    with contextlib.ExitStack() as stack:
        match role:
            case "list":
                asyncio.run(_answer())
            case "mirror":
                _work_when_told({"work": _mirror(stack)})
            case "loading":
                _work_when_told({"work": _loading_floor(stack)})
            case "digests":
                _work_when_told(_digests_floor(stack))
            case "orm":
                _work_when_told({"work": _orm(stack)})


def _work_when_told(works: Mapping[str, Callable[[], None]]) -> None:
    # As `worker` does.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        began, used = perf_counter(), process_time()
        works[line.strip()]()
        _say(seconds=perf_counter() - began, cpu_seconds=process_time() - used)


def _say(**values: object) -> None:
    sys.stdout.write(f"{json.dumps(values)}\n")
    sys.stdout.flush()


def _mirror(stack: contextlib.ExitStack) -> Callable[[], None]:
    settings = Settings.load("DATABASE_URL", "REDIS_URL")
    logs.configure(settings.log_format, settings.log_level, process="worker", stream=sys.stderr)
    pool = stack.enter_context(processes._pool(settings, size=processes._WORKER_CONNECTIONS, name="worker"))
    zoho = stack.enter_context(ZohoClient(pool, settings))
    reconciler = processes.build_reconciler(pool, zoho, settings, "worker:bench", is_stopping=lambda: False)

    def work() -> None:
        with pool.connection() as connection:
            run = runs.open_run(connection, "full", "cli")
        while run and run.state == "running":
            assert run.error is None, run.error
            reconciler.work(run.id)
            with pool.connection() as connection:
                run = runs.find(connection, run.id)

    return work


class _Item(floors.Item):
    stock_on_hand: Decimal | None = None


class _Context(msgspec.Struct):
    has_more_page: bool


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    page_context: _Context


_read_page = msgspec.json.Decoder(_Page).decode
_read_item = msgspec.json.Decoder(_Item, strict=False).decode


def _pages(url: str) -> Iterator[list[tuple[_Item, bytes]]]:
    """Fetch and parse one page after the other, in the cheapest way that the standard library has."""
    address = urlsplit(url)
    assert address.hostname is not None
    http = HTTPConnection(address.hostname, address.port)
    number, has_more = 0, True
    while has_more:
        number += 1
        http.request("GET", f"{API_PATH}/items?page={number}&per_page={_PER_PAGE}")
        page = _read_page(http.getresponse().read())
        yield [(_read_item(raw), bytes(raw)) for raw in page.items]
        has_more = page.page_context.has_more_page
    http.close()


def _floor_connection(stack: contextlib.ExitStack, settings: Settings) -> psycopg.Connection:
    connection = psycopg.connect(settings.database_url or "", autocommit=True, prepare_threshold=1)
    return stack.enter_context(connection)


def _loading_floor(stack: contextlib.ExitStack) -> Callable[[], None]:
    settings = Settings.load("DATABASE_URL")
    connection = _floor_connection(stack, settings)
    connection.execute(_STAGE)

    def work() -> None:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                copy.set_types(_STAGE_TYPES)
                for page in _pages(settings.zoho_api_url or ""):
                    for item, raw in page:
                        copy.write_row(_row(item, raw))
            cursor.execute(_UPSERT)

    return work


def _row(item: _Item, raw: bytes) -> Sequence[object]:
    return (
        item.item_id,
        item.name,
        item.sku,
        item.description,
        item.rate,
        item.stock_on_hand,
        item.status == "active",
        item.category_id,
        item.category_name,
        item.brand,
        item.unit,
        item.last_modified_time,
        raw.decode(),
    )


def _digests_floor(stack: contextlib.ExitStack) -> Mapping[str, Callable[[], None]]:
    settings = Settings.load("DATABASE_URL")
    connection = _floor_connection(stack, settings)

    def digests() -> Iterator[dict[str, bytes]]:
        for page in _pages(settings.zoho_api_url or ""):
            yield {item.item_id: hashlib.blake2b(raw, digest_size=16).digest() for item, raw in page}

    def keep() -> None:
        for found in digests():
            connection.execute(_KEEP_DIGESTS, ([*found], [*found.values()]))

    def compare() -> None:
        for found in digests():
            known: dict[str, bytes] = dict(connection.execute(_DIGESTS, ([*found],), binary=True).fetchall())
            assert all(known.get(item_id) == digest for item_id, digest in found.items()), "nothing has changed"

    return {"keep": keep, "work": compare}


def _orm(stack: contextlib.ExitStack) -> Callable[[], None]:
    from tests.benchmarks import peers  # noqa: PLC0415 - needs an extra, and the other roles do without

    settings = Settings.load("DATABASE_URL")
    items_url = f"{settings.zoho_api_url}{API_PATH}/items"
    return peers.row_at_a_time(stack, settings.database_url or "", items_url, per_page=_PER_PAGE)


# The list

_SIZE = 1_700
_FIRST_ITEM_ID = 4_100_000_000_000_100_000
_FIRST_CREATED_AT = datetime(2020, 1, 1, tzinfo=UTC)
_CREATED_EVERY = timedelta(minutes=1)
_TOKEN = b'{"access_token":"1000.bench","expires_in":3600,"token_type":"Bearer"}'


async def _answer() -> None:
    """Answer in Zoho's place: a token for any POST, pages for any GET; `PUT /ITEMS/CHANGED` says of which list."""
    shown = (0, 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal shown
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                method, target, _ = head.split(" ", 2)
                if "content-length: " in head:
                    await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n", 1)[0]))
                address = urlsplit(target)
                answer = b"{}"
                if method == "put":
                    items, changed = address.path.strip("/").split("/")
                    shown = (int(items), int(changed))
                elif method == "post":
                    answer = _TOKEN
                else:
                    asked = {key: int(value) for key, (value,) in parse_qs(address.query).items() if value.isdecimal()}
                    answer = _page(*shown, asked["page"], asked["per_page"])
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=UTF-8\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(answer)
                )
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _say(port=server.sockets[0].getsockname()[1])
    # Until the bench closes it, or is gone.
    await asyncio.to_thread(sys.stdin.read)


@lru_cache(maxsize=128)
def _page(items: int, changed: int, page: int, per_page: int) -> bytes:
    numbers = range((page - 1) * per_page, min(page * per_page, items))
    context = {"page": page, "per_page": per_page, "has_more_page": page * per_page < items}
    elements = ",".join(_element(number, changed) for number in numbers)
    return (f'{{"code":0,"message":"success","items":[{elements}],"page_context":{json.dumps(context)}}}').encode()


def _element(number: int, changed: int) -> str:
    templates = _templates()
    version = changed if number % _CHANGED_SHARE == _CHANGED_SHARE - 1 else 0
    created_at = _FIRST_CREATED_AT + number * _CREATED_EVERY
    return templates[number % len(templates)] % {
        "item_id": _FIRST_ITEM_ID + number,
        "number": number,
        "rate": 100 + version,
        "created": created_at.isoformat("T", "seconds").replace("+00:00", "+0000"),
        "modified": (created_at + timedelta(seconds=version)).isoformat("T", "seconds").replace("+00:00", "+0000"),
    }


@lru_cache(maxsize=1)
def _templates() -> list[str]:
    """Return elements of the simulated Zoho's list, each with a description that brings it to the one size."""
    import simulator  # noqa: PLC0415 - the other roles do without
    from simulator import shapes, wire  # noqa: PLC0415

    catalogue = simulator.Catalogue.generate(50).all()
    words = " ".join(item.name for item in catalogue)
    templates = []
    for position, item in enumerate(catalogue):
        marked: dict[str, Any] = {
            **shapes.list_element(item),
            "item_id": "<item_id>",
            "sku": "BENCH-<number>",
            "rate": "<rate>",
            "created_time": "<created>",
            "last_modified_time": "<modified>",
            "description": "<description>",
        }
        template = wire.dumps(marked).replace("%", "%%").replace('"<rate>"', "%(rate)d.50")
        for name, form in (("item_id", "d"), ("number", "09d"), ("created", "s"), ("modified", "s")):
            template = template.replace(f"<{name}>", f"%({name}){form}")
        sample = {"item_id": _FIRST_ITEM_ID, "number": 0, "rate": 100, "created": "0" * 24, "modified": "0" * 24}
        missing = _SIZE - len((template % sample).encode()) + len("<description>")
        start = position * 20
        templates.append(template.replace("<description>", words[start : start + missing]))
    return templates


if __name__ == "__main__":
    _main(sys.argv[1])
