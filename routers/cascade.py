"""Weak then strong: the strong router is asked only when the cheap one is not sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Self

import numpy as np

from routers.arrays import IntArray
from routers.augment import augment
from routers.bag import BagRouter
from routers.base import FloatArray, encoder_digest, predict_and_embed
from routers.calibrate import fit_temperature, log_loss, tempered
from routers.metrics import label_indices
from routers.progress import Progress, silent
from routers.registry import StoredRouter, router_class
from routers.tempered import content_version

_ACCURACY_GIVEN_UP = 0.001
_CHEAP_SHARES = tuple(tenths / 10 for tenths in range(6))
_LABEL_SHARE = 0.3
"""Weight of the labels in what the cheap router learns, beside the strong router's answers."""
_SHORT_CHARS = 90
_TEXTS_AT_ONCE = 256
_CHEAP_FOLDER = "cheap"
_UNCALIBRATED = {"escalate_below": 1.0, "escalated": 1.0, "cheap_share": 0.0, "temperature": 1.0}


class CascadeRouter:
    """Answers with the cheap router when its calibrated confidence is high enough.

    Elsewhere the strong router is asked, and the mean of both answers: they err differently. The
    cheap router learns the strong one's answers, mixed with the labels; from changed copies of the
    prompts it learns the same, so that it overlooks the change, and from two prompts in one to be
    unsure, so that the strong router is asked which of them is the request.

    Parameters
    ----------
    cheap : BagRouter
    strong : StoredRouter
    name : str
        See `routers.base.Router`.

    Attributes
    ----------
    name, version, categories_, active_params_b
        See `routers.base.Router`; the parameters are what an average held-out prompt used.
    escalate_below : float
        Confidence of the cheap router, in [0, 1], under which the strong one is asked; the lowest
        with which calibration lost no more than 0.001 of the accuracy of asking both.
    escalated : float
        Share of held-out prompts for which the strong router was asked.
    cheap_share : float
        Weight of the cheap router in the mean of both, in [0, 1].
    temperature : float
        Of that mean; see `routers.tempered.TemperedRouter`.
    min_margin : float
        See `routers.registry.StoredRouter`.

    References
    ----------
    Mixture of weak and strong experts (arXiv 2311.05185).
    """

    type: ClassVar[str] = "cascade"

    def __init__(self, cheap: BagRouter, strong: StoredRouter, name: str) -> None:
        self.cheap = cheap
        self.strong = strong
        self.name = name
        self._set_calibration(_UNCALIBRATED)

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        self.strong.fit(texts, labels, progress)
        answers = self._strong_answers(texts, progress)
        said = np.array(self.strong.categories_) == np.array(labels)[:, np.newaxis]
        targets = (1.0 - _LABEL_SHARE) * answers + _LABEL_SHARE * said
        rng = Random(0)  # noqa: S311 (no secret)
        changed = [augment(text, rng, 1.0) for text in texts]
        mixed, between = _mixed(texts, targets, rng)
        self.cheap.imitate(
            [*texts, *changed, *mixed],
            np.vstack([targets, targets, between]),
            self.strong.categories_,
            progress,
        )
        self._set_calibration(_UNCALIBRATED)
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        probabilities = self.cheap.predict_proba(texts)
        unsure = np.flatnonzero(probabilities.max(axis=1) < self.escalate_below)
        if len(unsure):
            strong = self.strong.predict_proba([texts[index] for index in unsure.tolist()])
            probabilities[unsure] = self._mean(probabilities[unsure], strong)
        return probabilities

    def predict_at_once(self, text: str) -> FloatArray | None:
        """See `routers.base.QuickRouter.predict_at_once`; None where the strong router is asked."""
        row = self.cheap.predict_at_once(text)
        return row if row.max() >= self.escalate_below else None

    @property
    def encoder_digest(self) -> str | None:
        """See `routers.base.EncodingRouter`."""
        return encoder_digest(self.strong)

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """See `routers.base.EncodingRouter.predict_and_embed`.

        Only the strong router embeds, so it runs here even where the cheap one answers: finer
        categories cost every prompt the encoder.
        """
        cheap = self.cheap.predict_proba([text])
        strong, embedding = predict_and_embed(self.strong, text)
        unsure = cheap.max() < self.escalate_below
        row: FloatArray = (self._mean(cheap, strong[np.newaxis]) if unsure else cheap)[0]
        return row, embedding

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
        share, temperature = fit_mean(cheap, strong, truth, weights)
        both = tempered(mean(cheap, strong, share), temperature)
        threshold = choose_escalation(cheap, both, truth, weights)
        unsure = cheap.max(axis=1) < threshold
        self._set_calibration(
            {
                "escalate_below": threshold,
                "escalated": float(unsure.mean()),
                "cheap_share": share,
                "temperature": temperature,
            }
        )
        return np.where(unsure[:, np.newaxis], both, cheap)

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        cheap_folder = folder / _CHEAP_FOLDER
        cheap_folder.mkdir()
        return {
            **self._calibration,
            "cheap": self.cheap.write(cheap_folder),
            "strong": {"type": self.strong.type, "settings": self.strong.write(folder)},
        }

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        strong = settings["strong"]
        router = cls(
            BagRouter.load(folder / _CHEAP_FOLDER, name, categories, settings["cheap"]),
            router_class(strong["type"]).load(folder, name, categories, strong["settings"]),
            name,
        )
        router._set_calibration({key: settings[key] for key in _UNCALIBRATED})
        return router

    def _strong_answers(self, texts: Sequence[str], progress: Progress) -> FloatArray:
        answers: FloatArray = np.empty((len(texts), len(self.strong.categories_)))
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = slice(start, start + _TEXTS_AT_ONCE)
            answers[some] = self.strong.predict_proba(texts[some])
            progress("asking the strong router", min(some.stop, len(texts)), len(texts))
        return answers

    def _mean(self, cheap: FloatArray, strong: FloatArray) -> FloatArray:
        return tempered(mean(cheap, strong, self.cheap_share), self.temperature)

    def _set_calibration(self, calibration: Mapping[str, float]) -> None:
        self._calibration = dict(calibration)
        self.escalate_below = calibration["escalate_below"]
        self.escalated = calibration["escalated"]
        self.cheap_share = calibration["cheap_share"]
        self.temperature = calibration["temperature"]
        self.categories_ = self.strong.categories_
        self.min_margin = 0.0
        self.active_params_b = (
            self.cheap.active_params_b + self.escalated * self.strong.active_params_b
        )
        self.version = content_version(
            self.cheap.version, self.strong.version, repr(sorted(calibration.items()))
        )


