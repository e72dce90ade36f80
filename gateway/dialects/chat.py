"""What dialects read of the chat completions that they turn into their own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import ExpertError
from gateway.sse import EventSplitter, event_data
from gateway.usage import Usage, read_usage


class Function(msgspec.Struct):
    """The function of a tool call; in a stream, a part of it."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The arguments as JSON, also those of a server that sends them as an object."""
        given = self.arguments
        return _encode(given).decode() if isinstance(given, dict) else given or ""


class ToolCall(msgspec.Struct):
    """A tool call; in a stream, a part of it."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message, or the part of one that a chunk adds."""

    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None

    @property
    def text(self) -> str:
        """The content, also that of a server which sends it in parts."""
        if not isinstance(self.content, list):
            return self.content or ""
        texts = [part.get("text") for part in self.content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))

    @property
    def thought(self) -> str:
        """The reasoning, under either of the names that servers give it."""
        return self.reasoning_content or self.reasoning or ""


class Choice(msgspec.Struct):
    """One choice; dialects know one only, so the others are passed over.

    Attributes
    ----------
    text : str or None
        Of a text completion.
    stop_reason : Any
        The stop sequence that was met, as vLLM tells it.
    """

    index: int | None = None
    message: Said | None = None
    delta: Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    stop_reason: Any = None

    @property
    def n_chars(self) -> int:
        """Characters of all that a whole answer says here."""
        said = self.message or Said()
        called = sum(len((call.function or Function()).text) for call in said.tool_calls or ())
        return len(said.text) + len(said.thought) + len(self.text or "") + called

    @property
    def token_logprobs(self) -> list[Any]:
        """Of the tokens of a choice, or of the part of one that a chunk adds."""
        tokens = self.logprobs.get("content") if isinstance(self.logprobs, dict) else None
        return tokens if isinstance(tokens, list) else []


class Answer(msgspec.Struct):
    """A whole answer, or a chunk of one; read with mercy, as experts leave out what they like."""

    id: Any = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Raw = Raw(b"null")

    @property
    def counted(self) -> Usage | None:
        """Tokens, as the expert counted them; None where it did not, or not believably."""
        return read_usage(self.usage)


_decode_answer = msgspec.json.Decoder(Answer).decode
_encode = msgspec.json.Encoder().encode


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


def written(value: object) -> bytes:
    """Return a part of an answer as JSON.

    Raises
    ------
    ExpertError
        When what the expert sent is nested too deeply to be written again.
    """
    try:
        return _encode(value)
    except RecursionError as error:
        raise ExpertError("The expert's answer is nested too deeply.") from error


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
