"""Score tables: how well each expert answered each prompt, and how large the experts are."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from routers.arrays import BoolArray, IntArray
from routers.base import FloatArray
from routers.data import DataError, read_lines

_WANTED = '{"id": str, "prompt": str, "category": str or null, "scores": {expert: 0 to 1, or null}}'


class _ScoreRow(msgspec.Struct):
    id: str | int
    prompt: str
    category: str | None
    scores: dict[str, Any]

    @property
    def known(self) -> Iterator[tuple[str, float]]:
        """Experts and their scores; null is none."""
        return ((name, score) for name, score in self.scores.items() if score is not None)


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of experts on prompts.

    Attributes
    ----------
    prompts : tuple of str, length n_prompts
    categories : tuple of str or None, length n_prompts
        The category each prompt came with; None = not said.
    experts : tuple of str, length n_experts
    scores : ndarray of float64, shape (n_prompts, n_experts)
        In [0, 1]; nan where an expert has no score.
    """

    prompts: tuple[str, ...]
    categories: tuple[str | None, ...]
    experts: tuple[str, ...]
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, indices: IntArray) -> ScoreTable:
        """Return the table of some of the prompts."""
        return ScoreTable(
            tuple(self.prompts[i] for i in indices),
            tuple(self.categories[i] for i in indices),
            self.experts,
            self.scores[indices],
        )

    def of_experts(self, names: Sequence[str]) -> ScoreTable:
        """Return the table of some of the experts, in the order of `names`.

        Raises
        ------
        DataError
            An expert has no column.
        """
        for name in names:
            if name not in self.experts:
                raise DataError(
                    f"the score table must score the expert {name!r}; it scores "
                    f"{', '.join(self.experts)}. Score it with coe eval score, or leave it out"
                )
        columns = [self.experts.index(name) for name in names]
        return ScoreTable(self.prompts, self.categories, tuple(names), self.scores[:, columns])

    def complete(self) -> ScoreTable:
        """Return the prompts that every expert has a score for."""
        return self.rows(np.flatnonzero(~np.isnan(self.scores).any(axis=1)))


def read_scores(paths: Sequence[Path]) -> ScoreTable:
    """Read score tables from JSON lines, gzipped when the name ends in ``.gz``.

    Several files are stacked; an expert that a file does not know has no score there.

    Raises
    ------
    DataError
        A file cannot be read or lines are bad, or score an expert on a prompt of the same id again:
        each is named with its reason.
    """
    seen: set[tuple[str | int, str, str]] = set()

    def parse(line: bytes) -> _ScoreRow:
        row = _row(line)
        for name, _ in row.known:
            if (row.id, row.prompt, name) in seen:
                raise ValueError(
                    f"id {row.id!r} comes again: {name} has a score on this prompt already"
                )
            seen.add((row.id, row.prompt, name))
        return row

    rows = read_lines(paths, parse, _WANTED)
    experts = tuple(dict.fromkeys(name for row in rows for name, _ in row.known))
    column = {name: index for index, name in enumerate(experts)}
    scores = np.full((len(rows), len(experts)), np.nan)
    for index, row in enumerate(rows):
        for name, score in row.known:
            scores[index, column[name]] = score
    prompts = tuple(row.prompt for row in rows)
    return ScoreTable(prompts, tuple(row.category for row in rows), experts, scores)


def _row(line: bytes) -> _ScoreRow:
    try:
        row = msgspec.json.decode(line, type=_ScoreRow)
    except msgspec.DecodeError as error:
        if b"NaN" in line and not isinstance(error, msgspec.ValidationError):
            raise ValueError(f"{error}. Write null, not NaN, where there is no score") from error
        raise
    if isinstance(row.id, int):
        raise ValueError(f'id must be a string; got {row.id}. Write "{row.id}"')
    if not row.scores:
        raise ValueError("scores must name an expert; got none")
    for name, score in row.known:
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise ValueError(f"scores.{name} must be from 0 to 1; got {json.dumps(score)}")
    return row


@dataclass(frozen=True, slots=True)
class Pool:
    """The experts that a mapping chooses from.

    Attributes
    ----------
    names : tuple of str, length n_experts
    total_params_b, active_params_b : ndarray of float64, shape (n_experts,)
        10^9 parameters resident, and used per token.
    weights : tuple of str, length n_experts
        Experts with equal `weights` share them: their total counts once.
    """

    names: tuple[str, ...]
    total_params_b: FloatArray
    active_params_b: FloatArray
    weights: tuple[str, ...]
    cost: FloatArray

    @classmethod
    def of(cls, sizes: Mapping[str, tuple[float, float, str, float]]) -> Self:
        """Make a pool of name -> (total, active, weights, cost)."""
        columns = list(zip(*sizes.values(), strict=True)) or [(), (), (), ()]
        total, active, cost = (np.array(columns[at], dtype=np.float64) for at in (0, 1, 3))
        return cls(tuple(sizes), total, active, tuple(columns[2]), cost)

    def only(self, names: Sequence[str]) -> Pool:
        """Return the pool of some of the experts, in the order of `names`."""
        at = [self.names.index(name) for name in names]
        weights = tuple(self.weights[index] for index in at)
        total, active, cost = self.total_params_b[at], self.active_params_b[at], self.cost[at]
        return Pool(tuple(names), total, active, weights, cost)

    def resident_params_b(self, kept: BoolArray) -> float:
        """Return 10^9 parameters of the distinct weights of the experts that are kept."""
        sizes = {self.weights[i]: self.total_params_b[i] for i in np.flatnonzero(kept)}
        return float(sum(sizes.values()))


COST_COLUMNS = {
    "params": "active_params_b",
    "latency": "latency_s",
    "money": "usd_per_million_tokens",
}
"""What a price is for -> where that stands, in the CSV and in the registry alike."""


def read_sizes(path: Path, price_of: str = "params") -> Pool:
    """Read a CSV ``model,total_params_b,active_params_b``, with a column ``weights`` if need be.

    Models without both sizes, or without the column of `COST_COLUMNS`, are left out.

    Parameters
    ----------
    path : Path
    price_of : str
        A key of `COST_COLUMNS`.

    Raises
    ------
    DataError
        The file cannot be read, a column is missing, or a size is not a number above 0.
    """
    sizes: dict[str, tuple[float, float, str, float]] = {}
    columns = ("total_params_b", "active_params_b", COST_COLUMNS[price_of])
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                total, active, cost = (_size(row, key, f"{path}:{number}") for key in columns)
                if total is not None and active is not None and cost is not None:
                    weights = row.get("weights") or row["model"]
                    sizes[row["model"]] = (total, active, weights, cost)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        got = getattr(error, "strerror", None) or error
        raise DataError(f"{path} must be a readable CSV file; got {got}") from error
    except KeyError as error:
        raise DataError(
            f"{path} must have the columns model,{','.join(dict.fromkeys(columns))}; {error} is "
            "missing"
        ) from error
    return Pool.of(sizes)


def _size(row: dict[str, str], key: str, where: str) -> float | None:
    if not row[key]:
        return None
    try:
        size = float(row[key])
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise DataError(f"{where}: {key} must be a number above 0; got {row[key]!r}")
    return size
