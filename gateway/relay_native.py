"""Read what an answer cost that an expert gives in the client's own dialect; it passes untouched.

References
----------
Anthropic API, streaming messages; OpenAI API, streaming responses.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import ExpertError
from gateway.relay import Reading, told_failure
from gateway.sse import EventSplitter, event_data
from gateway.usage import Count, Usage

_ENDS = {"message_stop", "response.completed", "response.incomplete"}
_FAILURES = {"error", "response.failed"}


class _Usage(msgspec.Struct):
    """Tokens; Anthropic counts the cached ones beside `input_tokens`, OpenAI among them."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None


class _Told(msgspec.Struct):
    """The fields that are read of a whole answer, and of the one within an event."""

    usage: Raw = Raw(b"null")
    stop_reason: str | None = None
    status: str | None = None
    error: Any = None


class _Event(_Told):
    type: str = ""
    message: _Told | str | None = None
    response: _Told | None = None
    delta: _Told | str | None = None


_decode_whole = msgspec.json.Decoder(_Told).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_usage = msgspec.json.Decoder(_Usage | None).decode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_native(body: bytes) -> Reading:
    """Read a whole answer.

    Raises
    ------
    ExpertError
        When it is none, e.g. cut short, or tells of a failure.
    """
    reading = Reading()
    try:
        _note(reading, whole := _decode_whole(body))
    except _FAULTS as error:
        raise ExpertError(f"The expert's answer is not valid: {error}.") from error
    if whole.error is not None or reading.finish_reason is None:
        raise ExpertError("The expert's answer is an error or no answer.")
    return reading


def _note(reading: Reading, told: _Told) -> None:
    """Add what a whole answer or a part of one tells; later counts take the place of earlier."""
    reading.finish_reason = told.stop_reason or told.status or reading.finish_reason
    try:
        now = _decode_usage(told.usage) or _Usage()
    except _FAULTS:
        return  # a count that cannot be
    before = reading.usage or Usage()
    counted = (now.input_tokens, now.cache_creation_input_tokens, now.cache_read_input_tokens)
    prompt = sum(count or 0 for count in counted) or before.prompt_tokens
    completion = now.output_tokens or before.completion_tokens
    if prompt or completion:
        reading.usage = Usage(prompt, completion)


class NativeRelay:
    """Passes a stream of named events on; see `gateway.relay.StreamRelay`.

    A stream that breaks is not rescued: no other expert could go on with its events.
    """

    text: None = None

    def __init__(self) -> None:
        self.reading = Reading()
        self.done = False
        self.failure: ExpertError | None = None
        self._splitter = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to send on; look at `failure` after it."""
        return b"".join([self._pass(event) for event in self._splitter.feed(chunk)])

    def flush(self) -> bytes:
        """Return what was held back at the end of the stream, as a whole event."""
        rest = self._splitter.flush()
        return self._pass(rest.rstrip(b"\r\n") + b"\n\n") if rest.strip() else b""

    def end(self) -> bytes:
        """Return nothing: these streams say themselves that they end."""
        return b""

    @property
    def complete(self) -> bool:
        """Whether the answer came to its end."""
        return self.done and self.failure is None

    def _pass(self, event: bytes) -> bytes:
        data = event_data(event)
        if self.failure is not None:
            return b""
        if not data or data.strip() == b"[DONE]":
            return event
        try:
            told = _decode_event(data)
        except msgspec.ValidationError:
            return event  # JSON of another shape: not ours to judge
        except _FAULTS:
            self.failure = ExpertError("The expert sent an event that is not JSON.")
            return b""
        if told.type in _FAILURES:
            self.failure = told_failure(data)
            return b""
        for part in (told, told.message, told.response, told.delta):
            if isinstance(part, _Told):
                _note(self.reading, part)
        self.reading.chunks += told.type.endswith("delta")
        self.done |= told.type in _ENDS
        return event
