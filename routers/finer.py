"""Finer categories: a forest that parts prompts where the experts' scores part.

Fitting and answering need scikit-learn (extra ``train``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from routers.arrays import IntArray
from routers.base import FloatArray
from routers.estimate import estimate, one_hot
from routers.extras import import_extra

_N_TREES = 300
_N_DIRECTIONS = 40
"""Principal directions of the embeddings that the trees may part along."""
_SMALLEST_LEAVES = (10, 20, 40)
_FEATURE_SHARE = 0.5
_N_FOLDS = 5
_INVERSE_REGULARISATION = 5.0
_SURFACE_SCALE, _SURFACE_MOST = 6.0, 4.0
"""Standardised surface features are cut at 4 and divided by 6, to weigh like an embedding."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is known of prompts before they are answered.

    Attributes
    ----------
    embeddings : ndarray of float64, shape (n_prompts, n_dims)
        Of unit length; see `routers.encoder`.
    surface : ndarray of float64, shape (n_prompts, n_features)
        See `routers.surface`.
    """

    embeddings: FloatArray
    surface: FloatArray

    def __len__(self) -> int:
        return len(self.embeddings)

    def rows(self, indices: IntArray) -> Prompts:
        """Return some of the prompts."""
        return Prompts(self.embeddings[indices], self.surface[indices])


class SoftCategories:
    """The plain map: predicted categories, and a table of expected scores by category.

    Parameters
    ----------
    sees_form : bool
        Whether the classifier sees the form of a prompt beside its embedding. A trained linear
        router does not.
    """

    def __init__(self, sees_form: bool) -> None:
        self.sees_form = sees_form

    def fit(self, prompts: Prompts, labels: Sequence[str], scores: FloatArray) -> Self:
        """Learn to tell the categories, and how each expert does in them."""
        self.categories_ = tuple(sorted(set(labels)))
        self._centre = prompts.surface.mean(axis=0)
        self._spread = prompts.surface.std(axis=0) + 1e-9
        self._classifier = self._trained(prompts, labels)
        members = one_hot(labels, self.categories_)
        experts = [str(column) for column in range(scores.shape[1])]
        self.table_ = estimate(scores, members, self.categories_, experts).expected_score
        return self

    def predict_proba(self, prompts: Prompts) -> FloatArray:
        """Return the probability of every category, shape (n_prompts, n_categories)."""
        return self._answers(self._classifier, prompts)

    def expected(self, prompts: Prompts) -> FloatArray:
        """Return expected scores, shape (n_prompts, n_experts)."""
        return np.asarray(self.predict_proba(prompts) @ self.table_)

    def out_of_fold(self, prompts: Prompts, labels: Sequence[str], seed: int) -> FloatArray:
        """Return what `predict_proba` would say of the fitted prompts had it not seen them."""
        folds = np.random.default_rng(seed).integers(0, _N_FOLDS, len(prompts))
        probabilities = np.zeros((len(prompts), len(self.categories_)))
        for fold in range(_N_FOLDS):
            inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            if len(outside):
                classifier = self._trained(prompts.rows(inside), [labels[int(i)] for i in inside])
                probabilities[outside] = self._answers(classifier, prompts.rows(outside))
        return probabilities

    def _trained(self, prompts: Prompts, labels: Sequence[str]) -> Any:  # noqa: ANN401
        if len(set(labels)) == 1:
            return labels[0]
        linear_model = import_extra("sklearn.linear_model", "train")
        model = linear_model.LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=200, tol=1e-3)
        return model.fit(self._features(prompts), list(labels))

    def _answers(self, classifier: Any, prompts: Prompts) -> FloatArray:  # noqa: ANN401
        if isinstance(classifier, str):
            return one_hot([classifier] * len(prompts), self.categories_)
        probabilities = np.zeros((len(prompts), len(self.categories_)))
        columns = [self.categories_.index(name) for name in classifier.classes_]
        probabilities[:, columns] = classifier.predict_proba(self._features(prompts))
        return probabilities

    def _features(self, prompts: Prompts) -> FloatArray:
        if not self.sees_form:
            return prompts.embeddings
        standard = (prompts.surface - self._centre) / self._spread
        form = np.clip(standard, -_SURFACE_MOST, _SURFACE_MOST) / _SURFACE_SCALE
        return np.hstack([prompts.embeddings, form])


class FinerCategories:
    """The soft category table, blended with a forest of finer categories.

    Every tree parts the prompts by category, form and embedding wherever the *differences* between
    the experts' scores part, and keeps a part only if it holds enough prompts: its leaves are
    finer categories, kept where they pay. What a prompt may expect is the mean over the trees'
    leaves, blended half and half with the table of `SoftCategories`. The prompts that a tree did
    not see choose the smallest leaf, and calibrate the forest: they say how far its departures from
    the experts' overall scores are to be trusted.

    References
    ----------
    Extremely randomised trees: doi:10.1007/s10994-006-6226-1.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, prompts: Prompts, labels: Sequence[str], scores: FloatArray) -> Self:
        """Learn from prompts, their categories, and scores, shape (n_prompts, n_experts)."""
        self.plain_ = SoftCategories(sees_form=True).fit(prompts, labels, scores)
        decomposition = import_extra("sklearn.decomposition", "train")
        n_directions = min(_N_DIRECTIONS, *prompts.embeddings.shape)
        self._directions = decomposition.PCA(n_directions, random_state=self.seed)
        self._directions.fit(prompts.embeddings)
        features = self._features(prompts, self.plain_.out_of_fold(prompts, labels, self.seed))
        own = scores - scores.mean(axis=1, keepdims=True)
        leaves = [leaf for leaf in _SMALLEST_LEAVES if 4 * leaf <= len(prompts)] or [1]
        forests = [self._forest(features, own, leaf) for leaf in leaves]
        errors = [((forest.oob_prediction_ - own) ** 2).mean() for forest in forests]
        self.forest_ = forests[int(np.argmin(errors))]
        self._overall = scores.mean(axis=0)
        self._trust = _slope(self.forest_.oob_prediction_ - own.mean(axis=0), own)
        return self

    def expected(self, prompts: Prompts) -> FloatArray:
        """Return expected scores, shape (n_prompts, n_experts).

        Differences between experts are what is learned; the level of a prompt is only the mean.
        """
        features = self._features(prompts, self.plain_.predict_proba(prompts))
        apart = self.forest_.predict(features) - (self._overall - self._overall.mean())
        finer = self._overall + self._trust * apart
        return np.asarray((finer + self.plain_.expected(prompts)) / 2)

    def _features(self, prompts: Prompts, probabilities: FloatArray) -> FloatArray:
        directions = self._directions.transform(prompts.embeddings)
        return np.hstack([directions, prompts.surface, probabilities])

    def _forest(self, features: FloatArray, own: FloatArray, smallest_leaf: int) -> Any:  # noqa: ANN401
        ensemble = import_extra("sklearn.ensemble", "train")
        forest = ensemble.ExtraTreesRegressor(
            _N_TREES,
            min_samples_leaf=smallest_leaf,
            max_features=_FEATURE_SHARE,
            bootstrap=True,
            oob_score=True,
            random_state=self.seed,
        )
        return forest.fit(features, own)


def _slope(apart: FloatArray, own: FloatArray) -> float:
    """Return the slope of what is so on what was expected, both as departures from the mean."""
    power = float((apart**2).sum())
    return float((apart * (own - own.mean(axis=0))).sum()) / power if power > 0 else 0.0
