"""The ledger: what every request cost, in tokens, active parameters and time.

Definitions (all parameters in 10^9):

- ``active_params_b`` of a request is the sum over the model calls that produced tokens for it,
  plus the router's own parameters when a classification was really run.
- Averages are taken per request and weighted by completion tokens, with and without the router.
  Requests whose expert has no known size are left out of them and counted in ``unknown_size``.
- ``saved_versus_best_single_b`` is what the same requests would have cost on the one expert that is
  best for all of them, less what they did cost; None when its size is unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any, Protocol

import msgspec
from prometheus_client import Counter, Histogram
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.metrics import Metrics
from gateway.record import REJECTED, Record

KEY = "coe:2:ledger"
"""Redis hash: one field for each worker process, its totals as JSON."""
ENDED = b"ended"
"""The field that the totals of processes go into that have not stored any for `ENDED_AFTER_S`."""
ENDED_AFTER_S = 86_400.0
FOLD_LOCK_S = 60
KINDS = ("expert", "category", "tenant", "preset")
MOST_NAMES = 200
"""Names of one kind that are counted apart by a process; further ones are counted as `OTHER`."""
OTHER = "(other)"

Group = tuple[str, str]
"""Kind and name, e.g. ("tenant", "team-a")."""
_Counters = tuple[Counter, Counter, Counter, Histogram, Histogram]
"""Of requests, prompt tokens, completion tokens, seconds to the first byte and to the last."""

_FAILURES = (RedisError, OSError, TimeoutError, ValueError, TypeError, AttributeError)

_log = logging.getLogger("gateway.requests")


@dataclass(slots=True)
class Totals:
    """Running sums over requests; `summary` turns them into averages."""

    requests: int = 0
    failed: int = 0
    unknown_size: int = 0
    unknown_usage: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sized_requests: int = 0
    sized_tokens: int = 0
    active: float = 0.0
    expert_active: float = 0.0
    active_by_token: float = 0.0
    expert_active_by_token: float = 0.0

    def add(self, record: Record) -> None:
        """Count one request."""
        self.requests += 1
        if record.outcome not in {"ok", "client_left"}:
            self.failed += 1
        self.unknown_usage += record.usage == "none" and record.outcome == "ok"
        self.prompt_tokens += record.prompt_tokens
        self.completion_tokens += record.completion_tokens
        if record.expert is None or record.outcome == REJECTED:
            return
        with_router, without = record.active_params_b, record.expert_active_params_b
        if with_router is None or without is None:
            self.unknown_size += 1
            return
        self.sized_requests += 1
        self.sized_tokens += record.completion_tokens
        self.active += with_router
        self.expert_active += without
        self.active_by_token += with_router * record.completion_tokens
        self.expert_active_by_token += without * record.completion_tokens

    def merge(self, other: Totals, sign: int = 1) -> None:
        """Add the sums of another process, or with `sign` -1 take them away."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + sign * getattr(other, item.name))

    def summary(self, best_single_b: float | None) -> dict[str, Any]:
        """Return counts and averages; an average over nothing is None.

        Parameters
        ----------
        best_single_b : float or None
            10^9 active parameters of the best single expert; None when they are not known.
        """
        per_request = _ratio(self.active, self.sized_requests)
        per_token = _ratio(self.active_by_token, self.sized_tokens)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "unknown_size": self.unknown_size,
            "unknown_usage": self.unknown_usage,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "average_active_params_b": {
                "per_request": per_request,
                "per_request_without_router": _ratio(self.expert_active, self.sized_requests),
                "per_token": per_token,
                "per_token_without_router": _ratio(self.expert_active_by_token, self.sized_tokens),
            },
            "saved_versus_best_single_b": {
                "per_request": _less(best_single_b, per_request),
                "per_token": _less(best_single_b, per_token),
            },
        }


def _ratio(total: float, count: int) -> float | None:
    return round(total / count, 6) if count else None


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else round(whole - part, 6)


class Ledger(Protocol):
    """Writes one record for each request and keeps totals."""

    def write(self, record: Record) -> None:
        """Log a finished request and add it to the totals; cannot raise."""
        ...

    async def store(self) -> None:
        """Make this process's totals visible to the others."""
        ...

    async def fold(self) -> None:
        """Add up the totals of processes that ended long ago, so that the store does not grow."""
        ...

    async def stats(self, best_single_b: float | None) -> dict[str, Any]:
        """Return the totals of all processes: over all, and by each of `KINDS`.

        Parameters
        ----------
        best_single_b : float or None
            See `Totals.summary`.
        """
        ...


