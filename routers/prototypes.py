"""Typical prompts of every category, and how likely each category is by what lies nearby.

A linear head draws one boundary; prototypes also know the small groups of prompts on the wrong side
of it. Averaged, the two are more accurate than either.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from routers.arrays import AnyArray, IntArray, Rows
from routers.base import FloatArray
from routers.extras import import_extra

_MOST_PER_CATEGORY = 400
_BANDWIDTH = 0.03
_INT8_MAX = 127


def fit_prototypes(embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
    """Group the prompts of every category by k-means; needs scikit-learn (extra ``train``).

    Parameters
    ----------
    embeddings : ndarray, shape (n_texts, n_dims)
        Rows of unit length.
    labels : ndarray of int, shape (n_texts,)
        Indices of categories, none left out.

    Returns
    -------
    dict
        ``prototypes`` int8 (n_prototypes, n_dims), category by category, each row by its own scale;
        ``prototype_log_weights`` (n_prototypes,), half the logarithm of how many prompts a
        prototype stands for; ``prototype_starts`` (n_categories,), first row of every category;
        ``prototype_bandwidth`` (1,): a prototype whose cosine similarity is this much smaller
        weighs 1/e as much.
    """
    groups = [_centres(embeddings[labels == index]) for index in range(labels.max() + 1)]
    centres = np.concatenate([centres for centres, _ in groups])
    sizes = np.concatenate([sizes for _, sizes in groups])
    scale = _INT8_MAX / np.maximum(np.abs(centres).max(axis=1, keepdims=True), 1e-12)
    return {
        "prototypes": np.round(centres * scale).astype(np.int8),
        "prototype_log_weights": 0.5 * np.log(sizes),
        "prototype_starts": np.cumsum([0, *(len(centres) for centres, _ in groups[:-1])]),
        "prototype_bandwidth": np.array([_BANDWIDTH]),
    }


class Prototypes:
    """What `fit_prototypes` found, ready to answer with."""

    def __init__(self, arrays: Mapping[str, AnyArray]) -> None:
        rows = arrays["prototypes"].astype(np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        self._rows = Rows(rows / np.maximum(norms, 1e-12))
        self._log_weights = arrays["prototype_log_weights"]
        self._starts = arrays["prototype_starts"]
        if "prototype_bandwidth" not in arrays:
            raise ValueError("an earlier version made it: train it again")
        self._bandwidth = float(arrays["prototype_bandwidth"][0])

    def proba(self, embedding: FloatArray) -> FloatArray:
        """Return the probability of every category, shape (n_categories,)."""
        logs = (self._rows @ embedding) / self._bandwidth + self._log_weights
        votes = np.add.reduceat(np.exp(logs - logs.max()), self._starts)
        return np.asarray(votes / votes.sum())


def _centres(embeddings: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the centres of a category's groups and how many prompts are in each."""
    distinct = np.unique(embeddings, axis=0)
    k_means = import_extra("sklearn.cluster", "train").MiniBatchKMeans(
        min(_MOST_PER_CATEGORY, len(distinct)), random_state=0, n_init=1
    )
    groups = k_means.fit_predict(embeddings)
    sizes = np.bincount(groups, minlength=k_means.n_clusters)
    return k_means.cluster_centers_[sizes > 0], sizes[sizes > 0].astype(np.float64)
