"""Show a replay: a table, and a plot of score against active parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from eval.curve import frontier
from eval.replay import OURS
from routers.extras import import_extra

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_DRAWN = ("coe", "true_category", "predicted_category", "given_router", "kmeans", "regression")
_INTERVAL = 1.96
_HEADINGS = ("method", "points", "95%", "against coe", "best score", "at B", "equals\nbest at")


def table_of(found: Mapping[str, Any], title: str) -> Table:
    """Return a replay as a table; single experts are one line, their best."""
    best = found["best_single"]
    left_out = ", ".join(found["left_out"])
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True)
    table.title = _titled(found, title)
    table.caption = (
        f"Best single expert: {best['name']}, {best['score']:.4f} at {best['active_params_b']:.1f} "
        "B. Points: mean height of the curve of score against active parameters above mixing "
        "single experts, up to the size of the best. B: average active parameters, 10^9. Equals "
        "best at: the fewest with which the method scores as high as the best single expert."
        + (f" Left out, no sizes or few scores: {left_out}." if left_out else "")
    )
    for one in found["methods"]:
        if not one["name"].startswith("single:"):
            table.add_row(*_row(one))
    return table


def _titled(found: Mapping[str, Any], title: str) -> str:
    n_experts = len(found["experts"])
    return f"{title}: {found['n']} prompts, {n_experts} experts, {found['splits']} splits"


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    best, at_b, versus = one["best"], one["matches_best_single_at_b"], one.get("vs_coe")
    area = one["area"]
    return (
        one["name"],
        "" if area is None else f"{area:.1f}",
        "" if area is None else "{:.1f} to {:.1f}".format(*one["area_ci95"]),
        "" if versus is None else f"{versus['area']:+.1f} {versus['verdict']}",
        f"{best['score']:.3f} ± {_INTERVAL * best['score_se']:.3f}",
        f"{best['active_params_b']:.1f}",
        "-" if at_b is None else f"{at_b:.1f}",
    )


def draw(found: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw score against active parameters into a file; needs matplotlib (extra ``train``).

    The suffix of `path`, one of `PLOT_SUFFIXES`, chooses the format.
    """
    figure = import_extra("matplotlib.figure", "train").Figure(
        figsize=(8, 5.5), layout="constrained"
    )
    axes = figure.subplots()
    singles = [one["best"] for one in found["methods"] if one["name"].startswith("single:")]
    sizes = [point["active_params_b"] for point in singles]
    scores = [point["score"] for point in singles]
    axes.scatter(sizes, scores, color="grey", label="single experts")
    axes.plot(*frontier(np.array(sizes), np.array(scores)), color="grey", linestyle=":")
    for one in found["methods"]:
        if one["name"] in _DRAWN:
            _draw_curve(axes, one)
    axes.set(
        xlabel="average active parameters, 10^9",
        ylabel="average score",
        title=f"Score against active parameters\n{_titled(found, title)}",
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def _draw_curve(axes: Any, one: Mapping[str, Any]) -> None:  # noqa: ANN401
    points = sorted(one["points"], key=lambda point: float(point["active_params_b"]))
    sizes = [point["active_params_b"] for point in points]
    scores = [point["score"] for point in points]
    ours = one["name"] == OURS
    (line,) = axes.plot(sizes, scores, label=one["name"], linewidth=2 if ours else 1)
    if ours:
        errors = [_INTERVAL * point["score_se"] for point in points]
        low = [score - error for score, error in zip(scores, errors, strict=True)]
        high = [score + error for score, error in zip(scores, errors, strict=True)]
        shade = {"color": line.get_color(), "alpha": 0.15, "linewidth": 0}
        axes.fill_between(sizes, low, high, label=f"{OURS}, 95% interval", **shade)
