"""Writes the table of routers into a design note.

Example::

    python -m eval.router_table routers/default my-linear my-knn \
        --data test_id.jsonl.gz --data test_ood.jsonl.gz --write routers/design.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from eval.notes import write_table
from eval.router import evaluate
from routers.artifact import load_router
from routers.cli import wrong_use
from routers.data import Row, read_labelled
from routers.language_gate import LanguageGate
from routers.latency import latency_ms
from routers.registry import StoredRouter

_START = "<!-- table: python -m eval.router_table -->"
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=_PATH)
@click.option("--data", "files", multiple=True, required=True, type=_PATH, help="A test set.")
@click.option("--write", "note", type=_PATH, help="Note whose marked table is replaced.")
def main(folders: tuple[Path, ...], files: tuple[Path, ...], note: Path | None) -> None:
    """Measure routers on test sets and print or write a Markdown table."""
    with wrong_use():
        sets = {file.name.split(".")[0]: read_labelled([file])[0] for file in files}
        table = "\n".join(_table([load_router(folder) for folder in folders], sets))
        if note is None:
            click.echo(table)
        else:
            write_table(note, _START, table)


def _table(routers: Sequence[StoredRouter], sets: dict[str, list[Row]]) -> Iterator[str]:
    yield f"| router | 10^6 parameters | {' | '.join(sets)} | ms at 20 / 100 / 500 tokens |"
    yield f"|---|---|{'---|' * len(sets)}---|"
    asked = [row.prompt for rows in sets.values() for row in rows]
    for router in routers:
        scores = [_scores(router, rows) for rows in sets.values()]
        spent = " / ".join(f"{ms:.1f}" for ms in latency_ms(router, asked).values())
        size = f"{1_000 * router.active_params_b:.1f}"
        yield f"| {_described(router)} | {size} | {' | '.join(scores)} | {spent} |"


def _described(router: StoredRouter) -> str:
    within = router.router if isinstance(router, LanguageGate) else router
    return f"{router.name} ({within.type})"


def _scores(router: StoredRouter, rows: Sequence[Row]) -> str:
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
