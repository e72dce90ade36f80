"""The link to Redis: a cancellation that comes at any moment is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from gateway.cache.link import Link, connect
from gateway.live.versions import VersionStore
from gateway.metrics import Metrics
from tests.servers import Valkey

STEPS = 40
"""Of the event loop; an operation takes fewer."""


async def cancel_at_each_step(operation: Callable[[], Awaitable[object]]) -> None:
    async def operate_and_stay() -> None:
        await operation()
        await asyncio.Event().wait()

    for n_steps in range(STEPS):
        task = asyncio.create_task(operate_and_stay())
        for _ in range(n_steps):
            await asyncio.sleep(0)
        task.cancel()
        _, pending = await asyncio.wait({task}, timeout=30)
        assert not pending
        assert task.cancelled()


def test_a_cancellation_is_never_lost(valkey: Valkey) -> None:
    async def run() -> None:
        link = Link(connect(valkey.url, 1000), Metrics(CollectorRegistry()), 1000)
        store = VersionStore(connect(valkey.url, 1000), "x")

        async def read() -> None:
            async with link.guarded("get") as redis:
                await redis.get("key")

        await store.publish("text", "file")
        for operation in (read, store.current):
            await cancel_at_each_step(operation)
        await store.aclose()
        await link.aclose()

    asyncio.run(run())
