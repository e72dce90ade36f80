"""Hashed words, word pairs and letters, and logistic regression: the cheapest router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np

from routers.arrays import AnyArray, IntArray
from routers.base import FloatArray
from routers.extras import import_extra
from routers.progress import Progress, silent
from routers.skimming import SkimmingRouter, skimmed, words_of

_WORD_BITS = 18
"""Words and pairs fall into 2^18 buckets, runs of letters into twice as many behind them: what the
prompts of the default router hold fills three tenths of them."""
_KINDS_OF_BUCKETS = 3
"""All buckets, in units of those of words."""
_FNV_PRIME, _KNUTH = 16777619, np.uint32(2654435761)
_RUN = np.array([pow(_FNV_PRIME, n, 1 << 32) for n in (3, 2, 1, 0)], dtype=np.uint32)
"""What each letter of a run of four is multiplied with; their sum modulo 2^32 is its hash."""
_INVERSE_REGULARISATION = 10.0
_MAX_ITERATIONS = 50
"""It stops early: the rest of the way is for what only the training prompts have."""
_INT8_MAX = 127


class BagRouter(SkimmingRouter):
    """Logistic regression on which words, word pairs and runs of four letters a prompt holds.

    Their order, case and repetition are lost; it answers in a tenth of a millisecond. Runs of
    letters know a word that is bent or typed wrongly. Of a long text it reads the first 600 and the
    last 300 characters. Fitting needs scipy (extra ``train``), answering numpy only.

    References
    ----------
    Feature hashing (arXiv 0902.2206); bags of word pairs (arXiv 1607.01759) and of runs of letters
    (arXiv 1607.04606).
    """

    type = "bag"

    def imitate(
        self,
        texts: Sequence[str],
        probabilities: FloatArray,
        categories: tuple[str, ...],
        progress: Progress = silent,
    ) -> Self:
        """See `routers.skimming.SkimmingRouter.imitate`."""
        features = _features(texts, progress)
        seen = np.flatnonzero(features.sum(axis=0))
        seen_coef, intercept = _regression(features[:, seen], probabilities)
        scale = np.maximum(np.abs(seen_coef).max(axis=0), 1e-12) / _INT8_MAX
        coef = np.zeros((features.shape[1], len(categories)), dtype=np.int8)
        coef[seen] = np.round(seen_coef / scale)
        self._set_head({"coef": coef, "scale": scale, "intercept": intercept}, categories)
        return self

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        super()._set_head(head, categories)
        if head:
            self._scale, self._intercept = head["scale"].tolist(), head["intercept"].tolist()
        # buckets that no text fell into hold no parameters
        n_params = sum(int(np.count_nonzero(array)) for array in self.head_.values())
        self.active_params_b = n_params / 1e9

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        router = cls(name)
        router._restore(folder, categories, settings["temperature"])
        n_buckets = len(router.head_["coef"])
        if n_buckets != _KINDS_OF_BUCKETS << _word_bits(n_buckets):
            raise ValueError(f"coef must have 3 * 2^n rows; got {n_buckets}")
        return router

    def _logits(self, text: str) -> list[float]:
        coef = self.head_["coef"]
        words, runs = _buckets(text, _word_bits(len(coef)))
        of_words, of_runs = (
            np.add.reduce(coef.take(buckets, axis=0), axis=0, dtype=np.int32).tolist()
            for buckets in (words, runs)
        )
        word, run = _value(words), _value(runs)
        return [
            (word * from_words + run * from_runs) * scale + intercept
            for from_words, from_runs, scale, intercept in zip(
                of_words, of_runs, self._scale, self._intercept, strict=True
            )
        ]


def _regression(features: Any, targets: FloatArray) -> tuple[FloatArray, FloatArray]:  # noqa: ANN401
    """Fit a multinomial logistic regression to weighted rows of probabilities, by L-BFGS.

    Parameters
    ----------
    features : sparse matrix, shape (n_texts, n_features)
    targets : ndarray, shape (n_texts, n_categories)

    Returns
    -------
    coef : ndarray, shape (n_features, n_categories)
    intercept : ndarray, shape (n_categories,)
    """
    optimize = import_extra("scipy.optimize", "train")
    n_texts, n_features = features.shape
    counts = targets.sum(axis=1, keepdims=True)
    transposed = features.T.tocsr()
    penalty = 1.0 / (_INVERSE_REGULARISATION * n_texts)

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        coef = flat.astype(np.float32).reshape(n_features + 1, -1)
        logits = features @ coef[:-1] + coef[-1]
        logits -= np.logaddexp.reduce(logits, axis=1, keepdims=True)
        wrong = (counts * np.exp(logits) - targets).astype(np.float32) / n_texts
        gradient = np.vstack([transposed @ wrong + penalty * coef[:-1], wrong.sum(axis=0)])
        value = penalty / 2 * (coef[:-1] ** 2).sum() - (targets * logits).sum() / n_texts
        return float(value), gradient.ravel().astype(np.float64)

    start = np.zeros((n_features + 1) * targets.shape[1])
    options = {"maxiter": _MAX_ITERATIONS}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    coef = found.x.reshape(n_features + 1, -1)
    return coef[:-1], coef[-1]


def _features(texts: Sequence[str], progress: Progress) -> Any:  # noqa: ANN401
    """Return a sparse matrix, shape (n_texts, n_buckets): words and runs each of unit length."""
    sparse = import_extra("scipy.sparse", "train")
    columns: list[IntArray] = []
    values: list[AnyArray] = []
    ends = [0]
    for number, text in enumerate(texts, start=1):
        buckets = _buckets(text, _WORD_BITS)
        columns.extend(np.sort(some) for some in buckets)
        values.extend(np.full(len(some), _value(some), dtype=np.float32) for some in buckets)
        ends.append(ends[-1] + sum(map(len, buckets)))
        progress("counting words", number, len(texts))
    cells = (np.concatenate(values), np.concatenate(columns), ends)
    return sparse.csr_array(cells, (len(texts), _KINDS_OF_BUCKETS << _WORD_BITS))


def _word_bits(n_buckets: int) -> int:
    """Return the n of the 2^n buckets of words among all."""
    return (n_buckets // _KINDS_OF_BUCKETS).bit_length() - 1


def _buckets(text: str, word_bits: int) -> tuple[IntArray, IntArray]:
    """Return the buckets of a text's words and pairs, and of its runs of letters, each once."""
    words = words_of(skimmed(text))
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    n_word_buckets = 1 << word_bits
    word_buckets = {crc32(feature.encode()) % n_word_buckets for feature in (*words, *pairs)}
    runs = _run_hashes(" ".join(words), word_bits + 1).astype(np.int64) + n_word_buckets
    return np.fromiter(word_buckets, np.int64), runs


def _run_hashes(text: str, bits: int) -> AnyArray:
    """Return the hashes of all runs of four letters, each once, in [0, 2^bits), as uint32."""
    letters = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    if len(letters) < len(_RUN):
        return np.zeros(0, dtype=np.uint32)
    hashes = np.sort((np.correlate(letters, _RUN, "valid") * _KNUTH) >> np.uint32(32 - bits))
    is_new = np.empty(len(hashes), dtype=np.bool_)
    is_new[0] = True
    np.not_equal(hashes[1:], hashes[:-1], out=is_new[1:])
    return hashes[is_new]


def _value(buckets: IntArray) -> float:
    """Return the value of each feature that gives them unit length together."""
    return 1.0 / sqrt(max(len(buckets), 1))
