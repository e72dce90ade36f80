"""Make a map of finer categories: a forest that parts prompts where the experts' scores part.

Needs scikit-learn (extra ``train``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from routers.arrays import AnyArray, IntArray
from routers.base import FloatArray
from routers.estimate import expected_scores, one_hot
from routers.extras import import_extra
from routers.finer import FinerMap, Forest, Prompts, SoftTable, tree_features

_N_TREES = 200
_N_DIRECTIONS = 40
"""Principal directions of the embeddings that the trees may part along."""
_SMALLEST_LEAF = 20
"""Prompts that a finer category must hold."""
_FEATURE_SHARE = 0.5
_N_FOLDS = 5
_INVERSE_REGULARISATION = 5.0
_NEVER = -1e9
"""Intercept of a category that no prompt was seen of."""


def fit_soft_table(
    prompts: Prompts, labels: Sequence[str], scores: FloatArray, sees_form: bool
) -> SoftTable:
    """Learn to tell the categories, and how each expert does in them.

    Parameters
    ----------
    prompts : Prompts
    labels : sequence of str, length n_prompts
        The category of every prompt.
    scores : ndarray, shape (n_prompts, n_experts)
        Complete.
    sees_form : bool
        Whether the classifier sees the form of a prompt beside its embedding. A trained linear
        router does not.
    """
    categories = sorted(set(labels))
    table = expected_scores(scores, one_hot(labels, categories))
    form = prompts.surface if sees_form else prompts.surface[:, :0]
    centre, spread = form.mean(axis=0), form.std(axis=0) + 1e-9
    blank = SoftTable(centre, spread, np.empty((0, 0)), np.empty(0), table)
    columns = np.array([categories.index(label) for label in labels])
    return _classifying(blank, prompts, columns)


def out_of_fold(table: SoftTable, prompts: Prompts, columns: IntArray, seed: int) -> FloatArray:
    """Return what `SoftTable.predict_proba` would say of its own prompts had it not seen them."""
    folds = np.random.default_rng(seed).integers(0, _N_FOLDS, len(prompts))
    probabilities = np.zeros((len(prompts), len(table.table)))
    for fold in range(_N_FOLDS):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(inside) and len(outside):
            learned = _classifying(table, prompts.rows(inside), columns[inside])
            probabilities[outside] = learned.predict_proba(prompts.rows(outside))
    return probabilities


def _classifying(table: SoftTable, prompts: Prompts, columns: IntArray) -> SoftTable:
    """Return the table with a classifier that learned which prompt is of which category."""
    features = table.features(prompts)
    coef = np.zeros((len(table.table), features.shape[1]))
    intercept = np.full(len(coef), _NEVER)
    known = np.unique(columns)
    intercept[known] = 0.0
    if len(known) > 1:
        linear_model = import_extra("sklearn.linear_model", "train")
        model = linear_model.LogisticRegression(
            C=_INVERSE_REGULARISATION, max_iter=200, tol=1e-3
        ).fit(features, columns)
        # of two categories scikit-learn keeps the second one's logit only
        coef[known[-len(model.coef_) :]] = model.coef_
        intercept[known[-len(model.coef_) :]] = model.intercept_
    return replace(table, coef=coef, intercept=intercept)


def fit_finer(
    prompts: Prompts, labels: Sequence[str], scores: FloatArray, seed: int = 0
) -> FinerMap:
    """Learn finer categories.

    Every tree parts the prompts by category, form and embedding wherever the *differences* between
    the experts' scores part, and keeps a part only if it holds enough prompts: its leaves are
    finer categories, kept where they pay. The prompts that a tree did not see calibrate the forest:
    they say how far its departures from the experts' overall scores are to be trusted.

    Parameters
    ----------
    prompts, labels, scores
        See `fit_soft_table`.

    References
    ----------
    Extremely randomised trees: doi:10.1007/s10994-006-6226-1.
    """
    plain = fit_soft_table(prompts, labels, scores, sees_form=True)
    columns = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    decomposition = import_extra("sklearn.decomposition", "train")
    n_directions = min(_N_DIRECTIONS, *prompts.embeddings.shape)
    found = decomposition.PCA(n_directions, random_state=seed).fit(prompts.embeddings)
    origin, directions = found.mean_, found.components_.T
    probabilities = out_of_fold(plain, prompts, columns, seed)
    features = tree_features(prompts, probabilities, origin, directions)
    overall = scores.mean(axis=0)
    own = scores - scores.mean(axis=1, keepdims=True)
    grown = _grown(features, own, seed)
    trust = _slope(grown.oob_prediction_.reshape(own.shape) - own.mean(axis=0), own)
    nodes = flat_nodes([one.tree_ for one in grown.estimators_])
    # differences between experts are what is learned; the level of a prompt is only the mean
    value = overall + trust * (nodes.pop("value") - (overall - overall.mean()))
    forest = Forest(origin, directions, **nodes, value=value.astype(np.float32))
    return FinerMap(plain, forest)


def _grown(features: AnyArray, own: FloatArray, seed: int) -> Any:  # noqa: ANN401
    ensemble = import_extra("sklearn.ensemble", "train")
    forest = ensemble.ExtraTreesRegressor(
        _N_TREES,
        min_samples_leaf=_SMALLEST_LEAF,
        max_features=_FEATURE_SHARE,
        bootstrap=True,
        oob_score=True,
        random_state=seed,
        n_jobs=-1,
    )
    return forest.fit(features, own.reshape(len(own), -1))


def _slope(apart: FloatArray, own: FloatArray) -> float:
    """Return the slope of what is so on what was expected, both as departures from the mean."""
    power = float((apart**2).sum())
    return float((apart * (own - own.mean(axis=0))).sum()) / power if power > 0 else 0.0


def flat_nodes(trees: Sequence[Any]) -> dict[str, AnyArray]:
    """Return the nodes of scikit-learn's trees as the arrays of a `Forest`."""
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    left, right = (
        np.concatenate(
            [getattr(tree, side) + root for tree, root in zip(trees, roots, strict=True)]
        )
        for side in ("children_left", "children_right")
    )
    is_leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    place = np.empty(len(is_leaf), dtype=np.int32)  # roots come first, then pairs of siblings
    place[roots] = np.arange(len(roots))
    firsts = len(roots) + 2 * np.arange((~is_leaf).sum())
    place[left[~is_leaf]], place[right[~is_leaf]] = firsts, firsts + 1
    child = place.copy()
    child[~is_leaf] = firsts
    order = np.argsort(place)

    def of_nodes(name: str, at_leaves: float) -> AnyArray:
        values = np.concatenate([getattr(tree, name) for tree in trees])
        return np.asarray(np.where(is_leaf, at_leaves, values)[order])

    return {
        "roots": np.arange(len(roots)),
        "feature": of_nodes("feature", 0).astype(np.int32),
        "threshold": of_nodes("threshold", np.inf),
        "child": child[order],
        "leaf": np.where(is_leaf, np.cumsum(is_leaf) - 1, 0)[order].astype(np.int32),
        "value": np.concatenate([tree.value[:, :, 0] for tree in trees])[is_leaf],
    }
