"""Embedding and logistic regression: the smallest good router."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Any

import numpy as np

from routers.arrays import AnyArray, IntArray
from routers.base import FloatArray
from routers.embedding import EmbeddingRouter
from routers.extras import import_extra

_INVERSE_REGULARISATION = 10.0
_MAX_ITERATIONS = 1_000


class LinearRouter(EmbeddingRouter):
    """Multinomial logistic regression on sentence embeddings; every category weighs the same.

    Fitting needs scikit-learn (extra ``train``), answering numpy only.
    """

    type = "linear"

    def _learn(self, embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
        coef, intercept = logistic_regression(embeddings, labels)
        return {"coef": coef, "intercept": intercept}

    def _answer(self, embedding: FloatArray) -> FloatArray:
        logits = self.head_["coef"] @ embedding + self.head_["intercept"]
        return np.array(softmax(logits.tolist()))


def logistic_regression(features: Any, labels: IntArray) -> tuple[FloatArray, FloatArray]:  # noqa: ANN401
    """Fit a logistic regression in which every category weighs the same.

    Parameters
    ----------
    features : ndarray or scipy sparse matrix, shape (n_texts, n_features)
    labels : ndarray of int, shape (n_texts,)
        Indices of categories, none left out.

    Returns
    -------
    coef : ndarray, shape (n_categories, n_features)
    intercept : ndarray, shape (n_categories,)
    """
    linear_model = import_extra("sklearn.linear_model", "train")
    model = linear_model.LogisticRegression(
        C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=_MAX_ITERATIONS
    ).fit(features, labels)
    if len(model.coef_) == 1:  # of two categories scikit-learn keeps the second one's logit only
        return np.vstack([0 * model.coef_, model.coef_]), np.append(0.0, model.intercept_)
    return model.coef_, model.intercept_


def softmax(logits: Sequence[float]) -> list[float]:
    """Return the probability of each category for one row of logits.

    For a few numbers Python takes less time than numpy.
    """
    highest = max(logits)
    exponentials = [exp(logit - highest) for logit in logits]
    summed = sum(exponentials)
    return [exponential / summed for exponential in exponentials]
