"""The items of a response's input, as chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.errors import InvalidRequestError
from gateway.protocol import refuse_nul

Item = Mapping[str, Any]
Message = dict[str, Any]
_TEXTS = {"input_text", "output_text", "text", "reasoning_text", "summary_text", "refusal"}
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class Conversation:
    """Puts items together to chat messages, in which an assistant's turn is one message.

    Attributes
    ----------
    messages : list of dict
        What has come of the items so far.
    native_only : set of str
        Types of items and parts that have no counterpart in a chat completion; they are left out.
    """

    def __init__(self, instructions: str | None) -> None:
        self.messages: list[Message] = []
        self.native_only: set[str] = set()
        if instructions:
            refuse_nul(instructions, "instructions")
            self.messages.append({"role": "system", "content": instructions})

    def add(self, items: Iterable[Item], at: str) -> None:
        """Add items; raises `InvalidRequestError` naming the one at fault."""
        for index, item in enumerate(items):
            self._add(item, f"{at}[{index}]")

    def _add(self, item: Item, at: str) -> None:
        kind = item.get("type") or "message"
        if kind == "message":
            self._add_message(item, at)
        elif kind == "reasoning":
            self._turn("content", "reasoning_content")["reasoning_content"] = _thought(item, at)
        elif kind == "function_call":
            function = {"name": string(item, "name", at)}
            function["arguments"] = string(item, "arguments", at)
            call = {"id": string(item, "call_id", at), "type": "function", "function": function}
            self._turn().setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            self._add_output(item, at)
        else:
            self.native_only.add(str(kind)[:80])

    def _add_message(self, item: Item, at: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequestError(
                f"'{at}.role' must be one of: {', '.join(_ROLES)}; got {str(role)[:80]!r}.",
                param=f"{at}.role",
            )
        content = self._content(item.get("content"), f"{at}.content")
        role = _ROLES[role]
        if role == "assistant":
            self._turn("content")["content"] = _joined(content)
        elif role == "system" and self.messages and self.messages[-1]["role"] == "system":
            # many chat templates take one system message only
            self.messages[-1]["content"] += f"\n\n{_joined(content)}"
        else:
            text = _joined(content) if role == "system" else content
            self.messages.append({"role": role, "content": text})

    def _add_output(self, item: Item, at: str) -> None:
        content = self._content(item.get("output"), f"{at}.output")
        call_id = string(item, "call_id", at)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": _joined(content)})
        others = [] if isinstance(content, str) else [p for p in content if p["type"] != "text"]
        if others:  # a tool's message holds text only
            self.messages.append({"role": "user", "content": others})

    def _turn(self, *taken: str) -> Message:
        """Return the assistant's message that is being put together.

        Parameters
        ----------
        taken : str
            Fields that it must not have yet, nor any tool call: else a new one begins.
        """
        last = self.messages[-1] if self.messages else {}
        full = taken and (last.get("tool_calls") or any(last.get(name) for name in taken))
        if last.get("role") != "assistant" or full:
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        return last

    def _content(self, content: object, at: str) -> str | list[dict[str, Any]]:
        if isinstance(content, str):
            refuse_nul(content, at)
            return content
        if not isinstance(content, list):
            raise InvalidRequestError(f"'{at}' must be a string or a list of parts.", param=at)
        parts = [self._part(part, f"{at}[{index}]") for index, part in enumerate(content)]
        found = [part for part in parts if part is not None]
        alone = len(found) == 1 and found[0]["type"] == "text"
        return str(found[0]["text"]) if alone else found

    def _part(self, part: object, at: str) -> dict[str, Any] | None:
        if not isinstance(part, Mapping):
            raise InvalidRequestError(f"'{at}' must be an object with a 'type'.", param=at)
        kind = part.get("type")
        if isinstance(kind, str) and kind in _TEXTS:
            return {"type": "text", "text": string(part, _text_key(kind), at)}
        if kind == "input_image" and isinstance(part.get("image_url"), str):
            url = {key: part[key] for key in ("detail",) if part.get(key)}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **url}}
        if kind == "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        if kind == "input_file" and isinstance(part.get("file_data"), str):
            file = {key: part[key] for key in ("filename", "file_data") if part.get(key)}
            return {"type": "file", "file": file}
        self.native_only.add(string(part, "type", at)[:80])
        return None


def _text_key(kind: str) -> str:
    return "refusal" if kind == "refusal" else "text"


def _joined(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _thought(item: Item, at: str) -> str:
    """Return what can be read of a reasoning item: its text, else its summary."""
    key = "content" if item.get("content") else "summary"
    parts = item.get(key) or []
    if not isinstance(parts, list):
        raise InvalidRequestError(f"'{at}.{key}' must be a list of parts.", param=f"{at}.{key}")
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))


def string(item: Item, key: str, at: str) -> str:
    """Return a field that must be a string; raises `InvalidRequestError`."""
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError(f"'{at}.{key}' must be a string.", param=f"{at}.{key}")
    refuse_nul(value, f"{at}.{key}")
    return value
