"""What the quick routers share: how much of a text they read, and learning from another router."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np

from routers.base import FloatArray, Window, both_ends
from routers.calibrate import tempered_row
from routers.linear import softmax
from routers.progress import Progress, silent
from routers.tempered import TemperedRouter, indexed

_HEAD_CHARS, _TAIL_CHARS = 600, 300
"""Characters read from the start and from the end of a text."""
_LONG_NUMBER = re.compile(r"[0-9]{5,}")
_WORD = re.compile(r"\w+|[^\w\s]")


def skimmed(text: str) -> str:
    """Return what the quick routers read of a text.

    Of a long one its first and last characters, and of a number of five digits or more one digit:
    its pieces would count as much as all words of a short prompt.
    """
    if len(text) > _HEAD_CHARS + _TAIL_CHARS:
        text = f"{text[:_HEAD_CHARS]} {text[-_TAIL_CHARS:]}"
    # half a surrogate pair is legal in a str but in no encoding of it
    return _LONG_NUMBER.sub("9", text.encode("utf-8", "replace").decode("utf-8"))


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case."""
    return _WORD.findall(text.lower())


class SkimmingRouter(TemperedRouter):
    """A router that skims a text and answers in a fraction of a millisecond.

    Subclasses say how they imitate and how they answer. Where the rest of a request takes a
    millisecond, every call counts: one text is answered in as few as there can be.
    """

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`; every category weighs the same."""
        categories, indices = indexed(labels)
        balanced = len(indices) / (len(categories) * np.bincount(indices))
        return self.imitate(texts, np.diag(balanced)[indices], categories, progress)

    @abstractmethod
    def imitate(
        self,
        texts: Sequence[str],
        probabilities: FloatArray,
        categories: tuple[str, ...],
        progress: Progress = silent,
    ) -> Self:
        """Learn another router's rows of probabilities for texts, in place of labels.

        Parameters
        ----------
        texts : sequence of str, length n_texts
        probabilities : ndarray, shape (n_texts, n_categories)
            The sum of a row is how much its text counts.
        categories : tuple of str, length n_categories
        progress : Progress

        References
        ----------
        Distillation (arXiv 1503.02531).
        """

    def predict_or_defer(self, text: str) -> FloatArray:
        """See `routers.base.QuickRouter.predict_or_defer`; nothing is deferred."""
        return tempered_row(softmax(self._logits(text)), self.temperature)

    def windows(self, text: str) -> tuple[Window, ...]:
        """See `routers.base.WindowedRouter.windows`."""
        return both_ends(self.type, text, _HEAD_CHARS, _TAIL_CHARS)

    @abstractmethod
    def _logits(self, text: str) -> list[float]:
        """Return the logits of one text at temperature 1, for each category."""

    def _raw_proba(self, texts: Sequence[str], progress: Progress) -> FloatArray:
        rows = [softmax(self._logits(text)) for text in texts]
        return np.array(rows).reshape(len(rows), len(self.categories_))
