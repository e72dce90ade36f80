"""An encoder fine-tuned end to end with its head: the BERT router of MoDEM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from routers.encoder import SentenceEncoder
from routers.linear import LinearRouter
from routers.progress import Progress, silent
from routers.tempered import indexed


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
    """A linear router whose encoder learns too.

    Fitting needs torch and sentence-transformers (extra ``finetune``), answering neither.

    Parameters
    ----------
    encoder : SentenceEncoder
        The exported base; `fit` replaces it.
    name : str
        See `routers.base.Router`.
    recipe : Recipe or None
        None, as after `load`: `fit` learns the head only.

    References
    ----------
    MoDEM (arXiv 2410.07490).
    """

    type = "finetuned"

    def __init__(self, encoder: SentenceEncoder, name: str, recipe: Recipe | None = None) -> None:
        super().__init__(encoder, name)
        self.recipe = recipe

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        if self.recipe is None:
            return super().fit(texts, labels, progress)
        from routers.finetune import finetune

        categories, indices = indexed(labels)
        head = finetune(self.encoder, self.recipe, texts, indices, progress)
        self.encoder = SentenceEncoder(self.recipe.folder, self.encoder.max_tokens)
        self._set_head(head, categories)
        return self
