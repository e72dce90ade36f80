"""How good a router's answers are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from routers.base import FloatArray

IntArray = npt.NDArray[np.int64]

_N_BINS = 15


def label_indices(labels: Sequence[str], categories: Sequence[str]) -> IntArray:
    """Return the column of every label, -1 for one that is no category; shape (n_texts,)."""
    column = {category: index for index, category in enumerate(categories)}
    return np.array([column.get(label, -1) for label in labels], dtype=np.int64)


def accuracy(truth: IntArray, predicted: IntArray) -> float:
    """Return the share of texts whose category is right."""
    return float((truth == predicted).mean())


def f1_by_category(truth: IntArray, predicted: IntArray, n_categories: int) -> FloatArray:
    """Return F1 of every category, nan for one in neither array; shape (n_categories,)."""
    hits = np.bincount(truth[truth == predicted], minlength=n_categories)
    true = np.bincount(truth[truth >= 0], minlength=n_categories)
    claimed = np.bincount(predicted, minlength=n_categories)
    total = (true + claimed).astype(np.float64)
    f1: FloatArray = np.full(n_categories, np.nan)
    np.divide(2.0 * hits, total, out=f1, where=total > 0)
    return f1


def macro_f1(truth: IntArray, predicted: IntArray, n_categories: int) -> float:
    """Return the mean F1 over the categories that the labels hold."""
    present = np.unique(truth[truth >= 0])
    return float(f1_by_category(truth, predicted, n_categories)[present].mean())


def calibration_error(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> float:
    """Return the expected calibration error over 15 bins of equal width (arXiv 1706.04599)."""
    bins = np.minimum((confidence * _N_BINS).astype(np.int64), _N_BINS - 1)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_N_BINS)
    return float(np.abs(gap).sum() / len(confidence))
