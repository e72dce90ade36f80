"""Where a request goes, and when a conversation keeps its expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.experts import Expert
from routers.base import GENERAL, Decision, Router
from routers.mapping import ExpertMapping
from routers.text import RequestText

SWITCH_MARGIN = 0.5
"""By how much more probable than the category before a new one must be to change the expert."""

LEAST_TOPIC_CHARS = 20
"""A shorter text changes no topic."""
LEAST_GENERAL_CHARS = 60
"""The same for a new category `general`: there "hm, that is wrong, try again" ends up too."""

Cache = Literal["hit", "miss", "off"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a request goes.

    Attributes
    ----------
    experts : tuple of Expert
        Best first; the later ones are the fallbacks. A pinned expert has none.
    decision : Decision or None
        What the router said; None when the client pinned an expert.
    reading : RequestText or None
        What of the conversation was classified; None likewise.
    router : Router or None
        The router that answered; None likewise.
    cache : {"hit", "miss", "off"}
        Whether the choice was found in the cache.
    router_active_params_b : float
        10^9 parameters spent on classifying: 0 for a cached choice or a pinned expert.
    kept_for : str or None
        The category that led a conversation to its expert, where the decision alone would choose
        another one; None where it chose.
    explores : bool
        Whether the prompt tries out an expert; see `gateway.explore`.
    by_rule : bool
        Whether a keyword of the operator decided, and no router was run.
    why : str
        The reason where there is no decision.
    preset : str or None
        The preset it was routed under; None when the client pinned an expert.
    mapping : ExpertMapping or None
        What ranked the experts; None likewise.
    """

    experts: tuple[Expert, ...]
    decision: Decision | None
    reading: RequestText | None
    router: Router | None
    cache: Cache
    router_active_params_b: float
    kept_for: str | None = None
    explores: bool = False
    by_rule: bool = False
    why: str = "pinned"
    preset: str | None = None
    mapping: ExpertMapping | None = None

    @property
    def reason(self) -> str:
        """Why the first expert was chosen, as in ``x-coe-reason``."""
        if self.decision is None:
            return self.why
        if self.kept_for is not None:
            return "sticky"
        if self.explores:
            return "explore"
        if self.by_rule:
            return "keyword"
        if self.cache == "hit" and self.decision.reason == "routed":
            return "cached_choice"
        return self.decision.reason


def with_kept(plan: Plan, expert: Expert, category: str) -> Plan:
    """Return the plan of a conversation that is with an expert, unless a switch pays.

    Parameters
    ----------
    category : str
        The category that led to the expert.
    """
    decision, reading, router = plan.decision, plan.reading, plan.router
    if decision is None or reading is None or router is None:
        return plan
    if pays(decision, reading.text, router.categories_, category):
        return plan
    others = tuple(other for other in plan.experts if other.name != expert.name)
    kept_for = category if plan.experts[0].name != expert.name else None
    return replace(plan, experts=(expert, *others), kept_for=kept_for)


def pays(decision: Decision, text: str, categories: Sequence[str], before: str) -> bool:
    """Whether a conversation should follow a new decision: a clear change of topic.

    Parameters
    ----------
    text : str
        What was classified: too short a text, like "commit it", changes no topic.
    before : str
        The category that led to its expert.
    """
    if decision.reason == "low_confidence" or decision.category == before:
        return False
    least_chars = LEAST_GENERAL_CHARS if decision.category == GENERAL else LEAST_TOPIC_CHARS
    if len(text) < least_chars:
        return False
    held = decision.probabilities[categories.index(before)] if before in categories else 0.0
    return bool(decision.confidence - held >= SWITCH_MARGIN)
