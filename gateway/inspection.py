"""``coe experts list``, and experts without a gateway."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from gateway.backends.chosen import ChosenBackend
from gateway.backends.litellm_sdk import LiteLLMBackend
from gateway.backends.openai_http import OpenAIBackend
from gateway.composition import read_mapping
from gateway.errors import ExpertError
from gateway.experts import Expert, ExpertRegistry
from gateway.supervisor.plan import expert_specs, process_of
from gateway.supervisor.supervisor import Supervisor, read_states
from gateway.tables import console_for_tables

START_TIMEOUT_S = 900.0
"""Longest wait for a local model, in seconds: vLLM may have to download and to compile it."""


def list_registry(config: Path) -> dict[str, Any]:
    """Return the experts of a registry and what they add up to."""
    registry = ExpertRegistry.load(config)
    categories: dict[str, list[str]] = {name: [] for name in registry}
    for category, ranked in read_mapping(registry).plain().items():
        categories[ranked[0]].append(category)
    experts = [
        {
            "name": expert.name,
            "backend": expert.backend,
            "address": expert.base_url,
            "model": expert.model,
            "active_params_b": expert.active_params_b,
            "total_params_b": expert.total_params_b,
            "weights": expert.weights,
            "context_window": expert.context_window,
            "first_for": categories[expert.name],
        }
        for expert in registry.values()
    ]
    return {
        "experts": experts,
        "general": registry.general.name,
        "resident_params_b": registry.resident_params_b,
        "unknown_weights": registry.unknown_weights,
    }


def print_registry(shown: dict[str, Any]) -> None:
    """Print `list_registry` for people."""
    table = Table(box=None)
    for heading in ("expert", "backend", "model", "active B", "total B", "weights", "first for"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "expert")
    for expert in shown["experts"]:
        table.add_row(
            expert["name"],
            expert["backend"],
            expert["model"],
            _size(expert["active_params_b"]),
            _size(expert["total_params_b"]),
            expert["weights"],
            ", ".join(expert["first_for"]) or "-",
        )
    console = console_for_tables()
    console.print(table)
    console.print(f"resident: {shown['resident_params_b']:g} B; general: {shown['general']}")
    if shown["unknown_weights"]:
        console.print(f"size unknown, not counted: {', '.join(shown['unknown_weights'])}")


def _size(params_b: float | None) -> str:
    return "unknown" if params_b is None else f"{params_b:g}"


@asynccontextmanager
async def running_experts(registry: ExpertRegistry, run_dir: Path) -> AsyncIterator[ChosenBackend]:
    """Run the local experts of a registry, without a gateway, and lend the way to all experts."""
    backend = ChosenBackend(OpenAIBackend(run_dir, os.environ), LiteLLMBackend(os.environ))
    local = registry.local_weights.values()
    try:
        async with Supervisor(run_dir) as supervisor:
            supervisor.start(expert_specs(registry, run_dir))
            await asyncio.gather(*(_wait_until_up(backend, expert, run_dir) for expert in local))
            yield backend
    finally:
        await backend.aclose()


async def _wait_until_up(backend: ChosenBackend, expert: Expert, run_dir: Path) -> None:
    """Wait for a local expert to answer, or to end: then nothing comes of waiting."""
    deadline_s, name = time.monotonic() + START_TIMEOUT_S, process_of(expert)
    while time.monotonic() < deadline_s:
        if read_states(run_dir).get(name, "").startswith("restarting"):
            return
        try:
            await backend.http.get(expert, "models", 5)
        except ExpertError:
            await asyncio.sleep(0.1)
        else:
            return