def _mixed(texts: Sequence[str], targets: FloatArray, rng: Random) -> tuple[list[str], FloatArray]:
    """Put a short text behind half of the texts: what is of two topics is surely of neither."""
    short = [index for index, text in enumerate(texts) if len(text) <= _SHORT_CHARS]
    n_mixed = len(texts) // 2 if short else 0
    pairs = [(rng.randrange(len(texts)), rng.choice(short)) for _ in range(n_mixed)]
    between = [(targets[first] + targets[second]) / 2 for first, second in pairs]
    mixed = [f"{texts[first]} {texts[second]}" for first, second in pairs]
    return mixed, np.array(between).reshape(n_mixed, targets.shape[1])


def mean(cheap: FloatArray, strong: FloatArray, cheap_share: float) -> FloatArray:
    """Return the weighted mean of two routers' rows."""
    return cheap_share * cheap + (1.0 - cheap_share) * strong


def fit_mean(
    cheap: FloatArray, strong: FloatArray, truth: IntArray, weights: FloatArray
) -> tuple[float, float]:
    """Find the mean of two routers that makes the labels of held-out texts likeliest.

    Parameters
    ----------
    cheap, strong : ndarray, shape (n_texts, n_categories)
        Calibrated probabilities.
    truth : ndarray of int, shape (n_texts,)
        Column of every text's category.
    weights : ndarray, shape (n_texts,)
        How much each text counts.

    Returns
    -------
    cheap_share : float
        Weight of the cheap router, 0 to 0.5.
    temperature : float
        What the mean must be tempered with: the mean of two is less sure than it is right.
    """

    def fitted(share: float) -> tuple[float, float, float]:
        rows = mean(cheap, strong, share)
        temperature = fit_temperature(rows, truth, weights)
        return log_loss(tempered(rows, temperature), truth, weights), share, temperature

    _, share, temperature = min(map(fitted, _CHEAP_SHARES))
    return share, temperature


def choose_escalation(
    cheap: FloatArray, both: FloatArray, truth: IntArray, weights: FloatArray
) -> float:
    """Find the lowest confidence at which the cheap router may answer alone.

    Parameters
    ----------
    cheap, both : ndarray, shape (n_texts, n_categories)
        Calibrated probabilities of held-out texts: of the cheap router, and with the strong one.
    truth : ndarray of int, shape (n_texts,)
        Column of every text's category.
    weights : ndarray, shape (n_texts,)
        How much each text counts.

    Returns
    -------
    float
        In [0, 1]; 1 when the strong router must be asked nearly always.
    """
    confidence = cheap.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (cheap.argmax(axis=1) == truth).astype(int) - (both.argmax(axis=1) == truth)
    lost = -np.cumsum((right * weights)[order]) / weights.sum()
    allowed = np.flatnonzero(lost <= _ACCURACY_GIVEN_UP)
    return float(confidence[order[allowed[-1]]]) if len(allowed) else 1.0
