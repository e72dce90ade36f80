"""How good a router is on labelled prompts, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from routers.arrays import BoolArray
from routers.base import Router
from routers.data import Row
from routers.metrics import Answers, f1_by_category, is_general
from routers.text import read_alone

_RESAMPLES = 1_000
_LEVEL = (2.5, 97.5)
_Z = 1.959964
"""Standard errors on either side of 95%."""


def evaluate(router: Router, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Score a router on labelled prompts.

    Parameters
    ----------
    router : StoredRouter
        Its ``min_margin`` decides what is kept.
    rows : sequence of Row
        What the gateway would read of a prompt is classified. Labels that are no category of the
        router count as answered wrongly.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``n``; accuracy, macro-F1, expected calibration error, coverage and accuracy of what is
        kept, each with a 95% interval ``*_ci95``; ``to_general``, the share of prompts that end at
        the general expert; ``per_category``; ``per_source`` and the mean accuracy over sources;
        ``unknown_categories``.

    References
    ----------
    Percentile bootstrap over prompts (Efron and Tibshirani 1993); see also `with_intervals`.
    """
    labels = [row.category for row in rows]
    unknown = sorted(set(labels) - set(router.categories_))
    categories = (*router.categories_, *unknown)
    probabilities = router.predict_proba([read_alone(row.prompt) for row in rows])
    padded = np.pad(probabilities, ((0, 0), (0, len(unknown))))
    answers = Answers.of(padded, labels, categories, router.min_margin)

    def scores(some: Answers) -> dict[str, float]:
        to_general = ~some.kept | is_general(some.predicted, categories)
        return {**some.scores(), "to_general": float(to_general.mean())}

    per_source = _per_source(answers, rows, seed)
    return {
        "router": f"{router.name}@{router.version}",
        "n": len(rows),
        **with_intervals(answers, scores, seed),
        "unknown_categories": unknown,
        "per_category": _per_category(answers, categories),
        "per_source": per_source,
        "source_mean_accuracy": float(np.mean([one["accuracy"] for one in per_source.values()])),
    }


def mistakes(router: Router, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows that a router puts in another category than their label, the surest first.

    Among the surest are labels that are wrong.

    Returns
    -------
    list of dict
        Each ``prompt``, ``category`` (the label), ``answered``, ``confidence`` in [0, 1] and
        ``source``.
    """
    probabilities = router.predict_proba([read_alone(row.prompt) for row in rows])
    answered = [router.categories_[at] for at in probabilities.argmax(axis=1)]
    wrong = [
        {
            "prompt": row.prompt,
            "category": row.category,
            "answered": category,
            "confidence": round(float(confidence), 4),
            "source": row.source,
        }
        for row, category, confidence in zip(rows, answered, probabilities.max(axis=1), strict=True)
        if category != row.category
    ]
    return sorted(wrong, key=lambda one: -one["confidence"])


def with_intervals(
    answers: Answers, metrics: Callable[[Answers], Mapping[str, float]], seed: int
) -> dict[str, Any]:
    """Return metrics of answers, each followed by its 95% bootstrap interval ``<name>_ci95``.

    Resamples of answers that are all right are all right too: a metric that is 0 or 1 in each of
    them gets the interval of a share of as many answers.

    References
    ----------
    Wilson score interval (doi:10.1080/01621459.1927.10502953).
    """
    rng = np.random.default_rng(seed)
    n = len(answers)
    resampled = [metrics(answers[rng.integers(n, size=n)]) for _ in range(_RESAMPLES)]
    found: dict[str, Any] = {}
    for name, value in metrics(answers).items():
        found[name] = value
        low, high = np.percentile([one[name] for one in resampled], _LEVEL)
        if low == high and value in {0.0, 1.0}:
            taken = int(answers.kept.sum()) if name == "covered_accuracy" else n
            miss = _Z**2 / (taken + _Z**2)
            low, high = (0.0, miss) if value == 0.0 else (1.0 - miss, 1.0)
        found[f"{name}_ci95"] = [float(low), float(high)]
    return found


def _per_category(answers: Answers, categories: Sequence[str]) -> dict[str, Any]:
    f1 = f1_by_category(answers)
    found = {}
    for index, category in enumerate(categories):
        labelled = answers.truth == index
        answered = answers.predicted == index
        if labelled.any() or answered.any():
            found[category] = {
                "n": int(labelled.sum()),
                "precision": _mean(answers.correct[answered]),
                "recall": _mean(answers.correct[labelled]),
                "f1": float(f1[index]),
            }
    return found


def _per_source(answers: Answers, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    sources = np.array([row.source for row in rows])
    found = {}
    for source in np.unique(sources):
        some = answers[sources == source]
        accuracy = with_intervals(some, lambda few: {"accuracy": float(few.correct.mean())}, seed)
        found[str(source)] = {"n": len(some), **accuracy}
    return found


def _mean(correct: BoolArray) -> float | None:
    return float(correct.mean()) if len(correct) else None
