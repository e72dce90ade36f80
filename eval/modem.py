"""A router against MoDEM: MMLU questions sorted into five domains (arXiv 2410.07490).

Example::

    python -m routers.build_default DATA_FOLDER --out modem --leave-out mmlu
    python -m eval.modem modem DATA_FOLDER/train.jsonl.gz

The router must not have learned from rows of MMLU. What is neither math, medical, science nor
coding is ``other``, and the probabilities of all those categories are added.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from routers.artifact import load_router
from routers.base import FloatArray
from routers.cli import wrong_use
from routers.data import Row, read_labelled
from routers.metrics import label_indices
from routers.registry import StoredRouter

DOMAINS = ("math", "medical", "science", "coding")
OTHER = "other"

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("file", metavar="DATA", type=_PATH)
@click.option("--source", default="mmlu", show_default=True, help="Source of the test rows.")
def main(folder: Path, file: Path, source: str) -> None:
    """Print the accuracy over all questions, by domain, and averaged over domains."""
    with wrong_use():
        router = load_router(folder)
        rows = [row for row in read_labelled([file])[0] if row.source == source]
        by_domain = accuracy_by_domain(router, rows)
    for domain, (n, accuracy) in by_domain.items():
        click.echo(f"{domain:8} {n:5} {accuracy:.3f}")
    n_all = sum(n for n, _ in by_domain.values())
    micro = sum(n * accuracy for n, accuracy in by_domain.values()) / n_all
    macro = float(np.mean([accuracy for _, accuracy in by_domain.values()]))
    click.echo(f"over all {n_all:5} {micro:.3f}\nmean of domains {macro:.3f}")


def accuracy_by_domain(router: StoredRouter, rows: list[Row]) -> dict[str, tuple[int, float]]:
    """Return the number of questions and the accuracy of every domain that has any."""
    probabilities = router.predict_proba([row.prompt for row in rows])
    answered = _by_domain(probabilities, router.categories_).argmax(axis=1)
    truth = label_indices([row.category for row in rows], DOMAINS)
    truth[truth < 0] = len(DOMAINS)
    return {
        domain: (int((truth == index).sum()), float((answered == index)[truth == index].mean()))
        for index, domain in enumerate((*DOMAINS, OTHER))
        if (truth == index).any()
    }


def _by_domain(probabilities: FloatArray, categories: tuple[str, ...]) -> FloatArray:
    """Return the probabilities of `DOMAINS`, and of all else, shape (n_texts, 5)."""
    columns = label_indices(DOMAINS, categories)
    if (columns < 0).any():
        raise ValueError(f"the router must know {', '.join(DOMAINS)}; it knows {categories}")
    named = probabilities[:, columns]
    return np.column_stack([named, 1.0 - named.sum(axis=1)])


if __name__ == "__main__":
    main()
