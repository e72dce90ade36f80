"""Which experts to keep and which category goes to which: solved exactly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from routers.arrays import AnyArray, BoolArray, IntArray
from routers.base import FloatArray
from routers.extras import import_extra
from routers.scores import Pool

_EXACT_GAP = 1e-9


class UnsolvableError(ValueError):
    """No set of experts keeps to the limits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the choice of experts must keep to; None = no limit.

    Attributes
    ----------
    total_params_b : float or None
        Most 10^9 parameters of the distinct weights that are kept.
    active_params_b : float or None
        Most 10^9 active parameters of a preset, averaged over the categories by their share.
    n_experts : int or None
        Most experts that are kept.
    """

    total_params_b: float | None = None
    active_params_b: float | None = None
    n_experts: int | None = None

    @property
    def told(self) -> str:
        """The limits that are set, as `coe map` names them."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{key} {most:g}" for key, most in named.items() if most is not None)


@dataclass(frozen=True, slots=True)
class Solution:
    """The best choice of experts.

    Attributes
    ----------
    kept : ndarray of bool, shape (n_experts,)
        Those that some category of some preset goes to, and those that were required.
    choice : ndarray of int, shape (n_presets, n_categories)
        The expert of each category.
    objective : ndarray of float64, shape (n_presets,)
        Utility, averaged over the categories by their share.
    """

    kept: BoolArray
    choice: IntArray
    objective: FloatArray


def solve(
    utility: FloatArray,
    share: FloatArray,
    pool: Pool,
    limits: Limits,
    required: Collection[str] = (),
) -> Solution:
    """Find the experts and the choice of most utility, summed over presets.

    A mixed-integer linear programme: one variable says whether a category of a preset goes to an
    expert, one whether an expert is kept, one whether weights are resident.

    Parameters
    ----------
    utility : ndarray, shape (n_presets, n_categories, n_experts)
        Expected score minus what the expert costs at the preset's prices.
    share : ndarray, shape (n_categories,)
        Of the prompts; sums to 1.
    pool : Pool
        The experts, in the order of the last axis of `utility`.
    limits : Limits
    required : collection of str
        Experts that are kept in any case.

    Raises
    ------
    UnsolvableError
        The limits leave no choice.

    References
    ----------
    The budget and its programme: Composition of Experts (arXiv 2412.01868). Solver: HiGHS,
    doi:10.1007/s12532-017-0130-5.
    """
    must = np.isin(pool.names, list(required))
    if limits == Limits():
        choice = utility.argmax(axis=2)
    else:
        assigned = _solve_programme(utility, share, pool, limits, must)
        choice = assigned.reshape(utility.shape).argmax(axis=2)
    kept = must.copy()
    kept[choice.ravel()] = True
    gained = np.take_along_axis(utility, choice[:, :, None], axis=2)[:, :, 0]
    return Solution(kept, choice.astype(np.int64), gained @ share)


def _solve_programme(
    utility: FloatArray, share: FloatArray, pool: Pool, limits: Limits, must: BoolArray
) -> FloatArray:
    """Return the flat assignment variables of an optimum; see `solve`."""
    optimize = import_extra("scipy.optimize", "train")
    n_assign, n_groups = utility.size, len(set(pool.weights))
    worth = (utility * share[:, None]).ravel()
    value = np.concatenate([worth, np.zeros(len(must) + n_groups)])
    lower = np.concatenate([np.zeros(n_assign), must, np.zeros(n_groups)])
    rows = _rows(share, pool, limits, utility)
    # Where only the kept experts are limited, the assignment is whole by itself.
    whole = np.ones(len(value))
    if limits.active_params_b is None:
        whole[:n_assign] = 0
    found = optimize.milp(
        -value,
        constraints=[optimize.LinearConstraint(*row) for row in rows],
        integrality=whole,
        bounds=optimize.Bounds(lower, np.ones(len(value))),
        options={"mip_rel_gap": _EXACT_GAP},
    )
    if found.x is None:
        raise UnsolvableError(
            f"no choice of experts keeps to the limits: {limits.told}. The smallest expert has "
            f"{pool.total_params_b.min():g} B in total and {pool.active_params_b.min():g} B active"
            + (f"; {', '.join(np.array(pool.names)[must])} must be kept" if must.any() else "")
            + ". Raise a limit"
        )
    assigned: FloatArray = found.x[:n_assign]
    return assigned


def _rows(
    share: FloatArray, pool: Pool, limits: Limits, utility: FloatArray
) -> list[tuple[Any, float, float]]:
    """Return the constraints as (matrix, lower, upper) over assignment, kept and resident."""
    sparse = import_extra("scipy.sparse", "train")
    n_presets, n_categories, n_experts = utility.shape
    n_pairs, n_assign = n_presets * n_categories, utility.size
    groups = sorted(set(pool.weights))
    in_group = np.array([[weights == group for group in groups] for weights in pool.weights])

    def over(assign: Any, kept: Any, resident: Any) -> Any:  # noqa: ANN401 (sparse matrices)
        return sparse.hstack([assign, kept, resident], format="csr")

    def none(n_rows: int, n_columns: int) -> Any:  # noqa: ANN401
        return sparse.csr_matrix((n_rows, n_columns))

    one_each = sparse.kron(sparse.eye(n_pairs), np.ones((1, n_experts)))
    only_kept = sparse.kron(np.ones((n_pairs, 1)), sparse.eye(n_experts))
    rows: list[tuple[Any, float, float]] = [
        (over(one_each, none(n_pairs, n_experts), none(n_pairs, len(groups))), 1, 1),
        (over(sparse.eye(n_assign), -only_kept, none(n_assign, len(groups))), -np.inf, 0),
        (over(none(n_experts, n_assign), sparse.eye(n_experts), -1.0 * in_group), -np.inf, 0),
    ]
    if limits.total_params_b is not None:
        sizes = _group_sizes(pool, groups)[None, :]
        row = over(none(1, n_assign), none(1, n_experts), sizes)
        rows.append((row, -np.inf, limits.total_params_b))
    if limits.n_experts is not None:
        row = over(none(1, n_assign), np.ones((1, n_experts)), none(1, len(groups)))
        rows.append((row, -np.inf, limits.n_experts))
    if limits.active_params_b is not None:
        mean = np.outer(share, pool.active_params_b).ravel()[None, :]
        assign = sparse.kron(sparse.eye(n_presets), mean)
        row = over(assign, none(n_presets, n_experts), none(n_presets, len(groups)))
        rows.append((row, -np.inf, limits.active_params_b))
    return rows


def _group_sizes(pool: Pool, groups: list[str]) -> AnyArray:
    size = dict(zip(pool.weights, pool.total_params_b, strict=True))
    return np.array([size[group] for group in groups])
