"""Weak then strong: the strong router is asked only when the cheap one is not sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from routers.arrays import IntArray
from routers.base import FloatArray, encoder_digest, predict_and_embed
from routers.metrics import label_indices
from routers.progress import Progress, silent
from routers.registry import StoredRouter, router_class
from routers.tempered import content_version

_ACCURACY_GIVEN_UP = 0.005
_PARTS = ("cheap", "strong")


class CascadeRouter:
    """Answers with the cheap router when its calibrated confidence is high enough.

    Parameters
    ----------
    cheap, strong : StoredRouter
        Over the same categories.
    name : str
        See `routers.base.Router`.

    Attributes
    ----------
    name, version, categories_, active_params_b
        See `routers.base.Router`; the parameters are what an average held-out prompt used.
    escalate_below : float
        Confidence of the cheap router, in [0, 1], under which the strong one answers; the lowest
        with which calibration lost no more than 0.005 of the strong router's accuracy.
    escalated : float
        Share of held-out prompts that the strong router answered.
    min_margin : float
        See `routers.registry.StoredRouter`.

    References
    ----------
    Mixture of weak and strong experts (arXiv 2311.05185).
    """

    type: ClassVar[str] = "cascade"

    def __init__(self, cheap: StoredRouter, strong: StoredRouter, name: str) -> None:
        self.cheap = cheap
        self.strong = strong
        self.name = name
        self._set_escalation(escalate_below=1.0, escalated=1.0)

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        self.cheap.fit(texts, labels, progress)
        self.strong.fit(texts, labels, progress)
        self._set_escalation(escalate_below=1.0, escalated=1.0)
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        probabilities = self.cheap.predict_proba(texts)
        unsure = np.flatnonzero(probabilities.max(axis=1) < self.escalate_below)
        if len(unsure):
            probabilities[unsure] = self.strong.predict_proba(
                [texts[index] for index in unsure.tolist()]
            )
        return probabilities

    @property
    def encoder_digest(self) -> str | None:
        """See `routers.base.EncodingRouter`."""
        return encoder_digest(self.strong)

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """See `routers.base.EncodingRouter.predict_and_embed`; only the strong router embeds."""
        row: FloatArray = self.cheap.predict_proba([text])[0]
        if row.max() < self.escalate_below:
            return predict_and_embed(self.strong, text)
        return row, None

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = silent,
    ) -> FloatArray:
        """See `routers.registry.StoredRouter.calibrate`."""
        cheap = self.cheap.calibrate(texts, labels, weights, progress)
        strong = self.strong.calibrate(texts, labels, weights, progress)
        truth = label_indices(labels, self.categories_)
        threshold = choose_escalation(cheap, strong, truth)
        unsure = cheap.max(axis=1) < threshold
        self._set_escalation(threshold, float(unsure.mean()))
        return np.where(unsure[:, np.newaxis], strong, cheap)

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        settings: dict[str, Any] = {
            "escalate_below": self.escalate_below,
            "escalated": self.escalated,
        }
        for part, router in zip(_PARTS, (self.cheap, self.strong), strict=True):
            (folder / part).mkdir()
            settings[part] = {"type": router.type, "settings": router.write(folder / part)}
        return settings

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        cheap, strong = (
            router_class(settings[part]["type"]).load(
                folder / part, name, categories, settings[part]["settings"]
            )
            for part in _PARTS
        )
        router = cls(cheap, strong, name)
        router._set_escalation(settings["escalate_below"], settings["escalated"])
        return router

    def _set_escalation(self, escalate_below: float, escalated: float) -> None:
        self.categories_ = self.cheap.categories_
        self.escalate_below = escalate_below
        self.escalated = escalated
        self.min_margin = 0.0
        self.active_params_b = self.cheap.active_params_b + escalated * self.strong.active_params_b
        self.version = content_version(
            self.cheap.version, self.strong.version, repr(escalate_below)
        )


def choose_escalation(cheap: FloatArray, strong: FloatArray, truth: IntArray) -> float:
    """Find the lowest confidence at which the cheap router may answer alone.

    Parameters
    ----------
    cheap, strong : ndarray, shape (n_texts, n_categories)
        Calibrated probabilities of held-out texts.
    truth : ndarray of int, shape (n_texts,)
        Column of every text's category.

    Returns
    -------
    float
        In [0, 1]; 1 when the strong router must answer nearly everything.
    """
    confidence = cheap.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    gain = (cheap.argmax(axis=1) == truth).astype(int) - (strong.argmax(axis=1) == truth)
    lost = -np.cumsum(gain[order]) / len(truth)
    allowed = np.flatnonzero(lost <= _ACCURACY_GIVEN_UP)
    return float(confidence[order[allowed[-1]]]) if len(allowed) else 1.0
