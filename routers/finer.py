"""Finer categories: what to expect of every expert for one prompt, beyond the category table.

A map of finer categories is made by `routers.finer_fit` and answers with numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from routers.arrays import AnyArray, IntArray, digest_arrays, read_arrays, write_arrays
from routers.base import FloatArray, Router, encoder_digest
from routers.surface import NAMES, surface

_SURFACE_SCALE, _SURFACE_MOST = 6.0, 4.0
"""Standardised surface features are cut at 4 and divided by 6, to weigh like an embedding."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is known of prompts before they are answered.

    Attributes
    ----------
    embeddings : ndarray of float64, shape (n_prompts, n_dims)
        Of unit length; see `routers.encoder`.
    surface : ndarray of float64, shape (n_prompts, n_features)
        See `routers.surface`.
    """

    embeddings: FloatArray
    surface: FloatArray

    def __len__(self) -> int:
        return len(self.embeddings)

    def rows(self, indices: IntArray) -> Prompts:
        """Return some of the prompts."""
        return Prompts(self.embeddings[indices], self.surface[indices])


@dataclass(frozen=True, slots=True, eq=False)
class SoftTable:
    """Predicted categories, and a table of expected scores by category.

    Attributes
    ----------
    centre, spread : ndarray, shape (n_features,)
        Standardise the surface features; both empty when the classifier does not see them.
    coef : ndarray, shape (n_categories, n_dims + n_features)
    intercept : ndarray, shape (n_categories,)
    table : ndarray, shape (n_categories, n_experts)
        Expected scores.
    """

    centre: FloatArray
    spread: FloatArray
    coef: FloatArray
    intercept: FloatArray
    table: FloatArray

    def predict_proba(self, prompts: Prompts) -> FloatArray:
        """Return the probability of every category, shape (n_prompts, n_categories)."""
        logits = self.features(prompts) @ self.coef.T + self.intercept
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

    def expected(self, prompts: Prompts) -> FloatArray:
        """Return expected scores, shape (n_prompts, n_experts)."""
        return np.asarray(self.predict_proba(prompts) @ self.table)

    def features(self, prompts: Prompts) -> FloatArray:
        """Return what the classifier sees."""
        standard = (prompts.surface[:, : len(self.centre)] - self.centre) / self.spread
        form = np.clip(standard, -_SURFACE_MOST, _SURFACE_MOST) / _SURFACE_SCALE
        return np.hstack([prompts.embeddings, form])


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Regression trees in flat arrays; siblings stand side by side, and a leaf is its own child.

    Attributes
    ----------
    origin : ndarray, shape (n_dims,)
    directions : ndarray, shape (n_dims, n_directions)
        The trees part along these directions of the embeddings.
    roots : ndarray of int, shape (n_trees,)
    feature : ndarray of int, shape (n_nodes,)
        Directions first, then surface features, then probabilities of categories.
    threshold : ndarray of float64, shape (n_nodes,)
    child : ndarray of int, shape (n_nodes,)
        Where a prompt goes on; one further when its feature is higher than the threshold.
    leaf : ndarray of int, shape (n_nodes,)
        Row of `value`; 0 for nodes that are no leaf.
    value : ndarray of float32, shape (n_leaves, n_experts)
        Expected scores.
    """

    origin: FloatArray
    directions: FloatArray
    roots: IntArray
    feature: IntArray
    threshold: FloatArray
    child: IntArray
    leaf: IntArray
    value: AnyArray

    def expected(self, prompts: Prompts, probabilities: FloatArray) -> FloatArray:
        """Return expected scores, shape (n_prompts, n_experts): the mean over the trees."""
        features = tree_features(prompts, probabilities, self.origin, self.directions)
        start = features.shape[1] * np.arange(len(features))[:, np.newaxis]
        flat = features.ravel()
        at = np.tile(self.roots, (len(features), 1))
        while True:
            higher = flat.take(start + self.feature.take(at)) > self.threshold.take(at)
            below = self.child.take(at) + higher
            if np.array_equal(below, at):
                return np.asarray(self.value[self.leaf[at]].mean(axis=1, dtype=np.float64))
            at = below


def tree_features(
    prompts: Prompts, probabilities: FloatArray, origin: FloatArray, directions: FloatArray
) -> AnyArray:
    """Return what trees part prompts by, as float32, in which they are grown."""
    along = (prompts.embeddings - origin) @ directions
    return np.hstack([along, prompts.surface, probabilities]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FinerMap:
    """The table of predicted categories, blended half and half with a forest.

    Every leaf of a tree is a finer category: a part of the prompts in which the experts' scores
    differ otherwise.

    Attributes
    ----------
    plain : SoftTable
    forest : Forest
    encoder_digest : str
        Of the encoder whose embeddings it knows; see `routers.base.EncodingRouter`.
    """

    plain: SoftTable
    forest: Forest
    encoder_digest: str = ""

    @property
    def n_experts(self) -> int:
        """How many experts it knows."""
        return int(self.plain.table.shape[1])

    @cached_property
    def digest(self) -> str:
        """A short hash of all that decides what is expected."""
        return digest_arrays(self._arrays())[:12]

    def knows(self, router: Router) -> bool:
        """Whether a router makes the embeddings that this was learned from."""
        return self.encoder_digest == encoder_digest(router)

    def only(self, columns: Sequence[int]) -> FinerMap:
        """Return the map of some of the experts."""
        at = list(columns)
        plain = replace(self.plain, table=self.plain.table[:, at])
        return replace(
            self, plain=plain, forest=replace(self.forest, value=self.forest.value[:, at])
        )

    def expected(self, prompts: Prompts) -> FloatArray:
        """Return expected scores, shape (n_prompts, n_experts)."""
        probabilities = self.plain.predict_proba(prompts)
        finer = self.forest.expected(prompts, probabilities)
        return np.asarray((finer + probabilities @ self.plain.table) / 2)

    def expected_of(self, embedding: FloatArray, text: str) -> FloatArray:
        """Return expected scores for one prompt, shape (n_experts,)."""
        found: FloatArray = self.expected(Prompts(embedding[np.newaxis], surface([text])))[0]
        return found

    def save(self, path: Path) -> None:
        """Write the arrays to a file, all of them or nothing."""
        scratch = path.with_name(f".{path.name}.new")
        write_arrays(scratch, self._arrays())
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> FinerMap:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            The file is missing or not that.
        """
        try:
            arrays = read_arrays(path)
            found = cls(
                SoftTable(*(arrays[f"plain.{field.name}"] for field in fields(SoftTable))),
                Forest(*(arrays[f"forest.{field.name}"] for field in fields(Forest))),
                str(arrays["encoder_digest"]),
            )
            if len(found.plain.centre) != len(NAMES):
                raise ValueError("it knows another form of prompts than this version")
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise ValueError(f"{path.name} is not a finer map: {error}") from error
        return found

    def _arrays(self) -> dict[str, AnyArray]:
        parts = {
            f"{name}.{field.name}": getattr(part, field.name)
            for name, part in (("plain", self.plain), ("forest", self.forest))
            for field in fields(part)
        }
        return {**parts, "encoder_digest": np.array(self.encoder_digest)}
