"""Embedding and nearest neighbours, as in Composition of Experts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from routers.arrays import AnyArray, IntArray, Rows
from routers.base import FloatArray
from routers.embedding import EmbeddingRouter

_N_NEIGHBOURS = 20
_BANDWIDTH = 0.1
"""A neighbour whose cosine similarity is this much smaller weighs 1/e as much."""
_FAR_PERCENTILE = 5
_SAMPLE = 1_000
_SCALE = 127


class KnnRouter(EmbeddingRouter):
    """Weighted vote of the 20 nearest training prompts by cosine similarity.

    Closer neighbours weigh more, as do those of a category that has few prompts: all prompts of a
    category weigh as much together as those of any other. And every category has a small vote of
    its own: as much together as one neighbour that is as far away as the last neighbours of
    outlying training prompts. So a prompt that is far from everything, or whose neighbours
    disagree, gets a flat row and a low confidence. Embeddings are kept as int8.

    References
    ----------
    k nearest neighbours with distance and entropy: Composition of Experts (arXiv 2412.01868).
    """

    type = "knn"

    def _learn(self, embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
        last = min(_N_NEIGHBOURS, len(embeddings) - 1)
        similarities = np.sort(embeddings[:_SAMPLE] @ embeddings.T, axis=1)[:, -1 - last]
        return {
            "embeddings": np.round(embeddings * _SCALE).astype(np.int8),
            "labels": labels.astype(np.int16),
            "far": np.percentile(similarities, [_FAR_PERCENTILE]),
            "vote": len(labels) / (np.bincount(labels) * (labels.max() + 1.0)),
        }

    def _answer(self, embedding: FloatArray) -> FloatArray:
        similarities = (self._index @ embedding).astype(np.float64)
        n_neighbours = min(_N_NEIGHBOURS, len(similarities))
        nearest = np.argpartition(-similarities, n_neighbours - 1)[:n_neighbours]
        n_categories = len(self.categories_)
        weights = _weight(similarities[nearest])
        cast = self._vote * np.bincount(self.head_["labels"][nearest], weights, n_categories)
        votes = cast + _weight(self.head_["far"]) / n_categories
        return np.asarray(votes / votes.sum())

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        super()._set_head(head, categories)
        if head:
            self._index = Rows(head["embeddings"] / _SCALE)
            self._vote = head.get("vote", np.ones(len(categories)))  # an earlier version has none


def _weight(similarity: FloatArray) -> FloatArray:
    return np.asarray(np.exp((similarity - 1.0) / _BANDWIDTH))
