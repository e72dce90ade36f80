"""A picture of a router's scores on its hold-out; needs matplotlib (extra ``train``)."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from routers.card import Card, render
from routers.extras import import_extra

FIGURE_SUFFIXES = (".html", ".png", ".svg", ".pdf")
_DARK = 0.5
"""Share above which a cell is so dark that its number must be light."""


def write_figure(card: Card, path: Path) -> None:
    """Draw confusion and reliability of a router into a file.

    Parameters
    ----------
    card : Card
    path : Path
        Its suffix, one of `FIGURE_SUFFIXES`, chooses the format; ``.html`` says in words what else
        the card says.

    Raises
    ------
    ValueError
        The suffix is another.
    """
    figure_class = import_extra("matplotlib.figure", "train").Figure
    scores = card.training["held_out"]
    figure = figure_class(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_confusion(left, np.array(scores["confusion"]), card.categories)
    _draw_reliability(right, scores["reliability"])
    figure.suptitle(
        f"{card.name}@{card.version} on {scores['n']} prompts: accuracy "
        f"{scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}, ECE {scores['ece']:.3f}"
    )
    if path.suffix.lower() == ".html":
        path.write_text(_page(figure, card), encoding="utf-8")
    else:
        figure.savefig(path)


def _page(figure: Any, card: Card) -> str:  # noqa: ANN401
    """Return a page of the figure and the card, whole in one file."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    svg = drawn.getvalue()[drawn.getvalue().index("<svg") :]
    title, words = html.escape(f"{card.name}@{card.version}"), html.escape(render(card))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"{svg}\n<pre>{words}</pre>\n</html>\n"
    )


def _draw_confusion(axes: Any, counts: Any, categories: tuple[str, ...]) -> None:  # noqa: ANN401
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(categories))
    axes.set_xticks(ticks, categories, rotation=90)
    axes.set_yticks(ticks, categories)
    axes.set(xlabel="answered", ylabel="labelled", title="share of each label, and prompts")
    for (row, column), n_prompts in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > _DARK else "black"
        axes.text(column, row, n_prompts or "", color=colour, ha="center", va="center", fontsize=7)


def _draw_reliability(axes: Any, bins: list[dict[str, float]]) -> None:  # noqa: ANN401
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="honest")
    confidence = [entry["confidence"] for entry in bins]
    accuracy = [entry["accuracy"] for entry in bins]
    sizes = [20 + 400 * entry["share"] for entry in bins]
    axes.scatter(confidence, accuracy, s=sizes, label="prompts of like confidence")
    axes.set(xlabel="confidence", ylabel="accuracy", title="reliability", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
