"""What the form of a prompt says: numbers, formulas, code, answer options, length.

How a prompt is written tells calculation from recall, which its topic does not, and experts differ
in that more than in topics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from routers.arrays import IntArray
from routers.base import FloatArray

_MOST_CHARS = 4_000
_ASCII = 128
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_OPTION = re.compile(r"^\(?[A-J][.)] .*$", re.MULTILINE)
_BLANK = re.compile(r"_{2,}")
_CALCULATES = re.compile(
    r"\b(?:calculate|compute|determine|find|how (?:far|long|many|much))\b", re.IGNORECASE
)
_CHOOSES = re.compile(r"\b(?:best|except|following|which|who)\b", re.IGNORECASE)
_OPERATORS, _LATEX, _BRACKETS = ([*map(ord, chars)] for chars in ("=+*/^<>", "\\$", "{}[]();_"))
_PROGRAMS = re.compile(r"\b(?:assert|def|function|import|print|return)\b")

NAMES = (
    "length",
    "lines",
    "word_length",
    "digit_share",
    "upper_share",
    "foreign_share",
    "numbers",
    "operators",
    "latex",
    "brackets",
    "options",
    "option_length",
    "blanks",
    "asks",
    "calculates",
    "chooses",
    "programs",
)
"""The columns of `surface`; counts and lengths are on a logarithmic scale."""


def surface(prompts: Sequence[str]) -> FloatArray:
    """Return the form of every prompt, shape (n_prompts, n_features); see `NAMES`."""
    return np.array([_one(prompt[:_MOST_CHARS]) for prompt in prompts]).reshape(-1, len(NAMES))


def _one(prompt: str) -> tuple[float, ...]:
    n_chars = len(prompt) + 1
    counts = _counts(prompt)
    options = _OPTION.findall(prompt)
    words = prompt.split()
    return (
        np.log(n_chars),
        np.log1p(counts[ord("\n")]),
        len("".join(words)) / max(len(words), 1),
        counts[ord("0") : ord("9") + 1].sum() / n_chars,
        counts[ord("A") : ord("Z") + 1].sum() / n_chars,
        counts[_ASCII] / n_chars,
        np.log1p(len(_NUMBER.findall(prompt))),
        np.log1p(counts[_OPERATORS].sum()),
        np.log1p(counts[_LATEX].sum()),
        np.log1p(counts[_BRACKETS].sum()),
        np.log1p(len(options)),
        np.log1p(len("".join(options))),
        np.log1p(len(_BLANK.findall(prompt))),
        float("?" in prompt),
        float(_CALCULATES.search(prompt) is not None),
        float(_CHOOSES.search(prompt) is not None),
        float(_PROGRAMS.search(prompt) is not None),
    )


def _counts(prompt: str) -> IntArray:
    """Return how often each ASCII character occurs, and last all others together."""
    codes = np.frombuffer(prompt.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return np.bincount(np.minimum(codes, _ASCII), minlength=_ASCII + 1)
