"""OpenAI's Responses API: its requests as chat completions.

What was said before (``previous_response_id``) is put in front of the input here, so that experts
get whole conversations and any of them, on any replica, can go on.

References
----------
OpenAI API, `POST /v1/responses`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Raw

from gateway.cache.responses import Item, Responses, StoredResponse
from gateway.dialects.base import Native, Sink, Translation
from gateway.dialects.responses_answer import Draft, ResponsesSink
from gateway.dialects.responses_input import Conversation, string
from gateway.errors import InvalidRequestError
from gateway.experts import AUTO, Expert
from gateway.protocol import Model, Tokens, decode_fields, encode_fields, parse_chat_request

PATH = "responses"
_OWN = {"model", "input", "instructions", "previous_response_id", "store", "stream", "tools"}
_OWN |= {"stream_options", "tool_choice", "text", "reasoning", "max_output_tokens", "metadata"}
_OWN |= {"max_tool_calls", "include", "truncation", "background", "conversation", "prompt"}
_OWN |= {"top_logprobs", "context_management", "parallel_tool_calls"}
"""Fields of this API; any other one goes to the expert as it is."""
_NATIVE_ONLY = ("conversation", "prompt")
"""Fields that name what is kept at a provider."""
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields of a request that its response repeats, and what stands there when it has none."""


_DEEPER = 100
"""How many levels deeper an answer is written than its request is read: events, callers."""


class _Format(msgspec.Struct):
    type: str = "text"
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Fields(msgspec.Struct):
    """The fields that are read; those of the same meaning are checked as a chat completion's."""

    model: Model = AUTO
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    max_output_tokens: Tokens | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None


_decode = msgspec.json.Decoder(_Fields).decode


class ResponsesDialect:
    """The `Dialect`.

    Parameters
    ----------
    stored : Responses
        Where responses are kept.
    """

    def __init__(self, stored: Responses) -> None:
        self._stored = stored

    async def parse(self, body: bytes, tenant: str) -> Translation:
        """See `Dialect.parse`; also raises what `Responses.turns` does."""
        known, fields = decode_fields(body, _decode)
        turns: list[StoredResponse] = []
        if known.previous_response_id is not None:
            turns = await self._stored.turns(tenant, known.previous_response_id)
        asked = _items(known.input)
        items = [*(item for turn in turns for item in turn.items), *_resolved(asked, turns)]
        conversation = Conversation(known.instructions)
        conversation.add(items, "input")
        native_only = conversation.native_only | {n for n in _NATIVE_ONLY if _given(fields, n)}
        if not items and not native_only:
            raise InvalidRequestError(
                "'input' must be a string or a list of items; got nothing.", param="input"
            )
        chat = _chat_fields(known, fields, conversation.messages, native_only)
        request = parse_chat_request(encode_fields(chat), "input")
        if request.cache is not None:
            del fields["cache"]  # it is for the gateway
        draft = _draft(fields)
        _check_depth(draft)
        return Translation(
            request,
            Native(PATH, "responses", partial(_native_body, fields, known, items)),
            partial(self._answer_to, tenant, draft, known, asked, turns),
            tuple(sorted(native_only)),
        )

    def _answer_to(
        self,
        tenant: str,
        draft: Draft,
        known: _Fields,
        asked: list[Item],
        turns: Sequence[StoredResponse],
        sink: Sink,
        native: bool,
    ) -> Sink:
        chain = (*turns[-1].chain, turns[-1].response["id"]) if turns else ()
        size = turns[-1].size if turns else 0

        async def keep(response: dict[str, Any]) -> bool:
            if known.store is False:
                return False
            return await self._stored.put(tenant, StoredResponse(response, asked, chain, size))

        return ResponsesSink(sink, native, draft, keep, stream=bool(known.stream))


def _given(fields: Mapping[str, Raw], name: str) -> bool:
    return bytes(fields.get(name, Raw(b"null"))) != b"null"


