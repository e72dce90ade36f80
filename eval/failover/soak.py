"""Load this gateway for long while its upstreams fail, and look for what wears out.

A part of the requests carries orders to fail; now and then the faulty upstream is killed. The
healthy one always answers, so every answer must be whole; its pieces carry the nonce of its
request, so that a lost or a foreign one shows. Memory and descriptors of the gateway's workers are
compared at rest, after the warm-up and at the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any
from uuid import uuid4

import aiohttp

from eval.failover.client import Asking, Seen, Target, ask
from eval.failover.processes import FailoverError, Upstream, gateway, upstreams
from eval.failover.systems import coe_command, environ
from eval.failover.wire import FAULTY, OK, Orders
from routers.progress import Progress, silent

TIMEOUT_S = {"connect": 20, "first_token": 30, "idle": 30, "total": 100}
PATIENCE_S = 120.0
"""Generous: a machine that is busy for a moment is no fault of an upstream, nor of the gateway."""
N_CLIENTS = 16
CAPACITY_S = 10.0
"""How long the capacity is measured."""
LOAD = 0.8
"""Share of the capacity."""
WARM_UP = 0.2
"""Share of the time before the first look at memory."""
REST_S = 7.0
"""Without load before a look: longer than idle connections are kept."""
KILL_PERIOD_S = 45.0
DOWN_S = 2.0
FAULTS = {
    False: ("status-500", "status-503", "status-429", "reset", "truncated", "cutbody", "html"),
    True: ("status-500", "reset", "cut", "ends", "malformed", "reports", "nodone", "headers-reset"),
}
"""What a part of the whole and of the streamed requests meets."""
SLOW_FAULTS = ("stalls", "headers")
FAULTY_SHARE, SLOW_SHARE, LEAVING_SHARE = 0.2, 0.002, 0.02
LENGTHS = (1, 8, 8, 8, 64)
"""Pieces of an answer."""
MOST_EXAMPLES = 5


@dataclass(slots=True)
class Tally:
    """What came of the requests.

    Attributes
    ----------
    lost, mixed_up : list of str
        What was seen of answers that are not whole, and of those with foreign pieces.
    """

    n_requests: int = 0
    n_left: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def add(self, orders: Orders, seen: Seen) -> None:
        """Judge an answer."""
        self.n_requests += 1
        fault = orders.faults[FAULTY]
        self.faults[fault] += fault != OK
        self.latencies_s.append(seen.elapsed_s)
        n_chars = len(orders.nonce)  # the last piece may be cut
        foreign = [p for p in seen.text.split() if not orders.nonce.startswith(p[:n_chars])]
        if foreign:
            self.mixed_up.append(f"{fault}: {orders.nonce} got {foreign[:3]}")
        elif not (seen.text == orders.answer() and seen.finish_reason == "stop" and seen.ended()):
            self.lost.append(f"{fault}: {seen}"[:500])


@dataclass(frozen=True, slots=True)
class Worker:
    """A process of the gateway that answers requests, at rest."""

    pid: int
    rss_mb: float
    descriptors: int


class Load:
    """Clients that ask at a steady pace.

    Parameters
    ----------
    rate_per_s : float or None
        Requests a second of all clients together; None: as many as they get answered. A client
        that is late does not catch up.
    failing : bool
        Whether requests carry faults.
    """

    def __init__(
        self,
        target: Target,
        session: aiohttp.ClientSession,
        tally: Tally,
        rate_per_s: float | None,
        *,
        failing: bool,
    ) -> None:
        self._target = target
        self._session = session
        self._tally = tally
        self._period_s = N_CLIENTS / rate_per_s if rate_per_s else 0.0
        self._failing = failing

    async def run(self, duration_s: float) -> None:
        """Ask for a while."""
        end_s = time.monotonic() + duration_s
        async with asyncio.TaskGroup() as group:
            for i in range(N_CLIENTS):
                group.create_task(self._client(i * self._period_s / N_CLIENTS, end_s))

    async def _client(self, delay_s: float, end_s: float) -> None:
        await asyncio.sleep(delay_s)
        while (started_s := time.monotonic()) < end_s:
            await self._ask()
            await asyncio.sleep(max(0.0, started_s + self._period_s - time.monotonic()))

    async def _ask(self) -> None:
        stream = random.random() < 0.5  # noqa: S311  (no secret)
        orders = Orders(uuid4().hex[:12], {FAULTY: self._fault(stream)}, random.choice(LENGTHS))  # noqa: S311
        if self._failing and random.random() < LEAVING_SHARE:  # noqa: S311
            slow = Orders(orders.nonce, {FAULTY: "late-1"})
            await ask(self._session, self._target, slow, Asking(stream, patience_s=0.2))
            self._tally.n_left += 1
        else:
            asking = Asking(stream, usage=True, patience_s=PATIENCE_S)
            self._tally.add(orders, await ask(self._session, self._target, orders, asking))

    def _fault(self, stream: bool) -> str:
        drawn = random.random()  # noqa: S311
        if not self._failing or drawn > FAULTY_SHARE:
            return OK
        if stream and drawn < SLOW_SHARE:
            return random.choice(SLOW_FAULTS)  # noqa: S311
        return random.choice(FAULTS[stream])  # noqa: S311


async def soak(minutes: float, workers: int, progress: Progress = silent) -> dict[str, Any]:
    """Load the gateway of this installation, and return what was seen.

    Parameters
    ----------
    minutes : float
        Of load, the warm-up included.
    workers : int
        Of the gateway.

    Returns
    -------
    dict
        `capacity_per_s`, `rate_per_s`, `requests`, `faults`, `kills`, `client_left`, `lost`,
        `mixed_up` and `examples` of these, `p50_ms`, `p99_ms`, `longest_pause_s` for which the
        machine did not let the client itself run, and of each worker `rss_mb`, `growth` and
        `descriptors`, before and after.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with upstreams((0, 0)) as ups:
            command, target, probe_url = coe_command(ups, folder, workers, timeout_s=TIMEOUT_S)
            quiet = environ(COE_LOG_LEVEL="WARNING")
            async with (
                gateway(command, quiet, probe_url, folder) as pid,
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0, force_close=True)
                ) as session,
            ):
                run = _Run(target, session, ups, pid)
                return await run.run(60 * minutes, progress)


