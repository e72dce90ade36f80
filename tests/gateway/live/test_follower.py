"""What a worker does with an edit that it cannot take over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from gateway.composition import Composition
from gateway.experts import Expert
from gateway.live.follower import Follower
from gateway.live.state import Live, write_live
from tests.servers import NOBODY_URL, write_experts


def text_of(path: Path, name: str) -> str:
    expert = {"name": name, "base_url": NOBODY_URL}
    return write_experts(path, [expert], {}).read_text()


async def follow(tmp_path: Path) -> tuple[list[str], str | None, int]:
    """Follow two edits, of which the first needs what cannot be imported."""
    path = tmp_path / "experts.yaml"
    write_live(tmp_path, Live(1, 1, text_of(path, "first")))
    follower = Follower(tmp_path, path, {})
    served: list[str] = []

    def prepare(experts: Iterable[Expert]) -> None:
        if "broken" in {expert.name for expert in experts}:
            raise ImportError("no such SDK")

    def swap(composition: Composition) -> None:
        served.extend(composition.registry)

    async def until_told(error: str | None) -> None:
        while follower.error != error:
            await asyncio.sleep(0.02)

    following = asyncio.create_task(follower.run(prepare, swap))
    async with asyncio.timeout(20):
        write_live(tmp_path, Live(2, 2, text_of(path, "broken")))
        await until_told("ImportError: no such SDK")
        write_live(tmp_path, Live(3, 3, text_of(path, "mended")))
        await until_told(None)
    following.cancel()
    return served, follower.error, follower.n_refused


def test_an_edit_whose_imports_fail_is_told_of_and_the_next_one_is_taken(tmp_path: Path) -> None:
    assert asyncio.run(follow(tmp_path)) == (["mended"], None, 1)
