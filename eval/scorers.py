"""Scorers: how good an answer is, from 0 to 1, beside the one that was wanted."""

from __future__ import annotations

import re
from collections.abc import Callable

Scorer = Callable[[str, str], float]
"""(answer, wanted) -> score in [0, 1]."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# "I" and "A" are words too: alone they are answers only where no word goes on with them, and where
# an answer is stated, "I" is none before a verb of the first person, nor "A" before a noun
_GOES_ON = r"(?:is|because|since|as|and|or|but)\b"
_LETTER = rf"([B-HJ]|[AI](?!['\u2019][a-z]| (?!{_GOES_ON})[a-z]))"
_VERB = r"(?:am|was|think|believe|would|will|do|have|had|can|guess|hope|see|know|chose|choose)\b"
_STATED = rf"([B-HJ]|A(?! [a-z]+(?:[.,]|$))|I(?!['\u2019][a-z]| {_VERB}))"
_STATED_CHOICE = re.compile(rf"(?i:answer|option|choice)\W+(?i:is\W+)?\(?{_STATED}\b")
_LONE_CHOICE = re.compile(rf"(?<![A-Za-z']){_LETTER}(?![A-Za-z'])")
_TOLERANCE = 1e-6


def exact(answer: str, wanted: str) -> float:
    """Compare without case, spacing and closing punctuation."""
    return float(_normal(answer) == _normal(wanted))


def includes(answer: str, wanted: str) -> float:
    """Look for what was wanted anywhere in the answer, without case and spacing."""
    return float(_normal(wanted) in _normal(answer))


def choice(answer: str, wanted: str) -> float:
    """Compare the letter that the answer states last, else the last letter that stands alone."""
    found = _STATED_CHOICE.findall(answer) or _LONE_CHOICE.findall(answer)
    return float(bool(found) and found[-1] == wanted.strip().upper())


def number(answer: str, wanted: str) -> float:
    """Compare the last number of the answer with the one that was wanted."""
    found, target = _NUMBER.findall(answer), _NUMBER.findall(wanted)
    if not found or not target:
        return 0.0
    got, goal = (float(text[-1].replace(",", "")) for text in (found, target))
    return float(abs(got - goal) <= _TOLERANCE * max(1.0, abs(goal)))


SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "includes": includes,
    "choice": choice,
    "number": number,
}


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?\"'")
