"""The keeper by itself: the experts file, Redis, and which of the two is followed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.cache.link import connect
from gateway.composition import checked_registry
from gateway.errors import CacheError
from gateway.live.keeper import Keeper
from gateway.live.state import Live, read_live
from gateway.live.versions import KEPT, OvertakenError, Version, VersionStore
from gateway.supervisor.supervisor import Supervisor
from tests.servers import NOBODY_URL, REPO, Valkey


@pytest.fixture(autouse=True)
def emptied(valkey: Valkey) -> None:
    valkey.client.flushall()


def text_of(note: str, **keys: object) -> str:
    expert = {"name": note, "backend": "openai", "base_url": NOBODY_URL, "model": "m"}
    tree = {"version": 1, "general": note, "experts": [expert], "mapping": {}, **keys}
    return json.dumps(tree) + "\n"


class Replica:
    """A keeper over a file of its own."""

    def __init__(self, file: Path, valkey: Valkey) -> None:
        self.file = file
        self.store = VersionStore(connect(valkey.url, 1000), "experts.yaml")
        self.run_dir = file.parent / "run"
        self.said: list[str] = []

    @property
    def live(self) -> Live:
        return read_live(self.run_dir)

    async def until(self, holds: Callable[[Live], bool]) -> Live:
        async with asyncio.timeout(15):
            while not holds(self.live):
                await asyncio.sleep(0.05)
        return self.live

    async def published(self) -> Version:
        async with asyncio.timeout(15):
            while (current := await self.store.current()) is None:
                await asyncio.sleep(0.05)
        return current

    async def serves(self, text: str, number: int) -> Live:
        return await self.until(lambda live: live.text == text and live.number == number)


def keep(
    tmp_path: Path,
    valkey: Valkey,
    texts: list[str],
    use: Callable[..., Awaitable[None]],
    name: str = "experts.yaml",
) -> None:
    """Run `use` with a replica for each text, started in turn."""

    async def nested(replicas: list[Replica]) -> None:
        if len(replicas) == len(texts):
            await use(*replicas)
            return
        replica = Replica(tmp_path / str(len(replicas)) / name, valkey)
        replica.run_dir.mkdir(parents=True)
        replica.file.write_text(texts[len(replicas)])
        async with Supervisor(replica.run_dir) as supervisor:
            parts = (replica.file, replica.run_dir, supervisor, replica.store, {}, 0.0)
            keeper = Keeper(*parts, replica.said.append)
            text = replica.file.read_text()
            keeper.begin(checked_registry(text, replica.file, {}), text, [])
            await keeper.follow()
            running = asyncio.create_task(keeper.run())
            try:
                await nested([*replicas, replica])
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
                await replica.store.aclose()

    asyncio.run(nested([]))


def test_the_file_of_the_first_is_version_1_and_an_edit_reaches_the_other(
    tmp_path: Path, valkey: Valkey
) -> None:
    async def use(one: Replica, two: Replica) -> None:
        assert (one.live.number, two.live.number) == (1, 1)
        one.file.write_text(text_of("b"))
        await two.serves(text_of("b"), 2)
        await two.until(lambda _: two.file.read_text() == text_of("b"))
        two.file.write_text(text_of("a"))  # back again: an edit like any other
        await one.serves(text_of("a"), 3)

    keep(tmp_path, valkey, [text_of("a"), text_of("a")], use)


def test_a_file_out_of_date_follows_and_one_edited_meanwhile_leads(
    tmp_path: Path, valkey: Valkey
) -> None:
    async def use(one: Replica, stale: Replica, edited: Replica) -> None:
        # the second came with the first version's text, the third with one never seen
        assert edited.live.text == text_of("new")
        await one.serves(text_of("new"), 3)
        await stale.serves(text_of("new"), 3)
        await stale.until(lambda _: stale.file.read_text() == text_of("new"))

    async def before() -> None:
        store = VersionStore(connect(valkey.url, 1000), "experts.yaml")
        await store.publish(text_of("old"), "file")
        await store.publish(text_of("now"), "file")
        await store.aclose()

    asyncio.run(before())
    keep(tmp_path, valkey, [text_of("now"), text_of("old"), text_of("new")], use)


def test_without_redis_edits_are_served_and_published_later(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    valkey = Valkey(tmp_path / "v")

    async def use(one: Replica) -> None:
        assert one.live.number == 0
        one.file.write_text(text_of("b"))
        await one.until(lambda live: live.text == text_of("b"))
        await asyncio.to_thread(valkey.start)
        first = await one.published()
        assert first.text == text_of("b")
        valkey.client.flushall()  # an emptied Redis gets the same version again
        again = await one.published()
        assert (again.number, again.text) == (first.number, first.text)

    try:
        keep(tmp_path, valkey, [text_of("a")], use)
    finally:
        valkey.kill()


def test_a_refused_edit_is_not_overwritten_and_mended_it_leads(
    tmp_path: Path, valkey: Valkey
) -> None:
    async def use(one: Replica, two: Replica) -> None:
        one.file.write_text("experts: [")
        refused = await one.until(lambda live: live.error is not None)
        assert refused.error is not None
        assert refused.error.startswith("experts.yaml:1: not valid YAML")
        assert refused.n_refused == 1
        two.file.write_text(text_of("b"))
        await one.serves(text_of("b"), 2)
        assert one.file.read_text() == "experts: ["
        assert one.live.error is not None
        one.file.write_text(text_of("a"))  # taken back: the other's edit stays
        await one.until(lambda live: live.error is None)
        await one.until(lambda _: one.file.read_text() == text_of("b"))
        assert (one.live.text, one.live.number) == (text_of("b"), 2)
        one.file.write_text("experts: [")
        await one.until(lambda live: live.n_refused == 2)
        one.file.write_text(text_of("c"))  # mended: it leads
        await two.serves(text_of("c"), 3)
        assert one.live.error is None

    keep(tmp_path, valkey, [text_of("a"), text_of("a")], use)


def test_a_file_that_is_gone_is_reported_until_it_is_back(tmp_path: Path, valkey: Valkey) -> None:
    async def use(one: Replica) -> None:
        one.file.unlink()
        gone = await one.until(lambda live: live.error is not None)
        assert "not found" in (gone.error or "")
        one.file.write_text(text_of("a"))
        await one.until(lambda live: live.error is None and live.number == 1)

    keep(tmp_path, valkey, [text_of("a")], use)


def test_a_copy_that_cannot_be_written_and_comes_late_is_no_edit(
    tmp_path: Path, valkey: Valkey
) -> None:
    async def use(one: Replica) -> None:
        for note in ("b", "c"):
            await one.store.publish(text_of(note), "admin")
            await one.until(lambda live: live.text == text_of(note))  # noqa: B023
        assert one.file.read_text() == text_of("a")
        one.file.write_text(text_of("b"))  # a volume that is brought up to date by and by
        await asyncio.sleep(1)
        assert (one.live.text, one.live.number) == (text_of("c"), 3)
        one.file.write_text(text_of("d"))
        await one.serves(text_of("d"), 4)

    # there is no room for the name of a file beside it, whoever writes
    keep(tmp_path, valkey, [text_of("a")], use, name="e" * 250 + ".yml")


def test_a_router_folder_is_watched(tmp_path: Path, valkey: Valkey) -> None:
    router = tmp_path / "router"
    shutil.copytree(REPO / "routers/default", router)

    async def use(one: Replica) -> None:
        generation = one.live.generation
        card = router / "router.json"
        good = card.read_text()
        card.write_text("{")
        refused = await one.until(lambda live: live.error is not None)
        assert "router.json" in (refused.error or "")
        card.write_text(good.replace('"name": "default"', '"name": "another"'))
        mended = await one.until(lambda live: live.error is None)
        assert mended.generation > generation
        assert mended.number == 1

    keep(tmp_path, valkey, [text_of("a", router=str(router))], use)


def test_a_version_that_does_not_fit_a_replica_is_reported_there(
    tmp_path: Path, valkey: Valkey
) -> None:
    async def use(one: Replica) -> None:
        await one.store.publish(text_of("b", router=str(tmp_path / "nowhere")), "admin")
        refused = await one.until(lambda live: live.error is not None)
        assert "nowhere" in (refused.error or "")
        assert (refused.text, refused.number) == (text_of("a"), 1)
        await one.store.publish(text_of("c"), "admin")
        await one.until(lambda live: live.number == 3 and live.error is None)

    keep(tmp_path, valkey, [text_of("a")], use)


def test_versions_are_kept_in_order_and_the_overtaken_are_told(valkey: Valkey) -> None:
    async def run() -> None:
        store = VersionStore(connect(valkey.url, 1000), "x")
        first = await store.publish("0", "file")
        assert await store.publish("0", "file") == first
        with pytest.raises(OvertakenError):
            await store.publish("1", "admin", base="nonsense")
        await store.publish("1", "admin", base=first.digest)
        for number in range(KEPT):
            await store.publish(f"{number + 2}", "file", least_number=50)
        kept = await store.history()
        assert len(kept) == KEPT
        assert kept[0].number == 50 + KEPT - 1
        assert await store.was_current(first.digest)
        assert not await store.was_current("nonsense")
        valkey.client.lpush("coe:1:experts:x", b"garbage")
        with pytest.raises(CacheError):
            await store.current()
        await store.aclose()

    asyncio.run(run())


def test_a_refused_edit_is_told_to_people_and_forgotten_when_the_file_goes(
    tmp_path: Path, valkey: Valkey
) -> None:
    async def use(replica: Replica) -> None:
        for _ in range(2):  # what was refused is refused again after the file was away
            replica.file.write_text("")
            await replica.until(lambda live: "got nothing" in str(live.error))
            assert "not found" not in str(replica.live.error)
            replica.file.unlink()
            gone = await replica.until(lambda live: "not found" in str(live.error))
            assert "got nothing" not in str(gone.error)
        replica.file.write_text(text_of("a"))
        await replica.until(lambda live: live.error is None)
        assert len(replica.said) == 4
        told = "edit of the experts refused, nothing changed: experts.yaml must be a mapping"
        assert replica.said[0].startswith(told)

    keep(tmp_path, valkey, [text_of("a")], use)
