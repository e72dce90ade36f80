from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import MAX_EVENT_BYTES, EventSplitter, data_event, event_data

# mostly line ends: that is where splitting can go wrong
STREAMS = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x", b":", b"\xff"])).map(
    b"".join
)


def split(chunks: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events, splitter.flush()


@given(STREAMS | st.binary(), st.lists(st.integers(0, 60)))
def test_no_byte_is_lost_and_chunking_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    events, rest = split([stream[start:end] for start, end in pairwise(places)])
    assert b"".join(events) + rest == stream
    assert (events, rest) == split([stream])
    assert (events, rest) == split([stream[i : i + 1] for i in range(len(stream))])


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
def test_every_blank_line_of_the_standard_ends_an_event(end: bytes) -> None:
    assert split([b"data: a" + end + b"data: b" + end]) == (
        [b"data: a" + end, b"data: b" + end],
        b"",
    )


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    splitter = EventSplitter()
    chunk = b"x" * (MAX_EVENT_BYTES // 2)
    assert splitter.feed(chunk) == []
    assert splitter.feed(chunk) == []
    assert splitter.feed(b"y") == [chunk + chunk + b"y"]
    assert splitter.flush() == b""


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\r\n\r\n", b"{}"),
        (b"event: x\ndata: a\ndata:  b\n\n", b"a\n b"),
        (b": ping\n\n", b""),
        (b"data: a\rdata: b\r\r", b"a\nb"),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes) -> None:
    assert event_data(event) == data


@given(st.binary().filter(lambda data: b"\n" not in data and b"\r" not in data))
def test_data_comes_back_out_of_an_event(data: bytes) -> None:
    assert split([data_event(data)]) == ([data_event(data)], b"")
    assert event_data(data_event(data)) == data
