"""Score against average active parameters: what a choice under a price buys."""

from __future__ import annotations

import numpy as np

from routers.arrays import AnyArray
from routers.base import FloatArray

PRICES: FloatArray = np.concatenate([[0.0], np.geomspace(1e-5, 1.0, 51), [1e6]])
"""Score per 10^9 active parameters, from quality at any cost to the cheapest expert.

The last one leaves no other, also where sizes differ by a thousandth or less.
"""
_GRID = 1001
_ROUNDING = 1e-12


def served(expected: FloatArray, scores: FloatArray, active_b: FloatArray) -> tuple[AnyArray, ...]:
    """Serve every prompt at every price by expected score minus cost.

    Parameters
    ----------
    expected, scores : ndarray, shape (n_prompts, n_experts)
        What a method expects, and what is so.
    active_b : ndarray, shape (n_experts,)

    Returns
    -------
    scores, active_b : ndarray, shape (n_prices, n_prompts)
    """
    choices = np.stack([np.argmax(expected - price * active_b, axis=1) for price in PRICES])
    return scores[np.arange(len(scores)), choices], active_b[choices]


def frontier(active_b: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the upper hull of points, up to the highest: what mixing them can reach."""
    hull: list[tuple[float, float]] = []
    for index in np.lexsort((-scores, active_b)):
        point = (float(active_b[index]), float(scores[index]))
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    highest = max(range(len(hull)), key=lambda i: hull[i][1])
    x, y = np.array(hull[: highest + 1]).T
    return x, y


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])


def mean_height(active_b: FloatArray, scores: FloatArray, low_b: float, high_b: float) -> float:
    """Return the mean height of a frontier between two sizes, in score points (1 = .01)."""
    if high_b <= low_b:
        return 100 * float(np.interp(high_b, *frontier(active_b, scores)))
    sizes = np.linspace(low_b, high_b, _GRID)
    return 100 * float(np.interp(sizes, *frontier(active_b, scores)).mean())


def reaches_at(active_b: FloatArray, scores: FloatArray, goal: float) -> float | None:
    """Return the smallest size at which a frontier reaches a score; None when it does not."""
    x, y = frontier(active_b, scores)
    if y[-1] < goal - _ROUNDING:
        return None
    return float(np.interp(goal, y, x))
