"""What must hold of a relayed stream whatever an expert sends; for hypothesis and for atheris."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gateway.relay import Reading, StreamRelay
from gateway.sse import EventSplitter

SEEDS = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
    b'data: {"choices":[{"index":1,"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
    b'data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\n',
    b'data: {"error":{"message":"broke"}}\n\n',
    b'data: {"choices":[],"usage":{"completion_tokens":1},"x":[[["\xff"]]]}\n\n',
    b": ping\n\n",
    b"data: [DONE]\n\n",
)
"""Events as experts send them, and some that they should not."""


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """Return the chunks of a stream that is cut at some places."""
    ends = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(ends)]


def relayed(chunks: Sequence[bytes], *, resumed: bool = False) -> tuple[Any, ...]:
    """Return what leaves a relay for chunks that come, and what it makes of them."""
    relay = StreamRelay(show_usage=resumed, note=dict)
    if resumed:
        relay.feed(SEEDS[0])
        relay.resume()
    sent = b"".join(relay.feed(chunk) for chunk in chunks) + relay.flush() + relay.end()
    return sent, relay.reading, str(relay.failure), relay.complete, relay.text


def check(stream: bytes, places: Sequence[int]) -> None:
    """Assert that chunking makes no difference, and that no byte is lost.

    Left out are events with a usage that the client did not ask for, and everything from an event
    on that is no JSON or that reports a failure. What may be added is the blank line behind the
    last event, and an end.
    """
    chunks = cut(stream, places)
    sent, reading, failure, *rest = relayed(chunks)
    assert (sent, reading, failure, *rest) == relayed([stream])
    assert relayed(chunks, resumed=True) == relayed([stream], resumed=True)
    assert isinstance(reading, Reading)
    splitter = EventSplitter()
    events = splitter.feed(stream)
    rest = splitter.flush()
    assert b"".join(events) + rest == stream
    ended = [rest.rstrip(b"\r\n") + b"\n\n"] if rest.strip() else []
    for event in [*events, *ended]:
        if sent.startswith(event):
            sent = sent.removeprefix(event)
        elif failure == "None":
            assert b"usage" in event or b"\\u" in event, event
    assert sent in {b"", b"data: [DONE]\n\n"}
