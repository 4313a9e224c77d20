"""From POST to a visible row, through all processes of the Procfile."""

from __future__ import annotations

import http.client
import queue
import random
import threading
import time
from decimal import Decimal
from time import perf_counter

import simulator
from tests.benchmarks import bodies, report, usage
from tests.benchmarks.report import Figure, Subject
from tests.benchmarks.scale import Scale
from tests.benchmarks.system import System

# A trigger tells a listening connection what was committed: Postgres sends it when others can see the row.
_TRIGGERS = """
CREATE OR REPLACE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('written', TG_TABLE_NAME || ' ' || NEW.price);
    RETURN NULL;
END $$;
CREATE TRIGGER announced AFTER INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION announce();
CREATE TRIGGER announced AFTER INSERT OR UPDATE ON floor_products FOR EACH ROW EXECUTE FUNCTION announce();
"""
_NO_TRIGGERS = "DROP TRIGGER announced ON products; DROP TRIGGER announced ON floor_products;"
_ITEMS = 25
_SECONDS = 10
# A row that took longer is counted as late, and as having taken this long.
_LATE_SECONDS = 0.25
_BRISK_GAPS_SECONDS = (1 / 20, 1 / 20)
_IDLE_GAPS_SECONDS = (0.2, 0.8)


class _Watch:
    """Learns from Postgres which rows were written, and when."""

    def __init__(self, system: System) -> None:
        self._connection = system.connect()
        self._connection.execute("LISTEN written")
        self._seen: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for notice in self._connection.notifies(timeout=0.5):
                self._seen.put((notice.payload, perf_counter()))

    def wait_for(self, table: str, price: Decimal, *, since: float) -> float:
        """Return the seconds from `since` until the row was seen, or those waited in vain."""
        while (left := _LATE_SECONDS - (perf_counter() - since)) > 0:
            try:
                payload, at = self._seen.get(timeout=left)
            except queue.Empty:
                break
            # What came too late for an earlier post is passed over.
            if payload == f"{table} {price}":
                return at - since
        return _LATE_SECONDS

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()


class _Path:
    """One way from a POST to a row, and the milliseconds it took: until the answer, until the row."""

    def __init__(self, port: int, table: str, watch: _Watch) -> None:
        self._client = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        self._table = table
        self._watch = watch
        self._posts = 0
        self.answered: list[float] = []
        self.visible: list[float] = []

    def post(self) -> None:
        item, version = self._posts % _ITEMS, self._posts
        self._posts += 1
        content = bodies.body(item, version)
        signature = simulator.sign(simulator.WEBHOOK_SECRET, raw=content)
        headers = {"Content-Type": bodies.CONTENT_TYPE, simulator.SIGNATURE_HEADER: signature}
        started = perf_counter()
        self._client.request("POST", bodies.ITEMS_PATH, content, headers)
        with self._client.getresponse() as answer:
            answer.read()
        self.answered.append((perf_counter() - started) * 1000)
        assert answer.status == http.client.OK
        seen = self._watch.wait_for(self._table, bodies.rate(version), since=started)
        self.visible.append(seen * 1000)

    def take(self) -> tuple[list[float], list[float]]:
        """Return what was measured, and begin anew."""
        measured = self.answered, self.visible
        self.answered, self.visible = [], []
        return measured


def measure(system: System, scale: Scale) -> list[Subject]:
    """Post to the mirror and to its floor in turn, briskly and with idle pauses."""
    subject = Subject(
        "POST → row visible: web, worker and clock from the Procfile",
        ("posts", "late", "p50 ms", "p99 ms", "p50 / floor", "answer p50", "CPU s/1k", "MB"),
        (
            "Floor: one web process that writes the product before it answers; no inbox, no queue.",
            "Late: not there after a quarter of a second, and counted as having taken that.",
            "p99 is over all posts together, its spread that of the rounds. CPU: the three processes, without",
            "Postgres, which both sides use. MB: web and worker at their peaks.",
        ),
    )
    system.empty()
    system.execute(_TRIGGERS)
    chance = random.Random(6)
    watch = _Watch(system)
    try:
        with system.running("web", "worker", "clock") as pids, system.floor("upsert_at_once") as server:
            mirror = _Path(system.installation.port, "products", watch)
            floor = _Path(server.port, "floor_products", watch)
            for _ in range(_ITEMS):
                mirror.post()
                floor.post()
            mirror.take()
            floor.take()
            paces = {
                "20/s": (scale.brisk_posts, _BRISK_GAPS_SECONDS),
                "1–5/s": (scale.idle_posts, _IDLE_GAPS_SECONDS),
            }
            for name, (posts, gaps) in paces.items():
                rounds, floor_rounds, cpu = [], [], []
                for _ in range(scale.rounds):
                    before = usage.cpu_seconds([*pids.values()])
                    for _ in range(posts):
                        pause = chance.uniform(*gaps)
                        for path in (mirror, floor):
                            began = perf_counter()
                            path.post()
                            time.sleep(max(0.0, pause / 2 - (perf_counter() - began)))
                    cpu.append((usage.cpu_seconds([*pids.values()]) - before) / posts * 1_000)
                    rounds.append(mirror.take())
                    floor_rounds.append(floor.take())
                p50 = report.percentile([visible for _, visible in rounds], 0.5)
                floor_p50 = report.percentile([visible for _, visible in floor_rounds], 0.5)
                peak = usage.peak_mb(pids["web"]) + usage.peak_mb(pids["worker"])
                subject.add(
                    f"zoho-mirror, {name}",
                    report.over_rounds([posts * scale.rounds]),
                    _late(rounds),
                    p50,
                    report.percentile([visible for _, visible in rounds], 0.99),
                    report.ratio(p50.rounds, floor_p50.rounds),
                    report.percentile([answered for answered, _ in rounds], 0.5),
                    report.over_rounds(cpu),
                    report.over_rounds([peak]),
                )
                subject.add(
                    f"floor, {name}",
                    report.over_rounds([posts * scale.rounds]),
                    _late(floor_rounds),
                    floor_p50,
                    report.percentile([visible for _, visible in floor_rounds], 0.99),
                    None,
                    report.percentile([answered for answered, _ in floor_rounds], 0.5),
                    None,
                    report.over_rounds([usage.peak_mb(server.pid)]),
                )
    finally:
        watch.close()
        system.execute(_NO_TRIGGERS)
    return [subject]


def _late(rounds: list[tuple[list[float], list[float]]]) -> Figure:
    return report.over_rounds([sum(each >= _LATE_SECONDS * 1000 for _, visible in rounds for each in visible)])
