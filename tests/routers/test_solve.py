from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.scores import Pool
from routers.solve import Limits, UnsolvableError, solve


def pool_of(rng: np.random.Generator, n_experts: int) -> Pool:
    total = rng.choice([2.0, 7.0, 9.0, 27.0], n_experts)
    weights = [f"w{i // 2}" if i % 3 == 0 else f"e{i}" for i in range(n_experts)]
    size = dict(zip(weights, total, strict=True))
    total = np.array([size[name] for name in weights])
    names = tuple(f"e{i}" for i in range(n_experts))
    return Pool(names, total, total * rng.choice([0.25, 1.0], n_experts), tuple(weights), total)


def keeps_to(
    kept: tuple[int, ...],
    choice: tuple[int, ...],
    pool: Pool,
    limits: Limits,
    share: np.ndarray,
) -> bool:
    mask = np.isin(np.arange(len(pool.names)), kept)
    resident = pool.resident_params_b(mask)
    active = float(share @ pool.active_params_b[list(choice)])
    return (
        resident <= (limits.total_params_b or np.inf) + 1e-9
        and len(kept) <= (limits.n_experts or np.inf)
        and active <= (limits.active_params_b or np.inf) + 1e-9
    )


def by_force(
    utility: np.ndarray, share: np.ndarray, pool: Pool, limits: Limits, required: tuple[int, ...]
) -> float | None:
    """The best objective of one preset over every choice there is."""
    n_categories, n_experts = utility.shape
    best: float | None = None
    for choice in itertools.product(range(n_experts), repeat=n_categories):
        kept = tuple(set(choice) | set(required))
        if keeps_to(kept, choice, pool, limits, share):
            value = float(share @ utility[np.arange(n_categories), choice])
            best = value if best is None else max(best, value)
    return best


@given(
    seed=st.integers(0, 10_000),
    total=st.sampled_from([None, 5.0, 12.0, 30.0]),
    active=st.sampled_from([None, 2.0, 6.0]),
    n_most=st.sampled_from([None, 1, 2]),
    with_required=st.booleans(),
)
def test_the_optimum_is_that_of_brute_force(
    seed: int, total: float | None, active: float | None, n_most: int | None, with_required: bool
) -> None:
    rng = np.random.default_rng(seed)
    pool = pool_of(rng, 4)
    share = rng.dirichlet(np.ones(3))
    utility = rng.random((3, 4)) - 0.01 * pool.active_params_b
    limits = Limits(total, active, n_most)
    required = (1,) if with_required else ()
    expected = by_force(utility, share, pool, limits, required)
    names = [pool.names[i] for i in required]
    if expected is None:
        with pytest.raises(UnsolvableError, match="Raise a limit"):
            solve(utility[None], share, pool, limits, names)
        return
    found = solve(utility[None], share, pool, limits, names)
    assert found.objective[0] == pytest.approx(expected, abs=1e-7)
    choice = tuple(found.choice[0].tolist())
    assert set(required) <= set(np.flatnonzero(found.kept).tolist())
    assert keeps_to(tuple(np.flatnonzero(found.kept).tolist()), choice, pool, limits, share)


def test_presets_share_one_budget() -> None:
    names = ("small", "big", "other")
    sizes = np.array([1.0, 10.0, 10.0])
    pool = Pool(names, sizes, sizes, names, sizes)
    score = np.array([[0.5, 0.9, 0.8], [0.5, 0.6, 0.9]])
    utility = np.stack([score - price * sizes for price in (0.0, 0.1)])
    found = solve(utility, np.array([0.5, 0.5]), pool, Limits(total_params_b=11))
    assert found.kept.tolist() == [True, False, True]
    assert found.choice.tolist() == [[2, 2], [0, 0]]


def test_without_limits_every_category_takes_its_best() -> None:
    utility = np.array([[[0.1, 0.2], [0.4, 0.3]]])
    pool = Pool(("a", "b"), np.ones(2), np.ones(2), ("a", "b"), np.ones(2))
    found = solve(utility, np.array([0.5, 0.5]), pool, Limits())
    assert found.choice.tolist() == [[1, 0]]
    assert found.objective.tolist() == pytest.approx([0.3])


def test_sixty_categories_and_sixty_experts_take_under_two_seconds() -> None:
    rng = np.random.default_rng(1)
    pool = pool_of(rng, 60)
    talent = rng.standard_normal((8, 60))[np.arange(60) % 8]  # eight families of categories
    score = 0.4 + 0.1 * np.log(pool.total_params_b) + 0.1 * talent
    utility = (score + 0.03 * rng.standard_normal((60, 60)))[None]
    share = rng.dirichlet(np.ones(60))
    solve(utility[:, :2], share[:2], pool, Limits(total_params_b=60.0))  # imports the solver
    start = time.process_time()
    found = solve(utility, share, pool, Limits(total_params_b=60.0))
    assert time.process_time() - start < 2
    assert pool.resident_params_b(found.kept) <= 60