class _Run:
    def __init__(
        self,
        target: Target,
        session: aiohttp.ClientSession,
        ups: Mapping[str, Upstream],
        pid: int,
    ) -> None:
        self._target = target
        self._session = session
        self._upstreams = ups
        self._pid = pid
        self._n_kills = 0
        self._longest_pause_s = 0.0

    async def run(self, duration_s: float, progress: Progress) -> dict[str, Any]:
        capacity = Tally()
        await self._load(capacity, None, failing=False).run(CAPACITY_S)
        capacity_per_s = capacity.n_requests / CAPACITY_S
        if capacity.lost or not capacity.n_requests:
            raise FailoverError(f"the gateway must answer without faults; it said {capacity.lost}")
        tally = Tally()
        load = self._load(tally, LOAD * capacity_per_s, failing=True)
        total_s = round(duration_s)
        ticking = asyncio.create_task(self._tick(total_s, progress))
        await self._with_kills(load.run(WARM_UP * duration_s))
        before = await self._at_rest()
        await self._with_kills(load.run((1 - WARM_UP) * duration_s))
        after = await self._at_rest()
        ticking.cancel()
        return {
            "minutes": duration_s / 60,
            "capacity_per_s": round(capacity_per_s, 1),
            "rate_per_s": round((tally.n_requests + tally.n_left) / duration_s, 1),
            "kills": self._n_kills,
            "longest_pause_s": round(self._longest_pause_s, 1),
            **report_of(tally),
            "workers": [_compared(*pair) for pair in zip(before, after, strict=True)],
        }

    def _load(self, tally: Tally, rate_per_s: float | None, *, failing: bool) -> Load:
        return Load(self._target, self._session, tally, rate_per_s, failing=failing)

    async def _with_kills(self, load: Any) -> None:  # noqa: ANN401  (a coroutine)
        """Kill the faulty upstream now and then until a load is over."""
        loading = asyncio.ensure_future(load)
        faulty = self._upstreams[FAULTY]
        while True:
            done, _ = await asyncio.wait({loading}, timeout=KILL_PERIOD_S)
            if done:
                loading.result()
                return
            await faulty.kill()
            self._n_kills += 1
            await asyncio.sleep(DOWN_S)
            await faulty.start()

    async def _tick(self, total_s: int, progress: Progress) -> None:
        """Show the seconds, and note by how much they were late: the machine was busy then."""
        for second in range(total_s):
            progress("soaking, seconds", second, total_s)
            due_s = time.monotonic() + 1
            await asyncio.sleep(1)
            self._longest_pause_s = max(self._longest_pause_s, time.monotonic() - due_s)

    async def _at_rest(self) -> list[Worker]:
        await asyncio.sleep(REST_S)
        return [_look_at(pid) for pid in _workers_of(self._pid)]


