"""``coe experts list`` and ``coe experts check``."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.backends.base import UpstreamRequest
from gateway.backends.openai_http import OpenAIBackend
from gateway.composition import read_mapping
from gateway.dispatch import refuse_failure
from gateway.errors import ExpertError
from gateway.experts import Expert, ExpertRegistry, check_keys
from gateway.protocol import CHAT
from gateway.relay import StreamRelay, read_body
from gateway.supervisor.plan import expert_specs, make_run_dir
from gateway.supervisor.supervisor import Supervisor

START_TIMEOUT_S = 120.0
_MESSAGES = [{"role": "user", "content": "Say yes."}]


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
        table.add_column(heading, overflow="fold")
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
    console = Console()
    console.print(table)
    console.print(f"resident: {shown['resident_params_b']:g} B; general: {shown['general']}")
    if shown["unknown_weights"]:
        console.print(f"size unknown, not counted: {', '.join(shown['unknown_weights'])}")


def _size(params_b: float | None) -> str:
    return "unknown" if params_b is None else f"{params_b:g}"


async def check_registry(config: Path) -> dict[str, Any]:
    """Call every expert, whole and streamed; local ones run while it lasts."""
    registry = ExpertRegistry.load(config)
    check_keys(registry, os.environ)
    run_dir = make_run_dir()
    try:
        async with running_experts(registry, run_dir) as backend:
            rows = [await _check(backend, expert) for expert in registry.values()]
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
    return {"experts": rows, "ok": all(row["ok"] for row in rows)}


@asynccontextmanager
async def running_experts(registry: ExpertRegistry, run_dir: Path) -> AsyncIterator[OpenAIBackend]:
    """Run the local experts of a registry, without a gateway, and lend the way to all experts."""
    backend = OpenAIBackend(run_dir, os.environ)
    local = registry.local_weights.values()
    try:
        async with Supervisor(run_dir) as supervisor:
            supervisor.start(expert_specs(registry, run_dir))
            await asyncio.gather(*(_wait_until_up(backend, expert) for expert in local))
            yield backend
    finally:
        await backend.aclose()


async def _wait_until_up(backend: OpenAIBackend, expert: Expert) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            await backend.get(expert, "models", 5)
        except ExpertError:
            await asyncio.sleep(0.1)
        else:
            return


async def _check(backend: OpenAIBackend, expert: Expert) -> dict[str, Any]:
    row: dict[str, Any] = {"name": expert.name, "ok": False, "error": None}
    try:
        started_s = time.monotonic()
        await _complete(backend, expert, stream=False)
        row["whole_ms"] = round(1000 * (time.monotonic() - started_s))
        started_s = time.monotonic()
        await _complete(backend, expert, stream=True)
        row["stream_ms"] = round(1000 * (time.monotonic() - started_s))
        row["ok"] = True
    except ExpertError as error:
        row["error"] = error.message
    return row


async def _complete(backend: OpenAIBackend, expert: Expert, *, stream: bool) -> None:
    """Ask for one token; raises `ExpertError` when no proper answer comes."""
    body = msgspec.json.encode(
        {"model": expert.model, "messages": _MESSAGES, "max_tokens": 1, "stream": stream}
    )
    response = await backend.open(expert, UpstreamRequest(CHAT, body, stream, "coe-check"))
    try:
        refuse_failure(expert, response)
        whole = await response.read()
        if response.status != 200:
            raise ExpertError(f"status {response.status}: {whole[:200].decode(errors='replace')}")
        if not stream:
            read_body(whole)
            return
        relay = StreamRelay(show_usage=True, note=dict)
        relay.feed(whole)
        relay.flush()
        if not relay.complete:
            raise ExpertError("the stream has no end: neither a finish_reason nor [DONE]")
    finally:
        await response.aclose()


def print_checks(shown: dict[str, Any]) -> None:
    """Print `check_registry` for people."""
    table = Table(box=None)
    for heading in ("expert", "state", "whole ms", "stream ms", "error"):
        table.add_column(heading, overflow="fold")
    for row in shown["experts"]:
        table.add_row(
            row["name"],
            "[green]ok[/]" if row["ok"] else "[red]failed[/]",
            str(row.get("whole_ms", "-")),
            str(row.get("stream_ms", "-")),
            row["error"] or "",
        )
    Console().print(table)
