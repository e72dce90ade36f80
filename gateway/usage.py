"""The tokens that an expert says an answer took; what cannot be is not believed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

MOST_TOKENS = 10**8
"""No context holds as many: a larger count would only empty a key's budget."""

Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of an answer, as its expert counted them."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the expert had read before."""
        return _detail(self.prompt_tokens_details, "cached_tokens", self.prompt_tokens)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the answer that were reasoning."""
        details = self.completion_tokens_details
        return _detail(details, "reasoning_tokens", self.completion_tokens)


def _detail(details: object, name: str, most: int) -> int:
    count = details.get(name) if isinstance(details, dict) else None
    return max(0, min(count, most)) if isinstance(count, int) else 0


_decode = msgspec.json.Decoder(Usage | None).decode


def read_usage(raw: Raw) -> Usage | None:
    """Return the usage of an answer; None where there is none, or a count that cannot be."""
    try:
        usage = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return usage if usage and (usage.prompt_tokens or usage.completion_tokens) else None
