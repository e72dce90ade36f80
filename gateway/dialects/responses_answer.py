"""Chat completions as responses, whole and streamed.

References
----------
OpenAI API, the response object and the streaming events of responses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import msgspec

from gateway.dialects.base import Sink
from gateway.dialects.chat import (
    Answer,
    Choice,
    ChunkReader,
    Function,
    Said,
    ToolCall,
    read_answer,
    written,
)
from gateway.errors import ExpertError, GatewayError
from gateway.sse import EventSplitter, event_data, named_event
from gateway.usage import Usage

Draft = dict[str, Any]
Keep = Callable[[Draft], Awaitable[bool]]
_ENDS = {b"response.completed", b"response.incomplete"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Native(msgspec.Struct):
    """What a response of an expert's own must have to be gone on with."""

    id: str
    output: list[dict[str, Any]]


class ResponsesSink:
    """Turns a chat completion into a response, and has it kept.

    Parameters
    ----------
    sink : Sink
        The client's.
    native : bool
        Whether the expert speaks the Responses API itself: its bytes pass through.
    draft : dict
        The response before anything is said.
    keep : callable
        Stores a response for those that follow; returns whether it did.
    stream : bool
        Whether the client asked for a stream.
    """

    def __init__(self, sink: Sink, native: bool, draft: Draft, keep: Keep, *, stream: bool) -> None:
        self._sink = sink
        self._native = native
        self._keep = keep
        self._stream = stream
        self._status, self._headers = 200, dict[str, str]()
        self._reader = ChunkReader()
        self._splitter = EventSplitter()
        self._writer = ResponseWriter(draft)
        self._failed = False

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """See `Sink.start`; a whole answer's waits for its new length."""
        self._status, self._headers = status, headers
        self._stream &= status == 200
        if self._native or self._stream or status != 200:
            await self._sink.start(status, headers)

    async def write(self, data: bytes) -> None:
        """See `Sink.write`."""
        if self._native or self._status != 200:
            await self._sink.write(data)
            await self._keep_native(data)
        elif self._stream:
            events = [
                event for chunk in self._reader.feed(data) for event in self._writer.of(chunk)
            ]
            if events:
                await self._sink.write(b"".join(events))
        else:
            response = self._writer.whole(read_answer(data))
            response["store"] = await self._keep(response)
            body = written(response)
            await self._sink.start(200, {**self._headers, "content-length": str(len(body))})
            await self._sink.write(body)

    async def fail(self, error: GatewayError) -> None:
        """See `Sink.fail`."""
        self._failed = True
        if self._native:
            told = {"type": "error", "code": error.code, "message": error.message, "param": None}
            await self._sink.write(named_event("error", written(told)))
        else:
            await self._sink.write(self._writer.failed(error))

    async def end(self) -> None:
        """See `Sink.end`; a stream's last event says whether the response was kept."""
        if self._stream and not self._native and not self._failed:
            events, response = self._writer.finish()
            response["store"] = await self._keep(response)
            await self._sink.write(events + self._writer.last(response))
        await self._sink.end()

    async def _keep_native(self, data: bytes) -> None:
        if self._status != 200:
            return
        if not self._stream:
            await self._keep_if_response(data)
            return
        for event in self._splitter.feed(data):
            if any(b'"' + name + b'"' in event for name in _ENDS):
                await self._keep_if_response(event_data(event))

    async def _keep_if_response(self, data: bytes) -> None:
        try:
            told = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        response = told.get("response", told)
        try:
            msgspec.convert(response, _Native)
        except msgspec.ValidationError:
            return  # nobody could go on with it
        await self._keep(response)