def _items(given: str | list[Item] | None) -> list[Item]:
    """Return the items of an input as they are listed: each with an id, texts as parts."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    items: list[Item] = []
    for index, item in enumerate(given or ()):
        whole = {"id": f"item_{uuid4().hex}", "type": "message", **item}
        string(whole, "id", f"input[{index}]")
        if whole["type"] == "message" and isinstance(text := whole.get("content"), str):
            kind = "output_text" if whole.get("role") == "assistant" else "input_text"
            whole["content"] = [{"type": kind, "text": text}]
        items.append(whole)
    return items


def _resolved(items: Sequence[Item], turns: Sequence[StoredResponse]) -> list[Item]:
    """Return items with those in the place of which only their id was sent."""
    known = {item.get("id"): item for turn in turns for item in turn.items}
    resolved = []
    for index, item in enumerate(items):
        if item.get("type") != "item_reference":
            resolved.append(item)
        elif item["id"] not in known:
            at = f"input[{index}].id"
            raise InvalidRequestError(f"'{at}' must be an item of this conversation.", param=at)
    return resolved


def _draft(fields: Mapping[str, Raw]) -> Draft:
    """Return a response with nothing in it yet."""
    given = {name: msgspec.json.decode(fields[name]) for name in _ECHOED if _given(fields, name)}
    return {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": "",
        "output": [],
        "usage": None,
        **_ECHOED,
        **given,
    }


def _check_depth(draft: Draft) -> None:
    """Raise `InvalidRequestError` when what is repeated is nested too deeply for an answer."""
    deeper: Any = draft
    for _ in range(_DEEPER):
        deeper = [deeper]
    encode_fields({"event": deeper})


def _chat_fields(
    known: _Fields,
    fields: Mapping[str, Raw],
    messages: list[dict[str, Any]],
    native_only: set[str],
) -> dict[str, Any]:
    chat: dict[str, Any] = {name: value for name, value in fields.items() if name not in _OWN}
    # what only a native expert can read still has to be routed
    messages = messages or [{"role": "user", "content": "-"}]
    chat |= {"model": known.model, "messages": messages}
    if known.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if known.max_output_tokens is not None:
        chat["max_tokens"] = known.max_output_tokens
    if known.reasoning is not None and known.reasoning.effort is not None:
        chat["reasoning_effort"] = known.reasoning.effort
    if known.top_logprobs or "message.output_text.logprobs" in (known.include or ()):
        chat |= {"logprobs": True, "top_logprobs": known.top_logprobs or 0}
    return {**chat, **_tools(known, native_only), **_text(known.text or _Text())}


def _tools(known: _Fields, native_only: set[str]) -> dict[str, Any]:
    tools = []
    for index, tool in enumerate(known.tools or ()):
        if tool.type != "function":
            native_only.add(tool.type[:80])
            continue
        if tool.name is None:
            at = f"tools[{index}].name"
            raise InvalidRequestError(f"'{at}' must be a string.", param=at)
        named = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        function = {key: value for key, value in named.items() if value is not None}
        tools.append({"type": "function", "function": function})
    if not tools:
        return {}
    chat: dict[str, Any] = {"tools": tools}
    if known.parallel_tool_calls is not None:
        chat["parallel_tool_calls"] = known.parallel_tool_calls
    choice = known.tool_choice
    if isinstance(choice, dict):
        kind = str(choice.get("type"))
        rest = {key: value for key, value in choice.items() if key != "type"}
        chat["tool_choice"] = {"type": kind, kind: rest}
    elif choice is not None:
        chat["tool_choice"] = choice
    return chat


def _text(text: _Text) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    wanted = text.format or _Format()
    if wanted.type == "json_schema":
        schema = {key: value for key, value in msgspec.structs.asdict(wanted).items() if value}
        schema.pop("type")
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted.type != "text":
        chat["response_format"] = {"type": wanted.type}
    if text.verbosity is not None:
        chat["verbosity"] = text.verbosity
    return chat


def _native_body(
    fields: Mapping[str, Raw], known: _Fields, items: Sequence[Item], expert: Expert
) -> bytes:
    """Return the request with the whole conversation in it: the expert keeps nothing for us."""
    changed: dict[str, Any] = {"model": expert.model, "store": False}
    if known.previous_response_id is not None:
        changed["input"] = [item for item in items if _readable(item)]
    if expert.system_prompt:
        prompts = [expert.system_prompt, known.instructions or ""]
        changed["instructions"] = "\n\n".join(filter(None, prompts))
    kept = {name: value for name, value in fields.items() if name != "previous_response_id"}
    return encode_fields({**kept, **changed})


def _readable(item: Item) -> bool:
    """Whether an expert that kept nothing can read an item: not reasoning that it had to keep."""
    return item.get("type") != "reasoning" or bool(
        item.get("encrypted_content") or item.get("content")
    )
