"""Read what an answer cost while its bytes pass through untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import ExpertError
from gateway.sse import EventSplitter, data_event, event_data
from gateway.usage import Usage, read_usage


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: Raw = Raw(b"null")
    tool_calls: Raw = Raw(b"null")
    function_call: Raw = Raw(b"null")


class _Choice(msgspec.Struct):
    index: int | None = None
    finish_reason: str | None = None
    delta: _Delta | None = None
    text: str | None = None


class _Answer(msgspec.Struct):
    """The fields read of a whole answer or of a chunk; the rest is skipped, not decoded."""

    id: Any = None
    choices: list[_Choice] | None = None
    usage: Raw = Raw(b"null")
    timings: Raw = Raw(b"null")
    error: Any = None
    data: Raw = Raw(b"null")


_NONE = {b"null", b"[]"}
_NOT_JSON = "The expert sent an event that is not JSON."
_ERROR_CHARS = 300
_decode_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Reading:
    """What was read of an answer so far.

    Attributes
    ----------
    usage : Usage or None
        None when the expert did not say.
    finish_reason : str or None
        ``stop`` when all choices that finished did so, else why another one ended; None when none
        did.
    chunks : int
        Streamed events that say something: about the completion tokens, where `usage` is None.
    is_partial : bool
        Whether `usage` may lack choices: of a stream those that have not finished, of a whole
        answer all but the first one.
    """

    usage: Usage | None = None
    finish_reason: str | None = None
    chunks: int = 0
    is_partial: bool = False


def read_body(body: bytes) -> Reading:
    """Read a whole completion.

    Raises
    ------
    ExpertError
        When the body is not a JSON object of the expected shape, e.g. cut short.
    """
    answer = _whole(body)
    if answer.error is not None or not answer.choices:
        raise ExpertError("The expert's answer holds no choices.")
    reasons = [choice.finish_reason for choice in answer.choices]
    odd = (reason for reason in reasons if reason != "stop")
    is_partial = len(reasons) > 1 and _counts_one_choice(answer)
    return Reading(read_usage(answer.usage), next(odd, "stop"), is_partial=is_partial)


def read_embeddings(body: bytes) -> Reading:
    """Read a whole answer with embeddings; raises as `read_body` does."""
    answer = _whole(body)
    if answer.error is not None or bytes(answer.data) in _NONE:
        raise ExpertError("The expert's answer holds no embeddings.")
    return Reading(read_usage(answer.usage), "stop")  # half an answer has no vectors


def _whole(body: bytes) -> _Answer:
    try:
        return _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExpertError(f"The expert's answer is not a valid completion: {error}.") from error


def _counts_one_choice(answer: _Answer) -> bool:
    """Whether its usage is one choice's: llama.cpp counts so, and alone sends its timings."""
    return bytes(answer.timings) not in _NONE


def told_failure(told: bytes) -> ExpertError:
    """Return the failure that an expert tells of in its stream.

    What it says is for the client: it may repeat the prompt, so logs get the rest only.
    """
    error = ExpertError("The expert failed in the middle of its answer.")
    error.message = f"{error.message[:-1]}: {told[:_ERROR_CHARS].decode('utf-8', 'replace')}"
    return error