def report_of(tally: Tally) -> dict[str, Any]:
    """Return the counts of a tally, and examples of what was wrong."""
    cuts = quantiles(tally.latencies_s, n=100)
    return {
        "requests": tally.n_requests,
        "faults": dict(+tally.faults),
        "client_left": tally.n_left,
        "lost": len(tally.lost),
        "mixed_up": len(tally.mixed_up),
        "examples": [*tally.lost[:MOST_EXAMPLES], *tally.mixed_up[:MOST_EXAMPLES]],
        "p50_ms": round(1_000 * cuts[49], 1),
        "p99_ms": round(1_000 * cuts[98], 1),
    }


def falls_short(found: Mapping[str, Any], most_growth: float) -> list[str]:
    """Return what of a soak is not as it should be; nothing when all is.

    Parameters
    ----------
    most_growth : float
        Of a worker's memory after the warm-up, as a share.
    """
    short = [f"{found[name]} answers {name}" for name in ("lost", "mixed_up") if found[name]]
    for worker in found["workers"]:
        if worker["growth"] > most_growth:
            short.append(f"a worker grew by {worker['growth']:.1%} after the warm-up")
        before, after = worker["descriptors"]
        if after > before + N_CLIENTS:  # pools may still grow by as many connections
            short.append(f"open descriptors of a worker went from {before} to {after}")
    return short


def _compared(before: Worker, after: Worker) -> dict[str, Any]:
    if before.pid != after.pid:
        raise FailoverError("a worker ended during the soak: see why with coe serve")
    return {
        "rss_mb": [round(before.rss_mb, 1), round(after.rss_mb, 1)],
        "growth": round(after.rss_mb / before.rss_mb - 1, 4),
        "descriptors": [before.descriptors, after.descriptors],
    }


# what /proc says of processes (Linux)


def _workers_of(pid: int) -> Sequence[int]:
    children = _children_of(pid)
    workers = [pid for pid in children if b"gateway.worker" in _proc(pid, "cmdline").read_bytes()]
    if not workers:
        raise FailoverError("the gateway must have workers to look at; none found in /proc")
    return sorted(workers)


def _children_of(pid: int) -> list[int]:
    direct = [int(child) for child in _proc(pid, f"task/{pid}/children").read_text().split()]
    return [*direct, *(below for child in direct for below in _children_of(child))]


def _look_at(pid: int) -> Worker:
    pages = int(_proc(pid, "statm").read_text().split()[1])
    rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Worker(pid, rss_mb, sum(1 for _ in _proc(pid, "fd").iterdir()))


def _proc(pid: int, name: str) -> Path:
    return Path("/proc") / str(pid) / name
