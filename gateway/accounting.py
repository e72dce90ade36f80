"""The ledger: what every request cost, in tokens, active parameters and time.

Definitions (all parameters in 10^9):

- ``active_params_b`` of a request is the sum over the model calls that produced tokens for it,
  plus the router's own parameters when a classification was really run.
- Averages are taken per request and weighted by completion tokens, with and without the router.
  Requests whose expert has no known size are left out of them and counted in ``unknown_size``.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.metrics import Metrics

KEY = "coe:1:ledger"
"""Redis hash: one field for each worker process, its totals as JSON."""

_log = logging.getLogger("gateway.requests")


@dataclass(slots=True)
class Record:
    """One request, filled in on its way and written when it ends.

    Attributes
    ----------
    key_id : str or None
        The visible part of the API key; None without one.
    expert, category, confidence, reason, router, cache : str, float or None
        The choice; None for what was not come to.
    active_params_b, expert_active_params_b : float or None
        With and without the router; None when the expert's size is unknown.
    usage : {"reported", "estimated", "none"}
        Where the token counts come from: the expert, the number of chunks streamed, or nowhere.
    outcome : str
        ``ok``, ``client_left``, ``cut``, ``rejected_by_expert`` or the code of an error.
    attempts : list of str
        Experts called, in order.
    rescued_by : list of str
        Experts that went on with an answer which broke in the middle of its stream.
    """

    request_id: str
    tenant: str
    key_id: str | None = None
    model: str = ""
    stream: bool = False
    expert: str | None = None
    category: str | None = None
    confidence: float | None = None
    reason: str | None = None
    router: str | None = None
    cache: str = "off"
    attempts: list[str] = field(default_factory=list)
    rescued_by: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage: str = "none"
    finish_reason: str | None = None
    router_active_params_b: float = 0.0
    expert_active_params_b: float | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    status: int = 0
    outcome: str = "ok"
    started_s: float = field(default_factory=time.monotonic)

    @property
    def active_params_b(self) -> float | None:
        """Of the whole request, in 10^9; None when the expert's size is unknown."""
        if self.expert_active_params_b is None:
            return None
        return round(self.expert_active_params_b + self.router_active_params_b, 9)

    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.started_s

    def line(self) -> dict[str, Any]:
        """Return the record as the fields of a log line; it holds no prompt and no answer."""
        shown = {key: value for key, value in asdict(self).items() if key != "started_s"}
        return {**shown, "active_params_b": self.active_params_b}


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
        if record.expert is None:
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

    def merge(self, other: Totals) -> None:
        """Add the sums of another process."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def summary(self) -> dict[str, Any]:
        """Return counts and averages; an average over nothing is None."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "unknown_size": self.unknown_size,
            "unknown_usage": self.unknown_usage,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "average_active_params_b": {
                "per_request": _ratio(self.active, self.sized_requests),
                "per_request_without_router": _ratio(self.expert_active, self.sized_requests),
                "per_token": _ratio(self.active_by_token, self.sized_tokens),
                "per_token_without_router": _ratio(self.expert_active_by_token, self.sized_tokens),
            },
        }


def _ratio(total: float, count: int) -> float | None:
    return round(total / count, 6) if count else None


class Ledger(Protocol):
    """Writes one record for each request and keeps totals."""

    def write(self, record: Record) -> None:
        """Log a finished request and add it to the totals; cannot raise."""
        ...

    async def store(self) -> None:
        """Make this process's totals visible to the others."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Return the totals of all processes, over all, by expert and by category."""
        ...


class RedisLedger:
    """A ledger whose totals are summed over all gateway processes on one Redis.

    Each process keeps its own totals and stores them whole, so that a lost write, or a Redis that
    comes back empty, loses nothing: the next `store` repairs it.

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
        self._groups: dict[str, Totals] = {}
        self._failing = False

    def write(self, record: Record) -> None:
        """See `Ledger.write`."""
        record.total_s = record.elapsed_s()
        for group in _groups_of(record):
            self._groups.setdefault(group, Totals()).add(record)
        self._count(record)
        self._charge(record)
        _log.info("request", extra={"fields": record.line()})

    async def store(self) -> None:
        """See `Ledger.store`; a failure is counted and repaired by the next call."""
        value = json.dumps({name: asdict(totals) for name, totals in self._groups.items()})
        try:
            await self._redis.hset(KEY, self._instance, value)
        except (RedisError, OSError, TimeoutError) as error:
            self._survive(error)
        else:
            self._failing = False

    async def stats(self) -> dict[str, Any]:
        """See `Ledger.stats`; ``scope`` says whether all processes could be asked."""
        await self.store()
        try:
            stored = await self._redis.hgetall(KEY)
            others = [_parse(value) for key, value in stored.items() if key != self._instance]
            merged = _merge([*others, self._groups])
            scope = "all processes"
        except (RedisError, OSError, TimeoutError, ValueError, TypeError, AttributeError) as error:
            self._survive(error)
            merged, scope = self._groups, "this process only: the cache cannot be reached"
        return {"scope": scope, **_report(merged)}

    def _survive(self, error: Exception) -> None:
        self._metrics.ledger_errors.inc()
        if not self._failing:
            _log.warning(
                "ledger not stored, kept here", extra={"fields": {"error": type(error).__name__}}
            )
        self._failing = True

    def _count(self, record: Record) -> None:
        metrics, expert = self._metrics, record.expert or "none"
        metrics.requests.labels(
            expert, record.category or "none", record.reason or "none", record.outcome
        ).inc()
        metrics.tokens.labels(expert, "prompt").inc(record.prompt_tokens)
        metrics.tokens.labels(expert, "completion").inc(record.completion_tokens)
        if record.active_params_b is not None:
            metrics.active_params_b.labels(expert).inc(record.active_params_b)
        if record.first_byte_s is not None:
            metrics.first_byte_seconds.labels(expert).observe(record.first_byte_s)
        metrics.request_seconds.labels(expert).observe(record.total_s or 0.0)


def _groups_of(record: Record) -> Iterable[str]:
    yield "total"
    if record.expert is not None:
        yield f"expert:{record.expert}"
    if record.category is not None:
        yield f"category:{record.category}"


def _parse(value: str | bytes) -> dict[str, Totals]:
    return {name: Totals(**sums) for name, sums in json.loads(value).items()}


def _merge(parts: Iterable[Mapping[str, Totals]]) -> dict[str, Totals]:
    merged: dict[str, Totals] = {}
    for part in parts:
        for name, totals in part.items():
            merged.setdefault(name, Totals()).merge(totals)
    return merged


def _report(groups: Mapping[str, Totals]) -> dict[str, Any]:
    def of(kind: str) -> dict[str, Any]:
        names = sorted(name for name in groups if name.startswith(f"{kind}:"))
        return {name.partition(":")[2]: groups[name].summary() for name in names}

    total = groups.get("total", Totals())
    return {**total.summary(), "by_expert": of("expert"), "by_category": of("category")}
