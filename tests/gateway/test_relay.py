from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ExpertError
from gateway.relay import Reading, StreamRelay, Usage, read_body
from gateway.relay_native import NativeRelay
from tests.gateway.stream_properties import SEEDS, check

USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n'
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COST = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":4},"x":1.50}\n\n'
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
FAILURE = b'data: {"error": {"message": "broke"}}\n\n'


def relay(*, show_usage: bool = False) -> StreamRelay:
    return StreamRelay(show_usage=show_usage, note=lambda: {"n": 4})


def passed(stream: StreamRelay, *chunks: bytes) -> bytes:
    return b"".join(stream.feed(chunk) for chunk in chunks) + stream.flush()


def test_a_usage_chunk_that_was_not_asked_for_is_read_and_left_out() -> None:
    stream = relay()
    assert passed(stream, ROLE, WORD, STOP, COST, DONE) == ROLE + WORD + STOP + DONE
    assert stream.reading == Reading(Usage(11, 4), "stop", chunks=1)
    assert stream.complete


def test_a_usage_chunk_that_was_asked_for_also_says_what_it_cost() -> None:
    stream = relay(show_usage=True)
    sent = passed(stream, WORD, STOP, COST, DONE)
    assert sent.startswith(WORD + STOP)
    assert sent.endswith(DONE)
    chunk = json.loads(sent.split(b"\n\n")[2].removeprefix(b"data: "))
    assert chunk["usage"] == {"prompt_tokens": 11, "completion_tokens": 4}
    assert chunk["coe"] == {"n": 4}


def test_usage_beside_a_choice_is_read_and_stays_where_it_is() -> None:
    last = STOP.replace(b"]}\n", b'],"usage":{"prompt_tokens":2,"completion_tokens":3}}\n')
    stream = relay()
    assert passed(stream, WORD, last, DONE) == WORD + last + DONE
    assert stream.reading.usage == Usage(2, 3)


