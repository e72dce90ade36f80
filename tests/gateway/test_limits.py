"""Limits of API keys in a real Redis and without one, on a clock of the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from gateway.cache.link import Link, connect
from gateway.errors import GatewayError, QuotaError, RateLimitError
from gateway.keys import ApiKey
from gateway.limits import BUDGETS, Limits
from gateway.metrics import Metrics
from gateway.record import Record
from tests.servers import Valkey

NOON_S = 1_800_014_400.0
"""12:00 UTC on some day."""


Use = Callable[["Clock", Callable[[], Limits]], Awaitable[None]]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


def limited(**limits: float) -> ApiKey:
    none: dict[str, Any] = {"requests_per_min": None, "tokens_per_min": None}
    none |= {"active_b_tokens_per_day": None, "models": None, "expires_at": None}
    about = {"id": f"k{time.monotonic_ns()}", "digest": "", "tenant": "t", "created_at": 0.0}
    return ApiKey(**{**none, **about, **limits})


def with_limits(url: str, use: Use) -> None:
    clock = Clock()

    async def start() -> None:
        redis = connect(url, 5000)
        link = Link(redis, Metrics(CollectorRegistry()), 5000)
        try:
            await use(clock, lambda: Limits(link, lambda: 9.0, clock))
        finally:
            await redis.aclose()

    asyncio.run(start())


async def spend(limits: Limits, key: ApiKey, tokens: int, size_b: float | None) -> None:
    record = Record("r", "t", key.id, prompt_tokens=tokens, expert_active_params_b=size_b)
    limits.charge(record)
    await asyncio.gather(*limits._writing)


@pytest.mark.parametrize("known", [True, False])
def test_windows_are_minutes_and_days_of_the_clock(valkey: Valkey, known: bool) -> None:
    """With Redis, where a second replica counts on, and without, where each counts alone."""

    async def use(clock: Clock, make: Callable[[], Limits]) -> None:
        key = limited(requests_per_min=2, tokens_per_min=100, active_b_tokens_per_day=1000)
        limits = make()
        other = make() if known else limits
        await limits.admit(key)
        await spend(limits, key, 100, 7)
        with pytest.raises(RateLimitError, match="100 tokens a minute"):
            await other.admit(key)
        with pytest.raises(RateLimitError, match="2 requests a minute"):
            await other.admit(key)
        clock.now_s += 60
        headers = await other.admit(key)
        assert headers["x-ratelimit-remaining-tokens"] == "100"
        assert headers["x-ratelimit-remaining-active-b-tokens"] == "300"
        await spend(limits, key, 34, None)  # of unknown size: charged as the largest, 9
        clock.now_s += 60
        with pytest.raises(QuotaError, match="1000 active-b-tokens a day") as refused:
            await other.admit(key)
        assert refused.value.retry_after_s == 12 * 3600 - 120
        clock.now_s = NOON_S + 12 * 3600
        assert (await other.admit(key))["x-ratelimit-remaining-active-b-tokens"] == "1000"

    with_limits(valkey.url if known else "unix:///nowhere", use)


def test_many_at_once_get_no_more_than_the_limit(valkey: Valkey) -> None:
    async def use(clock: Clock, make: Callable[[], Limits]) -> None:
        key, replicas = limited(requests_per_min=30), [make() for _ in range(3)]
        admitted = 0

        async def one(limits: Limits) -> None:
            nonlocal admitted
            with suppress(GatewayError):
                await limits.admit(key)
                admitted += 1

        await asyncio.gather(*(one(limits) for limits in replicas * 20))
        assert admitted == 30

    with_limits(valkey.url, use)


def test_what_limits_keep_in_redis_expires(valkey: Valkey) -> None:
    async def use(clock: Clock, make: Callable[[], Limits]) -> None:
        key = limited(requests_per_min=1, tokens_per_min=1, active_b_tokens_per_day=1)
        limits = make()
        await limits.admit(key)
        names = cast(list[bytes], valkey.client.keys(f"*{key.id}*"))
        assert len(names) == 2
        assert all(0 < cast(int, valkey.client.ttl(name)) <= 120 for name in names)

    with_limits(valkey.url, use)


def test_a_full_redis_does_not_give_a_budget_anew(valkey: Valkey) -> None:
    async def use(clock: Clock, make: Callable[[], Limits]) -> None:
        keys = [limited(active_b_tokens_per_day=1000) for _ in range(2)]
        limits = make()
        for key in keys:
            await limits.admit(key)
            await spend(limits, key, 1000, 1)
        for name in cast(list[bytes], valkey.client.keys("*")):  # what a full Redis may evict
            if cast(int, valkey.client.ttl(name)) > 0:
                valkey.client.delete(name)
        with pytest.raises(QuotaError):
            await make().admit(keys[0])
        clock.now_s += 86_400
        await make().admit(keys[0])
        (kept,) = [f for f in valkey.client.hkeys(BUDGETS) if keys[0].id.encode() in f]
        assert kept.endswith(b":%d" % (clock.now_s // 86_400))
        assert not [f for f in valkey.client.hkeys(BUDGETS) if keys[1].id.encode() in f]

    with_limits(valkey.url, use)
