"""`make bench`: all subjects, one after the other, on servers and processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from rich.console import Console

from tests.benchmarks import accepts, backlog, latency, report, starting
from tests.benchmarks.scale import FULL, QUICK
from tests.benchmarks.system import system

_LONGEST_SECONDS = 240


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write everything measured to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run of half a minute; its figures mean nothing")
    arguments = parser.parse_args()
    # Whatever ends this program, it ends its processes first.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, lambda received, _: sys.exit(f"ended by {signal.Signals(received).name}"))
    signal.alarm(_LONGEST_SECONDS)
    scale, began = (QUICK if arguments.quick else FULL), monotonic()
    console = Console(width=report.WIDTH)
    subjects = []
    with system() as under_test:
        server = under_test.execute("SHOW server_version")
        about = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": scale.rounds,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "postgres": server and server[0],
        }
        console.print(
            f"{about['cores']} cores, Python {about['python']}, Postgres {about['postgres']}; {scale.rounds} rounds, "
            "turn and turn about; medians, with least–most below\n",
            highlight=False,
        )
        for module in (accepts, latency, backlog, starting):
            for subject in module.measure(under_test, scale):
                report.show(console, subject)
                subjects.append(subject)
    console.print(f"{monotonic() - began:.0f} s", highlight=False)
    if arguments.json:
        written = about | {"subjects": [report.as_json(subject) for subject in subjects]}
        arguments.json.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