class RedisLedger:
    """A ledger whose totals are summed over all gateway processes on one Redis.

    Each process keeps its own totals and stores them whole, so that a lost write, or a Redis that
    comes back empty, loses nothing: the next `store` repairs it. A process that was cut off for so
    long that its totals were folded goes on from there, so that nothing counts twice.

    Parameters
    ----------
    redis : Redis
        Where the totals are shared.
    instance : str
        Unique name of this process.
    metrics : Metrics
        Counted into for every request.
    charge : callable
        Told of every record; it cannot raise.
    """

    def __init__(
        self, redis: Redis, instance: str, metrics: Metrics, charge: Callable[[Record], None]
    ) -> None:
        self._redis = redis
        self._instance = instance.encode()
        self._metrics = metrics
        self._charge = charge
        # finding the counter of some labels takes longer than counting
        self._counters_of = lru_cache(MOST_NAMES)(partial(_counters, metrics))
        self._groups: dict[Group, Totals] = {}
        self._names: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._stored: bytes | None = None
        self._failing = False

    def write(self, record: Record) -> None:
        """See `Ledger.write`."""
        record.total_s = record.elapsed_s()
        for group in self._groups_of(record):
            self._groups.setdefault(group, Totals()).add(record)
            if record.active_params_b is not None:
                tokens = record.completion_tokens
                self._metrics.groups.add(*group, record.active_params_b, tokens)
        self._count(record)
        self._charge(record)
        _log.info("request", extra={"fields": record.line()})

    async def store(self) -> None:
        """See `Ledger.store`; a failure is counted and repaired by the next call."""
        self._metrics.groups.flush()
        try:
            before, self._stored, is_folded = self._stored, *await self._put()
            if is_folded and before is not None:
                for group, totals in _decode(before).groups.items():
                    self._groups[group].merge(totals, sign=-1)
                self._stored, _ = await self._put()
        except _FAILURES as error:
            self._survive(error)
        else:
            self._failing = False

    async def _put(self) -> tuple[bytes, bool]:
        """Write the totals; returns them, and whether there were none while others are folded."""
        totals = _encode(self._groups)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(KEY, self._instance, totals)
        pipeline.hexists(KEY, ENDED)
        is_new, has_ended = await pipeline.execute()
        return totals, bool(is_new and has_ended)

    async def fold(self) -> None:
        """See `Ledger.fold`; a failure is counted, and the next process folds."""
        try:
            lock = f"{KEY}:folding"
            if not await self._redis.set(lock, self._instance, nx=True, ex=FOLD_LOCK_S):
                return
            stored = await self._redis.hgetall(KEY)
            parts = {name: _decode(value) for name, value in stored.items()}
            before_s = time.time() - ENDED_AFTER_S
            ended = [name for name, part in parts.items() if part.at < before_s and name != ENDED]
            if ended:
                whole = _merge(parts[name].groups for name in (*ended, ENDED) if name in parts)
                pipeline = self._redis.pipeline(transaction=True)
                pipeline.hdel(KEY, *ended)
                pipeline.hset(KEY, ENDED, _encode(whole))
                await pipeline.execute()
        except _FAILURES as error:
            self._survive(error)

    async def stats(self, best_single_b: float | None) -> dict[str, Any]:
        """See `Ledger.stats`; ``scope`` says whether all processes could be asked."""
        await self.store()
        try:
            stored = await self._redis.hgetall(KEY)
            others = [_decode(value) for key, value in stored.items() if key != self._instance]
            merged = _merge([*(part.groups for part in others), self._groups])
            scope = "all processes"
        except _FAILURES as error:
            self._survive(error)
            merged, scope = self._groups, "this process only: the cache cannot be reached"
        return {"scope": scope, **_report(merged, best_single_b)}

    def _groups_of(self, record: Record) -> Iterator[Group]:
        yield "total", ""
        for kind in KINDS:
            name = getattr(record, kind)
            if name is not None:
                names = self._names[kind]
                if len(names) < MOST_NAMES:
                    names.add(name)
                yield kind, name if name in names else OTHER

    def _survive(self, error: Exception) -> None:
        self._metrics.ledger_errors.inc()
        if not self._failing:
            _log.warning(
                "ledger not stored, kept here", extra={"fields": {"error": type(error).__name__}}
            )
        self._failing = True

    def _count(self, record: Record) -> None:
        requests, prompts, completions, first_byte, whole = self._counters_of(
            record.expert or "none",
            record.category or "none",
            record.reason or "none",
            record.outcome,
        )
        requests.inc()
        prompts.inc(record.prompt_tokens)
        completions.inc(record.completion_tokens)
        if record.first_byte_s is not None:
            first_byte.observe(record.first_byte_s)
        whole.observe(record.total_s or 0.0)


def _counters(metrics: Metrics, expert: str, category: str, reason: str, outcome: str) -> _Counters:
    return (
        metrics.requests.labels(expert, category, reason, outcome),
        metrics.tokens.labels(expert, "prompt"),
        metrics.tokens.labels(expert, "completion"),
        metrics.first_byte_seconds.labels(expert),
        metrics.request_seconds.labels(expert),
    )


class _Part(msgspec.Struct):
    """What one process stores: when, in seconds since 1970, and its totals by kind and name."""

    at: float
    totals: dict[str, dict[str, Totals]]

    @property
    def groups(self) -> dict[Group, Totals]:
        """The totals by group."""
        return {(kind, name): t for kind, by in self.totals.items() for name, t in by.items()}


def _encode(groups: Mapping[Group, Totals]) -> bytes:
    part = _Part(time.time(), {})
    for (kind, name), totals in groups.items():
        part.totals.setdefault(kind, {})[name] = totals
    return msgspec.json.encode(part)


def _decode(value: bytes | str) -> _Part:
    return msgspec.json.decode(value, type=_Part)


def _merge(parts: Iterable[Mapping[Group, Totals]]) -> dict[Group, Totals]:
    merged: dict[Group, Totals] = {}
    for part in parts:
        for group, totals in part.items():
            merged.setdefault(group, Totals()).merge(totals)
    return merged


def _report(groups: Mapping[Group, Totals], best_single_b: float | None) -> dict[str, Any]:
    def of(wanted: str) -> dict[str, Any]:
        names = sorted(name for kind, name in groups if kind == wanted)
        return {name: groups[wanted, name].summary(best_single_b) for name in names}

    total = groups.get(("total", ""), Totals())
    return {**total.summary(best_single_b), **{f"by_{kind}": of(kind) for kind in KINDS}}
