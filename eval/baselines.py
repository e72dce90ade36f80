"""Ways to expect scores that others have published, in one form: fit on one half, expect the other.

Each tunes what it has to tune on an inner split of the fit half, by the same measure that it is
judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from eval.curve import mean_height, served
from eval.low_rank import LowRank, fit_low_rank
from eval.samples import Samples
from routers.base import FloatArray
from routers.estimate import estimate, expected_scores, one_hot
from routers.extras import import_extra
from routers.finer_fit import fit_finer, fit_soft_table

Method = Callable[[Samples, Samples, int], FloatArray]
"""(fit, serve, seed) -> expected scores of what is served, shape (n_prompts, n_experts).

Only the oracle looks at the scores of what is served, only `true_category` at its labels.
"""

_INNER_SHARE = 2 / 3


def oracle(_fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    """Know the scores: the limit of any choice by prompt, inflated by lucky answers."""
    return serve.scores


def best_single(fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    """Expect of every prompt the expert's mean: the best single expert at every price."""
    return np.tile(fit.scores.mean(axis=0), (len(serve), 1))


def true_category(fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    """Map the categories that the prompts came with: the plain map of a router without error."""
    categories = tuple(sorted(set(fit.labels)))
    found = estimate(fit.scores, one_hot(fit.labels, categories), categories, fit.pool.names)
    known = one_hot(serve.labels, categories)
    known[known.sum(axis=1) == 0] = found.share
    return np.asarray(known @ found.expected_score)


def predicted_category(fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    """Map predicted categories softly (CoE), as the gateway serves a router trained on the half."""
    plain = fit_soft_table(fit.prompts, fit.labels, fit.scores, sees_form=False)
    return plain.expected(serve.prompts)


def given_router(fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    """Map a given router's categories softly, as the gateway serves it."""
    if fit.routed is None or serve.routed is None:
        raise ValueError("given_router needs a router's probabilities; name one with --router")
    return np.asarray(serve.routed @ expected_scores(fit.scores, fit.routed))


def coe(fit: Samples, serve: Samples, seed: int) -> FloatArray:
    """Map finer categories, blended with the soft map, as the gateway serves them."""
    return fit_finer(fit.prompts, fit.labels, fit.scores, seed).expected(serve.prompts)


def kmeans(fit: Samples, serve: Samples, seed: int) -> FloatArray:
    """Cluster embeddings; each cluster goes to its best expert (Avengers, arXiv 2505.19797)."""
    return _tuned(_kmeans_of, (8, 16, 32, 64), fit, serve, seed)


def _kmeans_of(n_clusters: int, fit: Samples, serve: Samples, seed: int) -> FloatArray:
    cluster = import_extra("sklearn.cluster", "train")
    n_most = min(n_clusters, len(fit))
    model = cluster.KMeans(n_most, n_init=3, random_state=seed).fit(fit.prompts.embeddings)
    members = np.eye(n_most)[model.labels_]
    means = (members.T @ fit.scores) / members.sum(axis=0)[:, None]
    return np.asarray(means[model.predict(serve.prompts.embeddings)])


def nearest_neighbours(fit: Samples, serve: Samples, seed: int) -> FloatArray:
    """Average the scores of the nearest prompts (kNN routing, arXiv 2505.12601)."""
    return _tuned(_neighbours_of, (10, 30, 100, 300), fit, serve, seed)


def _neighbours_of(n_neighbours: int, fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    neighbors = import_extra("sklearn.neighbors", "train")
    index = neighbors.NearestNeighbors(n_neighbors=min(n_neighbours, len(fit)))
    nearest = index.fit(fit.prompts.embeddings).kneighbors(
        serve.prompts.embeddings, return_distance=False
    )
    return np.asarray(fit.scores[nearest].mean(axis=1))


def regression(fit: Samples, serve: Samples, seed: int) -> FloatArray:
    """Regress every expert's score on the embedding (ridge)."""
    return _tuned(_regression_of, (3.0, 10.0, 30.0, 100.0), fit, serve, seed)


def _regression_of(alpha: float, fit: Samples, serve: Samples, _seed: int) -> FloatArray:
    linear_model = import_extra("sklearn.linear_model", "train")
    model = linear_model.Ridge(alpha=alpha).fit(fit.prompts.embeddings, fit.scores)
    return np.asarray(model.predict(serve.prompts.embeddings)).reshape(len(serve), -1)


def matrix_factorisation(fit: Samples, serve: Samples, seed: int) -> FloatArray:
    """Factorise correctness into prompts and experts (EmbedLLM, arXiv 2410.02223)."""
    return _low_rank(LowRank(rank=32, bounded=False, difficulty=False), fit, serve, seed)


def item_response(fit: Samples, serve: Samples, seed: int) -> FloatArray:
    """Multidimensional item response theory on embeddings (IRT-Router, arXiv 2506.01048)."""
    return _low_rank(LowRank(rank=32, bounded=True, difficulty=True), fit, serve, seed)


def _low_rank(shape: LowRank, fit: Samples, serve: Samples, seed: int) -> FloatArray:
    model = fit_low_rank(shape, fit.prompts.embeddings, fit.scores, seed)
    return model.expected(serve.prompts.embeddings)


METHODS: dict[str, Method] = {
    "coe": coe,
    "oracle": oracle,
    "true_category": true_category,
    "predicted_category": predicted_category,
    "given_router": given_router,
    "best_single": best_single,
    "kmeans": kmeans,
    "nearest_neighbours": nearest_neighbours,
    "regression": regression,
    "matrix_factorisation": matrix_factorisation,
    "item_response": item_response,
}
"""Every method that expects scores; random and cheapest choose without expecting any."""


def _tuned(
    method: Callable[[float, Samples, Samples, int], FloatArray] | Callable[..., FloatArray],
    options: Sequence[float],
    fit: Samples,
    serve: Samples,
    seed: int,
) -> FloatArray:
    """Run a method with the option that serves an inner split of the fit half best."""
    order = np.random.default_rng(seed).permutation(len(fit))
    n_inner = max(1, int(_INNER_SHARE * len(fit)))
    inside, outside = fit.rows(order[:n_inner]), fit.rows(order[n_inner:])
    heights = [_height(method(option, inside, outside, seed), outside) for option in options]
    return method(options[int(np.argmax(heights))], fit, serve, seed)


def _height(expected: FloatArray, samples: Samples) -> float:
    """Return the mean height of what expected scores buy, between the smallest and the largest."""
    sizes = samples.pool.active_params_b
    scores, active_b = served(expected, samples.scores, sizes)
    return mean_height(active_b.mean(axis=1), scores.mean(axis=1), sizes.min(), sizes.max())
