"""How much is measured: enough for ratios that hold, or just enough to know that the bench still works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts for each round."""

    rounds: int
    durable_requests: int
    unsaved_requests: int
    single_requests: int
    paced_seconds: int
    brisk_posts: int
    idle_posts: int
    backlog_events: int
    backlog_items: int
    burst_events: int
    sustained_seconds: int
    sweep_items: int
    peer_items: int
    starts: int
    seen_products: int
    seen_events: int
    looks: int


FULL = Scale(
    rounds=5,
    durable_requests=4_000,
    unsaved_requests=12_000,
    single_requests=3_000,
    paced_seconds=2,
    brisk_posts=30,
    idle_posts=5,
    backlog_events=20_000,
    backlog_items=5_000,
    burst_events=5_000,
    sustained_seconds=20,
    sweep_items=20_000,
    peer_items=1_000,
    starts=3,
    seen_products=100_000,
    seen_events=1_000_000,
    looks=30,
)
QUICK = Scale(
    rounds=1,
    durable_requests=1_000,
    unsaved_requests=2_000,
    single_requests=500,
    paced_seconds=1,
    brisk_posts=10,
    idle_posts=2,
    backlog_events=2_000,
    backlog_items=500,
    burst_events=2_000,
    sustained_seconds=4,
    sweep_items=1_000,
    peer_items=200,
    starts=1,
    seen_products=2_000,
    seen_events=20_000,
    looks=5,
)

SOAK = {1_000: 5, 10_000: 5, 100_000: 3}
"""Rounds by the number of items."""
MILLION = {1_000_000: 1}

INBOX = replace(FULL, rounds=1, seen_products=1_000_000, seen_events=10_000_000, looks=10)
