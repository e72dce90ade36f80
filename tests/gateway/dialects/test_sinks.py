"""Whatever an expert sends, a dialect answers with well-formed events or fails as it should."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.base import Sink
from gateway.dialects.messages_answer import MessagesSink
from gateway.dialects.responses_answer import ResponsesSink
from gateway.errors import ExpertError, GatewayError
from gateway.sse import EventSplitter, event_data

ODD = st.sampled_from([None, "", "a", 0, -1, 2**63, 1.5, True, [], [None], {}, {"a": 1}])


def some(**fields: Any) -> Any:
    """Return objects with some of these fields, each as it should be or odd."""
    return st.fixed_dictionaries({}, optional={name: ODD | good for name, good in fields.items()})


CALL = some(
    index=st.integers(0, 2),
    id=st.text(),
    function=some(name=st.just("f"), arguments=st.sampled_from(["", "{", '{"x": 1}', '{"x"'])),
)
PARTS = st.lists(some(type=st.just("text"), text=st.text()))
SAID = some(
    role=st.just("assistant"),
    content=st.text() | PARTS,
    refusal=st.text(),
    reasoning=st.text(),
    reasoning_content=st.text(),
    tool_calls=st.lists(CALL, max_size=3),
)
CHOICE = some(
    index=st.integers(0, 1),
    message=SAID,
    delta=SAID,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "eos"]),
    logprobs=some(content=st.lists(ODD)),
    stop_reason=st.text(),
)
USAGE = some(
    prompt_tokens=st.integers(0, 99),
    completion_tokens=st.integers(0, 99),
    prompt_tokens_details=some(cached_tokens=st.integers(0, 99)),
    completion_tokens_details=some(reasoning_tokens=st.integers(0, 99)),
)
ANSWER = some(
    id=st.text(), model=st.text(), choices=st.lists(CHOICE, min_size=1, max_size=3), usage=USAGE
)


class Client:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.body = b""

    async def start(self, status: int, headers: dict[str, str]) -> None:
        return

    async def write(self, data: bytes) -> None:
        self.body += data

    async def fail(self, error: GatewayError) -> None:
        raise AssertionError  # each dialect tells of failures in its own form

    async def end(self) -> None:
        return


def sinks(client: Sink, *, stream: bool) -> list[Sink]:
    async def keep(_: dict[str, Any]) -> bool:
        return True

    draft = {"id": "resp_1", "output": [], "status": "in_progress"}
    return [
        MessagesSink(client, native=False, stream=stream),
        ResponsesSink(client, False, draft, keep, stream=stream),
    ]


async def through(sink: Sink, pieces: list[bytes]) -> None:
    """Write an answer as the pipeline does."""
    await sink.start(200, {})
    try:
        for piece in pieces:
            await sink.write(piece)
    except ExpertError as error:
        await sink.fail(error)
    await sink.end()


async def whole(sink: Sink, body: bytes) -> None:
    await sink.start(200, {})
    await sink.write(body)
    await sink.end()


@given(st.lists(ANSWER, max_size=4))
def test_a_stream_becomes_events_or_fails(chunks: list[Any]) -> None:
    pieces = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    for number in range(2):
        client = Client()
        asyncio.run(through(sinks(client, stream=True)[number], pieces))
        for event in EventSplitter().feed(client.body):
            assert isinstance(json.loads(event_data(event)), dict)


@given(ANSWER)
def test_a_whole_answer_becomes_one_or_fails(answer: Any) -> None:
    for number in range(2):
        client = Client()
        try:
            asyncio.run(whole(sinks(client, stream=False)[number], json.dumps(answer).encode()))
        except ExpertError:
            assert client.body == b""
        else:
            assert isinstance(json.loads(client.body), dict)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("place", ["arguments", "logprobs"])
def test_what_is_nested_too_deeply_fails(place: str, number: int) -> None:
    for depth in range(900, 1010):  # what can be read but not written lies somewhere in between
        deep = '{"a":' * depth + "1" + "}" * depth
        arguments = deep if place == "arguments" else '""'
        call = f'{{"function": {{"name": "f", "arguments": {arguments}}}}}'
        logprobs = f'{{"content": [{deep if place == "logprobs" else 1}]}}'
        message = f'{{"content": "a", "tool_calls": [{call}]}}'
        body = f'{{"choices": [{{"message": {message}, "logprobs": {logprobs}}}]}}'
        client = Client()
        try:
            asyncio.run(whole(sinks(client, stream=False)[number], body.encode()))
        except ExpertError:
            assert client.body == b""
            assert depth > 900
        else:
            assert depth < 1009
