"""Weak then strong: the strong router is asked only when the cheap one is not sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Self

import numpy as np

from routers.arrays import IntArray
from routers.augment import augment
from routers.base import Deferred, FloatArray
from routers.embedding import EmbeddingRouter
from routers.mean import ImitatingRouter, Mean, restored, stored
from routers.metrics import label_indices
from routers.progress import Progress, silent
from routers.spelling import Speller
from routers.tempered import content_version

_ACCURACY_GIVEN_UP = 0.001
_LABEL_SHARE = 0.3
"""Weight of the labels in what the cheap router learns, beside the strong router's answers."""
_SHORT_CHARS = 90
_TEXTS_AT_ONCE = 256
_CHEAP_FOLDER = "cheap"


class CascadeRouter:
    """Answers with the cheap router when its calibrated confidence is high enough.

    Elsewhere the strong router is asked, and the mean of both answers: they err differently. Both
    read a prompt with its spelling put right. The
    cheap router learns the strong one's answers, mixed with the labels; from changed copies of the
    prompts it learns the same, so that it overlooks the change, and from two prompts in one to be
    unsure, so that the strong router is asked which of them is the request.

    Parameters
    ----------
    cheap : ImitatingRouter
    strong : EmbeddingRouter
    name : str
        See `routers.base.Router`.

    Attributes
    ----------
    name, version, categories_, active_params_b
        See `routers.base.Router`; the parameters are what an average held-out prompt used.
    escalate_below : float
        Confidence of the cheap router, in [0, 1], under which the strong one is asked; the lowest
        down to which calibration lost no more than 0.001 of the accuracy of asking both.
    escalated : float
        Share of held-out prompts for which the strong router was asked.
    mean : Mean
        Of the cheap router and the strong one, where both were asked.
    min_margin : float
        See `routers.registry.StoredRouter`.

    References
    ----------
    Mixture of weak and strong experts (arXiv 2311.05185).
    """

    type: ClassVar[str] = "cascade"

    def __init__(self, cheap: ImitatingRouter, strong: EmbeddingRouter, name: str) -> None:
        self.cheap = cheap
        self.strong = strong
        self.name = name
        self.speller = Speller(strong.encoder.tokenizer)
        self._set_calibration(1.0, 1.0, Mean())

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        self.speller = Speller.of(self.strong.encoder, texts, progress)
        read = self._read(texts)
        self.strong.fit(read, labels, progress)
        answers = self._strong_answers(read, progress)
        said = np.array(self.strong.categories_) == np.array(labels)[:, np.newaxis]
        targets = (1.0 - _LABEL_SHARE) * answers + _LABEL_SHARE * said
        rng = Random(0)  # noqa: S311 (no secret)
        changed = [augment(text, rng, 1.0) for text in texts]
        mixed, between = _mixed(texts, targets, rng)
        self.cheap.imitate(
            [*read, *self._read(changed), *self._read(mixed)],
            np.vstack([targets, targets, between]),
            self.strong.categories_,
            progress,
        )
        self._set_calibration(1.0, 1.0, Mean())
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        read = self._read(texts)
        probabilities = self.cheap.predict_proba(read)
        unsure = np.flatnonzero(probabilities.max(axis=1) < self.escalate_below)
        if len(unsure):
            strong = self.strong.predict_proba([read[index] for index in unsure.tolist()])
            probabilities[unsure] = self.mean.of(probabilities[unsure], strong)
        return probabilities

    def predict_or_defer(self, text: str) -> FloatArray | Deferred:
        """See `routers.base.QuickRouter.predict_or_defer`; the strong router is deferred."""
        read = self.speller.corrected(text)
        cheap = self.cheap.predict_or_defer(read)
        if cheap.max() >= self.escalate_below:
            return cheap
        return lambda: self.mean.of_one(cheap, self.strong.predict_proba([read])[0])

    @property
    def encoder_digest(self) -> str:
        """See `routers.base.EncodingRouter`."""
        return content_version(self.strong.encoder_digest, self.speller.digest)

    @property
    def active_params_to_embed_b(self) -> float:
        """See `routers.base.EncodingRouter`."""
        return self.cheap.active_params_b + self.strong.active_params_b

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """See `routers.base.EncodingRouter.predict_and_embed`.

        Only the strong router embeds, so it runs here even where the cheap one answers: finer
        categories cost every prompt the encoder.
        """
        (read,) = self._read([text])
        cheap = self.cheap.predict_proba([read])
        strong, embedding = self.strong.predict_and_embed(read)
        unsure = cheap.max() < self.escalate_below
        row: FloatArray = (self.mean.of(cheap, strong[np.newaxis]) if unsure else cheap)[0]
        return row, embedding

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = silent,
    ) -> FloatArray:
        """See `routers.registry.StoredRouter.calibrate`."""
        read = self._read(texts)
        cheap = self.cheap.calibrate(read, labels, weights, progress)
        strong = self.strong.calibrate(read, labels, weights, progress)
        truth = label_indices(labels, self.categories_)
        mean = Mean.fit(cheap, strong, truth, weights)
        both = mean.of(cheap, strong)
        threshold = choose_escalation(cheap, both, truth, weights)
        unsure = cheap.max(axis=1) < threshold
        escalated = float(unsure.mean()) if len(unsure) else 1.0
        self._set_calibration(threshold, escalated, mean)
        return np.where(unsure[:, np.newaxis], both, cheap)

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        self.speller.save(folder)
        return {
            "escalate_below": self.escalate_below,
            "escalated": self.escalated,
            "mean": asdict(self.mean),
            "cheap": stored(self.cheap, folder / _CHEAP_FOLDER),
            "strong": {"type": self.strong.type, "settings": self.strong.write(folder)},
        }

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        if "type" not in settings["cheap"]:
            raise ValueError("an earlier version made it: train it again")
        cheap = restored(folder / _CHEAP_FOLDER, name, categories, settings["cheap"])
        strong = restored(folder, name, categories, settings["strong"])
        if not (hasattr(cheap, "imitate") and isinstance(strong, EmbeddingRouter)):
            raise ValueError(
                f"{cheap.type} cannot be its cheap part or {strong.type} its strong one"
            )
        router = cls(cheap, strong, name)
        router.speller = Speller.load(router.strong.encoder.tokenizer, folder)
        router._set_calibration(
            settings["escalate_below"], settings["escalated"], Mean(**settings["mean"])
        )
        return router

    def _read(self, texts: Sequence[str]) -> list[str]:
        return [self.speller.corrected(text) for text in texts]

    def _strong_answers(self, texts: Sequence[str], progress: Progress) -> FloatArray:
        answers: FloatArray = np.empty((len(texts), len(self.strong.categories_)))
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = slice(start, start + _TEXTS_AT_ONCE)
            answers[some] = self.strong.predict_proba(texts[some])
            progress("asking the strong router", min(some.stop, len(texts)), len(texts))
        return answers

    def _set_calibration(self, escalate_below: float, escalated: float, mean: Mean) -> None:
        self.escalate_below = escalate_below
        self.escalated = escalated
        self.mean = mean
        self.categories_ = self.strong.categories_
        self.min_margin = 0.0
        self.active_params_b = (
            self.cheap.active_params_b + self.escalated * self.strong.active_params_b
        )
        self.version = content_version(
            self.cheap.version,
            self.strong.version,
            self.speller.digest,
            repr((escalate_below, escalated, mean)),
        )


