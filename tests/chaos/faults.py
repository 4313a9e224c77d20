"""What befalls the system. Each fault returns at its end: the parts are there again, or on their way up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from tests.chaos.injected.sitecustomize import FROZEN
from tests.chaos.system import WORKERS, System

BEFORE_SETTLING, WHILE_SETTLING = FROZEN


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. Those of different lanes may happen at the same time; without a lane it happens alone."""

    name: str
    lane: str | None
    happen: Callable[[System, Random], None]


def _kill(system: System, random: Random, *, name: str) -> None:
    time.sleep(random.uniform(0, 0.3))
    system.kill(name)
    time.sleep(random.uniform(0, 1))
    system.start_again(name)


def _kill_worker(system: System, random: Random) -> None:
    with system.a_worker(random) as name:
        _kill(system, random, name=name)


def _killed_at(point: str) -> Callable[[System, Random], None]:
    return lambda system, _random: system.start_again(system.kill_at(point))


def _kill_clock_between_mark_and_publish(system: System, _random: Random) -> None:
    # The clock has something to hand over only where a message was lost and no worker took the event meanwhile.
    with system.halted(*WORKERS):
        killed = [system.kill_at("web.answered-not-published"), system.kill_at("clock.marked-not-published")]
    for name in killed:
        system.start_again(name)


def _freeze_worker(system: System, _random: Random, *, point: str) -> None:
    system.freeze_worker_past_its_lease(point)


def _deploy(system: System, _random: Random, *, name: str) -> None:
    system.deploy(name)


def _deploy_worker(system: System, random: Random) -> None:
    with system.a_worker(random) as name:
        system.deploy(name)


def _flush_redis(system: System, _random: Random) -> None:
    system.flush_redis()


def _stop_redis(system: System, random: Random) -> None:
    system.redis.stop()
    time.sleep(random.uniform(1.5, 4))
    system.redis.start()


def _empty_redis(system: System, random: Random) -> None:
    system.restart_redis_empty(random.uniform(0, 1))


def _crash_postgres(system: System, _random: Random) -> None:
    system.postgres.restart(immediate=True)


def _stop_postgres(system: System, random: Random) -> None:
    system.postgres.stop()
    time.sleep(random.uniform(1.5, 4))
    system.postgres.start()


def _hang_postgres(system: System, random: Random) -> None:
    # Longer than a delivery waits for its commit: it is refused, and may be committed all the same.
    with system.frozen_postgres():
        time.sleep(random.uniform(4.2, 6))


FAULTS = [
    Fault("clock killed after marking, before publishing", None, _kill_clock_between_mark_and_publish),
    Fault("worker frozen before it settles", "Postgres", partial(_freeze_worker, point=BEFORE_SETTLING)),
    Fault("worker frozen while it settles", "Postgres", partial(_freeze_worker, point=WHILE_SETTLING)),
    Fault("worker killed", "worker", _kill_worker),
    Fault("worker killed after the claim", "worker", _killed_at("worker.claimed")),
    Fault("worker killed after deciding, before writing", "worker", _killed_at("worker.decided")),
    Fault("worker killed after writing, before the commit", "worker", _killed_at("worker.settled-not-committed")),
    Fault("worker killed after the commit", "worker", _killed_at("worker.settled")),
    Fault("worker deployed", "worker", _deploy_worker),
    Fault("web killed", "web", partial(_kill, name="web")),
    Fault("web killed after the commit, before answering", "web", _killed_at("web.committed-not-answered")),
    Fault("web killed after answering, before publishing", "web", _killed_at("web.answered-not-published")),
    Fault("web deployed", "web", partial(_deploy, name="web")),
    Fault("clock killed", "web", partial(_kill, name="clock")),
    Fault("clock deployed", "web", partial(_deploy, name="clock")),
    Fault("Redis flushed", "Redis", _flush_redis),
    Fault("Redis stopped for seconds", "Redis", _stop_redis),
    Fault("Redis restarted empty", "Redis", _empty_redis),
    Fault("Postgres restarted in immediate mode", "Postgres", _crash_postgres),
    Fault("Postgres stopped for seconds", "Postgres", _stop_postgres),
    Fault("Postgres hangs for seconds", "Postgres", _hang_postgres),
]
BY_NAME = {fault.name: fault for fault in FAULTS}
LANES = ("worker", "web", "Redis", "Postgres")
