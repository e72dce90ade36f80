"""What the trained routers share: a head of arrays, and a temperature that makes it honest."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from routers.arrays import AnyArray, IntArray, digest_arrays, read_arrays, write_arrays
from routers.base import FloatArray
from routers.calibrate import fit_temperature, tempered
from routers.metrics import label_indices
from routers.progress import Progress, silent

HEAD_FILE = "head.npz"


def content_version(*parts: str) -> str:
    """Return a short hash of what decides a router's probabilities."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


class TemperedRouter(ABC):
    """A router whose answers come from learned arrays and are tempered.

    Subclasses say how they learn and how they answer.

    Attributes
    ----------
    name, version, categories_, active_params_b
        See `routers.base.Router`.
    head_ : dict of str to ndarray
        What was learned.
    temperature : float
        Above 0; probabilities are raised to 1 / temperature and normalised.
    min_margin : float
        Threshold in [0, 1] for `routers.base.decide`; 0 keeps every answer.
    """

    type: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        self._set_head({}, ())

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        return tempered(self._raw_proba(texts, silent), self.temperature)

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = silent,
        answers: FloatArray | None = None,
    ) -> FloatArray:
        """See `routers.registry.StoredRouter.calibrate`."""
        raw = self._raw_proba(texts, progress) if answers is None else answers
        truth = label_indices(labels, self.categories_)
        self._set_temperature(fit_temperature(raw, truth, weights))
        return tempered(raw, self.temperature)

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        write_arrays(folder / HEAD_FILE, self.head_)
        return {"temperature": self.temperature}

    def _restore(self, folder: Path, categories: tuple[str, ...], temperature: float) -> None:
        """Read what `write` wrote."""
        self._set_head(read_arrays(folder / HEAD_FILE), categories)
        self._set_temperature(temperature)

    @abstractmethod
    def _raw_proba(self, texts: Sequence[str], progress: Progress) -> FloatArray:
        """Return probabilities at temperature 1, each row computed alone."""

    def _set_head(self, head: Mapping[str, AnyArray], categories: tuple[str, ...]) -> None:
        # One memory layout, whatever the source: BLAS sums in another order for another.
        self.head_ = {name: np.ascontiguousarray(array) for name, array in head.items()}
        self.categories_ = categories
        self.min_margin = 0.0
        self.active_params_b = sum(array.size for array in self.head_.values()) / 1e9
        self._head_digest = digest_arrays(self.head_)
        self._set_temperature(1.0)

    def _set_temperature(self, temperature: float) -> None:
        self.temperature = temperature
        parts = (self.type, *self.categories_, repr(temperature), self._head_digest)
        self.version = content_version(*parts)


def indexed(labels: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    """Return the categories, sorted, and the index of every label's category.

    Raises
    ------
    ValueError
        There are fewer than two categories.
    """
    categories, indices = np.unique(np.asarray(labels, dtype=object), return_inverse=True)
    if len(categories) < 2:
        raise ValueError(f"labels must name two categories or more; got {list(categories)}")
    return tuple(categories.tolist()), indices.astype(np.int64)
