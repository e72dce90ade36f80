"""Replay a score table: fit on one half, serve the other, at every price, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.baselines import METHODS
from eval.curve import PRICES, mean_height, reaches_at, served
from eval.samples import Samples
from routers.arrays import IntArray
from routers.base import FloatArray
from routers.progress import Progress, silent

OURS = "coe"
_LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Split:
    """One half that is fitted to, and one that is served.

    Attributes
    ----------
    fit, serve : ndarray of int
        Rows of the samples.
    best : int
        The best single expert of the fit half.
    """

    fit: IntArray
    serve: IntArray
    best: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a method served of one split.

    Attributes
    ----------
    scores, active_b : ndarray, shape (n_prices, n_prompts)
        One row only for a method that knows no prices.
    """

    scores: FloatArray
    active_b: FloatArray

    def means(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return active parameters and score of every price, prompts weighted."""
        share = weights / weights.sum()
        return self.active_b @ share, self.scores @ share


def halves(samples: Samples, n_splits: int, seed: int) -> list[Split]:
    """Return random half-half splits; the same seed gives the same ones to every method."""
    splits = []
    for number in range(n_splits):
        order = np.random.default_rng(seed + number).permutation(len(samples))
        fit, serve = order[: len(order) // 2], order[len(order) // 2 :]
        splits.append(Split(fit, serve, int(samples.scores[fit].mean(axis=0).argmax())))
    return splits


def replay(
    samples: Samples,
    methods: Sequence[str],
    n_splits: int = 5,
    n_resamples: int = 200,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure methods on a score table.

    Parameters
    ----------
    samples : Samples
    methods : sequence of str
        Keys of `eval.baselines.METHODS`; single experts, random and cheapest are always there.
    n_splits, n_resamples : int
        Half-half splits; bootstrap resamples of the prompts, the same for every method and split.
    seed : int

    Returns
    -------
    dict
        ``n``, ``splits``, ``best_single``, ``hull_area``, ``methods``. An area is the mean height
        of a curve in score points, from the smallest expert to the best single one: ``hull_area``
        that of mixing single experts, a method's ``area`` how much higher its own curve lies.
        ``vs_coe`` compares areas, method minus ours, over the same prompts.

    Notes
    -----
    The best point of a curve is picked on the mean over splits, for every method alike; that
    favours all by the luck of some 50 prices, which the area does not have.
    """
    splits = halves(samples, n_splits, seed)
    draws = np.random.default_rng(seed).multinomial(
        len(samples), np.full(len(samples), 1 / len(samples)), size=n_resamples
    )
    weights = np.vstack([np.ones(len(samples)), draws])
    singles = _Singles(samples, splits, weights)
    found = {name: singles.fixed(row) for name, row in _fixed(samples).items()}
    areas: dict[str, FloatArray] = {}
    for done, name in enumerate(methods):
        progress(name, done, len(methods))
        runs = [_serve(name, samples, split, seed + at) for at, split in enumerate(splits)]
        found[name], areas[name] = singles.measure(runs)
    for name, area in areas.items():
        if OURS in areas and name != OURS:
            found[name]["vs_coe"] = _compared(area - areas[OURS])
    return {
        "n": len(samples),
        "splits": n_splits,
        "experts": list(samples.pool.names),
        "best_single": singles.best_single(),
        "hull_area": float(singles.hull[0]),
        "methods": [{"name": name, **one} for name, one in found.items()],
    }


def _serve(name: str, samples: Samples, split: Split, seed: int) -> Run:
    fit, serve = samples.rows(split.fit), samples.rows(split.serve)
    expected = METHODS[name](fit, serve, seed)
    return Run(*served(expected, serve.scores, samples.pool.active_params_b))


def _fixed(samples: Samples) -> dict[str, FloatArray]:
    """Return the choices that do not look at the prompt: the share that each expert is given."""
    n_experts = len(samples.pool.names)
    cheapest = int(samples.pool.active_params_b.argmin())
    return {
        "random": np.full(n_experts, 1 / n_experts),
        "cheapest": np.eye(n_experts)[cheapest],
        **{f"single:{name}": np.eye(n_experts)[i] for i, name in enumerate(samples.pool.names)},
    }


class _Singles:
    """The single experts, and methods measured against them.

    Parameters
    ----------
    weights : ndarray, shape (1 + n_resamples, n_prompts)
        How often each prompt counts: once in the first row, as drawn in the others.
    """

    def __init__(self, samples: Samples, splits: Sequence[Split], weights: FloatArray) -> None:
        self.samples, self.splits, self.weights = samples, splits, weights
        self.sizes = samples.pool.active_params_b
        self.heights = np.array([[self._hull(split, row) for split in splits] for row in weights])
        self.hull = self.heights.mean(axis=1)

    def best_single(self) -> dict[str, Any]:
        """Return the best expert of the fit halves, as it does on the others."""
        names = [self.samples.pool.names[split.best] for split in self.splits]
        scores = [self.samples.scores[split.serve, split.best].mean() for split in self.splits]
        sizes = [self.sizes[split.best] for split in self.splits]
        return {
            "name": max(set(names), key=names.count),
            "score": float(np.mean(scores)),
            "active_params_b": float(np.mean(sizes)),
        }

    def fixed(self, share: FloatArray) -> dict[str, Any]:
        """Measure a choice that does not look at the prompt."""
        scores = self.samples.scores @ share
        point = {
            "price": 0.0,
            "score": float(np.mean([scores[split.serve].mean() for split in self.splits])),
            "score_se": float(scores.std() / np.sqrt(len(scores))),
            "active_params_b": float(self.sizes @ share),
        }
        reached = point["score"] >= self.best_single()["score"]
        at_b = point["active_params_b"] if reached else None
        return {
            "area": None,
            "best": {key: point[key] for key in ("score", "score_se", "active_params_b")},
            "matches_best_single_at_b": at_b,
            "points": [point],
        }

    def measure(self, runs: Sequence[Run]) -> tuple[dict[str, Any], FloatArray]:
        """Measure what a method served of the splits.

        Returns
        -------
        measured : dict
        areas : ndarray, shape (1 + n_resamples,)
            Over the hull of single experts, by row of the weights.
        """
        means = [
            [run.means(row[split.serve]) for row in self.weights]
            for run, split in zip(runs, self.splits, strict=True)
        ]
        areas = np.array(
            [
                np.mean([self._height(split, *of[row]) for split, of in self._with(means)])
                for row in range(len(self.weights))
            ]
        )
        areas -= self.hull
        active_b = np.mean([of[0][0] for of in means], axis=0)
        scores = np.mean([[score for _, score in of] for of in means], axis=0)
        errors = scores[1:].std(axis=0)
        columns = (PRICES, scores[0], errors, active_b)
        keys = ("price", "score", "score_se", "active_params_b")
        points = [
            dict(zip(keys, map(float, row), strict=True)) for row in zip(*columns, strict=True)
        ]
        best = max(points, key=lambda point: (point["score"], -point["active_params_b"]))
        measured = {
            "area": float(areas[0]),
            "area_ci95": np.percentile(areas[1:], _LEVEL).tolist(),
            "best": {key: best[key] for key in keys[1:]},
            "matches_best_single_at_b": reaches_at(
                active_b, scores[0], self.best_single()["score"]
            ),
            "points": points,
        }
        return measured, areas

    def _with(self, means: Sequence[Any]) -> list[tuple[Split, Any]]:
        return list(zip(self.splits, means, strict=True))

    def _hull(self, split: Split, row: FloatArray) -> float:
        share = row[split.serve] / row[split.serve].sum()
        return self._height(split, self.sizes, share @ self.samples.scores[split.serve])

    def _height(self, split: Split, active_b: FloatArray, scores: FloatArray) -> float:
        return mean_height(active_b, scores, float(self.sizes.min()), float(self.sizes[split.best]))


def _compared(differences: FloatArray) -> dict[str, Any]:
    """Say whether a method is ahead of ours; differences are of area, the first is the estimate."""
    low, high = np.percentile(differences[1:], _LEVEL)
    verdict = "ahead" if low > 0 else "behind" if high < 0 else "tie"
    return {"area": float(differences[0]), "area_ci95": [low, high], "verdict": verdict}
