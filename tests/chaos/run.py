"""One run: a stream of deliveries, faults meanwhile, and the account of both."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import psycopg

from tests.chaos.audit import Audit, audit
from tests.chaos.faults import FAULTS, LANES, Fault
from tests.chaos.stream import Sender, plan
from tests.chaos.system import WORKERS, NotHit, System, system

_RECOVERY_SECONDS = 45.0
_REST_SECONDS = 90.0
_LOOK_SECONDS = 0.05
# Of all deliveries: what goes out beside the faults that happen by themselves, at once and while they last.
_SHARE_AT_ONCE = 0.5
_SHARE_IN_ALL = 0.85
_TRICKLE = 1
_STORM = "all at once"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is sent, and how often each fault happens by itself before all happen together."""

    items: int
    deliveries: int
    per_second: float
    rounds: int


FULL = Scale(items=5_000, deliveries=20_000, per_second=150, rounds=2)
QUICK = Scale(items=150, deliveries=600, per_second=25, rounds=0)


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that happened, and how far the acknowledgements had come at its end."""

    fault: str
    is_alone: bool
    """Nothing else happened meanwhile: then the recovery is this fault's."""
    ended_at: datetime
    last_event_id: int


@dataclass(slots=True)
class Account:
    """All that a run came to."""

    seed: int
    seconds: float
    audit: Audit
    happened: dict[str, int]
    recoveries: dict[str, list[float | None]]
    """By fault: seconds from its end until all that was acknowledged by then was applied; None: never."""
    not_hit: list[str]
    """Faults that did not come about, since nobody came past the instruction."""
    violations: list[str]
    exits: dict[str, list[float]]
    """How many seconds processes took to end after SIGTERM."""
    late_writes: int
    """How often a worker found that its lease had lapsed when it was about to write."""
    answers: dict[str, int]
    complaints: dict[str, int] = field(default_factory=dict)
    """Lines of the logs that say `error`, for a person to look at."""

    @property
    def is_clean(self) -> bool:
        return self.audit.is_clean and not self.violations


def run(
    scale: Scale,
    seed: int,
    *,
    broken: str,
    only: Sequence[Fault],
    patience_seconds: float,
    logs: Path | None,
    tell: Callable[[str], None],
) -> Account:
    """Run the schedule of that seed, or `only` these faults in their order, and count.

    The processes' logs are left in `logs`; `tell` hears of each fault.
    """
    began, random = time.monotonic(), Random(seed)
    order = plan(random, items=scale.items, deliveries=scale.deliveries)
    with system(broken, logs) as under_test:
        sender = Sender(under_test.port, order, random.randrange(2**32))
        sender.per_second = scale.per_second
        course = _Course(under_test, sender, tell)
        sender.start()
        try:
            if only:
                course.one_after_the_other(only, random)
            else:
                course.by_schedule(scale, random)
            if not sender.finish(_REST_SECONDS):
                under_test.violations.append(f"not everything was acknowledged within {_REST_SECONDS:.0f} s")
        finally:
            sender.stop()
        _wait_until_finished(under_test, None, patience_seconds)
        under_test.note_unexpected_ends()
        return Account(
            seed,
            time.monotonic() - began,
            audit(under_test, len(order), sender.acknowledged),
            dict(Counter(strike.fault for strike in course.strikes)),
            _recoveries(under_test, course.strikes),
            course.not_hit,
            under_test.violations,
            under_test.exits,
            sum(under_test.late_writes(name) for name in WORKERS),
            dict(sender.answers.most_common()),
            dict(Counter(_complaints(under_test.directory)).most_common(12)),
        )


