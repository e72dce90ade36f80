"""Chat completions as answers of Anthropic's Messages API, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from gateway.dialects.base import Sink
from gateway.dialects.chat import (
    Answer,
    Choice,
    ChunkReader,
    Function,
    Said,
    ToolCall,
    parsed_arguments,
    read_answer,
    told_error,
    written,
)
from gateway.errors import ExpertError, GatewayError
from gateway.sse import named_event
from gateway.usage import Usage

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return an error as Anthropic's clients read it."""
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


class MessagesSink:
    """Turns a chat completion into a message.

    Parameters
    ----------
    sink : Sink
        The client's.
    native : bool
        Whether the expert speaks the Messages API itself: its bytes pass through.
    stream : bool
        Whether the client asked for a stream.
    """

    def __init__(self, sink: Sink, native: bool, *, stream: bool) -> None:
        self._sink = sink
        self._native = native
        self._stream = stream
        self._status, self._headers = 200, dict[str, str]()
        self._reader = ChunkReader()
        self._events = MessageEvents()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """See `Sink.start`; a whole answer's waits for its new length."""
        self._status, self._headers = status, headers
        self._stream &= status == 200
        if self._native or self._stream:
            await self._sink.start(status, headers)

    async def write(self, data: bytes) -> None:
        """See `Sink.write`."""
        if self._native:
            await self._sink.write(data)
        elif self._stream:
            events = [
                event for chunk in self._reader.feed(data) for event in self._events.of(chunk)
            ]
            if events:
                await self._sink.write(b"".join(events))
        else:
            body = written(self._whole(data))
            headers = {**self._headers, "content-length": str(len(body))}
            await self._sink.start(self._status, {**headers, "content-type": "application/json"})
            await self._sink.write(body)

    async def fail(self, error: GatewayError) -> None:
        """See `Sink.fail`."""
        body = error_body(error.status, error.message)
        self._events.failed = True
        await self._sink.write(named_event("error", written(body)))

    async def end(self) -> None:
        """See `Sink.end`."""
        if self._stream and not self._native and (last := self._events.end()):
            await self._sink.write(last)
        await self._sink.end()

    def _whole(self, data: bytes) -> dict[str, Any]:
        if self._status != 200:
            return error_body(self._status, told_error(data))
        return message(read_answer(data))


def message(answer: Answer) -> dict[str, Any]:
    """Return a whole chat completion as a message.

    Raises
    ------
    ExpertError
        When it holds a tool call whose arguments are no JSON.
    """
    choice = (answer.choices or [Choice()])[0]
    said = choice.message or Said()
    content: list[dict[str, Any]] = []
    if said.thought:
        content.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if text := said.text or said.refusal:
        content.append({"type": "text", "text": text})
    content += [_tool_use(call) for call in said.tool_calls or ()]
    return {
        "id": _message_id(answer),
        "type": "message",
        "role": "assistant",
        "model": answer.model or "",
        "content": content,
        **_stop(choice.finish_reason, choice.stop_reason, called=bool(said.tool_calls)),
        "usage": usage(answer.counted),
    }


def _tool_use(call: ToolCall) -> dict[str, Any]:
    function = call.function or Function()
    return {
        "type": "tool_use",
        "id": call.id or f"toolu_{uuid4().hex}",
        "name": function.name or "",
        "input": parsed_arguments(function.text),
    }


def _message_id(answer: Answer) -> str:
    return f"msg_{str(answer.id or uuid4().hex).removeprefix('chatcmpl-')}"


def _stop(finish: str | None, met: int | str | None, *, called: bool) -> dict[str, Any]:
    """Return why an answer ended; some servers say ``stop`` after a tool call too."""
    if called and finish == "stop":
        finish = "tool_calls"
    if finish == "stop" and isinstance(met, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": met}
    return {"stop_reason": _STOP_REASONS.get(finish or "", "end_turn"), "stop_sequence": None}


def usage(counted: Usage | None) -> dict[str, int]:
    """Return the tokens; here those of the prompt are split by whether they were cached."""
    counted = counted or Usage()
    return {
        "input_tokens": counted.prompt_tokens - counted.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": counted.completion_tokens,
    }


class MessageEvents:
    """Turns the chunks of a chat completion into the events of a message's stream.

    Text and reasoning are blocks one after the other. The blocks of tool calls stay open until the
    end, since a chunk may add to any of them.

    Attributes
    ----------
    failed : bool
        Whether the stream broke: it gets no end then.
    """

    def __init__(self) -> None:
        self.failed = False
        self._started = False
        self._n_blocks = 0
        self._open: tuple[str, int] | None = None
        self._calls: dict[int, int] = {}
        self._finish: tuple[str | None, int | str | None] = (None, None)
        self._usage: Usage | None = None

    def of(self, chunk: Answer) -> Iterator[bytes]:
        """Yield the events of one chunk."""
        if not self._started:
            self._started = True
            yield self._start(chunk)
        self._usage = chunk.counted or self._usage
        for choice in chunk.choices or ():
            if choice.index:
                continue
            said = choice.delta or Said()
            yield from self._piece("thinking", said.thought)
            yield from self._piece("text", said.text or said.refusal or "")
            for call in said.tool_calls or ():
                yield from self._call(call)
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason, choice.stop_reason

    def end(self) -> bytes:
        """Return the last events; none when the stream broke or never began."""
        if self.failed or not self._started:
            return b""
        closing = [*self._close(), *(self._stopped(index) for index in self._calls.values())]
        finish, met = self._finish
        stop = _stop(finish, met, called=bool(self._calls))
        delta = {"type": "message_delta", "delta": stop, "usage": usage(self._usage)}
        return b"".join([*closing, _event(delta), _event({"type": "message_stop"})])

    def _start(self, chunk: Answer) -> bytes:
        begun: dict[str, Any] = {
            "id": _message_id(chunk),
            "type": "message",
            "role": "assistant",
            "model": chunk.model or "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(None),
        }
        return _event({"type": "message_start", "message": begun})

    def _piece(self, kind: str, piece: str) -> Iterator[bytes]:
        if not piece:
            return
        if self._open is None or self._open[0] != kind:
            yield from self._close()
            empty = {"type": kind, kind: ""}
            yield self._begin(empty if kind == "text" else {**empty, "signature": ""})
            self._open = kind, self._n_blocks - 1
        yield self._delta(self._open[1], {"type": f"{kind}_delta", kind: piece})

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        function, index = call.function or Function(), call.index or 0
        if index not in self._calls:
            yield from self._close()
            if not function.name:
                raise ExpertError("The expert began a tool call without a name.")
            block = {"type": "tool_use", "id": call.id or f"toolu_{uuid4().hex}", "input": {}}
            yield self._begin({**block, "name": function.name})
            self._calls[index] = self._n_blocks - 1
        if piece := function.text:
            delta = {"type": "input_json_delta", "partial_json": piece}
            yield self._delta(self._calls[index], delta)

    def _begin(self, block: Mapping[str, Any]) -> bytes:
        self._n_blocks += 1
        index = self._n_blocks - 1
        return _event({"type": "content_block_start", "index": index, "content_block": block})

    def _delta(self, index: int, delta: Mapping[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": index, "delta": delta})

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            yield self._stopped(self._open[1])
            self._open = None

    def _stopped(self, index: int) -> bytes:
        return _event({"type": "content_block_stop", "index": index})


def _event(body: Mapping[str, Any]) -> bytes:
    return named_event(body["type"], written(body))
