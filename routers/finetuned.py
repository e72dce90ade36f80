"""An encoder fine-tuned end to end with its head: the BERT router of MoDEM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from routers.arrays import AnyArray
from routers.base import FloatArray
from routers.data import capped
from routers.encoder import SentenceEncoder
from routers.linear import LinearRouter
from routers.progress import Progress, silent
from routers.prototypes import Prototypes, fit_prototypes
from routers.tempered import indexed

_TEXTS_PER_CATEGORY = 2_000
"""Most texts of a category that prototypes are learned from."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What fine-tuning needs besides prompts.

    Attributes
    ----------
    base : str
        Folder or Hugging Face name of the sentence-transformers encoder to start from.
    folder : Path
        Where the new encoder is written; must outlive the router until that is saved.
    seed : int
        Decides order, dropout and augmentation.
    """

    base: str
    folder: Path
    seed: int = 0


class FinetunedRouter(LinearRouter):
    """A linear router whose encoder learns too, averaged with prototypes of every category.

    Fitting needs scikit-learn (extra ``train``), and the encoder's part torch and
    sentence-transformers (extra ``finetune``); answering needs none of them.

    Parameters
    ----------
    encoder : SentenceEncoder
        The exported base; `fit` replaces it.
    name : str
        See `routers.base.Router`.
    recipe : Recipe or None
        None: the encoder stays as it is, `fit` learns head and prototypes.

    References
    ----------
    MoDEM (arXiv 2410.07490).
    """

    type = "finetuned"

    def __init__(self, encoder: SentenceEncoder, name: str, recipe: Recipe | None = None) -> None:
        self.recipe = recipe
        super().__init__(encoder, name)

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        categories, indices = indexed(labels)
        if self.recipe is not None:
            from routers.finetune import finetune

            finetune(self.encoder, self.recipe, texts, indices, progress)
            self.encoder = SentenceEncoder(self.recipe.folder, self.encoder.max_tokens)
        embeddings = self.encoder.encode(texts, progress)
        chosen = capped(range(len(texts)), _TEXTS_PER_CATEGORY, lambda i: labels[i], seed=0)
        prototypes = fit_prototypes(embeddings[chosen], indices[chosen])
        self._set_head({**self._learn(embeddings, indices), **prototypes}, categories)
        return self

    def _answer(self, embedding: FloatArray) -> FloatArray:
        head, prototypes = super()._answer(embedding), self._prototypes.proba(embedding)
        return np.asarray((head + prototypes) / 2)

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        super()._set_head(head, categories)
        if head:
            self._prototypes = Prototypes(head)
