"""The router protocol and the rule that turns probabilities into a decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, Self, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
"""Float64 array; every probability in this package has this dtype."""

Deferred = Callable[[], FloatArray]
"""What computes the row of a text, for a thread that may take its time."""

GENERAL = "general"
"""Name of the category that uncertain prompts are given."""


class RouterError(Exception):
    """A router cannot answer now; the message says why.

    Attributes
    ----------
    of_text : bool
        Whether the text may be the reason: what was asked answered, but named no category.
    """

    def __init__(self, message: str, *, of_text: bool = False) -> None:
        super().__init__(message)
        self.of_text = of_text


@runtime_checkable
class Router(Protocol):
    """Puts prompts in categories.

    Attributes
    ----------
    name : str
        Stable identifier, ``[a-z0-9._-]+``; with ``version`` it names the cached choices.
    version : str
        Changes whenever the same text could get other probabilities.
    categories_ : tuple of str
        The categories, in the order of the columns of `predict_proba`.
    active_params_b : float
        10^9 parameters used for one classification.
    min_margin : float
        Calibrated threshold for `decide`, in [0, 1]; 0 keeps every answer.
    """

    name: str
    version: str
    categories_: tuple[str, ...]
    active_params_b: float
    min_margin: float

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return the probability of every category for every text.

        Parameters
        ----------
        texts : sequence of str, length n_texts
            Any strings: empty, huge and control characters included.

        Returns
        -------
        ndarray of float64, shape (n_texts, n_categories)
            Rows sum to 1. A text gets the same row to the last bit whatever stands beside it
            (arXiv 2402.05526: one user's prompt must not change another's route).

        Raises
        ------
        RouterError
            Only by routers that ask a service, when it does not answer.
        """
        ...


class EncodingRouter(Router, Protocol):
    """A router that may embed a text on the way to its probabilities.

    Attributes
    ----------
    encoder_digest : str or None
        What the embeddings depend on; None when no encoder is behind it.
    active_params_to_embed_b : float
        10^9 parameters that `predict_and_embed` takes: all of a cascade's.
    """

    @property
    def encoder_digest(self) -> str | None:
        """See above."""
        ...

    @property
    def active_params_to_embed_b(self) -> float:
        """See above."""
        ...

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """Return the row of `predict_proba` for a text, and its embedding of unit length.

        The embedding is None where the answer needed none.
        """
        ...