class _Course:
    """Lets faults happen to a system, and notes when they did."""

    def __init__(self, under_test: System, sender: Sender, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._began = time.monotonic()
        self.strikes: list[Strike] = []
        self.not_hit: list[str] = []
        self._is_over = False
        self._system = under_test
        self._sender = sender

    def by_schedule(self, scale: Scale, random: Random) -> None:
        schedule = [fault for _ in range(scale.rounds) for fault in random.sample(FAULTS, len(FAULTS))]
        share = round(scale.deliveries * _SHARE_AT_ONCE / max(1, len(schedule)))
        for fault in schedule:
            # It befalls a system at work.
            self._system.wait_until_ready()
            self._sender.allow(share)
            time.sleep(random.uniform(0.3, 1))
            self._alone(fault, Random(random.random()))
            _wait_until_finished(self._system, self.strikes[-1].last_event_id if self.strikes else 0, _RECOVERY_SECONDS)
            self._system.note_unexpected_ends()
        self._sender.allow(scale.deliveries)
        self._all_at_once(random)

    def one_after_the_other(self, faults: Iterable[Fault], random: Random) -> None:
        self._sender.allow(len(self._sender.order))
        time.sleep(0.5)
        for fault in faults:
            self._happen(fault, random, is_alone=False)

    def _alone(self, fault: Fault, random: Random) -> None:
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(self._happen, fault, random, is_alone=True)
            while wait([future], _LOOK_SECONDS).not_done:
                # Some must come past the instruction that is waited for.
                if self._sender.allowed < len(self._sender.order) * _SHARE_IN_ALL:
                    self._sender.allow(_TRICKLE)
        future.result()

    def _all_at_once(self, random: Random) -> None:
        """Let each fault happen once: those of one lane after each other, the lanes side by side."""
        for fault in FAULTS:
            if fault.lane is None:
                self._happen(fault, random, is_alone=False)

        def one_lane(lane: str, random: Random) -> None:
            faults = [fault for fault in FAULTS if fault.lane == lane]
            for fault in random.sample(faults, len(faults)):
                time.sleep(random.uniform(0, 0.4))
                self._happen(fault, random, is_alone=False)

        with ThreadPoolExecutor(len(LANES)) as threads:
            lanes: list[Future[None]] = [threads.submit(one_lane, lane, Random(random.random())) for lane in LANES]
            try:
                for lane in lanes:
                    lane.result()
            finally:
                # Told to end, or broken off by one of them: the others begin nothing more.
                self._is_over = True
        self._note(_STORM, is_alone=True)

    def _happen(self, fault: Fault, random: Random, *, is_alone: bool) -> None:
        if self._is_over:
            return
        acknowledged = len(self._sender.acknowledged)
        self._tell(f"{time.monotonic() - self._began:5.0f} s, {acknowledged:6,} acknowledged: {fault.name}")
        try:
            fault.happen(self._system, random)
        except NotHit:
            self.not_hit.append(fault.name)
            self._system.start_missing()
        else:
            self._note(fault.name, is_alone=is_alone)

    def _note(self, name: str, *, is_alone: bool) -> None:
        self.strikes.append(Strike(name, is_alone, datetime.now(UTC), self._sender.last_event_id))


def _wait_until_finished(under_test: System, up_to: int | None, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if under_test.unfinished(up_to) == 0:
                return
        except psycopg.OperationalError:
            pass
        time.sleep(_LOOK_SECONDS)


def _recoveries(under_test: System, strikes: Sequence[Strike]) -> dict[str, list[float | None]]:
    statement = """
        SELECT CASE WHEN bool_and(state IN ('processed', 'dead')) IS NOT FALSE
                    THEN greatest(0, extract(epoch FROM max(processed_at) - %(ended_at)s))::float END
          FROM events
         WHERE id <= %(last)s
    """
    recoveries: dict[str, list[float | None]] = defaultdict(list)
    for strike in filter(lambda strike: strike.is_alone, strikes):
        ((seconds,),) = under_test.rows(statement, ended_at=strike.ended_at, last=strike.last_event_id)
        recoveries[strike.fault].append(seconds if isinstance(seconds, float) else None)
    return dict(recoveries)


def _complaints(directory: Path) -> Iterator[str]:
    for log in sorted(directory.glob("*.log")):
        for line in log.read_text("utf-8", "replace").splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                # Not ours: what Python or a library wrote by itself.
                yield f"{log.stem}: {line.strip()[:100]}"
                continue
            if said.get("level") in ("error", "critical"):
                yield f"{log.stem}: {said.get('event')} {said.get('error_class') or ''}".strip()[:120]
