"""Run a command that dies with the process that started it, however that one ends.

Called as ``python tether.py PARENT_PID SIGNAL COMMAND...``. The kernel sends the command that
signal when its parent is gone (Linux; elsewhere a parent killed by SIGKILL may leave it running).
Imports nothing of ours: it stands before every child and must start fast.

References
----------
prctl(2), PR_SET_PDEATHSIG: kept across execve(2).
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent_pid, number, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent_pid:  # it died before it was watched
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    main()