def _mixed(texts: Sequence[str], targets: FloatArray, rng: Random) -> tuple[list[str], FloatArray]:
    """Put a short text behind half of the texts: what is of two topics is surely of neither."""
    short = [index for index, text in enumerate(texts) if len(text) <= _SHORT_CHARS]
    n_mixed = len(texts) // 2 if short else 0
    pairs = [(rng.randrange(len(texts)), rng.choice(short)) for _ in range(n_mixed)]
    between = [(targets[first] + targets[second]) / 2 for first, second in pairs]
    mixed = [f"{texts[first]} {texts[second]}" for first, second in pairs]
    return mixed, np.array(between).reshape(n_mixed, targets.shape[1])


def choose_escalation(
    cheap: FloatArray, both: FloatArray, truth: IntArray, weights: FloatArray
) -> float:
    """Find the lowest confidence at which the cheap router may answer alone.

    No more accuracy is lost than allowed there, nor at any confidence above: where the loss falls
    again further down, that is luck. Of fewer than a thousand texts that count alike, the first
    that is lost ends the search.

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
    sorted_ = confidence[order]
    last_of_equals = np.diff(sorted_, append=-1.0) != 0
    levels, lost = sorted_[last_of_equals], lost[last_of_equals]
    too_much = np.flatnonzero(lost > _ACCURACY_GIVEN_UP)
    n_levels = too_much[0] if len(too_much) else len(levels)
    return float(levels[n_levels - 1]) if n_levels else 1.0
