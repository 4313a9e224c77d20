"""What the tests of whole runs share: a Zoho behind HTTP that is edited silently, and a mirror that sweeps it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import httpx

from processors.settings import Settings
from processors.store import drift, runs
from processors.store.database import Pool, Row, decode_json, encode_json
from processors.store.runs import Run, RunKind
from processors.workflows.item_events import Workshop
from processors.workflows.reconciliation import Reconciler
from processors.zoho.client import ZohoClient
from simulator import CLIENT_ID, CLIENT_SECRET, ORGANIZATION_ID, REFRESH_TOKEN, Catalogue, Limits, Zoho, serve
from simulator.faults import Faults
from simulator.identity import Organization
from simulator.items import Item
from simulator.shapes import deleted_item, webhook_item
from simulator.tokens import Tokens
from simulator.wire import dumps
from tests import expected
from tests.conftest import ENCRYPTION_KEY
from tests.workflows.scene import FakePublisher, Scene
from tests.zoho.support import let_pass

LIST = "/inventory/v1/items"
SECOND = timedelta(seconds=1)
_MOST_TURNS = 20


class Killed(BaseException):
    """The worker is gone: nothing that it would do on an error is done."""


class ShiftedClock:
    """The machine's clock, or one that is wrong by `shift`."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def stand_at(self, moment: datetime) -> None:
        self.shift = moment - datetime.now(UTC)


@dataclass(frozen=True)
class ServedZoho:
    """A Zoho, and where it answers."""

    zoho: Zoho
    url: str


class Line(httpx.BaseTransport):
    """The line to Zoho, on which a test does things in the middle of a run, and alters what is said."""

    def __init__(self) -> None:
        self._http = httpx.HTTPTransport(verify=False)
        self._lock = threading.Lock()
        self.before_list_call: dict[int, Callable[[], object]] = {}
        """What to do before the nth call of the list goes out."""
        self.before_item_call: Callable[[], object] = lambda: None
        self.asks: Callable[[httpx.Request], httpx.Request] = lambda request: request
        self.answers: Callable[[str, Any], Any] | None = None
        """Alters the decoded answer of a path below `/inventory/v1`; may return bytes."""
        self.asked: list[httpx.URL] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "/inventory/v1" not in request.url.path:
            return self._http.handle_request(request)
        with self._lock:
            self.asked.append(request.url)
            number = len(self.list_calls())
        if request.url.path == LIST:
            self.before_list_call.get(number, lambda: None)()
        else:
            self.before_item_call()
        response = self._http.handle_request(self.asks(request))
        if self.answers is None or response.status_code != httpx.codes.OK:
            return response
        said = self.answers(request.url.path.removeprefix("/inventory/v1"), decode_json(response.read()))
        return httpx.Response(200, content=said if isinstance(said, bytes) else encode_json(said))

    def list_calls(self) -> list[dict[str, str]]:
        """Return what was asked of the list, call by call."""
        return [
            {name: values[0] for name, values in parse_qs(url.query.decode()).items()}
            for url in self.asked
            if url.path == LIST
        ]

    def pages(self) -> list[int]:
        """Return the numbers of the pages that were asked for."""
        return [int(call["page"]) for call in self.list_calls()]

    def item_calls(self) -> int:
        return len(self.asked) - len(self.list_calls())

    def forget(self) -> None:
        """Count calls from here on, and do nothing more before any."""
        with self._lock:
            self.asked.clear()
            self.before_list_call.clear()

    def close(self) -> None:
        self._http.close()


