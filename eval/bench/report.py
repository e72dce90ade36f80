"""The table and the plot of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = (
    "| system | p50 ms | over direct | p95 ms | p99 ms | answers/s | CPU s / 1,000 | memory MB |"
    " refused, broken |"
)
_STREAM_HEAD = (
    "| system | first chunk p50 ms | over direct | p99 ms | chunk under way p50 ms | p99 ms |"
    " streams/s | CPU s / 1,000 | memory MB |"
)

_STEPS_HEAD = """### Steps of a routed request, one at a time, median ms

Apart for the requests whose prompt the router's encoder reads. A share in brackets: of the requests
that have the step, where not all do.
"""

_MOST_COLUMNS = 4
"""Of plots side by side."""


def markdown(found: Mapping[str, Any]) -> str:
    """Return a table for each case."""
    parts = []
    for (case, concurrency), rows in _by_case(found["rows"]).items():
        streams = _streamed(rows)
        head = _STREAM_HEAD if streams else _HEAD
        ratios = found.get("ratios", {}).get(f"{case}@{concurrency}", {})
        ours = ", ".join(own.rpartition(" ")[2] for own in ratios) or "not measured"
        parts += [f"### {case}, concurrency {concurrency}\n", f"{head} ours beside it: {ours} |"]
        parts.append("|---" * (head.count("|")) + "|")
        direct_ms = next((row["p50_ms"] for row in rows if row["system"] == "direct"), None)
        for row in rows:
            beside = _beside(row["system"], ratios, streams=streams)
            parts.append(f"{_line(row, direct_ms, streams=streams)} {beside} |")
        parts.append("")
    if steps := found.get("steps_ms"):
        parts += [_STEPS_HEAD, *_steps(steps), ""]
    if encoded := found.get("encoded"):
        shares = "; ".join(f"{case}: {share}" for case, share in encoded.items())
        parts += [f"Distinct prompts that the router's encoder reads: {shares}.", ""]
    for label, taken in found.get("refusals", {}).items():
        parts += [_refused(label, taken), ""]
    if "date" in found:
        parts += [_made(found), ""]
    return "\n".join(parts)


def _beside(system: str, ratios: Mapping[str, Any], *, streams: bool) -> str:
    """Return how many times as much ours answers, or how much sooner its streams begin."""
    key = "p50" if streams else "requests_per_s"
    found = [by_system.get(system, {}).get(key) for by_system in ratios.values()]
    return ", ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in found if any(found))


def _refused(label: str, taken: Mapping[str, Any]) -> str:
    clients = taken["n"] + taken["admitted"]
    soon = (
        f", after {taken['p50_ms']:.2f} ms (p50), {taken['p99_ms']:.2f} (p99)" if taken["n"] else ""
    )
    return (
        f"*coe full* under {label} refused {taken['n']} of {clients} new clients beside it{soon}, "
        "their connection included."
    )


def _made(found: Mapping[str, Any]) -> str:
    rounds = found["rounds"]
    each = f"the medians of {rounds} rounds" if rounds > 1 else "of one round"
    beside = "".join(f", {name} {version}" for name, version in found["rivals"].items())
    return (
        f"Rows are {each} of {found['seconds']} s. Measured on {found['date']} at commit "
        f"{found['commit'] or 'unknown'}, {found['machine']}; Python {found['python']}{beside}."
    )


def _steps(by_case: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    found = [(case, group) for case, groups in by_case.items() for group in groups]
    longest = max((group["steps"] for _, group in found), key=len)  # its order is that of all
    names = list(
        dict.fromkeys([*longest, *(name for _, group in found for name in group["steps"])])
    )
    head = [f"| case | requests | {' | '.join(names)} | all |", f"|---{'|---' * (len(names) + 2)}|"]
    lines = []
    for case, group in found:
        cells = [_step(group["steps"].get(name)) for name in names]
        shown = [f"{case}{', encoder' * group['encoder']}", f"{group['share']:.0%}", *cells]
        lines.append(f"| {' | '.join(shown)} | {group['all_ms']:.3f} |")
    return head + lines


def _step(found: Mapping[str, float] | None) -> str:
    """Return the median of a step, and the share of the requests that have it if not all do."""
    if found is None:
        return ""
    share = f" ({found['share']:.1%})" if found["share"] < 1 else ""
    return f"{found['ms']:.3f}{share}"


def _by_case(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    cases: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["case"], row["concurrency"]), []).append(row)
    return cases


def _streamed(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["chunk_p50_ms"] is not None for row in rows)


def _line(row: Mapping[str, Any], direct_ms: float | None, *, streams: bool) -> str:
    if row["p50_ms"] is None:
        return f"| {row['system']} | no answer |{' |' * 7}"
    low, high = row["p50_ms_spread"]
    p50 = f"{row['p50_ms']:.2f} ({low:.2f} to {high:.2f})"
    over = "" if direct_ms is None else f"{row['p50_ms'] - direct_ms:.2f}"
    rate, cost = f"{row['requests_per_s']:,.0f}", f"{row['cpu_s_per_1k']:.2f}"
    memory, p99 = f"{row['peak_mb']:.0f}", f"{row['p99_ms']:.2f}"
    if streams:
        chunk = f"{row['chunk_p50_ms']:.2f}", f"{row['chunk_p99_ms']:.2f}"
        cells = [row["system"], p50, over, p99, *chunk, rate, cost, memory]
    else:
        failed = f"{row['refused']}, {row['broken']}"
        cells = [row["system"], p50, over, f"{row['p95_ms']:.2f}", p99, rate, cost, memory, failed]
    return f"| {' | '.join(cells)} |"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw answers a second and added latency of the whole answers, if there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    cases = {case: rows for case, rows in _by_case(found["rows"]).items() if not _streamed(rows)}
    if not cases:
        return
    n_columns = min(len(cases), _MOST_COLUMNS)
    n_rows = math.ceil(len(cases) / n_columns)
    size = (4 * n_columns, 4 * n_rows)
    figure, axes = pyplot.subplots(n_rows, n_columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, ((case, concurrency), rows) in zip(axes.flat, cases.items(), strict=False):
        one = concurrency == 1
        key, unit = ("p50_ms", "p50 in ms") if one else ("requests_per_s", "answers a second")
        shown = [row for row in rows if row["system"] != "direct" and row[key] is not None]
        colours = ["C1" if row["system"].startswith("coe") else "C7" for row in shown]
        axis.barh([row["system"] for row in shown], [row[key] for row in shown], color=colours)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())  # its labels run into each other
        axis.invert_yaxis()
        axis.set_title(f"{case}, {concurrency} at a time")
        axis.set_xlabel(unit)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
