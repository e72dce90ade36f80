"""Read what an answer cost while its bytes pass through untouched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from gateway.errors import ExpertError
from gateway.sse import EventSplitter, data_event, event_data

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of an answer, as its expert counted them."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """The fields read of a whole answer or of a chunk; the rest is skipped, not decoded."""

    choices: list[_Choice] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode
_NOTABLE = re.compile(rb'"usage": ?\{|"finish_reason": ?"|"error"')


@dataclass(slots=True)
class Reading:
    """What was read of an answer so far.

    Attributes
    ----------
    usage : Usage or None
        None when the expert did not say.
    finish_reason : str or None
        Of the last choice that finished; None when none did.
    chunks : int
        Streamed events with a delta: about the completion tokens, where `usage` is None.
    error : bool
        Whether the expert reported a failure inside of the answer.
    """

    usage: Usage | None = None
    finish_reason: str | None = None
    chunks: int = 0
    error: bool = False


def read_body(body: bytes) -> Reading:
    """Read a whole answer.

    Raises
    ------
    ExpertError
        When the body is not a JSON object of the expected shape, e.g. cut short.
    """
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExpertError(f"The expert's answer is not a valid completion: {error}.") from error
    finish = answer.choices[-1].finish_reason if answer.choices else None
    return Reading(_read_usage(answer), finish, error=answer.error is not None)


def _read_usage(answer: _Answer) -> Usage | None:
    """Return the usage of an answer; None for counts that cannot be."""
    try:
        return msgspec.json.decode(answer.usage, type=Usage | None)
    except msgspec.DecodeError:
        return None


class StreamRelay:
    """Passes the events of a streamed answer on and reads usage on the way.

    Parameters
    ----------
    show_usage : bool
        Whether the client asked for the chunk with the usage. When it did not, that chunk, which
        the gateway asked for in its place, is left out.
    cost : callable
        Given the usage, returns the object that is added to that chunk as ``coe``.

    Notes
    -----
    Every other event leaves with the bytes it came with. Events are scanned for a few byte strings
    and decoded only where one is found.
    """

    def __init__(self, *, show_usage: bool, cost: Callable[[Usage], dict[str, Any]]) -> None:
        self.reading = Reading()
        self.done = False
        self._show_usage = show_usage
        self._cost = cost
        self._splitter = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to send on for the bytes that came."""
        return b"".join([self._pass(event) for event in self._splitter.feed(chunk)])

    def flush(self) -> bytes:
        """Return what was held back at the end of the stream."""
        rest = self._splitter.flush()
        return self._pass(rest) if rest else b""

    @property
    def complete(self) -> bool:
        """Whether the answer came to its end: it was not cut and reports no failure."""
        ended = self.done or self.reading.finish_reason is not None
        return ended and not self.reading.error

    def _pass(self, event: bytes) -> bytes:
        if b'"delta"' in event:
            self.reading.chunks += 1
        if b"[DONE]" in event and event_data(event).strip() == b"[DONE]":
            self.done = True
        elif _NOTABLE.search(event):
            return self._read(event)
        return event

    def _read(self, event: bytes) -> bytes:
        data = event_data(event)
        try:
            answer = _decode_answer(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return event  # not ours to mend: the client sees what the expert sent
        for choice in answer.choices:
            self.reading.finish_reason = choice.finish_reason or self.reading.finish_reason
        self.reading.error |= answer.error is not None
        usage = _read_usage(answer)
        if usage is None:
            return event
        self.reading.usage = usage
        if answer.choices:
            return event
        if not self._show_usage:
            return b""
        return data_event(_encode({**msgspec.json.decode(data), "coe": self._cost(usage)}))
