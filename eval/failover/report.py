"""Show what came of the scenarios: on the terminal, and as a table of a design note."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from eval.failover.scenarios import SCENARIOS

START = "<!-- table: coe eval failover --write -->"
SOAK_START = "<!-- table: coe eval soak --write -->"
_MOST_CHARS = 220
_SHOWN = {"pass": "pass", "safe": "safe", "fail": "**fail**"}
_COLOURS = {"pass": "green", "safe": "yellow", "fail": "red"}


def table_of(found: dict[str, Any]) -> Table:
    """Return one system's verdicts with their evidence."""
    title = f"{found['system']}: {found['passed']} of {found['total']} pass, {found['safe']} safe"
    table = Table("scenario", "verdict", "evidence", title=title)
    for one in found["scenarios"]:
        colour = _COLOURS[one["verdict"]]
        table.add_row(one["id"], f"[{colour}]{one['verdict']}[/]", _escaped(one["evidence"]))
    return table


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def markdown(systems: Sequence[dict[str, Any]]) -> str:
    """Return the verdicts of all systems as a table, and the evidence of what did not pass."""
    return "\n".join([*_verdicts(systems), "", *_evidence(systems)])


def _verdicts(systems: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| scenario | fault | passes with | " + " | ".join(s["system"] for s in systems) + " |"
    yield "|---|---|---|" + "---|" * len(systems)
    for scenario in SCENARIOS:
        cells = [_cell(system, scenario.id) for system in systems]
        if any(cells):
            row = (f"`{scenario.id}`", scenario.what, scenario.wanted, *cells)
            yield "| " + " | ".join(row) + " |"
    counts = [f"{s['passed']} pass, {s['safe']} safe of {s['total']}" for s in systems]
    yield "| | | | " + " | ".join(counts) + " |"


def _cell(system: dict[str, Any], id_: str) -> str:
    verdicts = [one["verdict"] for one in system["scenarios"] if one["id"] == id_]
    return _SHOWN[verdicts[0]] if verdicts else ""


def _evidence(systems: Sequence[dict[str, Any]]) -> Iterator[str]:
    for system in systems:
        short = [one for one in system["scenarios"] if one["verdict"] != "pass"]
        if short:
            yield f"What was seen of {system['system']} where it did not pass:"
            yield ""
            for one in short:
                evidence = one["evidence"]
                shown = evidence if len(evidence) <= _MOST_CHARS else f"{evidence[:_MOST_CHARS]}..."
                yield f"- `{one['id']}` ({one['verdict']}): {shown}"
            yield ""


def soak_markdown(found: dict[str, Any]) -> str:
    """Return a soak as a table."""
    return "\n".join(f"| {name} | {value} |" for name, value in _soak_rows(found))


def _soak_rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "figure", "value"
    yield "---", "---"
    yield "minutes of load, the first fifth of them to warm up", f"{found['minutes']:g}"
    yield "requests a second without faults, as many as it takes", f"{found['capacity_per_s']}"
    yield "requests a second in the soak", f"{found['rate_per_s']}"
    yield "requests", f"{found['requests']}"
    faults = sum(found["faults"].values())
    yield "of which an upstream failed", f"{faults}, in {len(found['faults'])} ways"
    yield "times the faulty upstream was killed", f"{found['kills']}"
    yield "further requests whose client left", f"{found['client_left']}"
    yield "answers lost or cut", f"{found['lost']}"
    yield "answers with pieces of others", f"{found['mixed_up']}"
    yield "median and 99th percentile of an answer", f"{found['p50_ms']} ms, {found['p99_ms']} ms"
    yield "longest pause of the client's own process", f"{found['longest_pause_s']} s"
    for i, worker in enumerate(found["workers"], 1):
        before, after = worker["rss_mb"]
        yield (
            f"memory of worker {i} after warm-up, at the end",
            (f"{before} MB, {after} MB ({worker['growth']:+.1%})"),
        )
        first, last = worker["descriptors"]
        yield f"open descriptors of worker {i}, likewise", f"{first}, {last}"
