"""The router types an artifact can hold, imported when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from routers.base import FloatArray, Router
from routers.progress import Progress

_CLASSES = {
    "linear": "routers.linear:LinearRouter",
    "knn": "routers.knn:KnnRouter",
    "finetuned": "routers.finetuned:FinetunedRouter",
    "bag": "routers.bag:BagRouter",
    "static": "routers.static:StaticRouter",
    "mean": "routers.mean:MeanRouter",
    "cascade": "routers.cascade:CascadeRouter",
    "language_gate": "routers.language_gate:LanguageGate",
}


class StoredRouter(Router, Protocol):
    """A router that learns from labelled prompts and is kept in an artifact folder.

    Attributes
    ----------
    type : str
        Its key in the registry.
    min_margin : float
        Calibrated threshold in [0, 1] for `routers.base.decide`; 0 before calibration.
    """

    type: ClassVar[str]
    min_margin: float

    def fit(self, texts: Sequence[str], labels: Sequence[str], progress: Progress = ...) -> Self:
        """See `routers.base.TrainableRouter.fit`."""
        ...

    def calibrate(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        weights: FloatArray,
        progress: Progress = ...,
        answers: FloatArray | None = None,
    ) -> FloatArray:
        """Make the probabilities honest on texts that were not learned from.

        Parameters
        ----------
        texts, labels : sequence of str, length n_texts
            Every label is one of ``categories_``.
        weights : ndarray, shape (n_texts,)
            How much each text counts, above 0.
        progress : Progress
        answers : ndarray, shape (n_texts, n_categories), or None
            What routers like this one, fitted without the text and not calibrated, answered; None:
            this router did not learn from the texts and answers itself.

        Returns
        -------
        ndarray of float64, shape (n_texts, n_categories)
            What `predict_proba` now answers for `texts`, or `answers` as it would calibrate them.
        """
        ...

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the router's files into a folder; return the JSON-ready settings `load` needs."""
        ...

    @classmethod
    def load(
        cls, folder: Path, name: str, categories: tuple[str, ...], settings: Mapping[str, Any]
    ) -> Self:
        """Read what `write` wrote; may raise anything when the files are not that."""
        ...


def router_types() -> tuple[str, ...]:
    """Return the names of all types."""
    return tuple(_CLASSES)


def router_class(type_name: str) -> type[StoredRouter]:
    """Import the class of a router type.

    Raises
    ------
    KeyError
        There is no such type.
    """
    module, name = _CLASSES[type_name].split(":")
    found: type[StoredRouter] = getattr(import_module(module), name)
    return found
