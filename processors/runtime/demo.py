"""Everything on one machine: embedded Postgres and Redis, a simulated Zoho, and the Procfile's processes.

What is shown is read from the tables that any application reads; nothing is told by the processes themselves.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
from cryptography.fernet import Fernet
from rich.console import Console
from rich.text import Text

import simulator
from processors import logs
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.runtime.signals import Stop, StopSignal
from processors.store import database
from processors.store.audit import Requester
from processors.store.database import AWAY, Connection, Pool
from processors.store.products import Changes
from processors.workflows import access, browsing, insights
from processors.workflows.insights import AppliedChange, RunReport

_EDITS_PER_SECOND = 2.0
_HESITATION_SECONDS = 4.0
_LOOK_SECONDS = 0.5
_SUMMARY_SECONDS = 5.0
_READY_SECONDS = 60.0
_CHANGES_SHOWN = 6
_LAST_LOG_LINES = 25
_OPERATOR = "demo"

_log = logs.get(__name__)

_COLOURS = {"created": "green", "updated": "cyan", "tombstoned": "red"}


def run(*, items: int, port: int, console: Console, as_json: bool) -> int:
    """Run the demo until Ctrl-C or SIGTERM; return the exit code.

    `as_json` writes each applied change to standard output, as a line of JSON, and nothing else.

    Raises:
        NotStarted: the port is taken, or a process did not come up.
    """
    procfile.require_free_port(port)
    stop = StopSignal()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoho-mirror-demo-")))
        console.print("Starting Postgres and Redis, embedded and for this demo only …")
        postgres = stack.enter_context(LocalPostgres())
        redis = stack.enter_context(LocalRedis())
        database_url = postgres.create_database("mirror")
        zoho = simulator.Zoho(simulator.Catalogue.generate(items))
        zoho_url = stack.enter_context(simulator.serve(zoho))
        env = environment(database_url, redis.url, zoho_url, port)
        # Every minute, so that one sees it find what a webhook missed.
        env["RECONCILE_RECENT_CRON"] = "* * * * *"
        procfile.release(env)
        console.print("Starting web, worker and clock from the Procfile …")
        log_path = directory / "processes.log"
        processes = stack.enter_context(procfile.running(env, stack.enter_context(log_path.open("wb"))))
        web_url = f"http://127.0.0.1:{port}"
        if not _wait_until_ready(web_url, processes, stop):
            if stop.is_set():
                return 0
            message = f"the processes did not come up:\n{_tail(log_path)}"
            raise procfile.NotStarted(message)
        pool = stack.enter_context(database.sync_pool(database_url, size=1, name="demo"))
        password = secrets.token_urlsafe(9)
        access.add_operator(pool, _OPERATOR, password, "operator", Requester("cli", "demo"))
        _print_addresses(console, web_url, zoho_url, database_url, log_path, items, password)
        zoho.deliveries.base_url = web_url
        with _life(zoho):
            show = _show_as_json if as_json else partial(_show, console)
            code = _watch(pool, zoho, processes, stop, show)
        if code:
            console.print(f"[red]A process ended by itself; the last lines of the log:[/]\n{_tail(log_path)}")
        console.print("Stopping …")
    console.print("Everything is stopped; nothing is left behind.")
    return code


def environment(database_url: str, redis_url: str, zoho_url: str, port: int) -> dict[str, str]:
    """Return the settings of processes that take the simulated Zoho for the real one."""
    return procfile.environment(
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        PORT=str(port),
        PUBLIC_URL=f"http://127.0.0.1:{port}",
        BROKER_URL="",
        ZOHO_ACCOUNTS_URL=zoho_url,
        ZOHO_API_URL=zoho_url,
        ZOHO_ORGANIZATION_ID=simulator.ORGANIZATION_ID,
        ZOHO_CLIENT_ID=simulator.CLIENT_ID,
        ZOHO_CLIENT_SECRET=simulator.CLIENT_SECRET,
        ZOHO_REFRESH_TOKEN=simulator.REFRESH_TOKEN,
        ZOHO_WEBHOOK_SECRETS=simulator.WEBHOOK_SECRET,
        ENCRYPTION_KEYS=Fernet.generate_key().decode(),
        SESSION_SECRET=Fernet.generate_key().decode(),
        LOG_FORMAT=os.environ.get("LOG_FORMAT", "console"),
        # Whatever this machine is set up for otherwise must not reach into the demo.
        WEBHOOK_ALLOWED_NETWORKS="",
        TRUSTED_PROXIES="0",
        SENTRY_DSN="",
        ALERT_WEBHOOK_URL="",
        METRICS_TOKEN="",
    )


def _wait_until_ready(web_url: str, processes: subprocess.Popen[bytes], stop: Stop) -> bool:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and processes.poll() is None and not stop.wait(0.1):
        try:
            if httpx.get(f"{web_url}/health/ready", timeout=2).json()["status"] == "ok":
                return True
        except httpx.HTTPError:
            continue
    return False


@contextmanager
def _life(zoho: simulator.Zoho) -> Iterator[None]:
    """Let the shop work, and its webhooks misbehave."""
    # Zoho promises neither order nor a single delivery, nor any at all, so the demo has its share of each.
    zoho.deliveries.disturb(
        simulator.DeliveryFault("dropped", share=0.05),
        simulator.DeliveryFault("repeated", share=0.08),
        simulator.DeliveryFault("reordered", share=0.08, delay=timedelta(seconds=1.5)),
    )

    def hesitate() -> None:
        chance = random.Random(7)  # noqa: S311 - a demo's whim
        while not is_over.wait(_HESITATION_SECONDS):
            item = zoho.catalogue.pick(chance)
            # Two prices within one second: which of them is the last, only Zoho can tell.
            for step in (2, 1):
                # The shop may have deleted it in between.
                with suppress(simulator.NoSuchItem):
                    zoho.catalogue.edit(item.item_id, rate=item.rate + step)

    is_over = threading.Event()
    thread = threading.Thread(target=hesitate, daemon=True)
    thread.start()
    with simulator.Editor(zoho.catalogue, seed=7).at_work(per_second=_EDITS_PER_SECOND):
        yield
    is_over.set()
    thread.join()


def _watch(
    pool: Pool,
    zoho: simulator.Zoho,
    processes: subprocess.Popen[bytes],
    stop: Stop,
    show: Callable[[list[AppliedChange], list[str]], None],
) -> int:
    """Show changes as they are applied, and a summary now and then; return 1 if the processes ended by themselves."""
    last_change, last_run, next_summary = 0, 0, time.monotonic() + 1
    while not stop.wait(_LOOK_SECONDS):
        if processes.poll() is not None:
            return 1
        try:
            with pool.connection() as connection:
                changes = insights.changes_after(connection, last_change, most=1_000)
                summary = _summary(connection, zoho) if time.monotonic() >= next_summary else None
                ended = [report for report in _reports(connection, last_run) if report.run.state != "running"]
        except AWAY as error:
            _log.warning("postgres.lost", error=str(error))
            continue
        told = [*(_told_run(report) for report in ended), *([summary] if summary else [])]
        show(changes, told)
        last_run = max([last_run, *(report.run.id for report in ended)])
        last_change = changes[-1].id if changes else last_change
        if summary:
            next_summary = time.monotonic() + _SUMMARY_SECONDS
    return 0


def _reports(connection: Connection, after: int) -> list[RunReport]:
    found = [run for run in browsing.find_runs(connection, most=5) if run.id > after]
    reports = [insights.run_report(connection, run.id, most=0) for run in reversed(found)]
    return [report for report in reports if report is not None]


def _told_run(report: RunReport) -> str:
    run = report.run
    loaded = f", loaded {run.created:,}" if run.known_since is None else ""
    return (
        f"── {run.kind} run {run.id} {run.state}: {run.api_calls:,} calls, {run.seen:,} items{loaded}, "
        f"repaired {report.drift:,}"
    )


def _show(console: Console, changes: list[AppliedChange], told: list[str]) -> None:
    for change in changes[:_CHANGES_SHOWN]:
        console.print(_change_line(change), overflow="ellipsis", no_wrap=True)
    if len(changes) > _CHANGES_SHOWN:
        console.print(f"          … and {len(changes) - _CHANGES_SHOWN:,} more", style="dim")
    for line in told:
        console.print(line, style="bold", highlight=False)


def _show_as_json(changes: list[AppliedChange], _told: list[str]) -> None:
    for change in changes:
        sys.stdout.write(json.dumps(asdict(change), default=str) + "\n")
    sys.stdout.flush()


def _print_addresses(
    console: Console, web_url: str, zoho_url: str, database_url: str, log_path: Path, items: int, password: str
) -> None:
    console.print(f"\n[bold]zoho-mirror demo[/]: {items:,} items in a simulated Zoho. Ctrl-C stops everything.\n")
    for name, value in (
        ("console", f"{web_url}/console  (sign in as {_OPERATOR}, password {password})"),
        ("ready", f"{web_url}/health/ready"),
        ("metrics", f"{web_url}/metrics"),
        ("webhooks", f"{web_url}/webhooks/zoho/items"),
        ("simulated Zoho", f"{zoho_url}/simulator/state"),
        ("database", database_url),
        ("process logs", str(log_path)),
    ):
        console.print(f"  {name:<15} {value}", highlight=False, soft_wrap=True)
    console.print()


def _change_line(change: AppliedChange) -> Text:
    outcome = change.outcome or f"{change.source} run"
    lag = f"{change.lag / timedelta(milliseconds=1):5.0f} ms" if change.lag else " " * 8
    line = Text(f"{change.changed_at:%H:%M:%S}  ")
    line.append(f"{outcome:<10}", _COLOURS.get(outcome, "magenta"))
    line.append(f" {lag}  {_short(change.name or change.item_id, 22):<22}  ")
    line.append(_told(change.changes, is_new=change.changes.get("name", ("",))[0] is None), "dim")
    return line


def _told(changes: Changes, *, is_new: bool) -> str:
    if "deleted_at" in changes:
        return "deleted in Zoho" if changes["deleted_at"][1] else "back in Zoho"
    if is_new:
        price, stock = changes.get("price", (None, None))[1], changes.get("stock_on_hand", (None, None))[1]
        return f"price {price if price is not None else '–'}, stock {stock if stock is not None else 'not tracked'}"
    return ", ".join(
        f"{column} {_short(old)} → {_short(new)}"
        for column, (old, new) in changes.items()
        if column != "stock_quantity"
    )


def _short(value: object, longest: int = 20) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _summary(connection: Connection, zoho: simulator.Zoho) -> str:
    overview, totals = insights.overview(connection), insights.totals(connection)
    outcomes: dict[str, int] = {}
    for count in totals.events:
        if count.outcome:
            outcomes[count.outcome] = outcomes.get(count.outcome, 0) + count.count
    live = overview.products["active"] + overview.products["inactive"]
    lags = [f"{seconds * 1000:.0f}" for seconds in totals.lag.quantiles]
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items(), key=lambda pair: -pair[1]))
    return (
        f"── {live:,} products (Zoho has {len(zoho.catalogue):,}) · {sum(zoho.deliveries.counts.values()):,} deliveries"
        f" · {overview.unfinished:,} unfinished, {overview.dead:,} dead\n"
        f"   {told or 'nothing finished yet'}\n"
        f"   receipt to row p50/p95/p99 {'/'.join(lags) or '–'} ms · {overview.api_usage.day:,} calls to Zoho"
    )


def _tail(log_path: Path) -> str:
    return "\n".join(log_path.read_text("utf-8", "replace").splitlines()[-_LAST_LOG_LINES:])
