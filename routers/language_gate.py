"""A router for English behind a gate: prompts in other languages have a category of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from routers.arrays import BoolArray
from routers.base import (
    Deferred,
    FloatArray,
    active_params_to_embed_b,
    encoder_digest,
    predict_and_embed,
    predict_or_defer,
)
from routers.language import is_english, is_plainly_english
from routers.progress import Progress, silent
from routers.registry import StoredRouter, router_class
from routers.tempered import content_version


class LanguageGate:
    """Gives prompts that are not English to one category, and all others to a router.

    Parameters
    ----------
    router : StoredRouter
        Answers for English.
    foreign_category : str
        Category of prompts in other languages.

    Attributes
    ----------
    name, version, categories_, active_params_b, min_margin
        See `routers.registry.StoredRouter`.
    foreign_confidence : float
        Probability, in [0, 1], of `foreign_category` for prompts that are not English: how often
        that was their label on held-out prompts. What no held-out prompt speaks of stays as it is,
        be it this or the router for English.
    """

    type: ClassVar[str] = "language_gate"

    def __init__(self, router: StoredRouter, foreign_category: str) -> None:
        self.router = router
        self.foreign_category = foreign_category
        self.name = router.name
        self._set_foreign_confidence(1.0)

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        if self.foreign_category not in labels:
            raise ValueError(
                f"labels must hold the category {self.foreign_category!r} for prompts in other "
                f"languages; got {sorted(set(labels))}"
            )
        self.router.fit(texts, labels, progress)
        self._set_foreign_confidence(1.0)
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        english = _english(texts)
        probabilities = self._foreign_rows(len(texts))
        probabilities[english] = self.router.predict_proba(_chosen(texts, english))
        return probabilities

    def predict_or_defer(self, text: str) -> FloatArray | Deferred:
        """See `routers.base.QuickRouter.predict_or_defer`; the model of languages is deferred."""
        if is_plainly_english(text):
            return predict_or_defer(self.router, text)
        return lambda: self.predict_proba([text])[0]

    @property
    def encoder_digest(self) -> str | None:
        """See `routers.base.EncodingRouter`."""
        return encoder_digest(self.router)

    @property
    def active_params_to_embed_b(self) -> float:
        """See `routers.base.EncodingRouter`."""
        return active_params_to_embed_b(self.router)

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """See `routers.base.EncodingRouter.predict_and_embed`; other languages are not embedded."""
        if is_english(text):
            return predict_and_embed(self.router, text)
        return self._foreign_rows(1)[0], None

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = silent,
        answers: FloatArray | None = None,
    ) -> FloatArray:
        """See `routers.registry.StoredRouter.calibrate`."""
        english = _english(texts)
        said = [label == self.foreign_category for label in _chosen(labels, ~english)]
        if english.any():
            english_rows = self.router.calibrate(
                _chosen(texts, english),
                _chosen(labels, english),
                weights[english],
                progress,
                None if answers is None else answers[english],
            )
        rule_of_succession = (sum(said) + 1) / (len(said) + 2)
        self._set_foreign_confidence(rule_of_succession if said else self.foreign_confidence)
        probabilities = self._foreign_rows(len(texts))
        if english.any():
            probabilities[english] = english_rows
        return probabilities

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        return {
            "foreign_category": self.foreign_category,
            "foreign_confidence": self.foreign_confidence,
            "router": {"type": self.router.type, "settings": self.router.write(folder)},
        }

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        inner = settings["router"]
        router = router_class(inner["type"]).load(folder, name, categories, inner["settings"])
        gate = cls(router, settings["foreign_category"])
        gate._set_foreign_confidence(settings["foreign_confidence"])
        return gate

    def _foreign_rows(self, n_texts: int) -> FloatArray:
        n_categories = len(self.categories_)
        row = np.full(n_categories, (1.0 - self.foreign_confidence) / (n_categories - 1))
        row[self.categories_.index(self.foreign_category)] = self.foreign_confidence
        return np.tile(row, (n_texts, 1))

    def _set_foreign_confidence(self, foreign_confidence: float) -> None:
        self.categories_ = self.router.categories_
        self.active_params_b = self.router.active_params_b
        self.foreign_confidence = foreign_confidence
        self.min_margin = 0.0
        parts = (self.router.version, self.foreign_category, repr(foreign_confidence))
        self.version = content_version(*parts)


def _english(texts: Sequence[str]) -> BoolArray:
    return np.array([is_english(text) for text in texts], dtype=np.bool_)


def _chosen(items: Sequence[str], mask: BoolArray) -> list[str]:
    return [item for item, wanted in zip(items, mask, strict=True) if wanted]
