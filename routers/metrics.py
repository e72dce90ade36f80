"""How good a router's answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routers.arrays import BoolArray, IntArray
from routers.base import GENERAL, FloatArray, margins

_N_BINS = 15


@dataclass(frozen=True)
class Answers:
    """A router's answers to labelled prompts, and what `routers.base.decide` makes of them.

    Attributes
    ----------
    truth, predicted : ndarray of int, shape (n_texts,)
        Column of the label, -1 for one that is no category of the router; and of the most
        probable category.
    confidence : ndarray of float64, shape (n_texts,)
        Its probability.
    margin : ndarray of float64, shape (n_texts,)
        See `routers.base.margins`.
    kept : ndarray of bool, shape (n_texts,)
        Whether that category is kept: False means sent to `GENERAL` for low confidence.
    n_categories : int
    """

    truth: IntArray
    predicted: IntArray
    confidence: FloatArray
    margin: FloatArray
    kept: BoolArray
    n_categories: int

    @classmethod
    def of(
        cls,
        probabilities: FloatArray,
        labels: Sequence[str],
        categories: Sequence[str],
        min_margin: float,
    ) -> Answers:
        """Decide every row; `probabilities` has shape (n_texts, n_categories)."""
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1)
        margin = margins(probabilities, categories)
        truth = label_indices(labels, categories)
        kept = margin >= min_margin
        return cls(truth, predicted, confidence, margin, kept, len(categories))

    def __getitem__(self, chosen: IntArray | BoolArray) -> Answers:
        """Return the answers to some of the prompts."""
        return Answers(
            self.truth[chosen],
            self.predicted[chosen],
            self.confidence[chosen],
            self.margin[chosen],
            self.kept[chosen],
            self.n_categories,
        )

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def correct(self) -> BoolArray:
        """Whether the most probable category is the label."""
        return np.asarray(self.truth == self.predicted)

    def scores(self) -> dict[str, float]:
        """Return accuracy, macro-F1, calibration error, coverage and accuracy of what is kept."""
        return {
            "accuracy": float(self.correct.mean()),
            "macro_f1": macro_f1(self),
            "ece": calibration_error(self),
            "coverage": float(self.kept.mean()),
            "covered_accuracy": float(self.correct[self.kept].mean()) if self.kept.any() else 0.0,
        }


def label_indices(labels: Sequence[str], categories: Sequence[str]) -> IntArray:
    """Return the column of every label, -1 for one that is no category; shape (n_texts,)."""
    column = {category: index for index, category in enumerate(categories)}
    return np.array([column.get(label, -1) for label in labels], dtype=np.int64)


def is_general(predicted: IntArray, categories: Sequence[str]) -> BoolArray:
    """Say of every column whether it is that of `GENERAL`."""
    return np.asarray(predicted == label_indices([GENERAL], categories)[0])


def macro_f1(answers: Answers) -> float:
    """Return the mean F1 over the categories that the labels hold."""
    present = np.unique(answers.truth[answers.truth >= 0])
    return float(f1_by_category(answers)[present].mean()) if len(present) else 0.0


def f1_by_category(answers: Answers) -> FloatArray:
    """Return F1 of every category, nan for one in neither labels nor answers."""
    matrix = confusion(answers)
    hits = np.diag(matrix).astype(np.float64)
    true = np.bincount(answers.truth[answers.truth >= 0], minlength=answers.n_categories)
    claimed = np.bincount(answers.predicted, minlength=answers.n_categories)
    f1: FloatArray = np.full(answers.n_categories, np.nan)
    np.divide(2.0 * hits, true + claimed, out=f1, where=true + claimed > 0)
    return f1


def confusion(answers: Answers) -> IntArray:
    """Count label (row) by answer (column); labels that are no category are left out."""
    known = answers.truth >= 0
    n = answers.n_categories
    cells = answers.truth[known] * n + answers.predicted[known]
    return np.bincount(cells, minlength=n * n).reshape(n, n).astype(np.int64)


def calibration_error(answers: Answers) -> float:
    """Return the expected calibration error over 15 bins of equal width (arXiv 1706.04599)."""
    return sum(
        entry["share"] * abs(entry["confidence"] - entry["accuracy"])
        for entry in reliability(answers)
    )


def reliability(answers: Answers) -> list[dict[str, float]]:
    """Return share of texts, mean confidence and accuracy of each bin that is not empty."""
    bins = np.minimum((answers.confidence * _N_BINS).astype(np.int64), _N_BINS - 1)
    return [
        {
            "share": float((bins == index).mean()),
            "confidence": float(answers.confidence[bins == index].mean()),
            "accuracy": float(answers.correct[bins == index].mean()),
        }
        for index in np.unique(bins)
    ]
