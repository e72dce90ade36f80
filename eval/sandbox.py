"""Run code that a model wrote, in a process of its own that can do little harm.

What holds it: a folder of its own that is deleted afterwards, an empty environment, limits on
processor time, memory, file size, open files and processes, a time limit after which everything it
started is killed, and, where Linux lets us (``unshare``), namespaces in which it has no network and
sees no other process of ours to signal.

What does not: it runs as the same user and may read what that user may read; where namespaces are
refused it has the network; none of this stops a hole in the kernel; and a program that knows this
file can pass by ending with the exit code below. Against code that means harm, run the command in a
container or a virtual machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from functools import cache
from subprocess import DEVNULL, run

_PASSED = 77
"""Exit code of a program that came to its end; one that calls exit() itself has another."""
_NAMESPACES = ("--user", "--net", "--pid", "--fork", "--kill-child")
_MEMORY_BYTES = 1 << 30
_FILE_BYTES = 1 << 24
_OPEN_FILES = 64
_PROCESSES = 256

_CHILD = f"""
import os, resource, sys
seconds, source = int(sys.argv[1]), sys.stdin.buffer.read()
for name, most in (
    ("RLIMIT_CPU", seconds), ("RLIMIT_AS", {_MEMORY_BYTES}), ("RLIMIT_FSIZE", {_FILE_BYTES}),
    ("RLIMIT_NOFILE", {_OPEN_FILES}), ("RLIMIT_NPROC", {_PROCESSES}), ("RLIMIT_CORE", 0),
):
    resource.setrlimit(getattr(resource, name), (most, most))
exec(compile(source, "solution", "exec"), {{"__name__": "solution"}})
os._exit({_PASSED})
"""


@cache
def isolated() -> bool:
    """Whether this machine lets us take the network away from a process."""
    found = shutil.which("unshare")
    if found is None:
        return False
    command = [found, *_NAMESPACES, "true"]
    return run(command, stdout=DEVNULL, stderr=DEVNULL).returncode == 0  # noqa: S603 (ours)


async def passes(source: str, timeout_s: int = 10) -> bool:
    """Run a Python program; say whether it came to its end without an error.

    Parameters
    ----------
    source : str
        The program, its tests as assertions at the end.
    timeout_s : int
        Of processor time, and of time on the clock.
    """
    walls = ["unshare", *_NAMESPACES] if isolated() else []
    command = [*walls, sys.executable, "-I", "-c", _CHILD, str(timeout_s)]
    with tempfile.TemporaryDirectory(prefix="coe-code-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder},
            stdin=asyncio.subprocess.PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )
        try:
            program = source.encode("utf-8", "replace")
            await asyncio.wait_for(process.communicate(program), timeout_s)
        except TimeoutError:
            return False
        finally:
            _kill(process.pid)
            await process.wait()
    return process.returncode == _PASSED


def _kill(group: int) -> None:
    """Kill a process and what it started, if any of them is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
