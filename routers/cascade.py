"""Weak then strong: the strong router is asked only when the cheap one is not sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Self

import numpy as np

from routers.arrays import BoolArray
from routers.augment import augment
from routers.base import Deferred, FloatArray
from routers.embedding import EmbeddingRouter
from routers.extras import import_extra
from routers.mean import ImitatingRouter, Mean, restored, stored
from routers.metrics import label_indices
from routers.progress import Progress, silent
from routers.spelling import Speller
from routers.tempered import content_version

_MOST_CHANGED = 0.0075
"""Share of the prompts that may get another category from the cheap router than from both."""
_ALWAYS = 2.0
"""A threshold that no confidence reaches, be it 1.0: the strong router is asked always."""
_LEAST_DOUBT = 1e-4
"""Added to how unsure the cheap router is, so that its logarithm is finite."""
_MAX_ITERATIONS = 1000
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
    escalate_below : ndarray, shape (n_categories,)
        Confidence of the cheap router under which the strong one is asked, by the cheap one's
        category: in [0, 1], or 2 for always; see `choose_escalation`.
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
    categories_: tuple[str, ...]

    def __init__(self, cheap: ImitatingRouter, strong: EmbeddingRouter, name: str) -> None:
        self.cheap = cheap
        self.strong = strong
        self.name = name
        self.speller = Speller(strong.encoder.tokenizer)
        self._set_calibration(None, 1.0, Mean())

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
        self._set_calibration(None, 1.0, Mean())
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        read = self._read(texts)
        probabilities = self.cheap.predict_proba(read)
        unsure = np.flatnonzero(self.needs_strong(probabilities))
        if len(unsure):
            strong = self.strong.predict_proba([read[index] for index in unsure.tolist()])
            probabilities[unsure] = self.mean.of(probabilities[unsure], strong)
        return probabilities

    def predict_or_defer(self, text: str) -> FloatArray | Deferred:
        """See `routers.base.QuickRouter.predict_or_defer`; the strong router is deferred."""
        read = self.speller.corrected(text)
        cheap = self.cheap.predict_or_defer(read)
        at = cheap.argmax()
        if cheap[at] >= self.escalate_below[at]:
            return cheap
        return lambda: self.mean.of_one(cheap, self.strong.predict_proba([read])[0])

    def needs_strong(self, cheap: FloatArray) -> BoolArray:
        """Say of each of the cheap router's rows whether the strong one is asked too.

        Parameters
        ----------
        cheap : ndarray, shape (n_texts, n_categories)

        Returns
        -------
        ndarray of bool, shape (n_texts,)
        """
        return _below(cheap, self.escalate_below)

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
        (unsure,) = self.needs_strong(cheap)
        row: FloatArray = (self.mean.of(cheap, strong[np.newaxis]) if unsure else cheap)[0]
        return row, embedding

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = silent,
        answers: FloatArray | None = None,
    ) -> FloatArray:
        """See `routers.registry.StoredRouter.calibrate`."""
        if answers is not None:  # before calibration all are the strong router's
            strong = self.strong.calibrate(texts, labels, weights, progress, answers)
            self._set_calibration(None, 1.0, Mean())
            return strong
        read = self._read(texts)
        cheap = self.cheap.calibrate(read, labels, weights, progress)
        strong = self.strong.calibrate(read, labels, weights, progress)
        truth = label_indices(labels, self.categories_)
        mean = Mean.fit(cheap, strong, truth, weights)
        both = mean.of(cheap, strong)
        escalate_below = choose_escalation(cheap, both, weights)
        unsure = _below(cheap, escalate_below)
        escalated = float(unsure.mean()) if len(unsure) else 1.0
        self._set_calibration(escalate_below, escalated, mean)
        return np.where(unsure[:, np.newaxis], both, cheap)

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        self.speller.save(folder)
        return {
            "escalate_below": self.escalate_below.tolist(),
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
        if "type" not in settings["cheap"] or not isinstance(settings["escalate_below"], list):
            raise ValueError("an earlier version made it: train it again")
        cheap = restored(folder / _CHEAP_FOLDER, name, categories, settings["cheap"])
        strong = restored(folder, name, categories, settings["strong"])
        if not (hasattr(cheap, "imitate") and isinstance(strong, EmbeddingRouter)):
            raise ValueError(
                f"{cheap.type} cannot be its cheap part or {strong.type} its strong one"
            )
        router = cls(cheap, strong, name)
        router.speller = Speller.load(router.strong.encoder.tokenizer, folder)
        escalate_below = np.array(settings["escalate_below"], dtype=np.float64)
        if escalate_below.shape != (len(categories),):
            raise ValueError(
                f"escalate_below must hold {len(categories)} numbers, one for each category; "
                f"got {settings['escalate_below']}"
            )
        router._set_calibration(escalate_below, settings["escalated"], Mean(**settings["mean"]))
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

    def _set_calibration(
        self, escalate_below: FloatArray | None, escalated: float, mean: Mean
    ) -> None:
        """Take over what calibration found; None: the strong router is always asked."""
        if escalate_below is None:
            escalate_below = np.full(len(self.strong.categories_), _ALWAYS)
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
            repr((self.escalate_below.tolist(), escalated, mean)),
        )


def _below(rows: FloatArray, thresholds: FloatArray) -> BoolArray:
    """Say of each row whether its likeliest category is less likely than its threshold."""
    return np.asarray(rows.max(axis=1) < thresholds[rows.argmax(axis=1)])


def _mixed(texts: Sequence[str], targets: FloatArray, rng: Random) -> tuple[list[str], FloatArray]:
    """Put a short text behind half of the texts: what is of two topics is surely of neither."""
    short = [index for index, text in enumerate(texts) if len(text) <= _SHORT_CHARS]
    n_mixed = len(texts) // 2 if short else 0
    pairs = [(rng.randrange(len(texts)), rng.choice(short)) for _ in range(n_mixed)]
    between = [(targets[first] + targets[second]) / 2 for first, second in pairs]
    mixed = [f"{texts[first]} {texts[second]}" for first, second in pairs]
    return mixed, np.array(between).reshape(n_mixed, targets.shape[1])


def choose_escalation(cheap: FloatArray, both: FloatArray, weights: FloatArray) -> FloatArray:
    """Find for each category how sure the cheap router must be to answer alone.

    How likely asking both would change the category depends on the cheap router's confidence and on
    the category; a logistic regression learns it. The thresholds lie where that is alike for all
    categories, and so low that no more than `_MOST_CHANGED` of the texts are expected to change;
    one counts as changed beforehand, since few texts prove nothing.

    Parameters
    ----------
    cheap, both : ndarray, shape (n_texts, n_categories)
        Calibrated probabilities of held-out texts: of the cheap router, and with the strong one.
    weights : ndarray, shape (n_texts,)
        How much each text counts.

    Returns
    -------
    ndarray, shape (n_categories,)
        Confidences from the lowest of the texts to 1; 2 where the strong router must be asked
        always, as in a category that the cheap one chose for none of the texts.
    """
    top, confidence = cheap.argmax(axis=1), cheap.max(axis=1)
    changed = top != both.argmax(axis=1)
    one_more = float((weights**2).sum() / weights.sum() ** 2) if len(weights) else 1.0
    if one_more > _MOST_CHANGED or changed.all():
        return np.full(cheap.shape[1], _ALWAYS)
    unknown = np.bincount(top, weights, cheap.shape[1]) == 0
    if not changed.any():
        return np.where(unknown, _ALWAYS, confidence.min())
    linear_model = import_extra("sklearn.linear_model", "train")
    doubt = np.log(1.0 - confidence + _LEAST_DOUBT)
    features = np.column_stack([doubt, np.eye(cheap.shape[1])[top]])
    model = linear_model.LogisticRegression(max_iter=_MAX_ITERATIONS)
    model.fit(features, changed, sample_weight=weights / weights.mean())
    logits = model.decision_function(features)
    order = np.argsort(logits, kind="stable")
    likely = 1.0 / (1.0 + np.exp(-logits))
    expected = np.cumsum((weights * likely)[order]) / weights.sum()
    n_alone = int(np.searchsorted(expected, _MOST_CHANGED - one_more, side="right"))
    slope, offsets = model.coef_[0, 0], model.intercept_ + model.coef_[0, 1:]
    if n_alone == 0 or slope <= 0:
        return np.full(cheap.shape[1], _ALWAYS)
    highest_doubt = np.exp((logits[order[n_alone - 1]] - offsets) / slope)
    thresholds = np.clip(1.0 + _LEAST_DOUBT - highest_doubt, confidence.min(), 1.0)
    return np.where(unknown, _ALWAYS, thresholds)
