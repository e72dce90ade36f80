"""Honest probabilities, and the threshold under which a router says that it does not know."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from routers.base import FloatArray

TARGET_ACCURACY = 0.95

_TEMPERATURES = np.geomspace(0.1, 10.0, 201)


def fit_temperature(probabilities: FloatArray, truth: npt.NDArray[np.int64]) -> float:
    """Find the temperature that makes the labels of held-out texts likeliest.

    Parameters
    ----------
    probabilities : ndarray, shape (n_texts, n_categories)
        At temperature 1.
    truth : ndarray of int, shape (n_texts,)
        Column of every text's category.

    Returns
    -------
    float
        Between 0.1 and 10; `EmbeddingRouter.temperature` says how it is applied.

    References
    ----------
    Temperature scaling (arXiv 1706.04599).
    """
    logs = np.log(np.maximum(probabilities, 1e-12))
    rows = np.arange(len(truth))

    def loss(temperature: float) -> float:
        scaled = logs / temperature
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[rows, truth]).mean())

    return float(min(_TEMPERATURES, key=loss))


def choose_min_confidence(
    confidence: FloatArray, correct: npt.NDArray[np.bool_], target_accuracy: float
) -> float:
    """Find the lowest threshold above which the answers are as accurate as asked.

    Parameters
    ----------
    confidence : ndarray, shape (n_texts,)
        Top probability of held-out texts.
    correct : ndarray of bool, shape (n_texts,)
        Whether the top category was right.
    target_accuracy : float
        Wanted share of right answers among the kept ones, in [0, 1].

    Returns
    -------
    float
        0 when all answers may be kept; the highest confidence seen when no threshold is enough.
    """
    order = np.argsort(-confidence, kind="stable")
    kept_accuracy = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(kept_accuracy >= target_accuracy)
    if len(good) == len(order) or (len(good) and good[-1] == len(order) - 1):
        return 0.0
    return float(confidence[order[good[-1] if len(good) else 0]])
