"""Builders of chat messages, and a conversation with what must be read of it."""

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


def user(*content: object) -> Message:
    """Make a user turn: one argument is the content as it is, several are its parts."""
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def assistant(content: object) -> Message:
    return {"role": "assistant", "content": content}


def system(content: object) -> Message:
    return {"role": "system", "content": content}


def tool(content: object) -> Message:
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


def call(name: str) -> Message:
    """Make an assistant turn that only calls a tool."""
    function = {"name": name, "arguments": "{}"}
    tool_call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call]}


def part(text: str) -> Message:
    return {"type": "text", "text": text}


@dataclass(frozen=True)
class Case:
    """A conversation, the text to be classified, and what must be stated as set aside."""

    name: str
    messages: list[Message]
    text: str
    set_aside: tuple[str, ...] = ()
