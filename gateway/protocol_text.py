"""The wire formats of text completions and of embeddings, in terms of a chat completion.

Both go to experts as they are: the messages here exist for routing only.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from gateway.errors import InvalidRequestError
from gateway.protocol import (
    COMPLETIONS,
    EMBEDDINGS,
    ChatRequest,
    Model,
    decode_fields,
    refuse_nul,
    take_cache,
)

TokenIds = list[Annotated[int, Meta(ge=0, le=2**31)]]
Prompt = str | list[str | Annotated[int, Meta(ge=0, le=2**31)] | TokenIds]
"""A text, several texts, the tokens of one, or the tokens of several."""


class _CompletionFields(msgspec.Struct):
    """The fields that are checked here.

    References
    ----------
    OpenAI API, `POST /v1/completions`.
    """

    model: Model
    prompt: Prompt | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    cache: Any = None


class _EmbeddingFields(msgspec.Struct):
    """The fields that are checked here.

    References
    ----------
    OpenAI API, `POST /v1/embeddings`.
    """

    model: Model
    input: Prompt
    cache: Any = None


_decode_completion = msgspec.json.Decoder(_CompletionFields).decode
_decode_embedding = msgspec.json.Decoder(_EmbeddingFields).decode


def parse_completion_request(body: bytes) -> ChatRequest:
    """Check the body of a text completion; its prompt stands as a user's message.

    Raises
    ------
    InvalidRequestError
        Naming the field at fault; also for bytes that are not JSON.
    """
    known, fields = decode_fields(body, _decode_completion)
    options = known.stream_options or {}
    text = _text(known.prompt, "prompt")
    return ChatRequest(
        model=known.model,
        messages=[{"role": "user", "content": text}],
        stream=bool(known.stream),
        include_usage=bool(options.get("include_usage")),
        needs=frozenset(),
        max_tokens=known.max_tokens or 0,
        fields=fields,
        path=COMPLETIONS,
        cache=take_cache(known.cache, fields),
    )


def parse_embedding_request(body: bytes) -> ChatRequest:
    """Check the body of a request for embeddings.

    Raises
    ------
    InvalidRequestError
        Naming the field at fault; also for bytes that are not JSON.
    """
    known, fields = decode_fields(body, _decode_embedding)
    if not known.input:
        raise InvalidRequestError("'input' must not be empty.", param="input")
    text = _text(known.input, "input")
    return ChatRequest(
        model=known.model,
        messages=[{"role": "user", "content": text}],
        stream=False,
        include_usage=False,
        needs=frozenset({"embeddings"}),
        max_tokens=0,
        fields=fields,
        path=EMBEDDINGS,
        cache=take_cache(known.cache, fields),
    )


def _text(prompt: Prompt | None, at: str) -> str:
    """Return the text of a prompt; what was sent as tokens is left out."""
    parts = [prompt] if isinstance(prompt, str) else prompt or []
    text = "\n".join(part for part in parts if isinstance(part, str))
    refuse_nul(text, at)
    return text


def continued_prompt(fields: dict[str, Raw], text: str) -> Raw | None:
    """Return the prompt that goes on with `text`; None where an answer is more than a text.

    A prompt of tokens cannot be added to, nor can an answer that holds the prompt or is chosen
    from several be cut in two.
    """
    prompt = msgspec.json.decode(fields.get("prompt", Raw(b"null")))
    undecided = any(
        bytes(fields.get(name, Raw(b"null"))) not in plain for name, plain in _PLAIN.items()
    )
    if not isinstance(prompt, str) or undecided:
        return None
    return Raw(msgspec.json.encode(prompt + text))


_PLAIN = {"n": {b"null", b"1"}, "best_of": {b"null", b"1"}, "echo": {b"null", b"false"}}
_PLAIN |= {"suffix": {b"null", b'""'}, "logprobs": {b"null"}}
