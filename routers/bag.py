"""Hashed words and word pairs, and logistic regression: the cheapest router, without an encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np

from routers.arrays import IntArray
from routers.base import FloatArray
from routers.extras import import_extra
from routers.linear import logistic_regression, softmax
from routers.progress import Progress, silent
from routers.tempered import TemperedRouter, indexed

_N_BUCKETS = 1 << 16
_END_CHARS = 4_000
"""Characters read from either end of a text."""
_WORD = re.compile(r"\w+|[^\w\s]")


class BagRouter(TemperedRouter):
    """Logistic regression on which words and word pairs a prompt holds.

    Order, case and repetition are lost, unknown words say nothing; it answers in tens of
    microseconds. Fitting needs scikit-learn (extra ``train``), answering numpy only.

    References
    ----------
    Feature hashing (arXiv 0902.2206); bags of word pairs (arXiv 1607.01759).
    """

    type = "bag"

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        sparse = import_extra("scipy.sparse", "train")
        categories, indices = indexed(labels)
        rows = [_buckets(text) for text in texts]
        seen, columns = np.unique(np.concatenate(rows), return_inverse=True)
        values = np.concatenate([np.full(len(row), _scale(row)) for row in rows])
        ends = np.cumsum([0, *map(len, rows)])
        features = sparse.csr_array((values, columns, ends), (len(rows), len(seen)))
        seen_coef, intercept = logistic_regression(features, indices)
        coef = np.zeros((_N_BUCKETS, len(categories)), dtype=np.float32)
        coef[seen] = seen_coef.T
        self._set_head({"coef": coef, "intercept": intercept}, categories)
        progress("counting words", len(rows), len(rows))
        return self

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        router = cls(name)
        router._restore(folder, categories, settings["temperature"])
        return router

    def _raw_proba(self, texts: Sequence[str], progress: Progress) -> FloatArray:
        rows = [self._answer(_buckets(text)) for text in texts]
        return np.array(rows).reshape(len(rows), len(self.categories_))

    def _answer(self, buckets: IntArray) -> FloatArray:
        weights = self.head_["coef"][buckets].sum(axis=0, dtype=np.float64)
        return softmax(weights * _scale(buckets) + self.head_["intercept"])


def _buckets(text: str) -> IntArray:
    """Return the buckets of a text's words and word pairs, sorted, each once."""
    read = text if len(text) <= 2 * _END_CHARS else f"{text[:_END_CHARS]} {text[-_END_CHARS:]}"
    words = _WORD.findall(read.lower())
    features = {*words, *(f"{first} {second}" for first, second in pairwise(words))}
    hashes = {crc32(feature.encode("utf-8", "replace")) % _N_BUCKETS for feature in features}
    return np.array(sorted(hashes), dtype=np.int64)


def _scale(buckets: IntArray) -> float:
    """Return the value of each feature that gives the text's vector unit length."""
    return float(1.0 / np.sqrt(max(len(buckets), 1)))
