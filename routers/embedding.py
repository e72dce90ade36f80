"""What the routers share that see a text only through its embedding."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from routers.arrays import AnyArray, digest_arrays, read_arrays, write_arrays
from routers.base import FloatArray
from routers.encoder import SentenceEncoder

HEAD_FILE = "head.npz"
IntArray = npt.NDArray[np.int64]


class EmbeddingRouter(ABC):
    """An encoder, and a head that turns one embedding into probabilities.

    A subclass says how its head learns and answers.

    Parameters
    ----------
    encoder : SentenceEncoder
        Turns texts into embeddings.
    name : str
        See `routers.base.Router`.

    Attributes
    ----------
    temperature : float
        Above 0; probabilities are raised to 1 / temperature and normalised.
    min_confidence : float
        Threshold in [0, 1] for `routers.base.decide`; 0 keeps every answer.
    """

    type: ClassVar[str]

    def __init__(self, encoder: SentenceEncoder, name: str) -> None:
        self.encoder = encoder
        self.name = name
        self._set_head({}, ())

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        return self.fit_embeddings(self.encoder.encode(texts, os.cpu_count() or 1), labels)

    def fit_embeddings(self, embeddings: FloatArray, labels: Sequence[str]) -> Self:
        """Learn from embeddings, shape (n_texts, n_dims), and their categories."""
        categories, indices = np.unique(np.asarray(labels), return_inverse=True)
        if len(categories) < 2:
            raise ValueError(f"labels must name two categories or more; got {list(categories)}")
        head = self._learn(embeddings, indices.astype(np.int64))
        self._set_head(head, tuple(str(category) for category in categories))
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        return self.predict_proba_embeddings(self.encoder.encode(texts))

    def predict_proba_embeddings(self, embeddings: FloatArray) -> FloatArray:
        """Answer for embeddings, shape (n_texts, n_dims), one by one: rows do not mix."""
        rows = [self._tempered(self._answer(embedding)) for embedding in embeddings]
        return np.array(rows).reshape(len(rows), len(self.categories_))

    def calibrate(self, temperature: float, min_confidence: float) -> None:
        """Set what calibration found; see the attributes of the same names."""
        self.temperature = temperature
        self.min_confidence = min_confidence
        parts = (self.type, *self.categories_, repr(temperature), self.encoder.digest)
        content = "\0".join((*parts, digest_arrays(self.head_)))
        self.version = hashlib.sha256(content.encode()).hexdigest()[:12]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the router's files into a folder; return the settings that `load` needs."""
        self.encoder.save(folder)
        write_arrays(folder / HEAD_FILE, self.head_)
        return {"max_tokens": self.encoder.max_tokens, "temperature": self.temperature}

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """Read what `write` wrote."""
        router = cls(SentenceEncoder(folder, settings["max_tokens"]), name)
        router._set_head(read_arrays(folder / HEAD_FILE), categories)
        router.calibrate(settings["temperature"], min_confidence=0.0)
        return router

    @abstractmethod
    def _learn(self, embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
        """Return what the head learns; labels are indices of categories, none left out."""

    @abstractmethod
    def _answer(self, embedding: FloatArray) -> FloatArray:
        """Return the head's row of probabilities for one embedding, shape (n_dims,)."""

    def _set_head(self, head: dict[str, AnyArray], categories: tuple[str, ...]) -> None:
        self.head_ = head
        self.categories_ = categories
        n_params = sum(array.size for array in head.values())
        self.active_params_b = self.encoder.active_params_b + n_params / 1e9
        self.calibrate(temperature=1.0, min_confidence=0.0)

    def _tempered(self, probabilities: FloatArray) -> FloatArray:
        powered = probabilities ** (1.0 / self.temperature)
        return np.asarray(powered / powered.sum())
