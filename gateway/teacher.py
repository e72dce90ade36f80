"""An expert as the teacher of ``coe train --distil llm=EXPERT``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gateway.backends.ask import ExpertAsk
from gateway.composition import described, llm_router, read_mapping
from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry, check_keys
from gateway.inspection import running_experts
from gateway.schema import LlmRouterConfig
from gateway.supervisor.plan import run_folder, socket_of
from routers.artifact import read_card
from routers.llm import ASKED_AT_ONCE, LlmRouter

PREFIX = "llm="
TURN_S = 60.0
"""What a teacher may take for one prompt, in seconds. It is asked several at once: where it answers
them one after the other, the last waits for the turns of all."""


@contextmanager
def open_teacher(name: str, categories: Path | None = None) -> Iterator[LlmRouter]:
    """Lend an LLM router over an expert of ``experts.yaml``; a local one runs while it lasts.

    Parameters
    ----------
    name : str
        ``llm=EXPERT``. The registry is ``experts.yaml``, or what ``COE_CONFIG`` names.
    categories : Path or None
        YAML or JSON, category -> what belongs to it; None takes those of the registry's own router.

    Raises
    ------
    ValueError
        When `name` does not begin with ``llm=``.
    ConfigError
        When the registry is broken or has no such expert, or the categories are not that.
    """
    if not name.startswith(PREFIX):
        raise ValueError(f"a teacher is a router artifact or llm=EXPERT; got {name!r}")
    registry = ExpertRegistry.load(Path(os.environ.get("COE_CONFIG", "experts.yaml")))
    wanted = name.removeprefix(PREFIX)
    if wanted not in registry:
        raise ConfigError(f"{name}: no expert {wanted!r}. Allowed: {', '.join(registry)}")
    check_keys(registry, os.environ)
    known = _own_categories(registry) if categories is None else _read_categories(categories)
    config = registry.file.llm_router or LlmRouterConfig(expert=wanted)
    config = config.model_copy(update={"expert": wanted})
    with _running(registry, registry[wanted]) as ask:
        yield llm_router(registry, config, known, lambda *_: ask)


def _own_categories(registry: ExpertRegistry) -> dict[str, str]:
    categories = read_card(registry.router_path).categories
    return described(registry, read_mapping(registry), categories)


def _read_categories(path: Path) -> dict[str, str]:
    try:
        found = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"--categories: {path} must be readable YAML; got {error}") from error
    is_mapping = isinstance(found, dict) and len(found) > 1
    if not is_mapping or not all(
        isinstance(text, str) and text.strip() for pair in found.items() for text in pair
    ):
        raise ConfigError(
            f"--categories: {path} must hold two lines or more like 'law: contracts, rights and "
            f"courts', a category and what belongs to it; got {str(found)[:80]}"
        )
    return {str(name): str(text) for name, text in found.items()}


@contextmanager
def _running(registry: ExpertRegistry, expert: Expert) -> Iterator[ExpertAsk]:
    key = os.environ[expert.api_key_env] if expert.api_key_env else None
    timeout_s = ASKED_AT_ONCE * TURN_S
    if expert.backend != "local":
        yield ExpertAsk(expert, None, key, timeout_s)
        return
    with run_folder() as run_dir:
        up, done = threading.Event(), threading.Event()
        keeper = threading.Thread(target=lambda: asyncio.run(_keep(registry, run_dir, up, done)))
        keeper.start()
        try:
            up.wait()
            yield ExpertAsk(expert, socket_of(run_dir, expert), None, timeout_s)
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
