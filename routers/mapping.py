"""The second step of a composition of experts: category -> experts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np

from routers.base import GENERAL, Decision, FloatArray
from routers.finer import FinerMap

DEFAULT_PRESET = "default"
"""The preset of a client that names none."""
PriceOf = Literal["params", "latency", "money"]
"""What a price is for."""
FORMAT = 2
FINER_SUFFIX = ".npz"
"""The finer map stands beside the table, in a file that is called alike."""


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
        Category -> names of experts, best first. A category left out goes to `general`. What
        `GENERAL` has answers uncertain prompts, also where the router has no such category.
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
        allowed = dict.fromkeys((*categories, GENERAL))
        for category in self.ranked:
            if category not in allowed:
                close = get_close_matches(category, allowed, n=1)
                hint = f"Did you mean {close[0]!r}? " if close else ""
                raise MappingError(
                    f"mapping.{category} must be a category of the router; got {category!r}. {hint}"
                    f"Allowed: {', '.join(allowed)}. Rename it, or train a router that has it"
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
    price_of: PriceOf
    cost: list[float]
    finer: str | None


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMapping:
    """Expected scores by category and expert, weighed by the router's probabilities.

    Ranks by the sum over categories of p(category | prompt) x expected_score(category, expert),
    minus price x cost(expert). A certain router gives the plain table of one expert for each
    category. Where there is a finer map, and the prompt was embedded, what that expects of the
    experts takes the place of the sum.

    An uncertain router that has the category `GENERAL` drifts to generalists by itself: the table
    knows how experts do on what is out of scope, so `Decision.category` and its threshold play no
    part. Without that category nothing in the table speaks for such a prompt: where the decision is
    ``low_confidence``, the general expert comes first, then the others by utility.

    Attributes
    ----------
    categories : tuple of str, length n_categories
    experts : tuple of str, length n_experts
    expected_score : ndarray of float64, shape (n_categories, n_experts)
        In [0, 1].
    cost : ndarray of float64, shape (n_experts,)
        Of an answer, in the unit of `price_of`.
    prices : Mapping of str to float
        Preset -> price, in score per unit of cost; `DEFAULT_PRESET` among them.
    price_of : {"params", "latency", "money"}
        What `cost` is: 10^9 active parameters, seconds, US dollars for 10^6 tokens.
    finer : FinerMap or None
        Knows the same experts in the same order.
    general : str or None
        The expert for uncertain prompts where no category is `GENERAL`; None = ranked as others.

    References
    ----------
    Composition of Experts (arXiv 2412.01868): the weighing, and a general expert for uncertain
    inputs.
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    expected_score: FloatArray
    cost: FloatArray
    prices: Mapping[str, float]
    price_of: PriceOf = "params"
    finer: FinerMap | None = None
    general: str | None = None

    @classmethod
    def load(
        cls, path: Path, prices: Mapping[str, float], general: str | None = None
    ) -> ScoredMapping:
        """Read the file that `save` wrote; prices and the general expert are not in it.

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
            if len(file.cost) != len(file.experts):
                raise ValueError("cost must have one number for each expert")
            finer = None if file.finer is None else FinerMap.load(path.with_suffix(FINER_SUFFIX))
            if finer is not None and (finer.digest, finer.n_experts) != (
                file.finer,
                len(file.cost),
            ):
                raise ValueError(f"the finer map beside it is another, {finer.digest}")
        except (OSError, ValueError) as error:
            raise MappingError(
                f"{path} must be a mapping that coe map wrote; got "
                f"{getattr(error, 'strerror', None) or error}. Write it again with coe map --write"
            ) from error
        known = (file.categories, file.experts, table, np.array(file.cost))
        return cls(*known, prices, file.price_of, finer, general)

    def save(self, path: Path) -> None:
        """Write the table to a file and the finer map beside it; prices are not in them.

        Each file is written whole or not at all. A reader that comes between the two is told so:
        the table names the map that belongs to it.
        """
        content = json.dumps(
            {
                "format": FORMAT,
                "categories": self.categories,
                "experts": self.experts,
                "expected_score": self.expected_score.tolist(),
                "price_of": self.price_of,
                "cost": self.cost.tolist(),
                "finer": None if self.finer is None else self.finer.digest,
            },
            indent=1,
        )
        beside = path.with_suffix(FINER_SUFFIX)
        if self.finer is not None:
            self.finer.save(beside)
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_text(f"{content}\n", encoding="utf-8")
        scratch.replace(path)
        if self.finer is None:
            beside.unlink(missing_ok=True)

    @property
    def presets(self) -> tuple[str, ...]:
        """See `ExpertMapping`."""
        return tuple(self.prices)

    @property
    def best_single(self) -> str:
        """The expert with the highest mean over categories; the cheapest among equals."""
        overall = self.expected_score.mean(axis=0)
        return self.experts[int(np.lexsort((self.cost, -overall))[0])]

    @property
    def digest(self) -> str:
        """A short hash of all that decides a ranking."""
        content = hashlib.sha256(repr((self.categories, self.experts, self.general)).encode())
        content.update(self.expected_score.tobytes())
        content.update(self.cost.tobytes())
        content.update(json.dumps(dict(self.prices), sort_keys=True).encode())
        content.update(b"" if self.finer is None else self.finer.digest.encode())
        return content.hexdigest()[:12]

    def plain(self, preset: str = DEFAULT_PRESET) -> Mapping[str, Sequence[str]]:
        """See `ExpertMapping.plain`."""
        return {
            category: tuple(self.experts[i] for i in _order(row - self._charged(preset)))
            for category, row in zip(self.categories, self.expected_score, strict=True)
        }

    def check(self, categories: Collection[str]) -> None:
        """See `ExpertMapping.check`; the order must be the router's too."""
        if tuple(categories) != self.categories:
            raise MappingError(
                f"the table of mapping must have the router's categories, {', '.join(categories)}; "
                f"it has {', '.join(self.categories)}. Make it again with coe map --write"
            )

    def expected(self, decision: Decision) -> FloatArray:
        """Return the expected score of each expert for a prompt, shape (n_experts,)."""
        if decision.expected is not None:
            return decision.expected
        return np.asarray(decision.probabilities @ self.expected_score)

    def utility(self, decision: Decision, preset: str) -> FloatArray:
        """Return what each expert is worth for a prompt, shape (n_experts,)."""
        return np.asarray(self.expected(decision) - self._charged(preset))

    def rank(
        self, decision: Decision, candidates: Collection[str], preset: str = DEFAULT_PRESET
    ) -> tuple[str, ...]:
        """Return the experts of the table by utility; see `ExpertMapping.rank` and the class."""
        ranked = [self.experts[index] for index in _order(self.utility(decision, preset))]
        unsure = decision.reason == "low_confidence" and GENERAL not in self.categories
        if unsure and self.general is not None:
            ranked = list(dict.fromkeys((self.general, *ranked)))
        return tuple(name for name in ranked if name in candidates) or tuple(candidates)

    def _charged(self, preset: str) -> FloatArray:
        return np.asarray(self.prices[preset] * self.cost)


def _order(utility: FloatArray) -> list[int]:
    """Return the experts' indices, best first."""
    order: list[int] = np.argsort(-utility, kind="stable").tolist()
    return order
