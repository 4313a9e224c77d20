"""`make chaos`: faults on a schedule drawn from a seed, under a stream of webhooks, and what was lost by them."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from random import SystemRandom

from rich.console import Console

from tests.chaos import report
from tests.chaos.faults import BY_NAME
from tests.chaos.run import FULL, QUICK, run

_LONGEST_SECONDS = 900


def main() -> None:
    """Run, print, write what was found; the exit code is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000), help="of an earlier run")
    parser.add_argument("--quick", action="store_true", help="a few hundred deliveries, each fault once, in a minute")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write everything found to this file")
    parser.add_argument("--logs", type=Path, metavar="PATH", help="leave the processes' logs in this new folder")
    parser.add_argument(
        "--only", action="append", default=[], choices=BY_NAME, metavar="FAULT", help="these, in this order"
    )
    parser.add_argument("--patience", type=float, default=45, metavar="SECONDS", help="for events after the last fault")
    parser.add_argument("--broken", default="", choices=("acknowledges-first", "no-relay"), help="a build to be caught")
    arguments = parser.parse_args()
    # Whatever ends this program, it ends its processes first.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, lambda received, _: sys.exit(f"ended by {signal.Signals(received).name}"))
    signal.alarm(_LONGEST_SECONDS)
    console = Console(width=report.WIDTH)
    console.print(f"seed {arguments.seed}", highlight=False)
    account = run(
        QUICK if arguments.quick else FULL,
        arguments.seed,
        broken=arguments.broken,
        only=[BY_NAME[name] for name in arguments.only],
        patience_seconds=arguments.patience,
        logs=arguments.logs and arguments.logs.absolute(),
        tell=lambda line: console.print(line, style="dim", highlight=False),
    )
    report.show(console, account)
    if arguments.json:
        written = json.dumps(report.as_json(account), indent=1, ensure_ascii=False, default=str)
        arguments.json.write_text(f"{written}\n", "utf-8")
    sys.exit(0 if account.is_clean else 1)


if __name__ == "__main__":
    main()
