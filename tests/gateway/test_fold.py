"""The ledger's totals of processes that ended: kept, and folded so that Redis does not grow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from prometheus_client import CollectorRegistry

from gateway.accounting import ENDED, ENDED_AFTER_S, KEY, MOST_NAMES, OTHER, RedisLedger
from gateway.cache.link import connect
from gateway.metrics import Metrics
from gateway.record import Record
from tests.servers import Valkey

Make = Callable[[str], RedisLedger]


def with_ledgers(valkey: Valkey, use: Callable[[Make], Awaitable[None]]) -> None:
    """Run `use` with a maker of ledgers on an empty Redis."""
    valkey.client.flushall()

    async def run() -> None:
        redis = connect(valkey.url, 300)

        def make(instance: str) -> RedisLedger:
            return RedisLedger(redis, instance, Metrics(CollectorRegistry()), charge=lambda _: None)

        await use(make)
        await redis.aclose()

    asyncio.run(run())


def age(valkey: Valkey, instance: str) -> None:
    """Let a process have stored its totals for the last time long ago."""
    part = msgspec.json.decode(valkey.client.hget(KEY, instance) or b"")
    part["at"] -= ENDED_AFTER_S + 1
    valkey.client.hset(KEY, instance, msgspec.json.encode(part))


def record(tenant: str = "t") -> Record:
    return Record("r", tenant, expert="e", expert_active_params_b=2.0, completion_tokens=3)


def test_ended_processes_are_folded_and_still_count(valkey: Valkey) -> None:
    async def use(make: Make) -> None:
        for name in ("old", "older", "young"):
            ledger = make(name)
            ledger.write(record())
            await ledger.store()
        for name in ("old", "older"):
            age(valkey, name)
        ledger = make("new")
        ledger.write(record())
        before = await ledger.stats(9.0)
        await ledger.fold()
        assert set(valkey.client.hkeys(KEY)) == {ENDED, b"young", b"new"}
        assert await ledger.stats(9.0) == before
        assert (before["requests"], before["completion_tokens"]) == (4, 12)
        assert before["by_tenant"]["t"]["average_active_params_b"]["per_token"] == 2
        # the next one adds to what is folded already
        age(valkey, "young")
        valkey.client.delete(f"{KEY}:folding")
        await ledger.fold()
        assert set(valkey.client.hkeys(KEY)) == {ENDED, b"new"}
        assert await ledger.stats(9.0) == before

    with_ledgers(valkey, use)


def test_a_process_that_was_folded_while_it_was_cut_off_counts_once(valkey: Valkey) -> None:
    async def use(make: Make) -> None:
        cut = make("cut")
        cut.write(record())
        await cut.store()
        age(valkey, "cut")
        await make("other").fold()
        assert valkey.client.hkeys(KEY) == [ENDED]
        cut.write(record("u"))
        for requests in (2, 3):
            stats = await cut.stats(9.0)
            assert (stats["requests"], stats["completion_tokens"]) == (requests, 3 * requests)
            assert stats["by_tenant"]["t"]["requests"] == 1
            cut.write(record("u"))
        # a Redis that comes back empty is another matter: all is stored again
        valkey.client.flushall()
        assert (await cut.stats(9.0))["requests"] == 3

    with_ledgers(valkey, use)


def test_one_process_folds_at_a_time(valkey: Valkey) -> None:
    async def use(make: Make) -> None:
        old = make("old")
        old.write(record())
        await old.store()
        await make("one").fold()  # holds the lock on
        age(valkey, "old")
        await make("two").fold()
        assert valkey.client.hkeys(KEY) == [b"old"]

    with_ledgers(valkey, use)


def test_names_of_tenants_are_bounded(valkey: Valkey) -> None:
    async def use(make: Make) -> None:
        ledger = make("one")
        for number in range(MOST_NAMES + 50):
            ledger.write(record(f"t{number}"))
        ledger.write(record("t0"))
        by_tenant = (await ledger.stats(None))["by_tenant"]
        assert len(by_tenant) == MOST_NAMES + 1
        assert by_tenant[OTHER]["requests"] == 50
        assert by_tenant["t0"]["requests"] == 2
        assert by_tenant["t0"]["saved_versus_best_single_b"]["per_token"] is None

    with_ledgers(valkey, use)