class QuickRouter(Router, Protocol):
    """A router that answers many texts in a fraction of a millisecond."""

    def predict_or_defer(self, text: str) -> FloatArray | Deferred:
        """Return the row of `predict_proba` for a text; where that takes longer, what computes it.

        Longer takes what needs an encoder, a service, or a model that may have to be loaded first;
        all else an event loop can run itself. What was found out by then is not computed again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """What a part of a router reads of a text that it does not read whole.

    Attributes
    ----------
    part : str
        What reads, e.g. ``encoder``.
    head_chars, tail_chars : int
        Characters read from the start and from the end of the text.
    """

    part: str
    head_chars: int
    tail_chars: int


class WindowedRouter(Router, Protocol):
    """A router that does not read all of a long text."""

    def windows(self, text: str) -> tuple[Window, ...]:
        """Return what each part reads of a text; none for parts that read all of it.

        Parts that an answer may do without are told of too. What they are given, spelling put
        right for one, may be a few characters longer or shorter than the text.
        """
        ...


class TrainableRouter(Router, Protocol):
    """A router that learns from labelled prompts."""

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> Self:
        """Learn from prompts and their categories; forgets what an earlier fit learned."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router says of one prompt.

    Attributes
    ----------
    category : str
        The most probable category, or `GENERAL` when the router is unsure.
    confidence : float
        Probability of the most probable category, in [0, 1], also when that category was not kept.
    probabilities : ndarray of float64, shape (n_categories,)
        The router's whole row.
    reason : {"routed", "low_confidence"}
        Whether the most probable category was kept.
    min_margin : float
        The threshold that decided that; see `decide`.
    expected : ndarray of float64, shape (n_experts,), or None
        What `routers.finer` expects of every expert; None = the categories alone decide.
    """

    category: str
    confidence: float
    probabilities: FloatArray
    reason: Literal["routed", "low_confidence"]
    min_margin: float
    expected: FloatArray | None = None


def decide(
    probabilities: FloatArray,
    categories: Sequence[str],
    min_margin: float,
    expected: FloatArray | None = None,
) -> Decision:
    """Turn one row of probabilities into a decision.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n_categories,)
        A row of `Router.predict_proba`.
    categories : sequence of str, length n_categories
        The router's ``categories_``.
    min_margin : float
        In [0, 1]; when the top probability leads that of `GENERAL` by less, the prompt is given to
        `GENERAL`.
    expected : ndarray of float64, shape (n_experts,), or None
        See `Decision`.

    References
    ----------
    Robust routing in Composition of Experts (arXiv 2412.01868): uncertain inputs go to a general
    expert.
    """
    row: list[float] = probabilities.tolist()  # for one row numpy takes three times as long
    confidence = max(row)
    category = categories[row.index(confidence)]
    held = row[categories.index(GENERAL)] if GENERAL in categories else 0.0
    if category != GENERAL and confidence - held < min_margin:
        return Decision(GENERAL, confidence, probabilities, "low_confidence", min_margin, expected)
    return Decision(category, confidence, probabilities, "routed", min_margin, expected)


def margins(probabilities: FloatArray, categories: Sequence[str]) -> FloatArray:
    """Return how far the top probability of every row leads that of `GENERAL`, shape (n_texts,).

    Infinity where `GENERAL` is the top; without that category, the top probability itself. Out of
    scope is what looks general, not what lies between two topics: this tells more of it from the
    rest than the top probability alone.
    """
    top = probabilities.max(axis=1)
    if GENERAL not in categories:
        return np.asarray(top)
    general = list(categories).index(GENERAL)
    is_general = probabilities.argmax(axis=1) == general
    return np.where(is_general, np.inf, top - probabilities[:, general])


def predict_and_embed(router: Router, text: str) -> tuple[FloatArray, FloatArray | None]:
    """Return any router's row for a text, and the embedding that it made on the way, if any."""
    if _encodes(router):
        return router.predict_and_embed(text)
    return _row(router, text), None


def active_params_to_embed_b(router: Router) -> float:
    """Return the 10^9 parameters that `predict_and_embed` takes for a text."""
    return router.active_params_to_embed_b if _encodes(router) else router.active_params_b


def predict_or_defer(router: Router, text: str) -> FloatArray | Deferred:
    """Return any router's row for a text where that takes but a moment, else what computes it."""
    return router.predict_or_defer(text) if _is_quick(router) else partial(_row, router, text)


def windows(router: Router, text: str) -> tuple[Window, ...]:
    """Return what the parts of any router read of a text that they do not read whole."""
    return router.windows(text) if _is_windowed(router) else ()


def both_ends(part: str, text: str, head_chars: int, tail_chars: int) -> tuple[Window, ...]:
    """Return the window of a part that reads so many characters of the ends of a longer text."""
    is_cut = len(text) > head_chars + tail_chars
    return (Window(part, head_chars, tail_chars),) if is_cut else ()


def _row(router: Router, text: str) -> FloatArray:
    row: FloatArray = router.predict_proba([text])[0]
    return row


def encoder_digest(router: Router) -> str | None:
    """Return what a router's embeddings depend on; None when it makes none."""
    return router.encoder_digest if _encodes(router) else None


def _encodes(router: Router) -> TypeGuard[EncodingRouter]:
    return hasattr(router, "predict_and_embed")


def _is_quick(router: Router) -> TypeGuard[QuickRouter]:
    return hasattr(router, "predict_or_defer")


def _is_windowed(router: Router) -> TypeGuard[WindowedRouter]:
    return hasattr(router, "windows")
