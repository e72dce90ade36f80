"""What `coe train` and `coe calibrate` say on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from routers.calibrate import Goal
from routers.card import (
    Card,
    latency_told,
    margin_told,
    scores_by_category,
    settings_behind_gate,
)

_CASCADE_IS_IDLE = 0.95


def print_report(folder: Path, card: Card, goal: Goal) -> None:
    """Print the scores of a router, what its threshold reaches of `goal`, and what comes next."""
    scores = card.training["held_out"]
    table = Table(
        *("category", "precision", "recall", "F1", "prompts", "else mostly taken for"),
        title=f"{card.name}@{card.version} in {folder}",
    )
    for row, counts in zip(scores_by_category(card), scores["confusion"], strict=True):
        table.add_row(*row, _mistaken(row[0], counts, card))
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(
        f"{scores['n']} prompts of {_judged(card)}, which temperature and threshold are fitted to: "
        f"accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}, "
        f"calibration error {scores['ece']:.3f}; answers {margin_told(card)} "
        f"{card.min_margin:.3f} or more are kept: {scores['coverage']:.1%} of prompts, accuracy "
        f"{scores['covered_accuracy']:.3f}"
    )
    for line in (*_before(card), *_left_out(card), *_threshold(card, goal), *_costs(card)):
        console.print(line)
    console.print(f"to serve it, write `router: {folder}` into experts.yaml")


def _judged(card: Card) -> str:
    scores = card.training["held_out"]
    if "calibrated" in card.training:
        return "those that it was calibrated on"
    return f"{scores['folds']} folds" if scores.get("folds") else "the hold-out"


def _before(card: Card) -> Iterator[str]:
    if scores := card.training.get("calibrated", {}).get("before"):
        yield (
            f"before, of the same prompts: calibration error {scores['ece']:.3f}; "
            f"{scores['coverage']:.1%} of prompts kept, accuracy {scores['covered_accuracy']:.3f}"
        )


def _left_out(card: Card) -> Iterator[str]:
    n_left_out = card.training.get("data", {}).get("rows_duplicate")
    if n_left_out and "calibrated" not in card.training:
        yield f"{n_left_out} rows were left out as duplicates"


def _threshold(card: Card, goal: Goal) -> Iterator[str]:
    scores, outside = card.training["held_out"], card.training.get("out_of_scope")
    held_back = f"held back by --min-coverage {goal.min_coverage:g}"
    if outside:
        missed = f"; {goal.out_of_scope:.1%} was the aim, {held_back}"
        yield (
            f"of {outside['n']} out-of-scope prompts {outside['to_general']:.1%} go to the general "
            f"expert{missed if outside['to_general'] < goal.out_of_scope else ''}"
        )
        return
    yield (
        "the threshold is set by small talk of ours, as --out-of-scope names no prompts; "
        "--out-of-scope-share 0 leaves it out"
    )
    if scores["covered_accuracy"] < goal.accuracy:
        yield f"what is kept should be {goal.accuracy:.1%} right (--target-accuracy): {held_back}"
    if not card.min_margin:
        yield (
            "note: no prompt is too unsure for its category, so none goes to the general "
            "expert for that; --out-of-scope names prompts that should"
        )


def _costs(card: Card) -> Iterator[str]:
    escalated = settings_behind_gate(card).get("escalated")
    if escalated is not None:
        yield f"the encoder is asked for {escalated:.0%} of the prompts{_hint(escalated)}"
    if "latency_ms" in card.training and "calibrated" not in card.training:
        yield latency_told(card.training["latency_ms"])


def _hint(escalated: float) -> str:
    """Say what to do where the cheap stage of a cascade hardly ever answers."""
    if escalated < _CASCADE_IS_IDLE:
        return ""
    return (
        ": the cheap stage saves nothing. Some thousand prompts may tell when it can be trusted; "
        "with fewer, --type linear is smaller"
    )


def _mistaken(category: str, counts: Sequence[int], card: Card) -> str:
    """Name the category that prompts of this one are most often wrongly given."""
    wrong = {
        other: n for other, n in zip(card.categories, counts, strict=True) if other != category
    }
    most = max(wrong, key=lambda other: wrong[other])
    return f"{most} ({wrong[most]})" if wrong[most] else ""
