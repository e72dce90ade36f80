"""Embedding and logistic regression: the smallest good router."""

from __future__ import annotations

import numpy as np

from routers.arrays import AnyArray
from routers.base import FloatArray
from routers.embedding import EmbeddingRouter, IntArray
from routers.extras import import_extra

_INVERSE_REGULARISATION = 10.0
_MAX_ITERATIONS = 1_000


class LinearRouter(EmbeddingRouter):
    """Multinomial logistic regression on sentence embeddings; every category weighs the same.

    Fitting needs scikit-learn (extra ``train``), answering numpy only.
    """

    type = "linear"

    def _learn(self, embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
        linear_model = import_extra("sklearn.linear_model", "train")
        model = linear_model.LogisticRegression(
            C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=_MAX_ITERATIONS
        ).fit(embeddings, labels)
        coef, intercept = model.coef_, model.intercept_
        if len(coef) == 1:  # two categories: scikit-learn keeps the second one's logit only
            coef, intercept = np.vstack([0 * coef, coef]), np.append(0 * intercept, intercept)
        return {"coef": coef, "intercept": intercept}

    def _answer(self, embedding: FloatArray) -> FloatArray:
        logits = self.head_["coef"] @ embedding + self.head_["intercept"]
        exponentials = np.exp(logits - logits.max())
        return np.asarray(exponentials / exponentials.sum())
