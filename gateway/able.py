"""Which experts can take a request: those with its capabilities, and a context that holds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.errors import ContextLengthError, InvalidRequestError
from gateway.experts import Expert, ExpertRegistry

LIKELY_CHARS_PER_TOKEN = 3.0
"""A cautious estimate of what a tokenizer makes of text."""
MOST_CHARS_PER_TOKEN = 16.0
"""What is certain not to fit is refused: no tokenizer in use does better than this."""


def able(
    registry: ExpertRegistry,
    messages: Sequence[Mapping[str, Any]],
    needs: Collection[str],
    max_tokens: int,
) -> tuple[str, ...]:
    """Return the names of the experts that can take a request: capabilities, then context.

    Experts that likely hold it, or else those that possibly do: tokens are not counted here.

    Raises
    ------
    InvalidRequestError
        When none has what the request needs.
    ContextLengthError
        When none has a context window that could hold it.
    """
    capable = [expert for expert in registry.values() if expert.capabilities.issuperset(needs)]
    if not capable:
        raise InvalidRequestError(
            f"No expert has what this request needs: {', '.join(sorted(needs))}. "
            "Leave it out, or list it under an expert's capabilities in experts.yaml."
        )
    n_chars = count_chars(messages)

    def fits(expert: Expert, chars_per_token: float) -> bool:
        window = expert.context_window
        return window is None or n_chars / chars_per_token + max_tokens <= window

    likely = [expert.name for expert in capable if fits(expert, LIKELY_CHARS_PER_TOKEN)]
    if likely:
        return tuple(likely)
    possible = [expert.name for expert in capable if fits(expert, MOST_CHARS_PER_TOKEN)]
    if not possible:
        largest = max(expert.context_window or 0 for expert in capable)
        raise ContextLengthError(
            f"'messages' hold {n_chars} characters and the answer may take {max_tokens} tokens; "
            f"the largest context window is {largest} tokens. Shorten the conversation.",
            param="messages",
        )
    return tuple(possible)


def count_chars(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the characters of text in a conversation."""
    total = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            total += len(content)
        elif isinstance(content, list):
            total += sum(len(part.get("text") or "") for part in content if part["type"] == "text")
    return total
