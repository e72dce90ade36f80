"""Embedding and nearest neighbours, as in Composition of Experts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from routers.arrays import AnyArray, IntArray
from routers.base import FloatArray
from routers.embedding import EmbeddingRouter

_N_NEIGHBOURS = 20
_BANDWIDTH = 0.1
"""A neighbour whose cosine similarity is this much smaller weighs 1/e as much."""
_UNIFORM_WEIGHT = 0.1
"""Weight of knowing nothing, where a neighbour with the same embedding weighs 1."""
_SCALE = 127


class KnnRouter(EmbeddingRouter):
    """Weighted vote of the 20 nearest training prompts by cosine similarity.

    Close neighbours weigh more, and a uniform row is mixed in with a fixed weight: a prompt that
    is far from everything, or whose neighbours disagree, gets a flat row and so a low confidence.
    Embeddings are kept as int8, and a category weighs as much as its share of the training rows.

    References
    ----------
    k nearest neighbours with distance and entropy: Composition of Experts (arXiv 2412.01868).
    """

    type = "knn"

    def _learn(self, embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
        return {
            "embeddings": np.round(embeddings * _SCALE).astype(np.int8),
            "labels": labels.astype(np.int16),
        }

    def _answer(self, embedding: FloatArray) -> FloatArray:
        similarities = self._index @ embedding.astype(np.float32)
        n_neighbours = min(_N_NEIGHBOURS, len(similarities))
        nearest = np.argpartition(-similarities, n_neighbours - 1)[:n_neighbours]
        weights = np.exp((similarities[nearest].astype(np.float64) - 1.0) / _BANDWIDTH)
        n_categories = len(self.categories_)
        votes = np.bincount(self.head_["labels"][nearest], weights, n_categories)
        votes += _UNIFORM_WEIGHT * weights.max() / n_categories  # TODO
        return np.asarray(votes / votes.sum())

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        super()._set_head(head, categories)
        if head:
            self._index = head["embeddings"].astype(np.float32) / _SCALE