class StreamRelay:
    """Passes the events of a streamed answer on and reads them on the way.

    Parameters
    ----------
    show_usage : bool
        Whether the client asked for the chunk with the usage. When it did not, that chunk, which
        the gateway asked for in its place, is left out.
    note : callable
        Returns the object that is added to that chunk as ``coe``.

    Attributes
    ----------
    failure : ExpertError or None
        What broke the answer: the expert said so, or sent what is not JSON. That event is not
        passed on, nor is anything after it.
    text : str or None
        What the client has of the answer; None once it has more than plain text of one choice.

    Notes
    -----
    Every other event leaves with the bytes it came with, but for those of an expert that goes on
    with another one's answer: they get its id, and no second role.
    """

    def __init__(self, *, show_usage: bool, note: Callable[[], dict[str, Any]]) -> None:
        self.reading = Reading()
        self.done = False
        self.failure: ExpertError | None = None
        self._show_usage = show_usage
        self._note = note
        self._splitter = EventSplitter()
        self._parts: list[str] = []
        self._plain = True
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._id: Any = None
        self._resumed = False
        self._earlier_tokens = 0
        self._choices_tokens = 0

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to send on for the bytes that came; look at `failure` after it."""
        return b"".join([self._pass(event) for event in self._splitter.feed(chunk)])

    def flush(self) -> bytes:
        """Return what was held back at the end of the stream, as a whole event."""
        rest = self._splitter.flush()
        # without the blank line, what the gateway sends next would become a part of it
        return self._pass(rest.rstrip(b"\r\n") + b"\n\n") if rest.strip() else b""

    def end(self) -> bytes:
        """Return the ``[DONE]`` that an expert left out of a complete answer."""
        if self.done or not self.complete:
            return b""
        self.done = True
        return data_event(b"[DONE]")

    def resume(self) -> None:
        """Make ready for the rest of the answer from another expert."""
        self._earlier_tokens = self.reading.chunks
        self.reading.finish_reason, self.done, self.failure = None, False, None
        self._finished.clear()
        self._resumed = True
        self._splitter = EventSplitter()

    @property
    def complete(self) -> bool:
        """Whether the answer came to its end."""
        finished = bool(self._finished) and self._begun == self._finished
        return (self.done or finished) and self.failure is None

    @property
    def text(self) -> str | None:
        """See `StreamRelay`."""
        return "".join(self._parts) if self._plain else None

    def _pass(self, event: bytes) -> bytes:
        data = event_data(event)
        if self.failure is not None:
            return b""
        if data.strip() == b"[DONE]":
            self.done = True
            return event
        if not data:
            return event
        try:
            data.decode()  # what is not read of it must be UTF-8 too
            answer = _decode_answer(data)
        except msgspec.ValidationError:
            self._plain = False  # JSON of another shape: not ours to judge
            return event
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.failure = ExpertError(_NOT_JSON)
            return b""
        return self._read(event, data, answer)

    def _read(self, event: bytes, data: bytes, answer: _Answer) -> bytes:
        if answer.error is not None:
            self.failure = told_failure(_encode(answer.error))
            return b""
        usage = self._usage_of(answer)
        alone = usage is not None and not answer.choices
        if self._resumed or (alone and self._show_usage):
            event = self._rewritten(data, usage, alone=alone)
            if self.failure is not None:
                return b""  # before anything of it is noted as sent
        self._note_chunk(answer, usage)
        return b"" if alone and not self._show_usage else event

    def _usage_of(self, answer: _Answer) -> Usage | None:
        """Return the usage of the whole answer; its prompt is the one of the last expert."""
        usage = read_usage(answer.usage)
        if usage is None:
            return None
        said = usage.completion_tokens
        if _counts_one_choice(answer):  # the others have usages of their own
            said = self._choices_tokens = self._choices_tokens + said
        return Usage(usage.prompt_tokens, said + self._earlier_tokens)

    def _note_chunk(self, answer: _Answer, usage: Usage | None) -> None:
        self._id = self._id or answer.id
        self.reading.usage = usage or self.reading.usage
        for choice in answer.choices or ():
            index = choice.index or 0
            self._note_finish(index, choice.finish_reason)
            if choice.delta is not None:
                self._read_delta(index, choice.delta)
            elif choice.text is not None:  # of a text completion
                self._read_delta(index, _Delta(choice.text))
        self.reading.is_partial = self.reading.usage is not None and self._begun != self._finished

    def _note_finish(self, index: int, reason: str | None) -> None:
        self._begun.add(index)
        if reason is not None:
            self._finished.add(index)
            if self.reading.finish_reason in {None, "stop"}:
                self.reading.finish_reason = reason

    def _read_delta(self, index: int, delta: _Delta) -> None:
        parts = {bytes(part) for part in (delta.tool_calls, delta.function_call, delta.audio)}
        more = bool(parts - _NONE or delta.reasoning_content or delta.reasoning or delta.refusal)
        self.reading.chunks += more or bool(delta.content)
        self._parts.append(delta.content or "")
        if more or index:
            self._plain = False

    def _rewritten(self, data: bytes, usage: Usage | None, *, alone: bool) -> bytes:
        """Return a chunk as a part of the whole answer; with what it cost, where it holds that."""
        try:
            chunk = msgspec.json.decode(data)
            return data_event(_encode(self._changed(chunk, usage, alone=alone)))
        except (msgspec.DecodeError, RecursionError):  # it is read to the bottom only here
            self.failure = ExpertError(_NOT_JSON)
            return b""

    def _changed(
        self, chunk: dict[str, Any], usage: Usage | None, *, alone: bool
    ) -> dict[str, Any]:
        if self._resumed:
            chunk["id"] = self._id
            for choice in chunk.get("choices") or []:
                (choice.get("delta") or {}).pop("role", None)
        if usage is not None and (self._earlier_tokens or self._choices_tokens):
            total = usage.prompt_tokens + usage.completion_tokens
            counts = {"completion_tokens": usage.completion_tokens, "total_tokens": total}
            chunk["usage"] = {**chunk["usage"], **counts}
        return {**chunk, "coe": self._note()} if alone else chunk
