"""Becomes the server named on its command line, which dies with the thread that launched it.

    python -I -S launch.py PARENT_PID UID GID DEATH_SIGNAL PROGRAM [ARGUMENT ...]

`local` runs this file as a script, in place of `subprocess`'s `preexec_fn`, which may deadlock in a program with
threads. It needs only the standard library, and the server keeps its process id, working directory and inherited files.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def _become(command: list[str], parent: int, uid: int, gid: int, death_signal: int) -> None:
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After setuid, which clears it. A parent that was gone before this line sends nothing: hence the second look.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            sys.exit("the launching process is gone")
    os.execv(command[0], command)  # noqa: S606 - a shell would only be one more process


if __name__ == "__main__":
    _become(sys.argv[5:], *map(int, sys.argv[1:5]))
