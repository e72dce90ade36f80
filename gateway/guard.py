"""Whether an expert may be called now: its circuit breaker, its places and its queue.

Each worker process keeps its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable

from gateway.errors import ExpertError, ExpertFullError, ExpertUnavailableError
from gateway.experts import Expert

FIRST_REST_S = 1.0
LAST_REST_S = 30.0
"""It rests for the first, then twice as long after each failed probe, up to the last."""
TRUSTED_S = 60.0
"""For so long after an answer to another tenant, one tenant's failures are its own."""


class Breaker:
    """A circuit breaker: closed, open for a while, then one probe decides.

    It works for a lone expert too: while it is open, calls fail at once and say when to try again.
    One tenant's requests that make an expert fail do not take it from the others: while it answers
    them, failures of a single tenant do not open it.

    Parameters
    ----------
    open_after_failures : int or None
        Failures in a row after which it opens; None: never.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, open_after_failures: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_after_failures = open_after_failures
        self._clock = clock
        self._failures = 0
        self._rest_s = FIRST_REST_S
        self._open_until_s: float | None = None
        self._probing = False
        self._failing: set[str | None] = set()
        self._answered_s: dict[str, float] = {}

    @property
    def rests_for_s(self) -> float:
        """Seconds until a call is let through; 0 when one is now."""
        if self._open_until_s is None:
            return 0.0
        left_s = self._open_until_s - self._clock()
        if left_s <= 0:
            return self._rest_s if self._probing else 0.0
        return left_s

    def begin(self) -> bool:
        """Note that a call is made; returns whether it is the probe."""
        if self._open_until_s is None:
            return False
        self._probing = True
        return True

    def succeeded(self, *, probe: bool, tenant: str | None = None) -> None:
        """Close: the expert works.

        While it is open, only the probe counts: what was under way began before the failures.

        Parameters
        ----------
        probe : bool
            What `begin` said of the call.
        tenant : str or None
            Whom it answered.
        """
        if probe or self._open_until_s is None:
            self._failures, self._rest_s = 0, FIRST_REST_S
            self._open_until_s, self._probing = None, False
            self._failing.clear()
            if tenant is not None:
                self._note_answered(tenant)

    def failed(
        self, *, probe: bool, asked_s: float | None = None, tenant: str | None = None
    ) -> None:
        """Count a failure; open after several, after a failed probe, or when told to wait.

        While it is open, only the probe counts: calls that were under way fail with the others.

        Parameters
        ----------
        probe : bool
            What `begin` said of the call.
        asked_s : float or None
            How long the expert asked to be left alone, in seconds.
        tenant : str or None
            Whose request failed; None where that cannot be the request's fault.
        """
        if self._open_after_failures is None:
            return
        self._failures += 1
        self._failing.add(tenant)
        is_open = self._open_until_s is not None
        enough = self._failures >= self._open_after_failures and not self._works_for_others()
        if probe or (not is_open and enough):
            self._open_for(self._rest_s)
            self._rest_s = min(2 * self._rest_s, LAST_REST_S)
        if asked_s is not None:
            self._open_for(min(asked_s, LAST_REST_S))
        self._probing &= not probe

    def abandoned(self, *, probe: bool) -> None:
        """Note that a call ended without telling anything of the expert."""
        self._probing &= not probe

    def _note_answered(self, tenant: str) -> None:
        """Remember the last two tenants that were answered: one of them is another than any."""
        self._answered_s.pop(tenant, None)
        self._answered_s[tenant] = self._clock()
        if len(self._answered_s) > 2:
            del self._answered_s[next(iter(self._answered_s))]

    def _works_for_others(self) -> bool:
        """Whether one tenant alone met failures, and another one was answered lately."""
        if len(self._failing) > 1 or None in self._failing:
            return False
        since_s = self._clock() - TRUSTED_S
        return any(
            tenant not in self._failing and answered_s > since_s
            for tenant, answered_s in self._answered_s.items()
        )

    def _open_for(self, rest_s: float) -> None:
        self._open_until_s = max(self._open_until_s or 0.0, self._clock() + rest_s)


class Guard:
    """Lets calls of one expert through, or says at once why not.

    Parameters
    ----------
    expert : Expert
        Its `max_concurrency` and `max_queue` are kept.
    """

    def __init__(self, expert: Expert) -> None:
        self.breaker = Breaker(expert.open_after_failures)
        self._name = expert.name
        self._max_queue = expert.max_queue
        most = expert.max_concurrency
        self._places = asyncio.Semaphore(most) if most is not None else None
        self._queued = 0

    def refusal(self) -> ExpertError | None:
        """Return the error a call would get now; None when it may go on."""
        if self._places is not None and self._places.locked() and self._queued >= self._max_queue:
            return ExpertFullError(
                f"Expert {self._name!r} has no place left, nor has its queue.", retry_after_s=1
            )
        return self._resting()

    def _resting(self) -> ExpertError | None:
        rests_for_s = self.breaker.rests_for_s
        if rests_for_s <= 0:
            return None
        return ExpertUnavailableError(
            f"Expert {self._name!r} is left alone for a while after it failed.",
            retry_after_s=rests_for_s,
        )

    async def enter(self) -> bool:
        """Take a place, after a wait in the queue; returns whether the call is the probe.

        `leave` must follow.

        Raises
        ------
        ExpertUnavailableError
            When the breaker opened during the wait; no place is taken then.
        """
        if self._places is not None:
            self._queued += 1
            try:
                await self._places.acquire()
            finally:
                self._queued -= 1
        resting = self._resting()
        if resting is not None:
            self.leave()
            raise resting
        return self.breaker.begin()

    def leave(self) -> None:
        """Give the place back."""
        if self._places is not None:
            self._places.release()


class Guards:
    """The guards of all experts; virtual experts of one local process share its guard."""

    def __init__(self) -> None:
        self._guards: dict[Hashable, Guard] = {}

    def of(self, expert: Expert) -> Guard:
        """Return the guard of an expert; a new one for an expert not seen before."""
        key = _guarded(expert)
        if key not in self._guards:
            self._guards[key] = Guard(expert)
        return self._guards[key]

    def keep(self, experts: Iterable[Expert]) -> None:
        """Drop the guards of all but these: an expert that did not change keeps its state."""
        kept = {_guarded(expert) for expert in experts}
        self._guards = {key: guard for key, guard in self._guards.items() if key in kept}


def _guarded(expert: Expert) -> Hashable:
    """Return what a guard stands for: a server, and the limits its calls are under."""
    name = expert.weights if expert.backend == "local" else expert.name
    limits = (expert.max_concurrency, expert.max_queue, expert.open_after_failures)
    return (name, expert.backend, expert.base_url, expert.model, *limits)


class RetryBudget:
    """Keeps retries from multiplying the load on experts that fail: a share of the requests.

    References
    ----------
    Google SRE book, "Handling overload": a per-client retry budget.
    """

    SHARE = 0.2
    """Retries allowed for each request."""
    RESERVE = 10.0
    """Retries saved up at the most."""

    def __init__(self) -> None:
        self._left = self.RESERVE

    def earn(self) -> None:
        """Note a request."""
        self._left = min(self.RESERVE, self._left + self.SHARE)

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
