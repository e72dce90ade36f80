"""Whether finer categories pay on prompts that they did not learn from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from routers.arrays import BoolArray, IntArray
from routers.base import FloatArray, Router, encoder_digest, predict_and_embed
from routers.estimate import expected_scores
from routers.finer import FinerMap, Prompts
from routers.finer_fit import fit_finer
from routers.progress import Progress, silent
from routers.scores import Pool, ScoreTable
from routers.surface import surface
from routers.text import read_alone

_N_FOLDS = 4
_FEWEST_PROMPTS = 100
_LEAST_SHARE = 0.01
_NORMAL_95 = 1.96
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Routed:
    """Prompts as the gateway reads them, and what a router says of them.

    Attributes
    ----------
    router : Router
    prompts : Prompts
        Embeddings are zero where there is none.
    probabilities : ndarray, shape (n_prompts, n_categories)
    embedded : ndarray of bool, shape (n_prompts,)
        Whether the router embedded the prompt.
    """

    router: Router
    prompts: Prompts
    probabilities: FloatArray
    embedded: BoolArray


@dataclass(frozen=True, slots=True)
class Gain:
    """What finer categories gain over the category table, on held-out prompts.

    Attributes
    ----------
    score : float
        Score minus what was charged, averaged over prompts and presets.
    std_error : float
        Of `score`, over prompts.
    """

    score: float
    std_error: float

    @property
    def pays(self) -> bool:
        """Whether it is more than its standard error; its interval of 95% may hold zero.

        Nothing is lost by serving them but a little time: a gain need not be certain.
        """
        return self.score > self.std_error

    def __str__(self) -> str:
        low, high = (self.score + side * _NORMAL_95 * self.std_error for side in (-1, 1))
        return f"{100 * self.score:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"


def route_all(router: Router, prompts: Sequence[str], progress: Progress = silent) -> Routed:
    """Ask a router about prompts, as if each came alone in a request."""
    texts = [read_alone(prompt) for prompt in prompts]
    rows, embeddings = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, embedding in pool.map(lambda text: predict_and_embed(router, text), texts):
            rows.append(row)
            embeddings.append(embedding)
            progress("routing", len(rows), len(texts))
    embedded = np.array([embedding is not None for embedding in embeddings])
    n_dims = max((len(embedding) for embedding in embeddings if embedding is not None), default=0)
    nothing = np.zeros(n_dims)
    filled = np.array([nothing if embedding is None else embedding for embedding in embeddings])
    return Routed(router, Prompts(filled, surface(texts)), np.array(rows), embedded)


def learn_finer(
    table: ScoreTable,
    members: FloatArray,
    pool: Pool,
    prices: Mapping[str, float],
    routed: Routed,
    progress: Progress = silent,
    most_active_b: float | None = None,
) -> tuple[FinerMap | None, str]:
    """Learn finer categories, if they pay at these prices.

    Parameters
    ----------
    table : ScoreTable
        Prompts that come without a category are of the router's.
    members : ndarray, shape (n_prompts, n_categories)
        How much each prompt belongs to each category of the plain table.
    pool : Pool
        The experts to choose from.
    prices : Mapping of str to float
        By preset.
    routed : Routed
        The prompts of the table.
    progress : Progress
    most_active_b : float or None
        Most 10^9 active parameters that a preset may take on average.

    Returns
    -------
    finer : FinerMap or None
        Over the experts of the pool; None where they do not pay, see `Gain`.
    note : str
        What was found, for people.
    """
    digest = encoder_digest(routed.router)
    if digest is None:
        return None, "no finer categories: the router has no encoder"
    if len(pool.names) < 2:
        return None, "no finer categories: there is one expert to choose from"
    scores = table.of_experts(pool.names).scores
    rows = np.flatnonzero(routed.embedded & ~np.isnan(scores).any(axis=1))
    if len(rows) < _FEWEST_PROMPTS:
        return None, (
            f"no finer categories: {_FEWEST_PROMPTS} prompts or more must be embedded and have a "
            f"score of every expert; got {len(rows)}"
        )
    likeliest = [
        routed.router.categories_[column] for column in routed.probabilities.argmax(axis=1)
    ]
    known = _Known(
        routed.prompts.rows(rows),
        [table.categories[row] or likeliest[row] for row in rows],
        scores[rows],
        members[rows],
        routed.probabilities[rows],
    )
    plain, finer = _held_out(known, progress)
    gain = _gain(plain, finer, known.scores, [price * pool.cost for price in prices.values()])
    found = f"on held-out prompts they gain {gain} over the table"
    if not gain.pays:
        return None, f"finer categories are left out: {found}, not more than a standard error"
    served = _served(finer, known.scores, pool, prices)
    table_alone = _served(plain, known.scores, pool, prices)
    told = ", ".join(
        f"{one} {_at(served[one])}, by the table alone {_at(table_alone[one])}" for one in prices
    )
    if most_active_b is not None and any(b > most_active_b + _ROUNDING for _, b in served.values()):
        return None, (
            "finer categories are left out, as they would take more active parameters: "
            f"{found}; there {told}"
        )
    progress("finer categories", _N_FOLDS, _N_FOLDS + 1)
    learned = replace(known.fit_finer(np.arange(len(rows))), encoder_digest=digest)
    return learned, (
        f"finer categories are served: {found}, more than a standard error, which is the rule; "
        f"there {told}"
    )


def _at(score_and_b: tuple[float, float]) -> str:
    return "{:.4f} at {:.2f} B".format(*score_and_b)


def used_experts(
    finer: FinerMap, routed: Routed, pool: Pool, prices: Collection[float]
) -> tuple[str, ...]:
    """Return the experts that finer categories send at least a hundredth of the prompts to."""
    expected = finer.expected(routed.prompts.rows(np.flatnonzero(routed.embedded)))
    used = np.zeros(len(pool.names), dtype=np.bool_)
    for price in prices:
        chosen = (expected - price * pool.cost).argmax(axis=1)
        used |= np.bincount(chosen, minlength=len(used)) >= _LEAST_SHARE * len(expected)
    return tuple(name for name, one in zip(pool.names, used, strict=True) if one)


@dataclass(frozen=True, slots=True)
class _Known:
    """Prompts that are embedded and scored by every expert."""

    prompts: Prompts
    labels: Sequence[str]
    scores: FloatArray
    members: FloatArray
    probabilities: FloatArray

    def fit_finer(self, rows: IntArray) -> FinerMap:
        labels = [self.labels[row] for row in rows]
        return fit_finer(self.prompts.rows(rows), labels, self.scores[rows])

    def fit_table(self, rows: IntArray) -> FloatArray:
        return expected_scores(self.scores[rows], self.members[rows])


def _held_out(known: _Known, progress: Progress) -> tuple[FloatArray, FloatArray]:
    """Return what is expected of every prompt by what was learned from others.

    Returns
    -------
    plain, finer : ndarray, shape (n_prompts, n_experts)
        By the category table alone, and by finer categories.
    """
    folds = np.random.default_rng(0).permutation(len(known.labels)) % _N_FOLDS
    plain, finer = np.empty_like(known.scores), np.empty_like(known.scores)
    for fold in range(_N_FOLDS):
        progress("finer categories", fold, _N_FOLDS + 1)
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        plain[outside] = known.probabilities[outside] @ known.fit_table(inside)
        finer[outside] = known.fit_finer(inside).expected(known.prompts.rows(outside))
    return plain, finer


def _gain(
    plain: FloatArray, finer: FloatArray, scores: FloatArray, charges: Sequence[FloatArray]
) -> Gain:
    """Compare what two expectations choose, prompt by prompt."""
    rows = np.arange(len(scores))

    def worth(expected: FloatArray) -> FloatArray:
        choices = [(expected - charge).argmax(axis=1) for charge in charges]
        return np.asarray(
            np.mean(
                [(scores - c)[rows, choice] for c, choice in zip(charges, choices, strict=True)],
                axis=0,
            )
        )

    gained = worth(finer) - worth(plain)
    return Gain(float(gained.mean()), float(gained.std() / np.sqrt(len(gained))))


def _served(
    expected: FloatArray, scores: FloatArray, pool: Pool, prices: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the score and the 10^9 active parameters that every preset came to on average."""
    served = {}
    for preset, price in prices.items():
        choice = (expected - price * pool.cost).argmax(axis=1)
        score = scores[np.arange(len(scores)), choice].mean()
        served[preset] = (float(score), float(pool.active_params_b[choice].mean()))
    return served
