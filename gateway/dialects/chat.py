"""What dialects read of the chat completions that they turn into their own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.errors import ExpertError
from gateway.sse import EventSplitter, event_data


class Function(msgspec.Struct):
    """The function of a tool call; in a stream, a part of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call; in a stream, a part of it."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Said(msgspec.Struct):
    """A message, or the part of one that a chunk adds."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None

    @property
    def thought(self) -> str:
        """The reasoning, under either of the names that servers give it."""
        return self.reasoning_content or self.reasoning or ""


class Logprobs(msgspec.Struct):
    """Of the tokens of a choice, or of the part of one that a chunk adds."""

    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    """One choice; dialects know one only, so the others are passed over."""

    index: int = 0
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    stop_reason: int | str | None = None
    """The stop sequence that was met, as vLLM tells it."""


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens, as the expert counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the expert had read before."""
        details = self.prompt_tokens_details
        return min((details and details.cached_tokens) or 0, self.prompt_tokens)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the answer that were reasoning."""
        details = self.completion_tokens_details
        return (details and details.reasoning_tokens) or 0


class Answer(msgspec.Struct):
    """A whole answer, or a chunk of one."""

    id: str = ""
    model: str = ""
    created: int | float = 0
    choices: list[Choice] = []
    usage: Usage | None = None


_decode_answer = msgspec.json.Decoder(Answer).decode


def read_answer(body: bytes) -> Answer:
    """Return a whole answer or a chunk.

    Raises
    ------
    ExpertError
        When it is none.
    """
    try:
        return _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExpertError(f"The expert's answer is not a chat completion: {error}.") from error


class ChunkReader:
    """Reads the chunks of a chat completion's stream."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Yield the chunks that `data` completes; raises `ExpertError` as `read_answer` does."""
        for event in self._splitter.feed(data):
            content = event_data(event).strip()
            if content and content != b"[DONE]":
                yield read_answer(content)


class _ErrorFields(msgspec.Struct):
    message: Any = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields | str | None = None


def told_error(body: bytes) -> str:
    """Return what an expert's refusal says."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = None
    message = error.message if isinstance(error, _ErrorFields) else error
    return message if isinstance(message, str) and message else "The expert refused the request."


def parsed_arguments(arguments: str) -> dict[str, Any]:
    """Return the arguments of a tool call.

    Raises
    ------
    ExpertError
        When they are not a JSON object, as a model may write them.
    """
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExpertError("The expert's tool call holds no JSON object.") from error
