"""The link to Redis: a cancellation that comes at any moment is not lost."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from gateway.cache.link import Link, connect
from gateway.errors import CacheError
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


async def ask(link: Link, *, stalled_s: float = 0, slow_s: float = 0) -> bool:
    """Ask Redis; whether it answered in time."""
    try:
        async with link.guarded("get") as redis:
            await asyncio.sleep(slow_s)
            asyncio.get_running_loop().call_later(0.02, time.sleep, stalled_s)
            await redis.blpop(["nothing"], 0.05)
    except CacheError:
        return False
    return True


@pytest.mark.parametrize(("fault", "rests"), [({"stalled_s": 0.8}, False), ({"slow_s": 0.8}, True)])
def test_a_loop_that_stood_still_is_no_fault_of_redis(
    fault: dict[str, float], rests: bool, valkey: Valkey
) -> None:
    async def run() -> list[bool]:
        link = Link(connect(valkey.url, 500), Metrics(CollectorRegistry()), 500)
        answered = [await ask(link), await ask(link, **fault), await ask(link)]
        await link.aclose()
        return answered

    assert asyncio.run(run()) == [True, False, not rests]


def test_asking_whether_redis_is_there_does_not_end_its_rest() -> None:
    async def run() -> None:
        link = Link(connect("redis://127.0.0.1:1/0", 100), Metrics(CollectorRegistry()), 100)
        assert not await ask(link)
        for _ in range(3):
            with pytest.raises(CacheError):
                await link.ping()
        with pytest.raises(CacheError, match="left alone"):
            async with link.guarded("get"):
                pass

    asyncio.run(run())


async def ask_while_pinged(link: Link) -> tuple[bool, float]:
    """Fail once, then ask while a ping waits; whether it was answered, and after how long."""
    assert not await ask(link)
    pinging = asyncio.create_task(ping(link))
    await asyncio.sleep(0.05)
    started_s = time.monotonic()
    answered = await ask(link)
    waited_s = time.monotonic() - started_s
    assert not await pinging
    return answered, waited_s


async def ping(link: Link) -> bool:
    try:
        await link.ping()
    except CacheError:
        return False
    return True


def test_a_ping_does_not_make_requests_wait_for_a_redis_that_hangs() -> None:
    async def run(port: int) -> tuple[bool, float]:
        link = Link(connect(f"redis://127.0.0.1:{port}/0", 300), Metrics(CollectorRegistry()), 300)
        found = await ask_while_pinged(link)
        await link.aclose()
        return found

    with socket.create_server(("127.0.0.1", 0)) as hangs:  # it takes connections and says nothing
        answered, waited_s = asyncio.run(run(hangs.getsockname()[1]))
    assert not answered
    assert waited_s < 0.2


def test_what_is_being_stored_can_be_read_at_any_moment(valkey: Valkey) -> None:
    async def run() -> None:
        other = connect(valkey.url, 1000)
        await other.ping()
        for n_steps in range(STEPS):
            link = Link(connect(valkey.url, 1000), Metrics(CollectorRegistry()), 1000)
            key = f"stored-{n_steps}".encode()
            link.put(key, b"value", 60)
            for _ in range(n_steps):
                await asyncio.sleep(0)
            assert (link.unwritten(key) or await other.get(key)) == b"value"
            await link.aclose()
            assert link.unwritten(key) is None
            assert await other.get(key) == b"value"
        await other.aclose()

    asyncio.run(run())
