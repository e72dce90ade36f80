"""What scenarios are made of: requests with orders, and verdicts with their evidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from uuid import uuid4

import aiohttp

from eval.failover.client import Asking, Seen, Target, ask
from eval.failover.processes import FailoverError, Upstream
from eval.failover.wire import FAULTY, HEALTHY, N_PIECES, ROLES, Orders

Grade = Literal["pass", "safe", "fail"]
SETTLE_S = 40.0
"""Longest wait until a gateway asks the faulty upstream again, after it has failed."""
FIRST_S = 2.0
"""The same before it has failed for the first time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a scenario.

    Attributes
    ----------
    verdict : {"pass", "safe", "fail"}
        ``pass``: the client got what it should. ``safe``: less, and it can tell. ``fail``: it was
        told something false, or nothing at all.
    evidence : str
        What was seen.
    """

    verdict: Grade
    evidence: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request that is over.

    Attributes
    ----------
    calls : mapping of str to list of dict
        Role of an upstream -> the calls that came to it.
    """

    orders: Orders
    seen: Seen
    calls: Mapping[str, list[dict[str, Any]]]

    def right(self) -> bool:
        """Whether the client got the right answer, all of it and nothing else."""
        seen = self.seen
        whole = seen.text == self.orders.answer() and seen.finish_reason == "stop"
        return whole and seen.ended()

    def whole(self) -> bool:
        """Whether it is right and, as a stream, ends as the protocol says."""
        return self.right() and (self.seen.done or not self.seen.stream)

    def grade(self) -> Grade:
        """Return the plain verdict: the right answer, a failure that shows, or neither."""
        if self.whole():
            return "pass"
        honest = self.right() or self.seen.told()
        return "safe" if honest and not self.seen.hung else "fail"

    def evidence(self) -> str:
        """Say what was seen."""
        seen = self.seen
        told = (seen.error or {}).get("message")
        n_right = sum(piece in seen.text for piece in self.orders.pieces())
        facts = (
            f"status {seen.status}" if seen.status else "no answer",
            f"{n_right} of {self.orders.n_pieces} pieces" if seen.text else "",
            "wrong text" if not self.orders.answer().startswith(seen.text) else "",
            f"finish_reason {seen.finish_reason}" if seen.finish_reason else "",
            "[DONE]" if seen.done else "",
            f"error {str(told)[:120]!r}" if told else "",
            f"{seen.unreadable} unreadable" if seen.unreadable else "",
            f"connection broken: {seen.broken}" if seen.broken else "",
            "hung" if seen.hung else "",
            f"calls: {', '.join(f'{role} {len(self.calls[role])}' for role in ROLES)}",
            f"{seen.elapsed_s:.2f} s",
        )
        return "; ".join(fact for fact in facts if fact)

    def verdict(self) -> Verdict:
        """Return the plain verdict with its evidence."""
        return Verdict(self.grade(), self.evidence())


class Bench:
    """A gateway under test, and the upstreams behind it."""

    def __init__(
        self,
        target: Target,
        upstreams: Mapping[str, Upstream],
        session: aiohttp.ClientSession,
    ) -> None:
        self.target = target
        self.upstreams = upstreams
        self.session = session

    async def request(
        self,
        faulty: str = "ok",
        healthy: str = "ok",
        asking: Asking = Asking(),  # noqa: B008  (frozen)
        n_pieces: int = N_PIECES,
    ) -> Outcome:
        """Make one request whose upstreams fail as told."""
        nonce = uuid4().hex[:12]
        orders = Orders(nonce, {FAULTY: faulty, HEALTHY: healthy}, n_pieces)
        seen = await ask(self.session, self.target, orders, asking)
        calls = {
            role: await self.upstreams[role].calls(self.session, nonce) for role in self.upstreams
        }
        return Outcome(orders, seen, calls)

    async def settle(self, patience_s: float = SETTLE_S) -> None:
        """Wait until the gateway asks the faulty upstream again.

        Raises
        ------
        FailoverError
            When it never does: it is not pointed at the upstreams.
        """
        started_s = time.monotonic()
        while time.monotonic() < started_s + patience_s:
            outcome = await self.request()
            if outcome.whole() and outcome.calls[FAULTY]:
                return
            await asyncio.sleep(0.2)
        raise FailoverError(
            f"{self.target.name} must send model {self.target.model!r} to "
            f"{self.upstreams[FAULTY].url} (model faulty) and fall back to "
            f"{self.upstreams[HEALTHY].url} (model healthy); it did not within {patience_s:g} s: "
            f"{outcome.evidence()}"
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, and what should come of it.

    Attributes
    ----------
    what : str
        The fault, for people.
    wanted : str
        What passes.
    """

    id: str
    what: str
    wanted: str
    play: Callable[[Bench], Awaitable[Verdict]]

    async def run(self, bench: Bench) -> dict[str, str]:
        """Play it from a quiet beginning; returns id, verdict and evidence."""
        await bench.settle()
        return {"id": self.id, **asdict(await self.play(bench))}