class Publisher:
    """Keeps the runs that it is given."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def publish_run(self, run_id: int) -> None:
        self.runs.append(run_id)


class Shop(Scene):
    """A catalogue at Zoho, and the mirror of it."""

    def __init__(self, pool: Pool, zoho: Zoho, clock: ShiftedClock, line: Line, client: ZohoClient) -> None:
        super().__init__(pool)
        self.at_zoho = zoho
        self.clock = clock
        self.line = line
        self.client = client
        self.worker = self.reconciler(client)
        self.shop = Workshop(pool, client, FakePublisher(), "worker:test")

    @property
    def catalogue(self) -> Catalogue:
        return self.at_zoho.catalogue

    # The catalogue

    def stock(self, count: int) -> list[str]:
        """Let Zoho have so many items, all of them older than an hour; return their ids, the first created first."""
        self.clock.shift = -timedelta(hours=1)
        self.at_zoho.catalogue = Catalogue.generate(count, clock=self.clock)
        self.clock.shift = timedelta()
        return self.ids()

    def ids(self) -> list[str]:
        """Return the ids in the order of the list."""
        return [item.item_id for item in sorted(self.catalogue.all(), key=lambda i: (i.created_time, i.item_id))]

    def edit(self, item_ids: Iterable[str], price: str = "1.23") -> None:
        for item_id in item_ids:
            self.catalogue.edit(item_id, rate=Decimal(price), webhook=False)

    def add(self, count: int) -> list[str]:
        return [self.catalogue.create(f"New {n}", rate=Decimal(n), webhook=False).item_id for n in range(count)]

    def remove(self, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            self.catalogue.delete(item_id, webhook=False)

    def deliver(self, item: Item, without: str = "") -> int:
        """Record the delivery of an item as it is now, without one of its keys."""
        body = {key: value for key, value in webhook_item(item, Organization()).items() if key != without}
        return self.record("changed", item.item_id, dumps({"item": body}).encode())

    def deliver_deletion(self, item: Item) -> int:
        return self.record("deleted", item.item_id, dumps({"item": deleted_item(item)}).encode())

    def settle(self, *event_ids: int) -> None:
        """Let deliveries be worked on to their end, of which there must be one."""
        self.settle_all()
        assert None not in self.outcomes(event_ids)

    # Runs

    def open(self, kind: RunKind = "full") -> Run:
        with self.pool.connection() as connection:
            run = runs.open_run(connection, kind, "cli")
        assert run is not None
        return run

    def find(self, run: Run) -> Run:
        with self.pool.connection() as connection:
            found = runs.find(connection, run.id)
        assert found is not None
        return found

    def work(self, run: Run, by: Reconciler | None = None) -> Run:
        """Let a worker work on a run once."""
        (by or self.worker).work(run.id)
        return self.find(run)

    def finish(self, run: Run) -> Run:
        """Let workers take a run up, whenever it may be, until it ends."""
        for _turn in range(_MOST_TURNS):
            now = self.work(run)
            if now.state != "running":
                return now
            self.make_run_due(run)
        raise AssertionError(f"it does not end: {now}")

    def run(self, kind: RunKind = "full") -> Run:
        return self.finish(self.open(kind))

    def complete(self, kind: RunKind = "full") -> Run:
        """Do a run that has no reason not to be complete at once."""
        run = self.work(self.open(kind))
        assert (run.state, run.error) == ("complete", None), run.error
        return run

    def make_run_due(self, run: Run) -> None:
        self.execute("UPDATE reconciliation_runs SET claimable_at = now() WHERE id = %(id)s", id=run.id)

    def waits(self, run: Run) -> timedelta:
        """Return how long it is until a worker may take the run up."""
        (row,) = self.execute(
            "SELECT claimable_at - now() AS wait FROM reconciliation_runs WHERE id = %(id)s", id=run.id
        )
        wait: timedelta = row["wait"]
        return wait

    def let_pass(self, run: Run, time: timedelta) -> None:
        """Let time pass for the quota, the tokens and the run."""
        with self.pool.connection() as connection:
            let_pass(connection, time)
        self.execute(
            "UPDATE reconciliation_runs SET claimable_at = claimable_at - %(time)s WHERE id = %(id)s",
            time=time,
            id=run.id,
        )

    # What came of it

    def causes(self, run: Run) -> dict[str, int]:
        """Return why the run changed what it changed, with how many changes for each cause."""
        with self.pool.connection() as connection:
            return {count.cause: count.count for count in drift.by_cause(connection, run.id)}

    def differences(self) -> dict[str, Any]:
        """Return where the mirror differs from Zoho: nothing, if it is right."""
        live = {row["zoho_item_id"]: row for row in self.execute("SELECT * FROM products WHERE deleted_at IS NULL")}
        wrong: dict[str, Any] = {}
        for item in self.catalogue.all():
            row = live.pop(item.item_id, None)
            told = expected.product(item)
            if row is None:
                wrong[item.item_id] = "is missing"
            elif different := {column: (row[column], told[column]) for column in told if row[column] != told[column]}:
                wrong[item.item_id] = different
        return wrong | dict.fromkeys(live, "is not in Zoho")

    def buried_alive(self) -> set[str]:
        """Return the items that have a tombstone here and live in Zoho."""
        rows = self.execute("SELECT zoho_item_id FROM products WHERE deleted_at IS NOT NULL")
        return {row["zoho_item_id"] for row in rows if row["zoho_item_id"] in self.catalogue}

    def buried(self) -> int:
        return len(self.execute("SELECT zoho_item_id FROM products WHERE deleted_at IS NOT NULL"))

    def is_right_or_honest(self, run: Run) -> bool:
        """Tell whether a run is complete and the mirror right, or the run says why not; nobody is buried alive."""
        assert self.buried_alive() == set()
        if run.state == "complete":
            assert self.differences() == {}
            return run.error is None
        return run.state in ("running", "partial", "failed", "held") and bool(run.error)

    def rows(self) -> list[Row]:
        """Return the physical versions of all rows: a write that changes nothing shows in them too."""
        products = self.execute("SELECT zoho_item_id, xmin::text, ctid::text FROM products ORDER BY zoho_item_id")
        return [*products, *self.execute("SELECT id, xmin::text FROM product_changes ORDER BY id")]

    def dead_events(self) -> list[Row]:
        return self.execute("SELECT * FROM events WHERE state = 'dead' ORDER BY id")

    def alter(self, item_id: str, assignment: str) -> None:
        """Write a row as no part of the mirror would."""
        self.execute(f"UPDATE products SET {assignment} WHERE zoho_item_id = %(id)s", id=item_id)


@contextlib.contextmanager
def serve_zoho() -> Iterator[ServedZoho]:
    """Run a Zoho; one server does for many tests, each of which begins with an empty one."""
    zoho = Zoho()
    with serve(zoho) as url:
        yield ServedZoho(zoho, url)


@contextlib.contextmanager
def open_shop(
    served: ServedZoho, pool: Pool, database_url: str, *, timeout: float = 20.0, **environ: str
) -> Iterator[Shop]:
    """Empty a Zoho, lift its quotas, and connect a mirror to it."""
    clock, line, zoho = ShiftedClock(), Line(), served.zoho
    zoho.catalogue, zoho.tokens, zoho.faults = Catalogue(clock=clock), Tokens(), Faults()
    zoho.limits, zoho.filter_is_inclusive = Limits.none(), False
    settings = {
        "DATABASE_URL": database_url,
        "ZOHO_ACCOUNTS_URL": served.url,
        "ZOHO_API_URL": served.url,
        "ZOHO_ORGANIZATION_ID": ORGANIZATION_ID,
        "ZOHO_CLIENT_ID": CLIENT_ID,
        "ZOHO_CLIENT_SECRET": CLIENT_SECRET,
        "ZOHO_REFRESH_TOKEN": REFRESH_TOKEN,
        "ENCRYPTION_KEYS": ENCRYPTION_KEY,
        "ZOHO_REQUESTS_PER_MINUTE": "100",
        "ZOHO_REQUESTS_PER_DAY": "1000000",
        **environ,
    }
    http = httpx.Client(transport=line, timeout=timeout)
    with ZohoClient(pool, Settings.load(environ=settings), http) as client:
        yield Shop(pool, zoho, clock, line, client)
