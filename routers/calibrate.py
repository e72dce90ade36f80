"""Honest probabilities, and the threshold under which a router says that it does not know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from routers.arrays import IntArray
from routers.base import GENERAL, FloatArray, margins
from routers.default_data.written import asked_rows
from routers.metrics import Answers
from routers.progress import Progress, silent

if TYPE_CHECKING:
    from routers.data import Row
    from routers.registry import StoredRouter

FEW_PROMPTS = 140
"""Of fewer prompts a share near 0.9 is not known to 0.05 either way (95%)."""
_FEW_ROWS = 30
_SMALL_TALK_EVERY = 8
_ROUNDING = 1e-9
"""Of a share of a count that is whole: 1 - 0.9 times 10 is a little less than 1."""
_TEMPERATURES = np.geomspace(0.1, 10.0, 201)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the threshold is chosen for; all three are shares in [0, 1].

    The threshold is the lowest that reaches the aim, but never so high that less than
    `min_coverage` is kept. With out-of-scope prompts at hand the aim is `out_of_scope`; without
    them it is `accuracy`, and `out_of_scope` of our own `small_talk`.

    Attributes
    ----------
    min_coverage : float
        Held-out prompts whose category must be kept.
    out_of_scope : float
        Out-of-scope prompts that should end at the general expert.
    accuracy : float
        Wanted accuracy of the kept categories.

    References
    ----------
    Robust routing in Composition of Experts (arXiv 2412.01868).
    """

    min_coverage: float = 0.9
    out_of_scope: float = 0.85
    accuracy: float = 0.95


def calibrate(
    router: StoredRouter,
    held_out: Sequence[Row],
    out_of_scope: Sequence[str],
    goal: Goal,
    progress: Progress = silent,
    unseen: Sequence[Row] = (),
    answers: FloatArray | None = None,
) -> Answers:
    """Fit a router's temperature and threshold to prompts it was not trained on.

    Parameters
    ----------
    router : StoredRouter
        Changed in place.
    held_out : sequence of Row
        Labelled prompts.
    out_of_scope : sequence of str
        Prompts that belong to no category; without them, `small_talk` stands in.
    goal : Goal
    progress : Progress
    unseen : sequence of Row
        Labelled prompts of sources that nothing was trained on. In what the router fits they count
        together as much as `held_out` does: users' prompts may be like either.
    answers : ndarray, shape (n_texts, n_categories), or None
        See `routers.registry.StoredRouter.calibrate`.

    Returns
    -------
    Answers
        To the held-out prompts and then the unseen ones, after calibration.

    Raises
    ------
    ValueError
        A label is no category of the router.
    """
    rows = [*held_out, *unseen]
    labels = [row.category for row in rows]
    unknown = sorted(set(labels) - set(router.categories_))
    if unknown:
        raise ValueError(
            f"every category must be one of {', '.join(router.categories_)}; got also "
            f"{', '.join(unknown)}. Drop those rows, or train again"
        )
    weights = np.concatenate([_source_weights(held_out), _source_weights(unseen)])
    prompts = [row.prompt for row in rows]
    probabilities = router.calibrate(prompts, labels, weights, progress, answers)
    inside = Answers.of(probabilities, labels, router.categories_, min_margin=0.0)
    outside = margins(router.predict_proba(out_of_scope or small_talk()), router.categories_)
    min_margin = choose_min_margin(inside, outside, goal)
    if not out_of_scope:
        min_margin = max(min_margin, choose_min_margin(inside, np.empty(0), goal))
    router.min_margin = min_margin
    return Answers.of(probabilities, labels, router.categories_, router.min_margin)


def small_talk() -> list[str]:
    """Return prompts of everyday life, which few routers have a category for."""
    prompts = [row.prompt for row in asked_rows() if row.category == GENERAL]
    return prompts[::_SMALL_TALK_EVERY]