@given(
    st.lists(st.sampled_from([ROLE, WORD, STOP, PING, b"\n", b"data: 7\n\n", b"x"])),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_all_other_bytes_pass_untouched(events: list[bytes], sizes: list[int]) -> None:
    stream, whole = relay(), b"".join(events)
    sent, start = b"", 0
    for size in sizes:
        sent += stream.feed(whole[start : start + size])
        start += size
    sent += stream.feed(whole[start:]) + stream.flush()
    assert sent.rstrip(b"\n") == whole.rstrip(b"\n")


@pytest.mark.parametrize(
    ("chunks", "complete"),
    [
        ((WORD, STOP, DONE), True),
        ((WORD, STOP), True),
        ((WORD, DONE), True),
        ((WORD,), False),
        ((), False),
        ((WORD, STOP[:-20]), False),
        ((WORD, FAILURE), False),
        ((WORD, FAILURE, DONE), False),
        ((WORD, WORD.replace(b'"a"', rb'"say [DONE]"')), False),
        ((WORD, b"data:[DONE]\r\n\r\n"), True),
        ((WORD, DONE[:-1]), True),
    ],
)
def test_a_cut_stream_is_told_from_a_whole_one(chunks: tuple[bytes, ...], complete: bool) -> None:
    stream = relay()
    passed(stream, *chunks)
    assert stream.complete is complete


TWO = b'data: {"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}]}\n\n'


def test_one_choice_that_ended_does_not_end_the_others() -> None:
    stream = relay()
    passed(stream, WORD, TWO, STOP)
    assert not stream.complete
    passed(stream, STOP.replace(b'"index":0', b'"index":1'))
    assert stream.complete


def test_an_end_is_added_to_a_complete_answer_only() -> None:
    stream = relay()
    passed(stream, WORD)
    assert stream.end() == b""
    passed(stream, STOP)
    assert stream.end() == DONE
    assert stream.end() == b""


@pytest.mark.parametrize("part", [{"refusal": "I am sorry"}, {"audio": {"data": "AAAA"}}])
def test_what_was_said_otherwise_than_in_text_was_said(part: dict[str, Any]) -> None:
    stream = relay()
    passed(stream, b"data: %s\n\n" % json.dumps({"choices": [{"delta": part}]}).encode())
    assert (stream.text, stream.reading.chunks) == (None, 1)


def test_a_reported_failure_is_noticed() -> None:
    stream = relay()
    assert passed(stream, WORD, FAILURE, STOP) == WORD
    assert stream.failure is not None
    assert "broke" in stream.failure.message
    assert "broke" not in str(stream.failure)


def test_words_of_the_answer_are_not_taken_for_fields() -> None:
    said = {"choices": [{"delta": {"content": '"usage": {"error": "finish_reason": "stop"'}}]}
    event = b"data: " + json.dumps(said).encode() + b"\n\n"
    stream = relay()
    assert passed(stream, event) == event
    assert stream.reading == Reading(chunks=1)


@pytest.mark.parametrize(
    ("body", "reading"),
    [
        ({"choices": [{"finish_reason": "stop"}], "usage": USAGE}, Reading(Usage(11, 4), "stop")),
        ({"choices": [{"finish_reason": "length"}]}, Reading(None, "length")),
        ({"choices": [{}], "usage": None}, Reading()),
    ],
)
def test_a_whole_answer_is_read(body: dict[str, Any], reading: Reading) -> None:
    assert read_body(json.dumps(body).encode()) == reading


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_what_a_native_stream_ends_with_is_a_whole_event(end: bytes) -> None:
    native = NativeRelay()
    last = b'event: message_stop\ndata: {"type":"message_stop"}'
    assert native.feed(last + end) + native.flush() == last + b"\n\n"
    assert native.complete


@pytest.mark.parametrize("body", [b"{}", b'{"error": {"message": "no"}}', b'{"choices": []}'])
def test_an_answer_without_choices_is_a_failure_of_the_expert(body: bytes) -> None:
    with pytest.raises(ExpertError, match="holds no choices"):
        read_body(body)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": [', b"<html>", b"\xff", b"[" * 10**5])
def test_an_answer_that_is_no_completion_is_a_failure_of_the_expert(body: bytes) -> None:
    with pytest.raises(ExpertError, match="not a valid completion"):
        read_body(body)


@pytest.mark.parametrize("count", ["-1", "1.5", "null", "1e999", "9" * 400, '"4"'])
def test_token_counts_that_cannot_be_are_not_counted(count: str) -> None:
    usage = f'"usage": {{"prompt_tokens": 1, "completion_tokens": {count}}}'
    assert read_body(f'{{"choices": [{{}}], {usage}}}'.encode()).usage is None
    event = f'data: {{"choices": [], {usage}}}\n\n'.encode()
    stream = relay()
    assert passed(stream, STOP, event, DONE) == STOP + event + DONE
    assert stream.reading.usage is None
    assert stream.complete


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["stop", "stop"], "stop"),
        (["stop", "length"], "length"),
        (["length", "stop"], "length"),
        (["tool_calls"], "tool_calls"),
    ],
)
def test_several_choices_stopped_when_all_did(reasons: list[str], told: str) -> None:
    choices = [{"index": i, "finish_reason": reason} for i, reason in enumerate(reasons)]
    assert read_body(json.dumps({"choices": choices}).encode()).finish_reason == told
    stream = relay()
    for choice in choices:
        passed(stream, b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert stream.reading.finish_reason == told


@given(
    st.lists(st.sampled_from(SEEDS) | st.binary(max_size=20)).map(b"".join),
    st.lists(st.integers(0, 500)),
)
def test_chunking_makes_no_difference_and_no_byte_is_lost(stream: bytes, places: list[int]) -> None:
    check(stream, places)


@given(st.sampled_from(SEEDS), st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_an_event_that_was_damaged_on_its_way_breaks_nothing(
    event: bytes, place: int, garbage: bytes
) -> None:
    check(event[:place] + garbage + event[place + len(garbage) :] + SEEDS[0], [place])


@pytest.mark.parametrize("depth", [900, 990, 1_000, 1_010, 10_000])
def test_a_chunk_nested_too_deeply_to_be_rewritten_is_a_failure(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    check(b'data: {"choices":[],"usage":{"completion_tokens":1},"x":' + deep + b"}\n\n", [9])
