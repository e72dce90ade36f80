"""The second step of a composition of experts: category -> experts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from routers.base import Decision, FloatArray

DEFAULT_PRESET = "default"
"""The preset of a client that names none."""
FORMAT = 1


class MappingError(ValueError):
    """A mapping names what does not exist, or its file is broken."""


class ExpertMapping(Protocol):
    """Chooses experts for a decision of the router.

    Attributes
    ----------
    presets : tuple of str
        The presets there are, `DEFAULT_PRESET` among them.
    """

    @property
    def presets(self) -> tuple[str, ...]:
        """See above."""
        ...

    def plain(self) -> Mapping[str, Sequence[str]]:
        """Return category -> experts, best first, for a prompt that is certainly of it."""
        ...

    def check(self, categories: Collection[str]) -> None:
        """Refuse categories that do not fit those of the router.

        Raises
        ------
        MappingError
            Naming the category and those that exist.
        """
        ...

    def rank(
        self, decision: Decision, candidates: Collection[str], preset: str = DEFAULT_PRESET
    ) -> tuple[str, ...]:
        """Return the candidates that may answer, best first.

        Parameters
        ----------
        decision : Decision
            What the router said of the prompt.
        candidates : collection of str
            Names of the experts that are able to take the request.
        preset : str
            One of `presets`.

        Returns
        -------
        tuple of str
            An expert that the mapping leaves out is not used. When none that it names is a
            candidate, every candidate in its own order, since an answer beats none.
        """
        ...


@dataclass(frozen=True, slots=True)
class WrittenMapping:
    """Ranked experts for each category, written by hand and taken at their word.

    Attributes
    ----------
    ranked : Mapping of str to sequence of str
        Category -> names of experts, best first. A category left out goes to `general`.
    general : str
        The expert for uncertain prompts, and the last fallback of every category.
    """

    ranked: Mapping[str, Sequence[str]]
    general: str

    @property
    def presets(self) -> tuple[str, ...]:
        """Only the default one: there are no prices to choose by."""
        return (DEFAULT_PRESET,)

    def plain(self) -> Mapping[str, Sequence[str]]:
        """Return what was written."""
        return self.ranked

    def check(self, categories: Collection[str]) -> None:
        """See `ExpertMapping.check`."""
        for category in self.ranked:
            if category not in categories:
                raise MappingError(
                    f"mapping.{category} must be a category of the router; got {category!r}. "
                    f"Allowed: {', '.join(categories)}. Rename it, or train a router that has it"
                )

    def rank(
        self, decision: Decision, candidates: Collection[str], preset: str = DEFAULT_PRESET
    ) -> tuple[str, ...]:
        """Return the experts of the decided category, then the general one, then nobody."""
        wanted = dict.fromkeys((*self.ranked.get(decision.category, ()), self.general))
        return tuple(name for name in wanted if name in candidates) or tuple(candidates)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """What a mapping file holds."""

    format: int
    categories: tuple[str, ...]
    experts: tuple[str, ...]
    expected_score: list[list[float]]
    active_params_b: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMapping:
    """Expected scores by category and expert, weighed by the router's probabilities.

    Ranks by the sum over categories of p(category | prompt) x expected_score(category, expert),
    minus price x active_params_b(expert). A certain router gives the plain table of one expert for
    each category; an uncertain one drifts to generalists by itself, so `Decision.category` and its
    threshold play no part.

    Attributes
    ----------
    categories : tuple of str, length n_categories
    experts : tuple of str, length n_experts
    expected_score : ndarray of float64, shape (n_categories, n_experts)
        In [0, 1].
    active_params_b : ndarray of float64, shape (n_experts,)
        10^9 parameters used per token.
    prices : Mapping of str to float
        Preset -> price, in score per 10^9 active parameters; `DEFAULT_PRESET` among them.

    References
    ----------
    Composition of Experts (arXiv 2412.01868).
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    expected_score: FloatArray
    active_params_b: FloatArray
    prices: Mapping[str, float]

    @classmethod
    def load(cls, path: Path, prices: Mapping[str, float]) -> ScoredMapping:
        """Read the file that `save` wrote.

        Raises
        ------
        MappingError
            The file is missing or broken.
        """
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_File)
            table = np.array(file.expected_score, dtype=np.float64)
            if file.format != FORMAT:
                raise ValueError(f"format must be {FORMAT}; got {file.format}")
            if table.shape != (len(file.categories), len(file.experts)) or not table.size:
                raise ValueError(f"expected_score has shape {table.shape}")
            if len(file.active_params_b) != len(file.experts):
                raise ValueError("active_params_b must have one number for each expert")
        except (OSError, ValueError) as error:
            raise MappingError(
                f"{path} must be a mapping that coe map wrote; got {error}. Write it again"
            ) from error
        return cls(file.categories, file.experts, table, np.array(file.active_params_b), prices)

    def save(self, path: Path) -> None:
        """Write the table to a file, all of it or nothing; prices are not in it."""
        content = json.dumps(
            {
                "format": FORMAT,
                "categories": self.categories,
                "experts": self.experts,
                "expected_score": self.expected_score.round(6).tolist(),
                "active_params_b": self.active_params_b.tolist(),
            },
            indent=1,
        )
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_text(f"{content}\n", encoding="utf-8")
        scratch.replace(path)

    @property
    def presets(self) -> tuple[str, ...]:
        """See `ExpertMapping`."""
        return tuple(self.prices)

    @property
    def best_single(self) -> str:
        """The expert with the highest mean over categories; the smallest among equals."""
        overall = self.expected_score.mean(axis=0)
        return self.experts[int(np.lexsort((self.active_params_b, -overall))[0])]

    @property
    def digest(self) -> str:
        """A short hash of all that decides a ranking."""
        content = hashlib.sha256(repr((self.categories, self.experts)).encode())
        content.update(self.expected_score.tobytes())
        content.update(self.active_params_b.tobytes())
        content.update(json.dumps(dict(self.prices), sort_keys=True).encode())
        return content.hexdigest()[:12]

    def plain(self, preset: str = DEFAULT_PRESET) -> Mapping[str, Sequence[str]]:
        """See `ExpertMapping.plain`."""
        rows = np.eye(len(self.categories))
        return {
            category: tuple(self.experts[i] for i in self._order(row, preset))
            for category, row in zip(self.categories, rows, strict=True)
        }

    def check(self, categories: Collection[str]) -> None:
        """See `ExpertMapping.check`; the order must be the router's too."""
        if tuple(categories) != self.categories:
            raise MappingError(
                f"the table of mapping must have the router's categories, {', '.join(categories)}; "
                f"it has {', '.join(self.categories)}. Make it again with coe map --write"
            )

    def utility(self, probabilities: FloatArray, preset: str) -> FloatArray:
        """Return what each expert is worth for a prompt, shape (n_experts,)."""
        value = probabilities @ self.expected_score - self.prices[preset] * self.active_params_b
        return np.asarray(value, dtype=np.float64)

    def rank(
        self, decision: Decision, candidates: Collection[str], preset: str = DEFAULT_PRESET
    ) -> tuple[str, ...]:
        """Return the experts of the table by utility; see `ExpertMapping.rank`."""
        order = self._order(decision.probabilities, preset)
        ranked = (self.experts[index] for index in order)
        return tuple(name for name in ranked if name in candidates) or tuple(candidates)

    def _order(self, probabilities: FloatArray, preset: str) -> list[int]:
        """Return the experts' indices, best first."""
        order: list[int] = np.argsort(-self.utility(probabilities, preset), kind="stable").tolist()
        return order
