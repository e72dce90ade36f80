"""Where the time of one request goes, for clients that ask with ``x-coe-timing: on``.

References
----------
W3C Server Timing: https://www.w3.org/TR/server-timing/
"""

from __future__ import annotations

import time
from contextvars import ContextVar


class Timer:
    """Adds up the milliseconds of the steps of a request, in the order in which they began."""

    def __init__(self) -> None:
        self.steps_ms: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def end(self, step: str, at_s: float | None = None) -> None:
        """Count the time since the last call as that of a step; see `step_done`."""
        now_s = time.perf_counter() if at_s is None else at_s
        self.steps_ms[step] = self.steps_ms.get(step, 0.0) + 1000 * (now_s - self._last_s)
        self._last_s = now_s

    def header(self) -> str:
        """Return the steps so far as the value of ``server-timing``."""
        return ", ".join(f"{step};dur={ms:.3f}" for step, ms in self.steps_ms.items())


_current: ContextVar[Timer | None] = ContextVar("timer", default=None)


def start_timer() -> None:
    """Time the request of the current task."""
    _current.set(Timer())


def current_timer() -> Timer | None:
    """Return the timer of the current task; None when nobody asked for one."""
    return _current.get()


def step_done(step: str, at_s: float | None = None) -> None:
    """Note that a step has ended, where somebody asked.

    Parameters
    ----------
    at_s : float or None
        When it ended, by ``time.perf_counter()``; None: now.
    """
    timer = _current.get()
    if timer is not None:
        timer.end(step, at_s)
