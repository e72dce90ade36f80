"""Estimates of how many tokens requests and answers take, where no expert counts them."""

from __future__ import annotations

import math

from gateway.able import LIKELY_CHARS_PER_TOKEN, count_chars
from gateway.dialects.chat import read_answer
from gateway.errors import ExpertError
from gateway.protocol import ChatRequest

PICTURE_TOKENS = 1600
"""Of a picture or a file; providers scale pictures down to about as much."""
MESSAGE_TOKENS = 4
"""What a chat template puts around a message."""


def estimate_tokens(request: ChatRequest) -> int:
    """Return about how many tokens a request takes, rather too many than too few."""
    tools = len(bytes(request.fields.get("tools", b"")))
    calls = sum(len(str(message.get("tool_calls") or "")) for message in request.messages)
    chars = count_chars(request.messages) + tools + calls
    contents = [message.get("content") for message in request.messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    pictures = len([part for part in parts if part["type"] != "text"])
    n_messages = len(request.messages)
    return (
        int(chars / LIKELY_CHARS_PER_TOKEN)
        + pictures * PICTURE_TOKENS
        + n_messages * MESSAGE_TOKENS
    )


def estimate_answer_tokens(body: bytes, after: int = 0) -> int:
    """Return about how many tokens a whole completion holds; 0 where it cannot be read.

    Parameters
    ----------
    after : int
        Choices at its beginning that are left out.
    """
    try:
        choices = read_answer(body).choices or ()
    except ExpertError:
        return 0
    return math.ceil(sum(choice.n_chars for choice in choices[after:]) / LIKELY_CHARS_PER_TOKEN)
