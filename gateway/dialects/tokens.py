"""An estimate of how many tokens a request takes, where no expert counts them."""

from __future__ import annotations

from gateway.able import LIKELY_CHARS_PER_TOKEN, count_chars
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
