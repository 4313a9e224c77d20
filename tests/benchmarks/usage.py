"""CPU time and peak memory of other processes, as Linux tells them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return what processes and their children used so far; children that ended count too, once waited for."""
    parents: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for directory in _PROC.iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            text = (directory / "stat").read_text()
        except OSError:  # it has just ended
            continue
        # After the name, which may hold anything: state, parent; from the twelfth on user and system time, its own
        # and that of children it waited for.
        fields = text.rpartition(")")[2].split()
        pid = int(directory.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        used[pid] = sum(map(int, fields[11:15]))
    ticks, left = 0, list(pids)
    while left:
        pid = left.pop()
        ticks += used[pid]
        left += parents.get(pid, [])
    return ticks / _TICKS


def peak_mb(pid: int) -> float:
    """Return the most memory that the process itself had resident since its start."""
    found = _PEAK.search((_PROC / str(pid) / "status").read_text())
    assert found is not None, "every live process has this line"
    return int(found[1]) / 1024
