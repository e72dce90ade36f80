"""Conversations as Anthropic's clients send them, as chat messages.

Left out, since no chat expert has a use for it: marks for a prompt cache (``cache_control``),
encrypted reasoning of another model, and the line of Claude Code's system prompt that is for
billing and differs with every request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.errors import InvalidRequestError
from gateway.protocol import refuse_nul

Block = Mapping[str, Any]
ChatMessage = dict[str, Any]
_BILLING = "x-anthropic-billing-header"
_encode = msgspec.json.Encoder().encode


def system_text(system: str | Sequence[Block] | None) -> str:
    """Return the system prompt as one text."""
    if isinstance(system, str):
        refuse_nul(system, "system")
        return system
    texts = [_string(block, "text", f"system[{i}]") for i, block in enumerate(system or ())]
    return "\n\n".join(text for text in texts if not text.startswith(_BILLING))


def chat_messages(
    role: str, content: str | Sequence[Block], at: str, native_only: set[str]
) -> Iterator[ChatMessage]:
    """Yield the chat messages of one message.

    Parameters
    ----------
    at : str
        Where it stands, for errors.
    native_only : set of str
        Gets the types of the blocks that have no counterpart; they are left out.

    Raises
    ------
    InvalidRequestError
        Naming the block at fault.
    """
    if isinstance(content, str):
        refuse_nul(content, f"{at}.content")
        yield {"role": role, "content": content}
        return
    translate = _assistant if role == "assistant" else _user
    yield from translate(role, content, f"{at}.content", native_only)


def _assistant(
    role: str, blocks: Sequence[Block], at: str, native_only: set[str]
) -> Iterator[ChatMessage]:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        where, kind = f"{at}[{index}]", block.get("type")
        if kind == "text":
            texts.append(_string(block, "text", where))
        elif kind == "thinking":
            thoughts.append(_string(block, "thinking", where))
        elif kind == "tool_use":
            calls.append(_tool_call(block, where))
        elif kind != "redacted_thinking":
            native_only.add(_string(block, "type", where))
    message: ChatMessage = {"role": role, "content": "".join(texts) or None}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    yield message


def _tool_call(block: Block, at: str) -> dict[str, Any]:
    arguments = _encode(block.get("input") or {}).decode()
    function = {"name": _string(block, "name", at), "arguments": arguments}
    return {"id": _string(block, "id", at), "type": "function", "function": function}


def _user(
    role: str, blocks: Sequence[Block], at: str, native_only: set[str]
) -> Iterator[ChatMessage]:
    """Yield the results of tools first, as chat templates want them, then what the user says."""
    parts: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        where = f"{at}[{index}]"
        if block.get("type") != "tool_result":
            parts += _parts(block, where, native_only)
            continue
        content = _result_parts(block, where, native_only)
        texts = [part["text"] for part in content if part["type"] == "text"]
        yield {
            "role": "tool",
            "tool_call_id": _string(block, "tool_use_id", where),
            "content": "\n".join(texts),
        }
        # a tool's message holds text only: pictures follow as the user's
        parts += [part for part in content if part["type"] != "text"]
    if parts:
        alone = len(parts) == 1 and parts[0]["type"] == "text"
        yield {"role": role, "content": parts[0]["text"] if alone else parts}


def _result_parts(block: Block, at: str, native_only: set[str]) -> list[dict[str, Any]]:
    content = block.get("content")
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content or ""}]
    if not isinstance(content, list):
        raise InvalidRequestError(
            f"'{at}.content' must be a string or a list of blocks.", param=f"{at}.content"
        )
    where = f"{at}.content"
    return [
        part
        for i, inner in enumerate(content)
        for part in _parts(inner, f"{where}[{i}]", native_only)
    ]


def _parts(block: object, at: str, native_only: set[str]) -> list[dict[str, Any]]:
    """Return one block as parts of a chat message."""
    if not isinstance(block, Mapping):
        raise InvalidRequestError(f"'{at}' must be an object with a 'type'.", param=at)
    kind = block.get("type")
    if kind == "text":
        return [{"type": "text", "text": _string(block, "text", at)}]
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _url(block, at)}}]
    if kind == "document":
        return _document(block, at, native_only)
    if kind == "search_result":
        head = f"{_string(block, 'title', at)}\n{_string(block, 'source', at)}"
        return [{"type": "text", "text": head}, *_result_parts(block, at, native_only)]
    native_only.add(_string(block, "type", at))
    return []


def _document(block: Block, at: str, native_only: set[str]) -> list[dict[str, Any]]:
    source = _mapping(block, "source", at)
    head = "\n".join(str(block[key]) for key in ("title", "context") if block.get(key))
    title = [{"type": "text", "text": head}] if head else []
    if source.get("type") == "text":
        return [*title, {"type": "text", "text": _string(source, "data", f"{at}.source")}]
    if source.get("type") == "content":
        return [*title, *_result_parts(source, f"{at}.source", native_only)]
    if source.get("type") == "base64":
        name = block.get("title") or "document.pdf"
        file = {"filename": name, "file_data": _url(block, at)}
        return [*title, {"type": "file", "file": file}]
    native_only.add(f"document by {source.get('type')}")
    return []


def _url(block: Block, at: str) -> str:
    """Return the address of a picture or a file; data that was sent along becomes a data URL."""
    source = _mapping(block, "source", at)
    where = f"{at}.source"
    if source.get("type") == "url":
        return _string(source, "url", where)
    if source.get("type") == "base64":
        media_type = _string(source, "media_type", where)
        return f"data:{media_type};base64,{_string(source, 'data', where)}"
    raise InvalidRequestError(
        f"'{where}.type' must be 'base64' or 'url'; got {source.get('type')!r}.",
        param=f"{where}.type",
    )


def _mapping(block: Block, key: str, at: str) -> Mapping[str, Any]:
    value = block.get(key)
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"'{at}.{key}' must be an object.", param=f"{at}.{key}")
    return value


def _string(block: Block, key: str, at: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError(f"'{at}.{key}' must be a string.", param=f"{at}.{key}")
    refuse_nul(value, f"{at}.{key}")
    return value
