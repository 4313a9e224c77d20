"""Ends the process at chosen instructions. Python imports this file at its start, wherever PYTHONPATH names its folder.

The product knows nothing of it. A point is armed by a file of its name in the folder that CHAOS_POINTS names; the
first process that comes past takes the file, so that it strikes once, and sends itself a signal. CHAOS_BROKEN makes the
product wrong on purpose, to show that the suite notices.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

FROZEN = ("worker.frozen-before-it-settles", "worker.frozen-while-it-settles")

_points = Path(os.environ.get("CHAOS_POINTS", os.devnull))
_broken = os.environ.get("CHAOS_BROKEN", "")


def _pass(point: str) -> None:
    if any((_points / f"{frozen}.{os.getpid()}").exists() for frozen in FROZEN):
        # It is to live until it wrote late.
        return
    armed = _points / point
    try:
        armed.rename(f"{armed}.{os.getpid()}")
    except OSError:
        return
    # To this very thread: else another one may take the signal, and this one go on for some instructions.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP if point in FROZEN else signal.SIGKILL)


def _patch_inbox(inbox: ModuleType) -> None:
    record, claim, take_due = inbox.record, inbox.claim, inbox.take_due

    async def record_and_pass(*arguments: Any) -> Any:
        recorded = await record(*arguments)
        _pass("web.committed-not-answered")
        return recorded

    def claim_and_pass(*arguments: Any, **options: Any) -> Any:
        claimed = claim(*arguments, **options)
        if claimed:
            _pass("worker.claimed")
        return claimed

    def take_due_and_pass(*arguments: Any, **options: Any) -> Any:
        due = take_due(*arguments, **options)
        if due and sys.argv[-1] == "clock":
            _pass("clock.marked-not-published")
        return due

    vars(inbox).update(record=record_and_pass, claim=claim_and_pass, take_due=take_due_and_pass)


class _Passing:
    """A connection that comes past a point right before its last statement, whatever went before."""

    def __init__(self, connection: Any, point: str) -> None:
        self._connection = connection
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        if "settled" in str(statement):
            _pass(self._point)
        return self._connection.execute(statement, *arguments, **options)


def _patch_settlement(settlement: ModuleType) -> None:
    settle = settlement.settle
    uncommitted = "worker.settled-not-committed"

    def settle_and_pass(connection: Any, decisions: Sequence[Any]) -> Any:
        _pass("worker.decided")
        before, amid = FROZEN
        _pass(before)
        connection = _Passing(connection, amid)
        if (_points / uncommitted).exists():
            with connection.transaction():
                settled = settle(connection, decisions)
                # Unless another process was faster: then this one goes on.
                _pass(uncommitted)
        else:
            settled = settle(connection, decisions)
        _pass("worker.settled")
        return settled

    vars(settlement).update(settle=settle_and_pass)


def _patch_intake(intake: ModuleType) -> None:
    publish = intake.Intake._publish

    async def pass_and_publish(self: Any, event_ids: list[int]) -> None:
        _pass("web.answered-not-published")
        await publish(self, event_ids)

    intake.Intake._publish = pass_and_publish
    if _broken == "acknowledges-first":

        async def record(self: Any, delivery: Any) -> Any:
            waiting = intake._Waiting(delivery, asyncio.get_running_loop().create_future())
            waiting.answer.add_done_callback(lambda answer: answer.exception())
            self._waiting.put_nowait(waiting)
            return intake.Recorded(event_id=0, state="recorded")

        intake.Intake.record = record


def _patch_relay(relay: ModuleType) -> None:
    if _broken == "no-relay":
        vars(relay).update(relay=lambda *_, **__: 0)


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "processors.store.inbox": _patch_inbox,
    "processors.store.settlement": _patch_settlement,
    "processors.workflows.relay": _patch_relay,
    "receiver.intake": _patch_intake,
}


class _Patcher(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = _PATCHES.get(name)
        spec = PathFinder.find_spec(name, path, target) if patch else None
        if spec is None or patch is None:
            return None
        assert isinstance(spec.loader, SourceFileLoader)
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            patch(module)

        vars(spec.loader).update(exec_module=execute_and_patch)
        return spec


if _points.is_dir():
    sys.meta_path.insert(0, _Patcher())
