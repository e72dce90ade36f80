"""The mean of two routers' answers: they err differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from routers.arrays import IntArray
from routers.base import FloatArray, QuickRouter
from routers.calibrate import fit_temperature, log_loss, tempered, tempered_row
from routers.metrics import label_indices
from routers.progress import Progress, silent
from routers.registry import StoredRouter, router_class
from routers.tempered import content_version

_SHARES = tuple(tenths / 10 for tenths in range(6))


class ImitatingRouter(StoredRouter, QuickRouter, Protocol):
    """A quick router that can learn another one's answers."""

    def imitate(
        self,
        texts: Sequence[str],
        probabilities: FloatArray,
        categories: tuple[str, ...],
        progress: Progress = ...,
    ) -> Self:
        """See `routers.skimming.SkimmingRouter.imitate`."""
        ...

    def predict_or_defer(self, text: str) -> FloatArray:
        """See `routers.base.QuickRouter.predict_or_defer`; nothing is deferred."""
        ...


@dataclass(frozen=True, slots=True)
class Mean:
    """How the answers of two routers are made one.

    Attributes
    ----------
    share : float
        Weight of the first, in [0, 1].
    temperature : float
        What the mean must be tempered with: the mean of two is less sure than it is right.
    """

    share: float = 0.0
    temperature: float = 1.0

    @classmethod
    def fit(
        cls, first: FloatArray, second: FloatArray, truth: IntArray, weights: FloatArray
    ) -> Self:
        """Find the mean that makes the labels of held-out texts likeliest.

        Parameters
        ----------
        first, second : ndarray, shape (n_texts, n_categories)
            Calibrated probabilities; the first gets half of the weight at most.
        truth : ndarray of int, shape (n_texts,)
            Column of every text's category.
        weights : ndarray, shape (n_texts,)
            How much each text counts.
        """

        def fitted(share: float) -> tuple[float, Self]:
            rows = cls(share).of(first, second)
            mean = cls(share, fit_temperature(rows, truth, weights))
            return log_loss(mean.of(first, second), truth, weights), mean

        return min(map(fitted, _SHARES), key=lambda found: found[0])[1]

    def of(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """Return the mean of rows of probabilities, each of shape (n_texts, n_categories)."""
        rows = [self.of_one(*pair) for pair in zip(first, second, strict=True)]
        return np.array(rows).reshape(first.shape)

    def of_one(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """Return the row that `of` gives one text, of two of shape (n_categories,)."""
        rest = 1.0 - self.share
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        mixed = [self.share * ours + rest * theirs for ours, theirs in pairs]
        return tempered_row(mixed, self.temperature)


class MeanRouter:
    """The mean of two quick routers.

    Parameters
    ----------
    first, second : ImitatingRouter
        Of two types.
    name : str
        See `routers.base.Router`.

    Attributes
    ----------
    name, version, categories_, active_params_b
        See `routers.base.Router`; both routers' parameters.
    mean : Mean
    min_margin : float
        See `routers.registry.StoredRouter`.
    """

    type: ClassVar[str] = "mean"

    def __init__(self, first: ImitatingRouter, second: ImitatingRouter, name: str) -> None:
        if first.type == second.type:
            raise ValueError(f"a mean must have routers of two types; got two of {first.type}")
        self.first = first
        self.second = second
        self.name = name
        self._set_mean(Mean())

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = silent) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        self.first.fit(texts, labels, progress)
        self.second.fit(texts, labels, progress)
        self._set_mean(Mean())
        return self

    def imitate(
        self,
        texts: Sequence[str],
        probabilities: FloatArray,
        categories: tuple[str, ...],
        progress: Progress = silent,
    ) -> Self:
        """See `routers.skimming.SkimmingRouter.imitate`."""
        self.first.imitate(texts, probabilities, categories, progress)
        self.second.imitate(texts, probabilities, categories, progress)
        self._set_mean(Mean())
        return self

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """See `routers.base.Router.predict_proba`."""
        return self.mean.of(self.first.predict_proba(texts), self.second.predict_proba(texts))

    def predict_or_defer(self, text: str) -> FloatArray:
        """See `routers.base.QuickRouter.predict_or_defer`; nothing is deferred."""
        first, second = self.first.predict_or_defer(text), self.second.predict_or_defer(text)
        return self.mean.of_one(first, second)

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = silent,
        answers: FloatArray | None = None,
    ) -> FloatArray:
        """See `routers.registry.StoredRouter.calibrate`."""
        truth = label_indices(labels, self.categories_)
        if answers is not None:
            self._set_mean(Mean(Mean().share, fit_temperature(answers, truth, weights)))
            return tempered(answers, self.mean.temperature)
        first = self.first.calibrate(texts, labels, weights, progress)
        second = self.second.calibrate(texts, labels, weights, progress)
        self._set_mean(Mean.fit(first, second, truth, weights))
        return self.mean.of(first, second)

    def write(self, folder: Path) -> dict[str, Any]:
        """See `routers.registry.StoredRouter.write`."""
        return {
            **asdict(self.mean),
            "routers": [stored(one, folder / one.type) for one in (self.first, self.second)],
        }

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """See `routers.registry.StoredRouter.load`."""
        first, second = (
            restored(folder / one["type"], name, categories, one) for one in settings["routers"]
        )
        router = cls(first, second, name)
        router._set_mean(Mean(settings["share"], settings["temperature"]))
        return router

    def _set_mean(self, mean: Mean) -> None:
        self.mean = mean
        self.categories_ = self.second.categories_
        self.min_margin = 0.0
        self.active_params_b = self.first.active_params_b + self.second.active_params_b
        self.version = content_version(self.first.version, self.second.version, repr(mean))


def stored(router: StoredRouter, folder: Path) -> dict[str, Any]:
    """Write a router that is part of another into a folder of its own; return what names it."""
    folder.mkdir()
    return {"type": router.type, "settings": router.write(folder)}


def restored(folder: Path, name: str, categories: tuple[str, ...], part: Mapping[str, Any]) -> Any:  # noqa: ANN401 (what type it must be is said by the router that it is part of)
    """Read what `stored` wrote."""
    return router_class(part["type"]).load(folder, name, categories, part["settings"])
