"""From labelled prompts to a calibrated router and its report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from routers import data, metrics
from routers.base import FloatArray
from routers.calibrate import TARGET_ACCURACY, choose_min_confidence, fit_temperature
from routers.data import Row
from routers.embedding import EmbeddingRouter
from routers.encoder import SentenceEncoder
from routers.registry import trainable_class

_CHUNK = 128

Progress = Callable[[int, int], None]
"""Called with the number of texts embedded and to embed."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What can be chosen about a training run.

    Attributes
    ----------
    type : str
        A trainable type of `routers.registry`.
    name : str
        The router's name.
    seed : int
        Decides the hold-out and what the caps keep.
    held_out : float
        Share of every category's rows that is kept for calibration and scores, in (0, 1).
    max_rows_per_source : int or None
        Most rows of one source and category; None keeps all.
    target_accuracy : float
        Accuracy in [0, 1] that the answers above the threshold must have on the hold-out.
    """

    type: str = "linear"
    name: str = "custom"
    seed: int = 0
    held_out: float = 0.1
    max_rows_per_source: int | None = None
    target_accuracy: float = TARGET_ACCURACY


def train(
    rows: Sequence[Row], encoder: SentenceEncoder, options: TrainOptions, progress: Progress
) -> tuple[EmbeddingRouter, dict[str, Any]]:
    """Train and calibrate a router.

    Returns
    -------
    router : EmbeddingRouter
    report : dict
        JSON-ready: data, options, and scores on the hold-out.

    Raises
    ------
    routers.data.DataError
        The rows cannot be learned from.
    """
    used = _prepare(rows, options)
    training, held_out = data.split(used, options.held_out, options.seed)
    embeddings = _embed(encoder, [row.prompt for row in (*training, *held_out)], progress)
    router = trainable_class(options.type)(encoder, options.name)
    router.fit_embeddings(embeddings[: len(training)], [row.category for row in training])
    scores = _calibrate(router, embeddings[len(training) :], held_out, options.target_accuracy)
    facts = {
        "rows_read": len(rows),
        "rows_trained": len(training),
        "rows_held_out": len(held_out),
        "sha256": data.digest(used),
        "per_category": data.counts(used, lambda row: row.category),
        "per_source": _sources(used),
    }
    return router, {"options": asdict(options), "data": facts, "held_out": scores}


def _prepare(rows: Sequence[Row], options: TrainOptions) -> list[Row]:
    used = data.without_duplicates(rows)
    if options.max_rows_per_source is not None:
        by_source = lambda row: (row.source, row.category)  # noqa: E731
        used = data.capped(used, options.max_rows_per_source, by_source, options.seed)
    if len({row.category for row in used}) < 2:
        raise data.DataError("the rows must hold two categories or more; got one. Add prompts")
    return used


def _sources(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Count the rows of every source, licence and category."""
    groups = Counter((row.source, row.licence, row.category) for row in rows)
    return [
        {"source": source, "licence": licence, "category": category, "rows": n_rows}
        for (source, licence, category), n_rows in sorted(groups.items())
    ]


def _embed(encoder: SentenceEncoder, texts: Sequence[str], progress: Progress) -> FloatArray:
    n_threads = os.cpu_count() or 1
    chunks = []
    for start in range(0, len(texts), _CHUNK):
        chunks.append(encoder.encode(texts[start : start + _CHUNK], n_threads))
        progress(min(start + _CHUNK, len(texts)), len(texts))
    return np.concatenate(chunks)


def _calibrate(
    router: EmbeddingRouter, embeddings: FloatArray, rows: Sequence[Row], target_accuracy: float
) -> dict[str, Any]:
    truth = metrics.label_indices([row.category for row in rows], router.categories_)
    temperature = fit_temperature(router.predict_proba_embeddings(embeddings), truth)
    router.calibrate(temperature, min_confidence=0.0)
    probabilities = router.predict_proba_embeddings(embeddings)
    confidence = probabilities.max(axis=1)
    predicted = probabilities.argmax(axis=1)
    correct = predicted == truth
    router.calibrate(temperature, choose_min_confidence(confidence, correct, target_accuracy))
    kept = confidence >= router.min_confidence
    n_categories = len(router.categories_)
    per_category = metrics.f1_by_category(truth, predicted, n_categories)
    return {
        "accuracy": metrics.accuracy(truth, predicted),
        "macro_f1": metrics.macro_f1(truth, predicted, n_categories),
        "ece": metrics.calibration_error(confidence, correct),
        "coverage": float(kept.mean()),
        "covered_accuracy": float(correct[kept].mean()),
        "f1": dict(zip(router.categories_, per_category.tolist(), strict=True)),
    }
