"""`make bench`: all subjects, one after the other, on servers and processes of its own. `make bench-soak`: growth."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from rich.console import Console

from processors.runtime import procfile
from tests.benchmarks import (
    accepts,
    backlog,
    documents,
    inbox,
    latency,
    machine,
    migrating,
    overview,
    pressure,
    report,
    starting,
    sustained,
    sweep,
)
from tests.benchmarks.report import Subject
from tests.benchmarks.scale import FULL, INBOX, MILLION, QUICK, SOAK, Scale
from tests.benchmarks.system import System, system

_LONGEST_SECONDS = 600
_LONGEST_SOAK_SECONDS = 3_600
_KEPT = procfile.ROOT / ".bench"
_PAGE = procfile.ROOT / "docs" / "performance.md"


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything measured to this file, too")
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute; its figures mean nothing")
    parser.add_argument("--soak", action="store_true", help="how full runs grow with the list, up to 100,000 items")
    parser.add_argument("--million", action="store_true", help="with --soak: a million too; 10 minutes more")
    parser.add_argument(
        "--inbox", action="store_true", help="with --soak: instead, ten million events and what is asked of them"
    )
    parser.add_argument(
        "--migrate", action="store_true", help="with --soak: instead, migrations of as much, while deliveries come in"
    )
    parser.add_argument("--tenth", action="store_true", help="with --migrate: of a tenth of that")
    parser.add_argument(
        "--write-docs", action="store_true", help="measure nothing; put what is kept into docs/performance.md"
    )
    arguments = parser.parse_args()
    if arguments.million and not arguments.soak:
        parser.error("--million goes with --soak")
    if arguments.inbox and not arguments.soak:
        parser.error("--inbox goes with --soak")
    if arguments.migrate and not arguments.soak:
        parser.error("--migrate goes with --soak")
    if arguments.write_docs:
        _write_docs()
        return
    # Whatever ends this program, it ends its processes first.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, lambda received, _: sys.exit(f"ended by {signal.Signals(received).name}"))
    signal.alarm(_LONGEST_SOAK_SECONDS if arguments.soak else _LONGEST_SECONDS)
    is_large = (arguments.inbox or arguments.migrate) and not arguments.tenth
    scale, began = (QUICK if arguments.quick else INBOX if is_large else FULL), monotonic()
    is_growth = arguments.soak and not arguments.inbox and not arguments.migrate
    sizes = (SOAK | MILLION if arguments.million else SOAK) if is_growth else {}
    console = Console(width=report.WIDTH)
    subjects = []
    with system() as under_test:
        about = machine.facts(under_test) | {"rounds": sizes or scale.rounds}
        rounds = "/".join(map(str, sizes.values())) if sizes else scale.rounds
        console.print(
            f"{about['cores']} cores, Python {about['python']}, Postgres {about['postgres']}; {rounds} rounds, "
            "turn and turn about; medians, with least–most below\n",
            highlight=False,
            soft_wrap=True,
        )
        if arguments.inbox:
            measuring = inbox.measure(under_test, scale)
        elif arguments.migrate:
            measuring = migrating.measure(under_test, scale)
        else:
            measuring = sweep.soak(under_test, sizes) if sizes else _measured(under_test, scale)
        for subject in measuring:
            report.show(console, subject)
            subjects.append(subject)
    console.print(f"{monotonic() - began:.0f} s", highlight=False)
    measured = about | {"subjects": [report.as_json(subject) for subject in subjects]}
    written = json.dumps(measured, indent=1, ensure_ascii=False) + "\n"
    _KEPT.mkdir(exist_ok=True)
    name = "soak" if sizes else "quick" if arguments.quick else "inbox" if arguments.inbox else "latest"
    name = "migrations" if arguments.migrate else name
    for path in filter(None, [_KEPT / f"{name}.json", arguments.json]):
        path.write_text(written, "utf-8")


def _write_docs() -> None:
    try:
        said = documents.write(_PAGE, _KEPT)
    except documents.NothingWritten as problem:
        sys.exit(str(problem))
    for line in said:
        print(line)  # noqa: T201 - it is what was asked for


def _measured(under_test: System, scale: Scale) -> Iterator[Subject]:
    for module in (accepts, pressure, latency, backlog, sustained, sweep, starting, overview):
        yield from module.measure(under_test, scale)


if __name__ == "__main__":
    main()
