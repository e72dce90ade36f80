"""What is written down of one request: the ledger's line, and the headers of its answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from gateway.composition import label
from gateway.dialects.tokens import estimate_answer_tokens, estimate_tokens
from gateway.experts import Expert
from gateway.plan import Plan
from gateway.protocol import ChatRequest
from gateway.relay import Reading

ANSWER_HIT = "answer_hit"
REJECTED = "rejected_by_expert"
_COMPLETE = {"stop", "end_turn"}
"""What experts say of an answer that came to its own end: in OpenAI's words, and in Anthropic's."""


@dataclass(slots=True)
class Record:
    """One request, filled in on its way and written when it ends.

    Attributes
    ----------
    key_id : str or None
        The visible part of the API key; None without one.
    expert, category, preset, confidence, reason, router, cache : str, float or None
        The choice; None for what was not come to. A pinned request has no preset.
    active_params_b, expert_active_params_b : float or None
        With and without the router; None when the expert's size is unknown. The former is None too
        where the expert refused: it produced nothing.
    usage : {"reported", "estimated", "none"}
        Where the token counts come from: the expert; the length of the prompt, and the number of
        chunks or the length of the answer; or nowhere.
    outcome : str
        ``ok``, ``client_left``, ``cut``, ``rejected_by_expert`` or the code of an error.
    attempts : list of str
        Experts called, in order.
    rescued_by : list of str
        Experts that went on with an answer which broke in the middle of its stream.
    """

    request_id: str
    tenant: str
    key_id: str | None = None
    model: str = ""
    stream: bool = False
    expert: str | None = None
    category: str | None = None
    preset: str | None = None
    confidence: float | None = None
    reason: str | None = None
    router: str | None = None
    cache: str = "off"
    attempts: list[str] = field(default_factory=list)
    rescued_by: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage: str = "none"
    finish_reason: str | None = None
    router_active_params_b: float = 0.0
    expert_active_params_b: float | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    status: int = 0
    outcome: str = "ok"
    started_s: float = field(default_factory=time.monotonic)

    @property
    def active_params_b(self) -> float | None:
        """Of the whole request, in 10^9; see above for None."""
        if self.expert_active_params_b is None or self.outcome == REJECTED:
            return None
        return round(self.expert_active_params_b + self.router_active_params_b, 9)

    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.started_s

    def line(self) -> dict[str, Any]:
        """Return the record as the fields of a log line; it holds no prompt and no answer."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        del shown["started_s"]
        return {**shown, "active_params_b": self.active_params_b}

    @property
    def may_be_kept(self) -> bool:
        """Whether the answer is complete, and one expert's."""
        return self.outcome == "ok" and self.finish_reason in _COMPLETE and not self.rescued_by

    def note_plan(self, plan: Plan) -> None:
        """Write down the choice."""
        self.reason, self.cache, self.preset = plan.reason, plan.cache, plan.preset
        self.router_active_params_b = plan.router_active_params_b
        if plan.decision is not None and plan.router is not None:
            self.category = plan.decision.category
            self.confidence = round(plan.decision.confidence, 6)
            self.router = label(plan.router)

    def note_expert(self, expert: Expert) -> None:
        """Add a call that produces tokens."""
        before = self.expert_active_params_b if self.expert is not None else 0.0
        size = expert.active_params_b
        self.expert_active_params_b = None if before is None or size is None else before + size
        self.expert = expert.name

    def forget_expert(self) -> None:
        """Take back a call that produced nothing."""
        self.expert = self.expert_active_params_b = None

    def note_kept(self, expert: Expert) -> None:
        """Note that an answer of an expert is given again."""
        self.cache, self.expert, self.expert_active_params_b = ANSWER_HIT, expert.name, 0.0

    def note_reading(self, reading: Reading, request: ChatRequest, whole: bytes = b"") -> None:
        """Write down what was read of an answer; what its expert did not count is estimated.

        Parameters
        ----------
        whole : bytes
            The answer, where it was not streamed.
        """
        self.finish_reason = reading.finish_reason
        if reading.usage is not None:
            self.prompt_tokens = reading.usage.prompt_tokens
            self.completion_tokens = reading.usage.completion_tokens
            self.usage = "reported"
            if whole and reading.is_partial:
                self.completion_tokens += estimate_answer_tokens(whole, after=1)
                self.usage = "estimated"
            elif reading.finish_reason is None or reading.is_partial:  # counted before its end
                self.completion_tokens = max(self.completion_tokens, reading.chunks)
        elif said := reading.chunks or estimate_answer_tokens(whole):
            self.prompt_tokens = estimate_tokens(request)
            self.completion_tokens = said
            self.usage = "estimated"

    def cost(self) -> dict[str, Any]:
        """Return what is added as ``coe`` to the last chunk of a stream."""
        rescued = {"rescued_by": self.rescued_by} if self.rescued_by else {}
        return {"expert": self.expert, "active_params_b": self.active_params_b, **rescued}

    def headers(self) -> dict[str, str]:
        """Return the ``x-coe-*`` headers; what is unknown is left out."""
        size_b = self.active_params_b
        values = {
            "expert": self.expert,
            "category": self.category,
            "confidence": None if self.confidence is None else f"{self.confidence:.4f}",
            "reason": self.reason,
            "router": self.router,
            "active-params-b": None if size_b is None else f"{size_b:g}",
            "cache": self.cache,
        }
        known = {name: value for name, value in values.items() if value is not None}
        return {f"x-coe-{name}": _quoted(value) for name, value in known.items()}


@lru_cache(4096)
def _quoted(value: str) -> str:
    """Return a value as ASCII, which headers are; names of categories need not be."""
    return quote(value, safe=" @.:/")
