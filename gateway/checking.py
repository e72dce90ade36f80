"""``coe experts check``: call every expert for real."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.markup import escape
from rich.table import Table

from gateway.backends.base import UpstreamRequest, UpstreamResponse
from gateway.backends.chosen import ChosenBackend
from gateway.discovery import read_models
from gateway.dispatch import refuse_failure
from gateway.errors import ConfigError, ExpertError, ExpertUnavailableError
from gateway.experts import Expert, ExpertRegistry, check_keys
from gateway.inspection import running_experts
from gateway.protocol import CHAT
from gateway.relay import StreamRelay, read_body
from gateway.supervisor.plan import run_folder
from gateway.tables import console_for_tables

LIST_TIMEOUT_S = 5.0
_PROMPT_TOKENS = 128
"""Room for the question of a check."""
_MESSAGES = [{"role": "user", "content": "Say yes."}]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def check_registry(config: Path) -> dict[str, Any]:
    """Call every expert, whole, streamed and with a tool; local ones run while it lasts."""
    registry = ExpertRegistry.load(config)
    check_keys(registry, os.environ)
    with run_folder() as run_dir:
        async with running_experts(registry, run_dir) as backend:
            rows = [await _check(backend, expert) for expert in registry.values()]
    return {"experts": rows, "ok": all(row["ok"] for row in rows)}


async def _check(backend: ChosenBackend, expert: Expert) -> dict[str, Any]:
    row: dict[str, Any] = {"name": expert.name, "ok": False, "error": None, "warnings": []}
    try:
        started_s = time.monotonic()
        await _complete(backend, expert)
        row["whole_ms"] = round(1000 * (time.monotonic() - started_s))
        started_s = time.monotonic()
        await _complete(backend, expert, stream=True)
        row["stream_ms"] = round(1000 * (time.monotonic() - started_s))
        if "tools" in expert.capabilities:
            await _complete(backend, expert, tools=[_TOOL])
            row["tools"] = True
        await _check_context(backend, expert, row["warnings"])
        row["ok"] = True
    except ExpertError as error:
        row["error"] = error.message
        if isinstance(error, ExpertUnavailableError) and expert.base_url is not None:
            row["error"] += f" See whether its server is up at {expert.base_url}"
    return row


async def _complete(
    backend: ChosenBackend, expert: Expert, *, stream: bool = False, **fields: object
) -> None:
    """Ask for one token; raises `ExpertError` when no proper answer comes."""
    async with _answer(backend, expert, stream=stream, max_tokens=1, **fields) as response:
        whole = await response.read()
    if not stream:
        read_body(whole)
        return
    relay = StreamRelay(show_usage=True, note=dict)
    relay.feed(whole)
    relay.flush()
    if not relay.complete:
        raise ExpertError("the stream has no end: neither a finish_reason nor [DONE]")


@asynccontextmanager
async def _answer(
    backend: ChosenBackend, expert: Expert, *, stream: bool, **fields: object
) -> AsyncIterator[UpstreamResponse]:
    """Lend an answer that has begun; raises `ExpertError` when it is a refusal."""
    asked = {"model": expert.model, "messages": _MESSAGES, "stream": stream, **fields}
    request = UpstreamRequest(CHAT, msgspec.json.encode(asked), stream, "coe-check")
    response = await backend.open(expert, request)
    try:
        refuse_failure(expert, response)
        if response.status != 200:
            whole = (await response.read())[:200].decode(errors="replace")
            what = ", ".join(fields.keys() - {"max_tokens"})
            raise ExpertError(f"status {response.status}{f' with {what}' if what else ''}: {whole}")
        yield response
    finally:
        await response.aclose()


async def _check_context(backend: ChosenBackend, expert: Expert, warnings: list[str]) -> None:
    """Compare the registry with what the server says of itself, and that with what it does.

    Raises
    ------
    ExpertError
        When its context is shorter than the registry, or than the server, says.
    """
    if expert.base_url is None or expert.backend != "openai":
        return
    try:
        body = await backend.http.get(expert, "models", LIST_TIMEOUT_S)
        listed = {one.id: one for one in read_models(body, f"{expert.base_url}/models")}
    except (ExpertError, ConfigError) as error:
        warnings.append(str(error))
        return
    served = listed.get(expert.model)
    if served is None:
        warnings.append(f"its server does not list {expert.model!r}")
        return
    claim, window = served.claimed_context, expert.context_window
    if isinstance(claim, int) and window is not None and claim < window:
        raise ExpertError(f"context_window is {window}; its server says {claim}. Correct it")
    if served.owned_by == "vllm" and window is not None and window > 2 * _PROMPT_TOKENS:
        # vLLM refuses at once what it cannot hold; the answer is dropped after its first part
        most = window - _PROMPT_TOKENS
        async with _answer(backend, expert, stream=True, max_tokens=most):
            return


def print_checks(shown: dict[str, Any]) -> None:
    """Print `check_registry` for people."""
    table = Table(box=None)
    for heading in ("expert", "state", "whole ms", "stream ms", "tools", "remarks"):
        table.add_column(heading, overflow="fold")
    for row in shown["experts"]:
        table.add_row(
            row["name"],
            "[green]ok[/]" if row["ok"] else "[red]failed[/]",
            str(row.get("whole_ms", "-")),
            str(row.get("stream_ms", "-")),
            "yes" if row.get("tools") else "-",
            escape("; ".join(filter(None, [row["error"], *row["warnings"]]))),
        )
    console_for_tables().print(table)
