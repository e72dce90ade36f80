"""What the routers share that see a text only through its embedding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from routers.arrays import AnyArray, IntArray
from routers.base import FloatArray, Window
from routers.calibrate import tempered
from routers.encoder import SentenceEncoder
from routers.progress import Progress, silent
from routers.tempered import TemperedRouter, content_version, indexed


class EmbeddingRouter(TemperedRouter):
    """An encoder, and a head that turns one embedding into probabilities.

    Parameters
    ----------
    encoder : SentenceEncoder
        Turns texts into embeddings.
    name : str
        See `routers.base.Router`.
    """

    def __init__(self, encoder: SentenceEncoder, name: str) -> None:
        self.encoder = encoder
        super().__init__(name)

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        categories, indices = indexed(labels)
        self._set_head(self._learn(self.encoder.encode(texts, progress), indices), categories)
        return self

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        self.encoder.save(folder)
        return {"max_tokens": self.encoder.max_tokens, **super().write(folder)}

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        router = cls(SentenceEncoder(folder, settings["max_tokens"]), name)
        router._restore(folder, categories, settings["temperature"])
        return router

    @property
    def encoder_digest(self) -> str:
        """See `routers.base.EncodingRouter`."""
        return self.encoder.digest

    @property
    def active_params_to_embed_b(self) -> float:
        """See `routers.base.EncodingRouter`."""
        return self.active_params_b

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """See `routers.base.EncodingRouter.predict_and_embed`."""
        (embedding,) = self.encoder.encode([text])
        (row,) = tempered(self._answer(embedding)[np.newaxis], self.temperature)
        return row, embedding

    def windows(self, text: str) -> tuple[Window, ...]:
        """See `routers.base.WindowedRouter.windows`; of the encoder."""
        read = self.encoder.read(text)
        return () if read.complete else (Window("encoder", read.head_chars, read.tail_chars),)

    @abstractmethod
    def _learn(self, embeddings: FloatArray, labels: IntArray) -> dict[str, AnyArray]:
        """Return what the head learns; labels are indices of categories, none left out."""

    @abstractmethod
    def _answer(self, embedding: FloatArray) -> FloatArray:
        """Return the head's row of probabilities for one embedding, shape (n_dims,)."""

    def _raw_proba(self, texts: Sequence[str], progress: Progress) -> FloatArray:
        rows = [self._answer(row) for row in self.encoder.encode(texts, progress)]
        return np.array(rows).reshape(len(rows), len(self.categories_))

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        super()._set_head(head, categories)
        self.active_params_b += self.encoder.active_params_b

    def _set_temperature(self, temperature: float) -> None:
        super()._set_temperature(temperature)
        self.version = content_version(self.version, self.encoder.digest)
