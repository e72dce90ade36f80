"""The wire format of chat completions: what is read of a request, and what is sent upstream.

A request is decoded once. Fields the gateway does not know are never decoded: they stay the bytes
that the client sent (`msgspec.Raw`) and are forwarded as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from gateway.errors import InvalidRequestError

CHAT, COMPLETIONS, EMBEDDINGS = "chat/completions", "completions", "embeddings"
"""Paths below ``/v1``."""
_MAX_NAME_CHARS = 256
TOO_DEEP = "The request body is nested too deeply."

Model = Annotated[str, Meta(min_length=1, max_length=_MAX_NAME_CHARS)]
Tokens = Annotated[int, Meta(ge=0, le=2**31)]


class _ChatFields(msgspec.Struct):
    """The fields that are checked here; others are the expert's to judge.

    References
    ----------
    OpenAI API, `POST /v1/chat/completions`.
    """

    model: Model
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=128)] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None
    cache: Any = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request, checked; also a text completion or embeddings in its terms.

    Attributes
    ----------
    model : str
        What the client asked for: ``auto`` or the name of an expert.
    messages : list of dict
        The conversation, decoded, for reading.
    stream : bool
        Whether the answer is to be streamed.
    include_usage : bool
        Whether the client wants the usage in the last chunk of a stream.
    needs : frozenset of str
        Capabilities that an expert must have for this request.
    max_tokens : int
        Most tokens of the answer; 0 when the client sets no limit.
    fields : dict of str to Raw
        Every field as the client sent it.
    path : str
        Where experts take it, below ``/v1``.
    cache : bool or None
        Whether a complete answer may be kept and given again; None: as the expert's `cache` says.
    """

    model: str
    messages: list[dict[str, Any]]
    stream: bool
    include_usage: bool
    needs: frozenset[str]
    max_tokens: int
    fields: dict[str, Raw]
    path: str = CHAT
    cache: bool | None = None


Known = TypeVar("Known", bound=msgspec.Struct)

_decode_chat = msgspec.json.Decoder(_ChatFields).decode
_decode_raw = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def parse_chat_request(body: bytes, named: str = "messages") -> ChatRequest:
    """Check a request body and read what routing needs.

    Parameters
    ----------
    named : str
        What the client calls the conversation, for errors.

    Raises
    ------
    InvalidRequestError
        Naming the field at fault; also for bytes that are not JSON.
    """
    known, fields = decode_fields(body, _decode_chat)
    _check_messages(known.messages, named)
    options = known.stream_options or {}
    return ChatRequest(
        model=known.model,
        messages=known.messages,
        stream=bool(known.stream),
        include_usage=bool(options.get("include_usage")),
        needs=_needs(known),
        max_tokens=known.max_completion_tokens or known.max_tokens or 0,
        fields=fields,
        cache=take_cache(known.cache, fields),
    )


def take_cache(sent: object, fields: dict[str, Raw]) -> bool | None:
    """Return the field `cache`, which is for the gateway; anything but a boolean is not for it."""
    if not isinstance(sent, bool):
        return None
    del fields["cache"]
    return sent


def decode_fields(body: bytes, decode: Callable[[bytes], Known]) -> tuple[Known, dict[str, Raw]]:
    """Return the fields of a body that are checked, and all of them as their bytes.

    Raises
    ------
    InvalidRequestError
        Naming the field at fault; also for bytes that are not JSON.
    """
    try:
        body.decode()  # fields that are not decoded must be UTF-8 too
        return decode(body), _decode_raw(body)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from error
    except RecursionError as error:
        raise InvalidRequestError(TOO_DEEP) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The request body is not valid JSON: {error}.") from error


def _field_error(text: str) -> InvalidRequestError:
    """Turn msgspec's ``Expected `bool`, got `str` - at `$.stream``` into our error."""
    problem, _, path = text.partition(" - at `$")
    param = path.rstrip("`").lstrip(".") or None
    if param is None and "missing required field" in problem:
        param = problem.rsplit("`", 2)[1]
    where = f"'{param}'" if param else "The request body"
    return InvalidRequestError(f"{where}: {problem[:1].lower()}{problem[1:]}.", param=param)


