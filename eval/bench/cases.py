"""The kinds of load that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.bench.load import Load
from eval.bench.prompts import CHARS_PER_TOKEN

GRID: Sequence[tuple[str, str, Sequence[int], Sequence[int]]] = (
    ("same", "20", (1, 32, 512), (8, 128)),
    ("same", "500", (), (32,)),
    ("same", "4000", (), (32,)),
    ("same", "1mb", (), (1, 32)),
    ("distinct", "20", (1, 32), (512,)),
    ("distinct", "500", (1, 32), ()),
    ("distinct", "4000", (), (1, 32)),
    ("mixed", "500", (1, 32), ()),
    ("stream", "20", (1, 32), (128, 512)),
)
"""What is sent, its size in tokens, and clients at a time: those of the quick run, then the others.

Three rounds of all, with the rivals, should take about an hour.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of load.

    Attributes
    ----------
    name : str
        What is sent, then the size of the prompt: the ``same`` prompt over and over, ``distinct``
        ones, ``mixed`` ones (distinct, and of two topics each), or ``stream``.
    """

    name: str
    load: Load

    @property
    def label(self) -> str:
        """The case with its concurrency, as ratios are named."""
        return f"{self.name}@{self.load.concurrency}"


def cases(*, quick: bool = False) -> list[Case]:
    """Return all cases, or those that the table in the documentation shows."""
    return [
        _case(kind, size, level)
        for kind, size, shown, others in GRID
        for level in sorted(shown if quick else {*shown, *others})
    ]


def pick(labels: Sequence[str], *, quick: bool) -> list[Case]:
    """Return the cases with these labels; when none is given, `cases`. Raises `ValueError`."""
    known = {case.label: case for case in cases()}
    for label in labels:
        if label not in known:
            raise ValueError(f"--case must be one of {', '.join(known)}; got {label!r}")
    return [known[label] for label in dict.fromkeys(labels)] or cases(quick=quick)


def _case(kind: str, size: str, concurrency: int) -> Case:
    load = Load(
        10**6 if size == "1mb" else round(int(size) * CHARS_PER_TOKEN),
        distinct=kind in ("distinct", "mixed"),
        concurrency=concurrency,
        stream=kind == "stream",
        mixed=kind == "mixed",
    )
    return Case(f"{kind}-{size}", load)
