"""The order to stop, as something that a process can wait for."""

from __future__ import annotations

import queue
import signal
from datetime import timedelta
from types import FrameType
from typing import Protocol

from processors import logs

_log = logs.get(__name__)


def end_process_within(limit: timedelta) -> None:
    """Let the kernel end this process after `limit`, even if all of its threads hang in a call that never returns.

    Nothing is lost by it: what was not committed is taken over by others.
    """
    signal.setitimer(signal.ITIMER_REAL, limit.total_seconds())


class Stop(Protocol):
    """What tells a loop to end; `threading.Event` is one too."""

    def is_set(self) -> bool:
        """Tell whether it is time to end."""

    def wait(self, timeout: float) -> bool:
        """Wait for it for some seconds, and tell."""


class StopSignal:
    """SIGTERM, SIGINT or SIGHUP; further ones change nothing, since platforms and process managers each send their own.

    Make one in the main thread, and wait in that thread only.
    """

    def __init__(self, *, exit_within: timedelta | None = None) -> None:
        """Take the signals over from now on, for the rest of the process.

        `exit_within` ends the process by force so long after the first signal, whatever it hangs in by then.
        """
        self._exit_within = exit_within
        # A handler may run between any two instructions of the main thread, and setting an Event that this very
        # thread is about to wait for would deadlock. SimpleQueue.put is made for such places.
        self._received: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        self._is_set = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._exit_within and not signal.getitimer(signal.ITIMER_REAL)[0]:
            end_process_within(self._exit_within)
        self._received.put(signal.Signals(number))

    def is_set(self) -> bool:
        """Tell whether a signal came and was noticed by `wait`; any thread may ask."""
        return self._is_set

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a signal, and tell whether one came yet."""
        if self._is_set:
            return True
        try:
            received = self._received.get(timeout=timeout)
        except queue.Empty:
            return False
        _log.info("process.stopping", signal=received.name)
        self._is_set = True
        return True
