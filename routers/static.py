"""Static embeddings and a small network: what a prompt is about, without running an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from routers.arrays import AnyArray, Rows
from routers.base import FloatArray
from routers.encoder import SentenceEncoder
from routers.extras import import_extra
from routers.progress import Progress, silent
from routers.skimming import SkimmingRouter
from routers.tempered import content_version
from routers.tokens import TokenVectors

_N_HIDDEN = 512
_BATCH = 512
_ROWS_SEEN = 1_000_000
"""Fewer rows than this are gone through several times, up to `_MAX_EPOCHS`."""
_MAX_EPOCHS = 60
_LEAST_PROBABILITY = 0.02
"""A category that is less likely for a text than this is not taught, unless it is the likeliest."""


class StaticRouter(SkimmingRouter):
    """A network of one hidden layer on the mean of a prompt's token vectors.

    It answers in a tenth of a millisecond, and knows words that no training prompt held by their
    likeness to others. Of a long text it reads both ends. Fitting needs scikit-learn (extra
    ``train``), answering numpy and tokenizers only.

    Parameters
    ----------
    encoder : callable or None
        Called when the router learns, for the encoder whose token vectors it takes; None where
        `load` gives it vectors.
    name : str
        See `routers.base.Router`.

    References
    ----------
    Deep averaging networks (Iyyer et al. 2015, ACL); Model2Vec for token vectors from an encoder.
    """

    type = "static"

    def __init__(self, encoder: Callable[[], SentenceEncoder] | None, name: str) -> None:
        self._encoder = encoder
        self._tokens: TokenVectors | None = None
        super().__init__(name)

    def imitate(
        self,
        texts: Sequence[str],
        probabilities: FloatArray,
        categories: tuple[str, ...],
        progress: Progress = silent,
    ) -> Self:
        """See `routers.skimming.SkimmingRouter.imitate`."""
        if self._encoder is not None:
            self._tokens = TokenVectors.of(self._encoder(), progress)
        vectors = np.empty((len(texts), self.tokens.n_dims), dtype=np.float32)
        for number, text in enumerate(texts):
            vectors[number] = self.tokens.embed(text)
            progress("reading tokens", number + 1, len(texts))
        self._set_head(_learn(vectors, probabilities, progress), categories)
        return self

    @property
    def tokens(self) -> TokenVectors:
        """What each token means; there once the router has learned."""
        if self._tokens is None:
            raise ValueError("a static router must learn before it answers; call fit")
        return self._tokens

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        self.tokens.save(folder)
        return super().write(folder)

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        router = cls(None, name)
        router._tokens = TokenVectors.load(folder)
        router._restore(folder, categories, settings["temperature"])
        return router

    def _logits(self, text: str) -> list[float]:
        vector = self.tokens.embed(text)
        hidden = self._hidden @ vector
        hidden += self.head_["hidden_intercept"]
        logits = self._coef @ np.maximum(hidden, 0.0, out=hidden)
        logits += self.head_["intercept"]
        row: list[float] = logits.tolist()
        return row

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        super()._set_head(head, categories)
        if head:
            self._hidden, self._coef = Rows(self.head_["hidden"]), Rows(self.head_["coef"])
            self.active_params_b += self.tokens.n_params / 1e9

    def _set_temperature(self, temperature: float) -> None:
        super()._set_temperature(temperature)
        if self._tokens is not None:
            self.version = content_version(self.version, self._tokens.digest)


def _learn(vectors: AnyArray, probabilities: FloatArray, progress: Progress) -> dict[str, AnyArray]:
    """Train the network on weighted rows of probabilities.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n_texts, n_dims)
    probabilities : ndarray, shape (n_texts, n_categories)

    Returns
    -------
    dict
        ``hidden`` (n_hidden, n_dims), ``hidden_intercept`` (n_hidden,), ``coef`` (n_categories,
        n_hidden) and ``intercept`` (n_categories,), all float32.
    """
    neural_network = import_extra("sklearn.neural_network", "train")
    least = np.minimum(_LEAST_PROBABILITY * probabilities.sum(axis=1), probabilities.max(axis=1))
    rows, columns = np.nonzero(probabilities >= least[:, np.newaxis])
    weights = probabilities[rows, columns]
    n_epochs = int(np.clip(round(_ROWS_SEEN / len(rows)), 1, _MAX_EPOCHS))
    network = neural_network.MLPClassifier(
        (_N_HIDDEN,), batch_size=min(_BATCH, len(rows)), random_state=0
    )
    classes = np.arange(probabilities.shape[1])
    taught = vectors[rows]
    for epoch in range(n_epochs):
        network.partial_fit(taught, columns, sample_weight=weights, classes=classes)
        progress("learning from tokens", epoch + 1, n_epochs)
    hidden, coef = (matrix.T for matrix in network.coefs_)
    hidden_intercept, intercept = network.intercepts_
    if len(coef) == 1:  # of two categories scikit-learn keeps the second one's logit only
        coef, intercept = np.vstack([0 * coef, coef]), np.append(0.0, intercept)
    learned = {
        "hidden": hidden,
        "hidden_intercept": hidden_intercept,
        "coef": coef,
        "intercept": intercept,
    }
    return {name: array.astype(np.float32) for name, array in learned.items()}
