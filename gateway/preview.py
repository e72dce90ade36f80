"""``coe route``: the decision for one request, made by the code that serves requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.api.route import describe, read_question
from gateway.composition import compose
from gateway.experts import AUTO, ExpertRegistry
from gateway.keys import DEFAULT_TENANT
from gateway.metrics import Metrics
from gateway.planner import Planner
from routers.base import GENERAL

BAR_CHARS = 30


async def preview(config: Path, prompt: str, model: str | None = None) -> dict[str, Any]:
    """Return where a prompt would go, as ``/v1/route`` answers it; None routes as ``auto``."""
    return await _previewed(config, model or AUTO, [{"role": "user", "content": prompt}])


async def preview_request(config: Path, body: bytes, model: str | None = None) -> dict[str, Any]:
    """Return where a request would go that ``/v1/route`` takes; `model` goes before its own.

    Raises
    ------
    GatewayError
        What ``/v1/route`` would answer: the request is malformed, or no expert takes it.
    """
    chat, _ = read_question(body)
    return await _previewed(config, model or chat.model, chat.messages, chat.needs, chat.max_tokens)


async def _previewed(
    config: Path,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    needs: Collection[str] = (),
    max_tokens: int = 0,
) -> dict[str, Any]:
    composition = compose(ExpertRegistry.load(config))
    with ThreadPoolExecutor(1) as executor:
        planner = Planner(composition, None, None, executor, Metrics(CollectorRegistry()))
        plan = await planner.plan(model, messages, needs, DEFAULT_TENANT, max_tokens)
    shown = describe(plan)
    if composition.registry.file.llm_router is not None:
        shown["note"] = "llm_router is not asked here; ask a running gateway: POST /v1/route"
    return shown


def print_preview(shown: dict[str, Any]) -> None:
    """Print a decision for people."""
    console = Console()
    if shown["category"] is None:  # nothing was classified
        console.print(f"{shown['reason']} -> [bold]{shown['expert']}[/]")
    else:
        _print_category(console, shown)
    for name in shown["ranked"] if shown["experts"] else ():
        if worth := shown["experts"].get(name):
            console.print(
                f"{name}: expected score {worth['expected_score']:.3f}, "
                f"utility {worth['utility']:.3f}"
            )
    console.print(f"fallbacks: {', '.join(shown['ranked'][1:]) or 'none'}")
    console.print(f"router: {shown['router']}; active parameters: {_billions(shown)}")
    if "note" in shown:
        console.print(shown["note"])


def _print_category(console: Console, shown: dict[str, Any]) -> None:
    ranked = sorted(shown["probabilities"].items(), key=lambda item: -item[1])
    likeliest = ranked[0][0]
    of = "" if likeliest == shown["category"] else f"{escape(likeliest)} "
    console.print(
        f"[bold]{escape(shown['category'])}[/] ({of}{shown['confidence']:.1%}, {_why(shown)}) "
        f"-> [bold]{shown['expert']}[/]{_unmapped(shown)}",
        soft_wrap=True,
    )
    if shown["keyword"] is not None:
        return  # the other categories were not weighed
    table = Table(box=None, show_header=False)
    for category, probability in ranked:
        table.add_row(escape(category), f"{probability:.1%}", "█" * round(probability * BAR_CHARS))
    console.print(table)
    if shown["lead"] is not None:
        over = " over general" if GENERAL in shown["probabilities"] else ""
        console.print(f"lead{over}: {shown['lead']:.3f}; enough is {shown['threshold']:.3f}")
    if line := _cut(shown["read"]):
        console.print(line)


def _cut(read: dict[str, Any]) -> str:
    """Say what was read of a prompt in a line; empty where that was all of it."""
    of, windows = read["of"], read["windows"]
    if not of["chars_left_out"] and not windows:
        return ""
    parts = "".join(
        f"; {one['part']}: the first {one['head_chars']:,} and the last {one['tail_chars']:,}"
        for one in windows
    )
    return f"read: {of['chars_read']:,} of {of['chars_total']:,} characters{parts}"


def _unmapped(shown: dict[str, Any]) -> str:
    category = shown["category"]
    if shown["mapped"] or category == GENERAL or shown["reason"] == "explore":
        return ""
    return f": the mapping has no {escape(category)}, so the general expert"


def _why(shown: dict[str, Any]) -> str:
    if shown["keyword"] is not None:
        return f"{shown['reason']} {escape(repr(shown['keyword']))}"
    return str(shown["reason"])


def _billions(shown: dict[str, Any]) -> str:
    size = shown["active_params_b"]
    return "unknown" if size is None else f"{size:.3f} B with the router's"
