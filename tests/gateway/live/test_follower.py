"""What a worker does with an edit that it cannot take over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from gateway.composition import Composition
from gateway.experts import Expert
from gateway.live.follower import Follower
from gateway.live.state import LIVE_FILE, Live, write_live
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


async def retry(tmp_path: Path) -> tuple[list[str], int, str | None]:
    """Follow one edit whose imports fail at first, then lose the folder."""
    path = tmp_path / "experts.yaml"
    folder = tmp_path / "run"
    folder.mkdir()
    write_live(folder, Live(1, 1, text_of(path, "first")))
    follower = Follower(folder, path, {}, retry_s=0.2)
    served: list[str] = []
    failures = [ImportError("not yet"), ImportError("nor now")]

    def prepare(experts: Iterable[Expert]) -> None:
        if failures:
            raise failures.pop()

    following = asyncio.create_task(follower.run(prepare, lambda one: served.extend(one.registry)))
    async with asyncio.timeout(20):
        write_live(folder, Live(2, 2, text_of(path, "second")))
        while not served:
            await asyncio.sleep(0.02)
        n_refused = follower.n_refused
        (folder / LIVE_FILE).unlink()
        while follower.error is None:
            await asyncio.sleep(0.02)
        error = follower.error
        write_live(folder, follower.live)
        while follower.error is not None:
            await asyncio.sleep(0.02)
    assert not following.done()
    following.cancel()
    return served, n_refused, error


def test_what_could_not_be_taken_over_is_tried_again_and_counts_once(tmp_path: Path) -> None:
    served, n_refused, error = asyncio.run(retry(tmp_path))
    assert (served, n_refused) == (["second"], 1)
    assert error is not None
    assert error.startswith(f"{tmp_path / 'run'} must stay while the gateway runs: ")
