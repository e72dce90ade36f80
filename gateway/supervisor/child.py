"""One child process: started, watched, restarted, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

FIRST_DELAY_S = 0.2
LAST_DELAY_S = 5.0
STEADY_AFTER_S = 30.0
"""A child that ran for this long, in seconds, is restarted without a longer delay."""

_TETHER = str(Path(__file__).with_name("tether.py"))
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run.

    Attributes
    ----------
    name : str
        Unique among the children.
    command : tuple of str
        Absolute path of the program, then its arguments.
    environ : Mapping of str to str
        Added to this process's environment, without `hidden`.
    log_path : Path or None
        Where its output goes, from each start anew; None lets it share ours.
    socket_path : Path or None
        Unix socket it will listen on: a stale one is removed before each start.
    pass_fds : tuple of int
        File descriptors it inherits.
    fatal_exit_codes : frozenset of int
        Exit codes after which a restart is useless, as long as it has not `settled`.
    hidden : frozenset of str
        Variables of this process's environment that it does not get: secrets that are not for it.
    orphan_signal : int
        What it is sent when this process is gone: SIGTERM if it has processes of its own to end.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    log_path: Path | None = None
    socket_path: Path | None = None
    pass_fds: tuple[int, ...] = ()
    fatal_exit_codes: frozenset[int] = frozenset()
    hidden: frozenset[str] = frozenset()
    orphan_signal: signal.Signals = signal.SIGKILL


class Child:
    """Keeps one process running until it is stopped; what it started ends with it.

    Parameters
    ----------
    spec : ChildSpec
        What to run.
    on_change : callable
        Called whenever `state` or `pid` changes.

    Attributes
    ----------
    state : str
        What to tell an operator, e.g. ``started`` or ``restarting: killed by signal 9``.
    pid : int or None
        None while it does not run.
    settled : bool
        Whether it has worked once: what ends it then may be mended while the others go on.
    """

    def __init__(self, spec: ChildSpec, on_change: Callable[[], None]) -> None:
        self.spec = spec
        self.state = "not started"
        self.pid: int | None = None
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.settled = False

    async def run(self) -> int:
        """Keep it running; returns the exit code that ended it for good, 0 after `stop`."""
        delay_s = FIRST_DELAY_S
        while not self._stopping:
            started_s = time.monotonic()
            try:
                code = await self._run_once()
                why = self._describe(code)
            except OSError as error:  # too many processes, a full disk: it may pass
                code, why = 0, f"cannot be started: {error}"
            if self._stopping:
                break
            if code in self.spec.fatal_exit_codes and not self.settled:
                return code
            if time.monotonic() - started_s > STEADY_AFTER_S:
                delay_s = FIRST_DELAY_S
            self._set(None, f"restarting: {why}")
            _log.error(
                "child ended", extra={"fields": {"child": self.spec.name, "why": self.state}}
            )
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, LAST_DELAY_S)
        return 0

    async def stop(self, grace_s: float) -> None:
        """End it: politely, and by force after `grace_s` seconds."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            _end_group(process.pid)
            await process.wait()

    async def _run_once(self) -> int:
        spec = self.spec
        if spec.socket_path is not None:
            spec.socket_path.unlink(missing_ok=True)
        output = spec.log_path.open("wb") if spec.log_path else None
        tether = (
            sys.executable,
            "-I",
            "-S",
            _TETHER,
            str(os.getpid()),
            str(int(spec.orphan_signal)),
        )
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(*tether, *spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._inherited(), **spec.environ},
                pass_fds=spec.pass_fds,
                start_new_session=True,  # a group of its own; a Ctrl-C is ours to pass on
            )
        finally:
            if output is not None:
                output.close()
        self._set(self._process.pid, "started")
        try:
            return await self._process.wait()
        finally:
            _end_group(self._process.pid)  # vLLM's engine outlives a server that was killed

    def _inherited(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k not in self.spec.hidden}

    def _describe(self, code: int) -> str:
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        last = last_line(self.spec.log_path)
        return f"exited with code {code}" + (f": {last}" if last else "")

    def _set(self, pid: int | None, state: str) -> None:
        self.pid, self.state = pid, state
        self._on_change()


def _end_group(pid: int) -> None:
    """Kill a process and those that it left behind."""
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def last_line(path: Path | None) -> str:
    """Return the last line of a log that says something, cut to 300 characters."""
    if path is None or not path.exists():
        return ""
    lines = path.read_bytes()[-4096:].decode("utf-8", "replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
