"""From estimated scores to a mapping: solve, and say plainly what it is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from routers.arrays import BoolArray, IntArray
from routers.base import FloatArray
from routers.estimate import Estimate
from routers.mapping import DEFAULT_PRESET, PriceOf, ScoredMapping
from routers.scores import COST_COLUMNS, Pool
from routers.solve import Limits, Solution, UnsolvableError, solve

_NORMAL_95 = 1.96
_NOTHING = 1e-9
_VAGUE = 0.3
"""Width of an interval that says next to nothing of a score."""
_DECIMALS = 6
"""Of an expected score; what is reported and what is written are alike."""
_FIRST_PRICE, _LAST_PRICE = 1e-6, 1e9
_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class Worth:
    """What a preset may be expected to do with a router that makes no error.

    Attributes
    ----------
    score : float
        Averaged over the categories by their share.
    score_ci95 : tuple of float
        Interval of `score` for the sampling of the prompts, within [0, 1].
    active_params_b : float
        10^9 active parameters, averaged likewise.
    cost : float
        What the price is for, averaged likewise.
    """

    score: float
    score_ci95: tuple[float, float]
    active_params_b: float
    cost: float


@dataclass(frozen=True, slots=True)
class SolvedMap:
    """A mapping, and what is to be said of it.

    Attributes
    ----------
    mapping : ScoredMapping
        Of the experts that are kept. Its prices are those that were asked for, or the next higher
        ones at which it keeps to the cap on active parameters.
    objective : float
        Expected score minus price x cost at the prices asked for, averaged over presets.
    resident_params_b : float
        10^9 parameters of the distinct weights that are kept.
    worth : Mapping of str to Worth
        By preset.
    warnings : tuple of str
        What the operator should know.
    """

    mapping: ScoredMapping
    objective: float
    resident_params_b: float
    worth: Mapping[str, Worth]
    warnings: tuple[str, ...]


def solve_map(
    estimate: Estimate,
    share: FloatArray,
    pool: Pool,
    prices: Mapping[str, float],
    limits: Limits,
    required: Collection[str] = (),
    price_of: PriceOf = "params",
) -> SolvedMap:
    """Choose the experts to keep, for all presets together, and describe the result.

    Parameters
    ----------
    estimate : Estimate
    share : ndarray, shape (n_categories,)
        Of the prompts to come in each category; sums to 1.
    pool : Pool
        The experts, in the order of the estimate.
    prices : Mapping of str to float
        Preset -> price in score per unit of the pool's cost.
    limits : Limits
    required : collection of str
        Experts that are kept in any case.
    price_of : {"params", "latency", "money"}
        What the pool's cost is.

    Raises
    ------
    UnsolvableError
        The limits leave no choice, or no price keeps to the cap on active parameters.
    """
    costs = np.array(list(prices.values()))[:, None] * pool.cost
    utility = estimate.expected_score - costs[:, None, :]
    solution = solve(utility, share, pool, limits, required)
    kept = np.flatnonzero(solution.kept)
    asked = ScoredMapping(
        estimate.categories,
        tuple(pool.names[i] for i in kept),
        estimate.expected_score[:, kept].round(_DECIMALS),
        pool.cost[kept],
        prices,
        price_of,
    )
    mapping = _capped(asked, share, pool, limits.active_params_b)
    worth = {
        preset: _worth(estimate, share, pool, _served(mapping, pool, preset)) for preset in prices
    }
    return SolvedMap(
        mapping,
        fmean(one.score - prices[preset] * one.cost for preset, one in worth.items()),
        pool.resident_params_b(solution.kept),
        worth,
        (
            *_of_pool(estimate, share, pool),
            *_idle(utility, pool, required),
            *_thin(estimate),
            *_vague(estimate, worth),
            *_next_expert(utility, share, pool, solution),
            *_raised(prices, mapping.prices),
        ),
    )


def _served(mapping: ScoredMapping, pool: Pool, preset: str) -> IntArray:
    """Return the expert that the gateway ranks first for each category, as index into the pool."""
    return np.array([pool.names.index(names[0]) for names in mapping.plain(preset).values()])


def _capped(
    mapping: ScoredMapping, share: FloatArray, pool: Pool, most_b: float | None
) -> ScoredMapping:
    """Raise the prices at which the table would take more active parameters than the cap.

    The gateway ranks by price alone, so the solved assignment binds it only as far as a price
    can say it.
    """
    if most_b is None:
        return mapping

    def keeps(price: float) -> bool:
        tried = replace(mapping, prices={DEFAULT_PRESET: price})
        served = _served(tried, pool, DEFAULT_PRESET)
        return float(share @ pool.active_params_b[served]) <= most_b + _NOTHING

    prices = {preset: _lowest_price(keeps, price) for preset, price in mapping.prices.items()}
    dear = [preset for preset, price in prices.items() if price == math.inf]
    if dear:
        raise UnsolvableError(
            f"no price of {COST_COLUMNS[mapping.price_of]} keeps {', '.join(dear)} to "
            f"active_params_b {most_b:g}: the experts that it favours are larger. Use --price-of "
            "params, or raise the cap"
        )
    return replace(mapping, prices=prices)


def _lowest_price(keeps: Callable[[float], bool], price: float) -> float:
    """Return the price, or the lowest above it that keeps to the cap; infinity when none does."""
    if keeps(price):
        return price
    low, high = price, max(2 * price, _FIRST_PRICE)
    while not keeps(high):
        if high > _LAST_PRICE:
            return math.inf
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = float(f"{(low + high) / 2:.6g}")
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _raised(asked: Mapping[str, float], prices: Mapping[str, float]) -> Sequence[str]:
    """Tell which prices the cap has raised."""
    return tuple(
        f"the price of {preset} is raised from {asked[preset]:g} to {price:g}, to keep to the cap "
        "on active parameters"
        for preset, price in prices.items()
        if price != asked[preset]
    )


def _worth(estimate: Estimate, share: FloatArray, pool: Pool, choice: IntArray) -> Worth:
    rows = np.arange(len(choice))
    score = float(share @ estimate.expected_score[rows, choice])
    error = float(np.linalg.norm(share * estimate.std_error[rows, choice]))
    interval = (max(0.0, score - _NORMAL_95 * error), min(1.0, score + _NORMAL_95 * error))
    active_b, cost = (float(share @ each[choice]) for each in (pool.active_params_b, pool.cost))
    return Worth(score, interval, active_b, cost)


def _of_pool(estimate: Estimate, share: FloatArray, pool: Pool) -> Sequence[str]:
    """Say when one expert is best everywhere."""
    best = np.unique(estimate.expected_score[share > 0].argmax(axis=1))
    if len(best) > 1 or len(pool.names) == 1:
        return ()
    return (
        f"{pool.names[best[0]]} is the best expert in every category: a mapping of categories "
        "can save parameters, but cannot score higher than it alone",
    )


def _idle(utility: FloatArray, pool: Pool, required: Collection[str]) -> Sequence[str]:
    """Name the experts that no category of any preset would choose, were there no limits."""
    chosen = set(utility.argmax(axis=2).ravel().tolist())
    idle = [
        name
        for index, name in enumerate(pool.names)
        if index not in chosen and name not in required
    ]
    return (f"earn nothing at these prices: {', '.join(idle)}",) if idle else ()


def _thin(estimate: Estimate) -> Sequence[str]:
    """Name the categories that no prompt speaks for."""
    empty = [
        name
        for name, n_prompts in zip(estimate.categories, estimate.n_prompts, strict=True)
        if n_prompts <= _NOTHING
    ]
    if not empty:
        return ()
    return (f"no scored prompt in {', '.join(empty)}: overall scores are used there",)


def _vague(estimate: Estimate, worth: Mapping[str, Worth]) -> Sequence[str]:
    """Say when the prompts are too few to tell what a preset scores."""
    vague = [
        preset for preset, one in worth.items() if one.score_ci95[1] - one.score_ci95[0] >= _VAGUE
    ]
    if not vague:
        return ()
    return (
        f"too few prompts to say what {', '.join(vague)} scores: "
        f"{estimate.n_prompts.sum():.0f} with a category. Score more",
    )


def _next_expert(
    utility: FloatArray, share: FloatArray, pool: Pool, solution: Solution
) -> Sequence[str]:
    """Say which expert the next parameters should buy: most gain for each resident 10^9."""
    have = utility[:, :, solution.kept].max(axis=2)
    resident = pool.resident_params_b(solution.kept)
    gains: dict[str, tuple[float, float]] = {}
    for index in np.flatnonzero(~solution.kept):
        gain = float((np.maximum(utility[:, :, index] - have, 0.0) @ share).mean())
        more: BoolArray = solution.kept.copy()
        more[index] = True
        if gain > _NOTHING:
            gains[pool.names[index]] = (gain, pool.resident_params_b(more) - resident)
    if not gains:
        return ()
    name, (gain, cost_b) = max(gains.items(), key=lambda item: item[1][0] / max(item[1][1], 0.01))
    return (
        f"the next parameters should buy {name}: {100 * gain:+.2f} points for {cost_b:g} B more",
    )
