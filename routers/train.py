"""From labelled prompts to a calibrated router and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from routers import data
from routers.base import FloatArray
from routers.calibrate import FEW_PROMPTS, Goal, calibrate
from routers.data import Row
from routers.latency import latency_ms
from routers.metrics import Answers, confusion, f1_by_category, reliability
from routers.progress import Progress, silent
from routers.registry import StoredRouter


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What can be chosen about a training run, the router itself apart.

    Attributes
    ----------
    seed : int
        Decides the hold-out and what the caps keep.
    held_out : float
        Share of every category's rows kept for calibration and scores, in (0, 1).
    folds : int
        Where that would be fewer than `routers.calibrate.FEW_PROMPTS`, the router learns from all
        rows, and each row is answered for calibration and scores by one of so many that learned
        from the other parts. 0: a hold-out, however small.
    max_rows_per_source : int or None
        Most rows of one source and category; None keeps all.
    max_rows_per_category : int or None
        Most rows of one category; None keeps all.
    goal : Goal
        What the threshold is chosen for.
    """

    seed: int = 0
    held_out: float = 0.1
    folds: int = 0
    max_rows_per_source: int | None = None
    max_rows_per_category: int | None = None
    goal: Goal = field(default_factory=Goal)


def train(
    router: StoredRouter,
    rows: Sequence[Row],
    out_of_scope: Sequence[str],
    options: TrainOptions,
    progress: Progress = silent,
    unseen: Sequence[Row] = (),
) -> dict[str, Any]:
    """Fit and calibrate a router.

    Parameters
    ----------
    router : StoredRouter
        Changed in place.
    rows : sequence of Row
    out_of_scope : sequence of str
        Prompts of no category, for the threshold; see `routers.calibrate.calibrate`.
    options : TrainOptions
    progress : Progress
    unseen : sequence of Row
        Rows of other sources, added to the hold-out; see `routers.calibrate.calibrate`.

    Returns
    -------
    dict
        JSON-ready report: options, data, and scores on the hold-out.

    Raises
    ------
    routers.data.DataError
        The rows cannot be learned from.
    """
    used = prepare(rows, options)
    training, judged = data.split(used, options.held_out, options.seed)
    folds = 0 if unseen or len(judged) >= FEW_PROMPTS else options.folds
    unlearned = None
    if folds:
        training = judged = used
        unlearned = cross_fitted(router, used, folds, options.seed, progress)
    _fit(router, training, progress)
    answers = calibrate(router, judged, out_of_scope, options.goal, progress, unseen, unlearned)
    judged = [*judged, *unseen]
    n_contradicting = len(data.contradicting(rows))
    return {
        "options": asdict(options),
        "data": {
            "rows_read": len(rows),
            "rows_duplicate": len(rows) - len(data.without_duplicates(rows)) - n_contradicting,
            "rows_contradicting": n_contradicting,
            "rows_trained": len(training),
            "rows_held_out": 0 if folds else len(judged),
            "rows_of_unseen_sources": len(unseen),
            "out_of_scope": len(out_of_scope),
            "sha256": data.digest(used),
            "sources": count_sources(used),
        },
        "held_out": held_out_report(answers, router.categories_, folds),
        "latency_ms": latency_ms(router, [row.prompt for row in judged]),
    }


def cross_fitted(
    router: StoredRouter, rows: Sequence[Row], folds: int, seed: int, progress: Progress = silent
) -> FloatArray:
    """Answer every row by a router that learned from the other parts of the rows.

    Parameters
    ----------
    router : StoredRouter
        Changed in place: what it learns in the end is one of the parts.
    rows : sequence of Row
        Two of every category at least.
    folds : int
        Into how many parts the rows are dealt, two or more; every category alike.
    seed : int
    progress : Progress

    Returns
    -------
    ndarray, shape (n_rows, n_categories)
        Not calibrated.

    References
    ----------
    Stacked regressions (Breiman 1996); Platt 1999, Probabilistic outputs for support vector
    machines.
    """
    answers: dict[int, FloatArray] = {}
    for part in data.dealt(rows, folds, seed):
        chosen = set(part)
        _fit(router, [row for i, row in enumerate(rows) if i not in chosen], progress)
        answers.update(zip(part, router.predict_proba([rows[i].prompt for i in part]), strict=True))
    return np.array([answers[index] for index in range(len(rows))])


def _fit(router: StoredRouter, rows: Sequence[Row], progress: Progress) -> None:
    router.fit([row.prompt for row in rows], [row.category for row in rows], progress)


def held_out_report(answers: Answers, categories: Sequence[str], folds: int = 0) -> dict[str, Any]:
    """Return the scores of answers, with F1, confusion and reliability, ready for JSON."""
    f1 = zip(categories, f1_by_category(answers).tolist(), strict=True)
    return {
        "n": len(answers),
        "folds": folds,
        **answers.scores(),
        "f1": {category: value for category, value in f1 if not np.isnan(value)},
        "confusion": confusion(answers).tolist(),
        "reliability": reliability(answers),
    }


def prepare(rows: Sequence[Row], options: TrainOptions) -> list[Row]:
    """Drop duplicates, apply the caps.

    Raises
    ------
    routers.data.DataError
        Fewer than two categories are left.
    """
    used = data.without_duplicates(rows)
    used = data.capped(
        used, options.max_rows_per_source, lambda row: (row.source, row.category), options.seed
    )
    used = data.capped(used, options.max_rows_per_category, lambda row: row.category, options.seed)
    if len({row.category for row in used}) < 2:
        raise data.DataError(
            "the rows must hold two categories or more, duplicates left out; got one. Add prompts",
            used[:1],
        )
    return used


def count_sources(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Count the rows of every source, licence and category."""
    groups = Counter((row.source, row.licence, row.category) for row in rows)
    return [
        {"source": source, "licence": licence, "category": category, "rows": n_rows}
        for (source, licence, category), n_rows in sorted(groups.items())
    ]
