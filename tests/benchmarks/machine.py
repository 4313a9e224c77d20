"""On what was measured: absolute figures of two machines can only be compared by who knows both."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.system import System

_PROC = Path("/proc")
_GIB = 1024 * 1024


def facts(system: System) -> dict[str, Any]:
    """Return what the figures depend on besides the code; nothing that tells whose machine this is."""
    server = system.execute("SHOW server_version")
    synchronous = system.execute("SELECT current_setting('fsync') || '/' || current_setting('synchronous_commit')")
    with redis.Redis.from_url(system.installation.redis.url) as client:
        told = client.info("server")
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _found("cpuinfo", r"^model name\s*: (.+)$") or platform.machine(),
        "memory_gib": round(int(_found("meminfo", r"^MemTotal: +(\d+) kB$") or 0) / _GIB, 1),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgres": server and server[0],
        "fsync/synchronous_commit": synchronous and synchronous[0],
        "redis": f"{told.get('server_name', 'redis')} {told.get('valkey_version') or told['redis_version']}",
    }


def _found(file: str, pattern: str) -> str | None:
    try:
        match = re.search(pattern, (_PROC / file).read_text("utf-8"), re.MULTILINE)
    except OSError:
        return None
    return match[1].strip() if match else None
