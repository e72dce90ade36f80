"""How well each expert does in each category, from a few scored prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routers.arrays import BoolArray
from routers.base import FloatArray

_NO_PROMPTS = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected scores by category and expert.

    Attributes
    ----------
    categories : tuple of str, length n_categories
    experts : tuple of str, length n_experts
    expected_score : ndarray of float64, shape (n_categories, n_experts)
    std_error : ndarray of float64, shape (n_categories, n_experts)
    n_prompts : ndarray of float64, shape (n_categories,)
        That the estimates of a category rest on; not whole where a prompt belongs to several.
    prior_prompts : float
        How many prompts the prior weighs as much as; infinity when categories do not matter.
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    expected_score: FloatArray
    std_error: FloatArray
    n_prompts: FloatArray
    prior_prompts: float

    @property
    def share(self) -> FloatArray:
        """Share of the prompts in each category, shape (n_categories,)."""
        return np.asarray(self.n_prompts / max(self.n_prompts.sum(), _NO_PROMPTS))


def one_hot(labels: Sequence[str | None], categories: Sequence[str]) -> FloatArray:
    """Return memberships of labelled prompts, shape (n_prompts, n_categories).

    A label that is no category belongs to none.
    """
    column = {category: index for index, category in enumerate(categories)}
    members = np.zeros((len(labels), len(categories)))
    for row, label in enumerate(labels):
        if label in column:
            members[row, column[label]] = 1.0
    return members


def estimate(
    scores: FloatArray,
    members: FloatArray,
    categories: Sequence[str],
    experts: Sequence[str],
    prior_prompts: float | None = None,
) -> Estimate:
    """Estimate expected scores, each shrunk by how few prompts it rests on.

    The prior of a cell is the expert's overall score, moved by how hard the category is for all
    experts. A cell is (n x mean + k x prior) / (n + k), so five lucky prompts do not buy a
    category. k is noise / spread, both measured in the table: noise is the variance, within a
    category, of what is left of a prompt's scores without what the experts share; spread is how
    much more the cells' means differ from their priors than that noise explains (the method of
    moments of empirical Bayes).

    Parameters
    ----------
    scores : ndarray, shape (n_prompts, n_experts)
        In [0, 1]; nan where there is none.
    members : ndarray, shape (n_prompts, n_categories)
        How much each prompt belongs to each category: ones and zeros, or a router's probabilities.
    prior_prompts : float or None
        k; None measures it.

    References
    ----------
    Morris, Parametric Empirical Bayes Inference, doi:10.1080/01621459.1983.10477920. The standard
    errors: Agresti and Coull, doi:10.1080/00031305.1998.10480550.
    """
    known = ~np.isnan(scores)
    filled = np.where(known, scores, 0.0)
    overall = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    counts: FloatArray = members.T @ known.astype(np.float64)
    means = (members.T @ filled) / np.maximum(counts, _NO_PROMPTS)
    surplus = np.where(known, scores - overall, 0.0)
    hardness = (members.T @ surplus).sum(axis=1) / np.maximum(counts.sum(axis=1), _NO_PROMPTS)
    prior = overall + hardness[:, None]
    if prior_prompts is None:
        prior_prompts = _prior_prompts(surplus, known, members, counts, means - prior)
    pull: FloatArray = np.ones_like(counts)
    if np.isfinite(prior_prompts):
        np.divide(prior_prompts, counts + prior_prompts, out=pull, where=counts > 0)
    expected = np.clip(pull * prior + (1.0 - pull) * means, 0.0, 1.0)
    backing = np.minimum(counts + prior_prompts, counts.sum(axis=0))
    # two wins and two losses more: a few prompts that all went one way do not make it certain
    centre = (expected * backing + 2.0) / (backing + 4.0)
    std_error = np.sqrt(centre * (1.0 - centre) / (backing + 4.0))
    n_prompts = members.sum(axis=0)
    return Estimate(
        tuple(categories), tuple(experts), expected, std_error, n_prompts, prior_prompts
    )


def expected_scores(scores: FloatArray, members: FloatArray) -> FloatArray:
    """Return what `estimate` expects, shape (n_categories, n_experts)."""
    n_categories, n_experts = members.shape[1], scores.shape[1]
    categories, experts = ([str(i) for i in range(n)] for n in (n_categories, n_experts))
    return estimate(scores, members, categories, experts).expected_score


def _prior_prompts(
    surplus: FloatArray,
    known: BoolArray,
    members: FloatArray,
    counts: FloatArray,
    departure: FloatArray,
) -> float:
    """Return k = noise / spread; infinity when the spread is no more than noise."""
    shared = surplus.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    own = np.where(known, surplus - shared[:, None], 0.0)
    cells = np.maximum(counts, _NO_PROMPTS)
    own_means = (members.T @ own) / cells
    within = (members.T @ own**2) / cells - own_means**2
    n_scores = counts.sum()
    noise = float((counts * np.maximum(within, 0.0)).sum() / max(n_scores, _NO_PROMPTS))
    n_rows, n_columns = (counts.sum(axis=1) > 0).sum(), (counts.sum(axis=0) > 0).sum()
    by_chance = noise * max((n_rows - 1) * (n_columns - 1), 0)
    spread = float((counts * departure**2).sum() - by_chance) / max(n_scores, _NO_PROMPTS)
    return noise / spread if spread > 0 else np.inf