def choose_min_margin(inside: Answers, outside: FloatArray, goal: Goal) -> float:
    """Find the threshold that `goal` describes.

    Parameters
    ----------
    inside : Answers
        To held-out prompts.
    outside : ndarray, shape (n_texts,)
        `routers.base.margins` of out-of-scope prompts; may be empty.
    goal : Goal
    """
    n_kept = max(1, math.ceil(goal.min_coverage * len(inside) - _ROUNDING))
    ceiling = float(np.sort(inside.margin)[-n_kept])
    aim = (
        _catching(outside, goal.out_of_scope) if len(outside) else _accurate(inside, goal.accuracy)
    )
    return float(np.clip(min(aim, ceiling), 0.0, 1.0))


def _source_weights(rows: Sequence[Row]) -> FloatArray:
    """Weigh rows so that every source counts the same: what is asked comes from no one of them.

    A source of few rows counts less, lest one of them decide a threshold. The sum is 1 or less.
    """
    sizes = Counter(row.source for row in rows)
    return np.array([1.0 / (max(sizes[row.source], _FEW_ROWS) * len(sizes)) for row in rows])


def _catching(outside: FloatArray, share: float) -> float:
    """Lowest threshold that sends this share of out-of-scope prompts to the general expert."""
    margin = np.sort(np.where(np.isinf(outside), 0.0, outside))[::-1]  # inf: general already
    n_missed = int((1.0 - share) * len(margin) + _ROUNDING)
    return float(np.nextafter(margin[n_missed], 2.0)) if n_missed < len(margin) else 0.0


def _accurate(inside: Answers, accuracy: float) -> float:
    """Lowest threshold above which the answers are this accurate; infinity when none is."""
    order = np.argsort(-inside.margin, kind="stable")
    kept_accuracy = np.cumsum(inside.correct[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(kept_accuracy >= accuracy)
    if not len(enough):
        return np.inf
    last = enough[-1]
    return 0.0 if last == len(order) - 1 else float(inside.margin[order[last]])


def tempered(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Raise rows of probabilities to 1 / temperature and normalise, each row alone."""
    rows = [tempered_row(row, temperature) for row in probabilities.tolist()]
    return np.array(rows).reshape(probabilities.shape)


def tempered_row(row: Sequence[float], temperature: float) -> FloatArray:
    """Return what `tempered` does, for one row of shape (n_categories,)."""
    exponent = 1.0 / temperature
    powers = [probability**exponent for probability in row]
    summed = sum(powers)
    return np.array([power / summed for power in powers])


def fit_temperature(probabilities: FloatArray, truth: IntArray, weights: FloatArray) -> float:
    """Find the temperature that makes the labels of held-out texts likeliest.

    A few answers that are all right do not prove that the next one is: with fewer than
    `FEW_PROMPTS` texts, a text counts as its label to n + 1 parts and as the other categories to
    one.

    Parameters
    ----------
    probabilities : ndarray, shape (n_texts, n_categories)
        At temperature 1.
    truth : ndarray of int, shape (n_texts,)
        Column of every text's category.
    weights : ndarray, shape (n_texts,)
        How much each text counts.

    Returns
    -------
    float
        Between 0.1 and 10; 1 without texts.

    References
    ----------
    Temperature scaling (arXiv 1706.04599); targets for few labels: Platt 1999, Probabilistic
    outputs for support vector machines.
    """
    if not len(truth):
        return 1.0
    logs = np.log(np.maximum(probabilities, 1e-12))

    def loss(temperature: float) -> float:
        return _log_loss(logs / temperature, truth, weights)

    return float(min(_TEMPERATURES, key=loss))


def log_loss(probabilities: FloatArray, truth: IntArray, weights: FloatArray) -> float:
    """Return the weighted mean of -log p(label); see `fit_temperature` for the parameters."""
    return _log_loss(np.log(np.maximum(probabilities, 1e-12)), truth, weights)


def _log_loss(logits: FloatArray, truth: IntArray, weights: FloatArray) -> float:
    doubt = 1.0 / (len(truth) + 2) if len(truth) < FEW_PROMPTS else 0.0
    of_label = logits[np.arange(len(truth)), truth]
    of_others = (logits.sum(axis=1) - of_label) / (logits.shape[1] - 1)
    wanted = (1.0 - doubt) * of_label + doubt * of_others
    losses = np.logaddexp.reduce(logits, axis=1) - wanted
    return float(weights @ losses / max(float(weights.sum()), 1e-12))
