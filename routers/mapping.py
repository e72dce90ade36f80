"""The second step of a composition of experts: category -> experts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from routers.base import Decision


class MappingError(ValueError):
    """A mapping names what does not exist."""


@dataclass(frozen=True, slots=True)
class ExpertMapping:
    """Ranked experts for each category, written by hand.

    Attributes
    ----------
    ranked : Mapping of str to sequence of str
        Category -> names of experts, best first. A category left out goes to `general`.
    general : str
        The expert for uncertain prompts, and the last fallback of every category.
    """

    ranked: Mapping[str, Sequence[str]]
    general: str

    def check(self, categories: Collection[str]) -> None:
        """Refuse a mapping of categories that the router does not know.

        Raises
        ------
        MappingError
            Naming the category and those that exist.
        """
        for category in self.ranked:
            if category not in categories:
                raise MappingError(
                    f"mapping.{category} must be a category of the router; got {category!r}. "
                    f"Allowed: {', '.join(categories)}. Rename it, or train a router that has it"
                )

    def rank(self, decision: Decision, candidates: Collection[str]) -> tuple[str, ...]:
        """Return the candidates that may answer, best first.

        Parameters
        ----------
        decision : Decision
            What the router said of the prompt.
        candidates : collection of str
            Names of the experts that are able to take the request.

        Returns
        -------
        tuple of str
            Experts of the decided category, then the general one, then nobody: an expert that the
            operator did not rank for a category is not used for it. When none of these is a
            candidate, every candidate in its own order, since an answer beats none.
        """
        wanted = dict.fromkeys((*self.ranked.get(decision.category, ()), self.general))
        return tuple(name for name in wanted if name in candidates) or tuple(candidates)
