"""Limits of API keys: requests and tokens by the minute, active parameters by the day.

Windows are those of the clock: minutes and days in UTC. All replicas count in Redis; each also
counts by itself, and that alone is what holds while Redis is down. Tokens and parameters are known
only when an answer ends, so that requests under way at that moment may exceed a limit.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import cast

from cachetools import LRUCache
from redis.asyncio import Redis

from gateway.cache.link import WRITE_TIMEOUT_S, Link
from gateway.errors import CacheError, QuotaError, RateLimitError
from gateway.keys import MOST_REMEMBERED, ApiKey
from gateway.record import Record

PREFIX = "coe:1:limit"
"""Of the windows of minutes; each is a key that expires."""
BUDGETS = "coe:1:budgets"
"""What keys used today. It does not expire: what does may be evicted when Redis is full, and
whoever fills it must not get a budget anew."""
REQUESTS, TOKENS, BUDGET = "requests", "tokens", "active-b-tokens"
PERIOD_S = {REQUESTS: 60, TOKENS: 60, BUDGET: 86_400}


def limits_of(key: ApiKey) -> dict[str, float]:
    """Return what is limited -> how much of it in a period; nothing for a key without limits."""
    limits = {
        REQUESTS: key.requests_per_min,
        TOKENS: key.tokens_per_min,
        BUDGET: key.active_b_tokens_per_day,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


class Limits:
    """Counts what keys use, and refuses what is too much.

    Parameters
    ----------
    link : Link
        To Redis: one round trip for each request of a key with limits.
    largest_b : callable
        Returns the largest known size in the registry, in 10^9 active parameters: what answers
        of an expert of unknown size are charged with.
    clock : callable
        Seconds since 1970.
    """

    def __init__(
        self, link: Link, largest_b: Callable[[], float], clock: Callable[[], float] = time.time
    ) -> None:
        self._link = link
        self._largest_b = largest_b
        self._clock = clock
        self._keys: LRUCache[str, ApiKey] = LRUCache(MOST_REMEMBERED)
        self._here: LRUCache[tuple[str, str], tuple[int, float]] = LRUCache(3 * MOST_REMEMBERED)
        self._writing: set[asyncio.Task[Mapping[str, float]]] = set()
        self._day = 0

    async def admit(self, key: ApiKey) -> dict[str, str]:
        """Count a request; returns the ``x-ratelimit-*`` headers of its answer.

        Raises
        ------
        RateLimitError
            When the requests or tokens of this minute are used up.
        QuotaError
            When the budget of this day is.
        """
        limits = limits_of(key)
        if not limits:
            return {}
        self._keys[key.id] = key
        used = await self._count(key.id, {name: float(name == REQUESTS) for name in limits})
        headers = self._headers(limits, used)
        for name, limit in limits.items():
            # the request itself is counted; tokens and parameters are those of earlier ones
            if used[name] > limit or (used[name] == limit and name != REQUESTS):
                raise self._refusal(name, limit, headers)
        return headers

    def charge(self, record: Record) -> None:
        """Count what an answer took against its key; does not wait, and cannot raise."""
        key = self._keys.get(record.key_id or "")
        if key is None:
            return
        size_b = record.expert_active_params_b
        tokens = record.prompt_tokens + record.completion_tokens
        spent = {TOKENS: tokens, BUDGET: tokens * (self._largest_b() if size_b is None else size_b)}
        amounts = {name: spent[name] for name in limits_of(key) if spent.get(name)}
        if amounts:
            task = asyncio.create_task(self._count(key.id, amounts, WRITE_TIMEOUT_S))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def aclose(self) -> None:
        """Wait until what was charged is counted."""
        await asyncio.gather(*self._writing)

    async def _count(
        self, key_id: str, amounts: Mapping[str, float], timeout_s: float | None = None
    ) -> Mapping[str, float]:
        """Add amounts, which may be 0, and return what is used up in the current windows."""
        now_s = self._clock()
        here = {name: self._count_here(key_id, name, now_s, add) for name, add in amounts.items()}
        try:
            async with self._link.guarded("limit", timeout_s) as redis:
                pipeline = redis.pipeline(transaction=True)
                for name, amount in amounts.items():
                    window = f"{key_id}:{name}:{_window(name, now_s)}"
                    if name == BUDGET:
                        pipeline.hincrbyfloat(BUDGETS, window, amount)
                    else:
                        pipeline.incrbyfloat(f"{PREFIX}:{window}", amount)
                        pipeline.expire(f"{PREFIX}:{window}", 2 * PERIOD_S[name])
                replies = await pipeline.execute()
                shared = [float(reply) for reply in replies if not isinstance(reply, bool)]
                await self._forget_earlier_days(redis, _window(BUDGET, now_s))
        except CacheError:
            return here
        return {name: max(here[name], used) for name, used in zip(amounts, shared, strict=True)}

    async def _forget_earlier_days(self, redis: Redis, day: int) -> None:
        """Drop what all keys used before today; once a day."""
        if day <= self._day:
            return
        windows = cast(list[bytes], await redis.hkeys(BUDGETS))
        earlier = [window for window in windows if int(window.rpartition(b":")[2]) < day]
        if earlier:
            await redis.hdel(BUDGETS, *earlier)
        self._day = day

    def _count_here(self, key_id: str, name: str, now_s: float, amount: float) -> float:
        window = _window(name, now_s)
        last, used = self._here.get((key_id, name), (window, 0.0))
        used = amount + (used if last == window else 0.0)
        self._here[key_id, name] = (window, used)
        return used

    def _headers(self, limits: Mapping[str, float], used: Mapping[str, float]) -> dict[str, str]:
        now_s = self._clock()
        headers = {}
        for name, limit in limits.items():
            headers[f"x-ratelimit-limit-{name}"] = f"{limit:.15g}"
            headers[f"x-ratelimit-remaining-{name}"] = (
                f"{round(max(0.0, limit - used[name]), 6):.15g}"
            )
            headers[f"x-ratelimit-reset-{name}"] = f"{_left_s(name, now_s)}s"
        return headers

    def _refusal(self, name: str, limit: float, headers: dict[str, str]) -> RateLimitError:
        kind = QuotaError if name == BUDGET else RateLimitError
        period = "day" if name == BUDGET else "minute"
        left_s = _left_s(name, self._clock())
        return kind(
            f"This API key may use {limit:.15g} {name} a {period} (UTC). Try again in {left_s} s.",
            retry_after_s=left_s,
            headers=headers,
        )


def _window(name: str, now_s: float) -> int:
    return int(now_s // PERIOD_S[name])


def _left_s(name: str, now_s: float) -> int:
    """Return the seconds until the window ends, at least 1."""
    period_s = PERIOD_S[name]
    return max(1, math.ceil(period_s - now_s % period_s))