class ResponseWriter:
    """Turns the chunks of a chat completion into the events of a response, and the response itself.

    Reasoning and text are items one after the other. The items of tool calls stay open until the
    end, since a chunk may add to any of them.

    Parameters
    ----------
    draft : dict
        The response before anything is said.
    """

    def __init__(self, draft: Draft) -> None:
        self._response = draft
        self._begun = False
        self._sequence = -1
        self._open: dict[str, Any] | None = None
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish: str | None = None

    def of(self, chunk: Answer) -> Iterator[bytes]:
        """Yield the events of one chunk."""
        yield from self._begin(chunk.model or "")
        if (counted := chunk.counted) is not None:
            self._response["usage"] = usage(counted)
        for choice in chunk.choices or ():
            if not choice.index:
                yield from self._said(choice, choice.delta or Said())
                self._finish = choice.finish_reason or self._finish

    def whole(self, answer: Answer) -> Draft:
        """Return the response of a whole answer."""
        choice = (answer.choices or [Choice()])[0]
        said = choice.message or Said()
        for index, call in enumerate(said.tool_calls or ()):
            call.index = index
        list(self.of(msgspec.structs.replace(answer, choices=[_as_delta(choice)])))
        return self.finish()[1]

    def finish(self) -> tuple[bytes, Draft]:
        """Return the last events but one, and the response as it is complete."""
        events = list(self._begin(""))
        events += [*self._close(), *(e for call in self._calls.values() for e in self._done(call))]
        reason = _INCOMPLETE.get(self._finish or "")
        self._response["status"] = "incomplete" if reason else "completed"
        self._response["incomplete_details"] = {"reason": reason} if reason else None
        return b"".join(events), self._response

    def last(self, response: Draft) -> bytes:
        """Return the last event."""
        return self._event(f"response.{response['status']}", response=response)

    def failed(self, error: GatewayError) -> bytes:
        """Return the last event of a stream that broke."""
        begun = b"".join(self._begin(""))
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        told = {"code": code, "message": error.message}
        response = {**self._response, "status": "failed", "error": told, "store": False}
        return begun + self._event("response.failed", response=response)

    def _begin(self, model: str) -> Iterator[bytes]:
        if self._begun:
            return
        self._begun = True
        self._response["model"] = model
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def _said(self, choice: Choice, said: Said) -> Iterator[bytes]:
        if said.thought:
            yield from self._piece("reasoning", "reasoning_text", said.thought)
        if text := said.text:
            yield from self._piece("message", "output_text", text, choice.token_logprobs)
        if said.refusal:
            yield from self._piece("message", "refusal", said.refusal)
        for call in said.tool_calls or ():
            yield from self._call(call)

    def _piece(
        self, kind: str, part_kind: str, piece: str, logprobs: list[Any] | None = None
    ) -> Iterator[bytes]:
        """Add to the item that is open, or close it and begin another one."""
        if self._open is None or self._open["content"][0]["type"] != part_kind:
            yield from self._close()
            yield from self._open_item(kind, part_kind)
        item = self._open
        if item is None:
            return
        part, at = item["content"][0], self._place(item)
        part[_text_key(part_kind)] += piece
        more: dict[str, Any] = {}
        if part_kind == "output_text":
            part["logprobs"] += logprobs or []
            more["logprobs"] = logprobs or []
        yield self._event(f"response.{part_kind}.delta", **at, content_index=0, delta=piece, **more)

    def _open_item(self, kind: str, part_kind: str) -> Iterator[bytes]:
        part: dict[str, Any] = {"type": part_kind, _text_key(part_kind): ""}
        if part_kind == "output_text":
            part |= {"annotations": [], "logprobs": []}
        if kind == "message":
            item: dict[str, Any] = {"id": f"msg_{uuid4().hex}", "type": kind, "role": "assistant"}
        else:
            item = {"id": f"rs_{uuid4().hex}", "type": kind, "summary": []}
        item |= {"status": "in_progress", "content": []}
        yield self._added(item)
        item["content"].append(part)
        self._open = item
        at = self._place(item)
        yield self._event("response.content_part.added", **at, content_index=0, part=part)

    def _close(self) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        part, at = item["content"][0], self._place(item)
        key = _text_key(part["type"])
        more = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
        name = f"response.{part['type']}.done"
        yield self._event(name, **at, content_index=0, **{key: part[key]}, **more)
        yield self._event("response.content_part.done", **at, content_index=0, part=part)
        yield from self._item_done(item)

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        function, index = call.function or Function(), call.index or 0
        item = self._calls.get(index)
        if item is None:
            yield from self._close()
            if not function.name:
                raise ExpertError("The expert began a tool call without a name.")
            item = {
                "id": f"fc_{uuid4().hex}",
                "type": "function_call",
                "call_id": call.id or f"call_{uuid4().hex}",
                "name": function.name,
                "arguments": "",
                "status": "in_progress",
            }
            self._calls[index] = item
            yield self._added(item)
        if piece := function.text:
            item["arguments"] += piece
            name = "response.function_call_arguments.delta"
            yield self._event(name, **self._place(item), delta=piece)

    def _done(self, item: dict[str, Any]) -> Iterator[bytes]:
        name = "response.function_call_arguments.done"
        told = {"name": item["name"], "arguments": item["arguments"]}
        yield self._event(name, **self._place(item), **told)
        yield from self._item_done(item)

    def _item_done(self, item: dict[str, Any]) -> Iterator[bytes]:
        item["status"] = "completed"
        index = self._response["output"].index(item)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _added(self, item: dict[str, Any]) -> bytes:
        self._response["output"].append(item)
        index = len(self._response["output"]) - 1
        return self._event("response.output_item.added", output_index=index, item=item)

    def _place(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self._response["output"].index(item)}

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401  (JSON)
        self._sequence += 1
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        return named_event(kind, written(body))


def _as_delta(choice: Choice) -> Choice:
    return msgspec.structs.replace(choice, delta=choice.message, message=None, index=0)


def _text_key(part_kind: str) -> str:
    return "refusal" if part_kind == "refusal" else "text"


def usage(counted: Usage) -> dict[str, Any]:
    """Return the tokens as a response tells them."""
    return {
        "input_tokens": counted.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning_tokens},
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
    }
