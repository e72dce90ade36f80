"""An expert as the teacher of ``coe train --distil llm=EXPERT``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.backends.ask import ExpertAsk
from gateway.composition import llm_router, read_mapping
from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry, check_keys
from gateway.inspection import running_experts
from gateway.schema import LlmRouterConfig
from gateway.supervisor.plan import run_folder, socket_of
from routers.artifact import read_card
from routers.llm import LlmRouter

PREFIX = "llm="
TIMEOUT_S = 60.0


@contextmanager
def open_teacher(name: str) -> Iterator[LlmRouter]:
    """Lend an LLM router over an expert of ``experts.yaml``; a local one runs while it lasts.

    Its categories are those of the registry's own router.

    Parameters
    ----------
    name : str
        ``llm=EXPERT``. The registry is ``experts.yaml``, or what ``COE_CONFIG`` names.

    Raises
    ------
    ValueError
        When `name` does not begin with ``llm=``.
    ConfigError
        When the registry is broken or has no such expert.
    """
    if not name.startswith(PREFIX):
        raise ValueError(f"a teacher is a router artifact or llm=EXPERT; got {name!r}")
    registry = ExpertRegistry.load(Path(os.environ.get("COE_CONFIG", "experts.yaml")))
    wanted = name.removeprefix(PREFIX)
    if wanted not in registry:
        raise ConfigError(f"{name}: no expert {wanted!r}. Allowed: {', '.join(registry)}")
    check_keys(registry, os.environ)
    categories = read_card(registry.router_path).categories
    config = registry.file.llm_router or LlmRouterConfig(expert=wanted)
    config = config.model_copy(update={"expert": wanted})
    with _running(registry, registry[wanted]) as ask:
        yield llm_router(registry, config, read_mapping(registry), categories, lambda *_: ask)


@contextmanager
def _running(registry: ExpertRegistry, expert: Expert) -> Iterator[ExpertAsk]:
    key = os.environ[expert.api_key_env] if expert.api_key_env else None
    if expert.backend != "local":
        yield ExpertAsk(expert, None, key, TIMEOUT_S)
        return
    with run_folder() as run_dir:
        up, done = threading.Event(), threading.Event()
        keeper = threading.Thread(target=lambda: asyncio.run(_keep(registry, run_dir, up, done)))
        keeper.start()
        try:
            up.wait()
            yield ExpertAsk(expert, socket_of(run_dir, expert), None, TIMEOUT_S)
        finally:
            done.set()
            keeper.join()


async def _keep(
    registry: ExpertRegistry, run_dir: Path, up: threading.Event, done: threading.Event
) -> None:
    """Run the local experts from `up` to `done`, in a thread beside the one that asks."""
    try:
        async with running_experts(registry, run_dir):
            up.set()
            await asyncio.to_thread(done.wait)
    finally:
        up.set()