def _check_messages(messages: list[dict[str, Any]], named: str) -> None:
    has_content = False
    for index, message in enumerate(messages):
        at = f"{named}[{index}]"
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidRequestError(
                f"'{at}.role' must be a string such as 'user'; got {_short(role)}.",
                param=f"{at}.role",
            )
        has_content |= _check_content(message, f"{at}.content")
    if not has_content:
        raise InvalidRequestError(
            f"'{named}' must hold some content; every message is empty.",
            param=f"{named}[{len(messages) - 1}].content",
        )


def _check_content(message: dict[str, Any], at: str) -> bool:
    """Check the content of one message; returns whether it says anything."""
    content = message.get("content")
    if content is None:
        return bool(message.get("tool_calls"))
    if isinstance(content, str):
        refuse_nul(content, at)
        return bool(content.strip())
    if not isinstance(content, list):
        raise InvalidRequestError(
            f"'{at}' must be a string or a list of parts; got {_short(content)}.", param=at
        )
    return any([_check_part(part, f"{at}[{index}]") for index, part in enumerate(content)])


def _check_part(part: object, at: str) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequestError(
            f"'{at}' must be an object with a string 'type'; got {_short(part)}.", param=at
        )
    if part["type"] != "text":
        return True
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"'{at}.text' must be a string; got {_short(text)}.", param=f"{at}.text"
        )
    refuse_nul(text, f"{at}.text")
    return bool(text.strip())


def refuse_nul(text: str, at: str) -> None:
    """Refuse text in which C servers would see an end, and cut the prompt in silence."""
    if "\0" in text:
        raise InvalidRequestError(f"'{at}' must not hold NUL characters.", param=at)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _needs(known: _ChatFields) -> frozenset[str]:
    needs = set()
    if known.tools:
        needs.add("tools")
    if known.response_format and known.response_format.get("type") == "json_schema":
        needs.add("json_schema")
    for message in known.messages:
        content = message.get("content")
        if isinstance(content, list):
            kinds = {part["type"] for part in content}
            needs |= {name for kind, name in _PART_NEEDS.items() if kind in kinds}
    return frozenset(needs)


_PART_NEEDS = {"image_url": "vision", "input_audio": "audio"}


def upstream_body(request: ChatRequest, model: str, system_prompt: str | None) -> bytes:
    """Return the body for an expert: the client's, but for what the gateway must change.

    Parameters
    ----------
    model : str
        The name the expert's server knows the model by.
    system_prompt : str or None
        The prompt of a virtual expert, put in front of the conversation; None leaves it as it is.
        A text completion has no place for it.

    Raises
    ------
    InvalidRequestError
        When the messages are nested too deeply to be written.

    Notes
    -----
    Streams always ask for usage: without it the cost of an answer would be unknown. The chunk that
    holds it is kept from clients that did not ask (`gateway.sse`).
    """
    changed: dict[str, Any] = {"model": model}
    if system_prompt and request.path == CHAT:
        changed["messages"] = with_system_prompt(request.messages, system_prompt)
    if request.stream and not request.include_usage:
        options = request.fields.get("stream_options", Raw(b"null"))
        asked = msgspec.json.decode(options) or {}
        changed["stream_options"] = {**asked, "include_usage": True}
    return encode_fields({**request.fields, **changed})


def encode_fields(fields: Mapping[str, Any]) -> bytes:
    """Return the fields of a body as JSON; those that are bytes already stay as they are.

    Raises
    ------
    InvalidRequestError
        When they are nested too deeply to be written.
    """
    try:
        return _encode(fields)
    except RecursionError as error:  # writing stops a little earlier than reading
        raise InvalidRequestError(TOO_DEEP) from error


def with_system_prompt(messages: list[dict[str, Any]], system_prompt: str) -> list[dict[str, Any]]:
    """Put a system prompt in front; one that the client sent follows in the same message.

    Many chat templates accept one system message only, and only as the first.
    """
    first = messages[0]
    if first["role"] not in {"system", "developer"}:
        return [{"role": "system", "content": system_prompt}, *messages]
    content = first.get("content")
    joined: str | list[Any]
    if isinstance(content, list):
        joined = [{"type": "text", "text": system_prompt}, *content]
    else:
        joined = f"{system_prompt}\n\n{content or ''}".rstrip()
    return [{**first, "content": joined}, *messages[1:]]
