"""Anthropic's Messages API: its requests as chat completions.

References
----------
Anthropic API, `POST /v1/messages`; OpenAI API, `POST /v1/chat/completions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from gateway.dialects.base import Native, Translation
from gateway.dialects.messages_answer import MessagesSink
from gateway.dialects.messages_input import chat_messages, system_text
from gateway.errors import InvalidRequestError
from gateway.experts import Expert
from gateway.protocol import (
    TOO_DEEP,
    Model,
    Tokens,
    decode_fields,
    encode_fields,
    parse_chat_request,
)

PATH = "messages"
VERSION = "2023-06-01"
"""The version of the API that is asked for where the client names none."""
_FORWARDED = ("anthropic-version", "anthropic-beta")
_OWN = {"model", "messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice"}
_OWN |= {"metadata", "thinking", "output_config", "output_format", "cache_control", "container"}
_OWN |= {"context_management", "diagnostics", "inference_geo", "mcp_servers", "service_tier"}
_OWN |= {"speed", "user_profile_id", "workspace_id", "betas"}
"""Fields of this API; any other one goes to the expert as it is."""
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _Tool(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Format(msgspec.Struct):
    type: str | None = None
    schema: dict[str, Any] | None = None


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Fields(msgspec.Struct):
    """The fields that are read; those of the same meaning are checked as a chat completion's."""

    model: Model
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_tokens: Tokens | None = None
    stream: bool | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    metadata: _Metadata | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    mcp_servers: list[Any] | None = None


_decode = msgspec.json.Decoder(_Fields).decode


class Messages:
    """The `Dialect`.

    Parameters
    ----------
    headers : Mapping of str to str
        Of the request; those that name versions go to experts that speak this API themselves.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        sent = {name: headers[name] for name in _FORWARDED if name in headers}
        self._headers = {"anthropic-version": VERSION, **sent}

    async def parse(self, body: bytes, tenant: str) -> Translation:
        """See `Dialect.parse`."""
        known, _ = decode_fields(body, _decode)
        if known.max_tokens is None:
            raise InvalidRequestError("'max_tokens' is missing.", param="max_tokens")
        return self.translate(body, PATH)

    def translate(self, body: bytes, path: str) -> Translation:
        """Return a request as a chat completion; `path` is where it goes untranslated.

        Raises
        ------
        InvalidRequestError
            Naming the field at fault.
        """
        known, fields = decode_fields(body, _decode)
        native_only: set[str] = set()
        try:
            chat = _chat_fields(known, fields, native_only)
        except RecursionError as error:  # blocks may hold blocks
            raise InvalidRequestError(TOO_DEEP) from error
        request = parse_chat_request(encode_fields(chat))
        if request.cache is not None:
            del fields["cache"]  # it is for the gateway
        return Translation(
            request,
            Native(path, "messages", partial(_native_body, fields, known.system), self._headers),
            partial(MessagesSink, stream=request.stream),
            tuple(sorted(native_only)),
        )


def _chat_fields(
    known: _Fields, fields: Mapping[str, Raw], native_only: set[str]
) -> dict[str, Any]:
    system = system_text(known.system)
    messages = [{"role": "system", "content": system}] if system else []
    for index, message in enumerate(known.messages):
        at = f"messages[{index}]"
        messages += chat_messages(message.role, message.content, at, native_only)
    chat: dict[str, Any] = {name: value for name, value in fields.items() if name not in _OWN}
    chat |= {"model": known.model, "messages": messages}
    if known.max_tokens is not None:
        chat["max_tokens"] = known.max_tokens
    if known.stop_sequences:
        chat["stop"] = known.stop_sequences
    if known.stream:
        chat["stream_options"] = {"include_usage": True}
    if known.metadata and known.metadata.user_id:
        chat["user"] = known.metadata.user_id
    if known.mcp_servers:
        native_only.add("mcp_servers")
    return {**chat, **_tools(known, native_only), **_output(known)}


def _tools(known: _Fields, native_only: set[str]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    tools = [_tool(tool, f"tools[{i}]", native_only) for i, tool in enumerate(known.tools or ())]
    if tools := [tool for tool in tools if tool is not None]:
        chat["tools"] = tools
    if (choice := known.tool_choice) is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        chat["tool_choice"] = _CHOICES.get(choice.type, named)
        if choice.disable_parallel_tool_use is not None:
            chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return chat


def _tool(tool: _Tool, at: str, native_only: set[str]) -> dict[str, Any] | None:
    if tool.type not in {None, "custom"}:
        native_only.add(str(tool.type)[:80])
        return None
    if tool.name is None:
        raise InvalidRequestError(f"'{at}.name' must be a string.", param=f"{at}.name")
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    given = {key: value for key, value in function.items() if value is not None}
    return {"type": "function", "function": given}


def _output(known: _Fields) -> dict[str, Any]:
    """Return how the answer is to look, and how hard the expert is to think."""
    chat: dict[str, Any] = {}
    config = known.output_config or _OutputConfig()
    wanted = config.format or known.output_format or _Format()
    if wanted.type == "json_schema":
        schema = {"name": "answer", "schema": wanted.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    if config.effort in _EFFORTS:
        chat["reasoning_effort"] = _EFFORTS[config.effort]
    return chat


def _native_body(
    fields: Mapping[str, Raw], system: str | list[dict[str, Any]] | None, expert: Expert
) -> bytes:
    changed: dict[str, Any] = {"model": expert.model}
    if expert.system_prompt:
        given = [{"type": "text", "text": system}] if isinstance(system, str) else system or []
        changed["system"] = [{"type": "text", "text": expert.system_prompt}, *given]
    return encode_fields({**fields, **changed})
