"""Writes the table of routers into a design note.

Example::

    python -m eval.router_table routers/default my-linear my-knn --llm general \
        --data test_id.jsonl.gz --data test_ood.jsonl.gz --write routers/design.md
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import click
import numpy as np

from eval.notes import check_note, write_table
from eval.robustness import ADDED, stability
from eval.router import evaluate
from gateway.errors import ConfigError
from gateway.teacher import PREFIX, open_teacher
from routers.artifact import load_router
from routers.base import FloatArray, Router, RouterError
from routers.cli import wrong_use
from routers.data import Row, capped, read_labelled
from routers.language_gate import LanguageGate
from routers.latency import latency_ms

_START = "<!-- table: python -m eval.router_table -->"
_PATH = click.Path(path_type=Path)
_CHANGED_PROMPTS = 250
"""Of each set, so many are changed."""
_TIMED_PROMPTS = 5
"""Of each set, for an LLM router."""


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=_PATH)
@click.option("--data", "files", multiple=True, required=True, type=_PATH, help="A test set.")
@click.option("--llm", "expert", help="Measure this expert of experts.yaml as a router too.")
@click.option(
    "--llm-rows",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Of each set, as it is slow.",
)
@click.option("--write", "note", type=_PATH, help="Note whose marked table is replaced.")
def main(
    folders: tuple[Path, ...],
    files: tuple[Path, ...],
    expert: str | None,
    llm_rows: int,
    note: Path | None,
) -> None:
    """Measure routers on test sets and print or write a Markdown table."""
    with wrong_use():
        if note is not None:
            check_note(note, _START)
        sets = {file.name.split(".")[0]: read_labelled([file])[0] for file in files}
        routers = [load_router(folder) for folder in folders]
        of_llm = [_of_llm(expert, sets, llm_rows)] if expert else []
        lines = [*_head(sets), *(_measured(router, sets) for router in routers), *of_llm]
        table = "\n".join(lines)
        if note is None:
            click.echo(table)
        else:
            write_table(note, _START, table)


def _head(sets: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    yield (
        f"| router | 10^6 parameters | {' | '.join(sets)} | typed otherwise / a sentence added "
        f"| ms at 20 / 100 / 500 words |"
    )
    yield f"|---|---|{'---|' * len(sets)}---|---|"


def _measured(router: Router, sets: Mapping[str, Sequence[Row]]) -> str:
    asked = [row.prompt for rows in sets.values() for row in rows]
    changed = [row.prompt for rows in _some(sets, _CHANGED_PROMPTS).values() for row in rows]
    kept = stability(router, changed, seed=0)
    added = fmean(kept.pop(name) for name in ADDED)
    within = router.router if isinstance(router, LanguageGate) else router
    type_name = getattr(within, "type", "")
    return _line(
        f"{router.name} ({type_name})",
        router,
        sets,
        f"{fmean(kept.values()):.3f} / {added:.3f}",
        latency_ms(router, asked),
    )


def _of_llm(expert: str, sets: Mapping[str, Sequence[Row]], n_rows: int) -> str:
    """Measure by the clock, and on few rows: the model is another process, and slow."""
    timed = [row.prompt for rows in _some(sets, _TIMED_PROMPTS).values() for row in rows]
    few = _some(sets, n_rows)
    try:
        with open_teacher(PREFIX + expert) as llm:
            router = Undecided(llm)
            spent = latency_ms(router, timed, time.perf_counter)
            return _line(f"{llm.name} (llm), {n_rows} rows of each set", router, few, "", spent)
    except ConfigError as error:
        raise ValueError(str(error)) from error


class Undecided:
    """A router that finds all categories alike where the one within does not answer."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.name, self.version, self.categories_ = router.name, router.version, router.categories_
        self.active_params_b, self.min_margin = router.active_params_b, router.min_margin

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        return np.array([self._row(text) for text in texts])

    def _row(self, text: str) -> FloatArray:
        try:
            return np.asarray(self._router.predict_proba([text])[0])
        except RouterError:
            return np.full(len(self.categories_), 1 / len(self.categories_))


def _some(sets: Mapping[str, Sequence[Row]], n_rows: int) -> dict[str, list[Row]]:
    """Draw so many rows of each set."""
    return {name: capped(rows, n_rows, lambda _: "", seed=0) for name, rows in sets.items()}


def _line(
    name: str,
    router: Router,
    sets: Mapping[str, Sequence[Row]],
    kept: str,
    spent_ms: Mapping[str, float],
) -> str:
    scores = " | ".join(_scores(router, rows) for rows in sets.values())
    spent = " / ".join(f"{ms:.1f}" for ms in spent_ms.values())
    return f"| {name} | {1_000 * router.active_params_b:.1f} | {scores} | {kept} | {spent} |"


def _scores(router: Router, rows: Sequence[Row]) -> str:
    """Say accuracy with its interval, macro-F1, calibration error, and what goes to general."""
    found = evaluate(router, rows, seed=0)
    low, high = found["accuracy_ci95"]
    return (
        f"{found['accuracy']:.3f} ({low:.3f} to {high:.3f}) / {found['macro_f1']:.3f} / "
        f"{found['ece']:.3f}; {found['coverage']:.0%} kept at {found['covered_accuracy']:.3f}; "
        f"{found['to_general']:.0%} to general"
    )


if __name__ == "__main__":
    main()
