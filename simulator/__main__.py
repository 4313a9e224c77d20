"""Run the simulated Zoho by itself: `python -m simulator --port 9000 --items 1000`."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from simulator import identity
from simulator.catalogue import Catalogue
from simulator.deliveries import CHANGED_RULE, DELETED_RULE, Deliveries
from simulator.life import Editor
from simulator.server import serve
from simulator.zoho import Zoho

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    catalogue = Catalogue.generate(options.items, seed=options.seed)
    try:
        rules = [replace(rule, secret=options.secret) for rule in (CHANGED_RULE, DELETED_RULE)]
        deliveries = Deliveries(base_url=options.webhook_url, rules=rules)
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    zoho = Zoho(catalogue, deliveries=deliveries)
    # Blocked before any thread starts, so that they wait for sigwait below and interrupt nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    with ExitStack() as stack:
        base_url = stack.enter_context(serve(zoho, port=options.port))
        if options.edits_per_second > 0:
            editor = Editor(catalogue, seed=options.seed)
            stack.enter_context(editor.at_work(per_second=options.edits_per_second))
        sys.stdout.write(
            f"{base_url}\n"
            f"organisation {zoho.organization.organization_id}, {len(catalogue)} items\n"
            f"client {identity.CLIENT_ID}, secret {identity.CLIENT_SECRET}, "
            f"refresh token {identity.REFRESH_TOKEN}\n",
        )
        sys.stdout.flush()
        signal.sigwait(_STOPPING)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator", description="A stand-in for Zoho on this machine.")
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one (%(default)s)")
    parser.add_argument("--items", type=int, default=1000, help="items to begin with (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same life")
    parser.add_argument("--webhook-url", help="the receiver's base URL; without it nothing is delivered")
    parser.add_argument("--secret", default=identity.WEBHOOK_SECRET, help="the webhooks' secret")
    parser.add_argument("--edits-per-second", type=float, default=0.0, help="how lively (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
