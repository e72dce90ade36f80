"""Anthropic's client against the gateway, whole and streamed, translated and native."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.gateway.dialects.conftest import CODE, call_delta, chat, chat_stream, script
from tests.gateway.dialects.test_messages_input import TOOL, sent_for
from tests.servers import Gateway, UpstreamServer

DEEP = [
    {"reasoning_content": "Let me "},
    {"reasoning_content": "think."},
    {"content": "It is "},
    {"content": "sunny."},
    call_delta(0, "", id="call_a", name="weather"),
    call_delta(0, '{"city": "Ro'),
    call_delta(1, '{"city": ', id="call_b", name="weather"),
    call_delta(0, 'me"}'),
    call_delta(1, '"Oslo"}'),
]
"""Reasoning, text and two tool calls whose parts come in turns."""


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="x", max_retries=0) as client:
        yield client


def ask(client: anthropic.Anthropic, prompt: str, model: str = "script", **fields: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return client.messages.create(model=model, max_tokens=50, messages=messages, **fields)


def stream(client: anthropic.Anthropic, prompt: str, model: str = "script", **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": prompt}]
    with client.messages.stream(model=model, max_tokens=50, messages=messages, **fields) as events:
        return events.get_final_message()


# answers


def test_a_whole_answer_becomes_a_message(client: anthropic.Anthropic) -> None:
    answer = ask(client, script(whole=chat({"content": "Hello.", "reasoning_content": "Hm."})))
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("Hm.", "Hello.")
    assert (answer.stop_reason, answer.role, answer.model) == ("end_turn", "assistant", "m")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (12, 8)
    assert answer.usage.output_tokens == 6


def test_a_whole_answer_with_tool_calls(client: anthropic.Anthropic) -> None:
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    call = {"id": "call_a", "type": "function", "function": function}
    answer = ask(client, script(whole=chat({"content": None, "tool_calls": [call]}, "tool_calls")))
    assert answer.stop_reason == "tool_use"
    (block,) = answer.content
    assert (block.type, block.id, block.name) == ("tool_use", "call_a", "weather")
    assert block.input == {"city": "Rome"}


def test_a_streamed_answer_loses_nothing(client: anthropic.Anthropic) -> None:
    answer = stream(client, script(stream=chat_stream(*DEEP, finish="tool_calls")))
    thinking, text, rome, oslo = answer.content
    assert (thinking.thinking, text.text) == ("Let me think.", "It is sunny.")
    assert (rome.id, rome.input, oslo.id, oslo.input) == (
        "call_a",
        {"city": "Rome"},
        "call_b",
        {"city": "Oslo"},
    )
    assert answer.stop_reason == "tool_use"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 6)


def test_the_events_of_a_stream_come_in_order(client: anthropic.Anthropic) -> None:
    prompt = script(stream=chat_stream({"content": "a"}, {"content": "b"}))
    kinds = [event.type for event in ask(client, prompt, stream=True)]
    block = ["content_block_start", "content_block_delta", "content_block_delta"]
    assert kinds == ["message_start", *block, "content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("finish", "extra", "reason", "sequence"),
    [
        ("length", {}, "max_tokens", None),
        ("content_filter", {}, "refusal", None),
        ("stop", {"stop_reason": "END"}, "stop_sequence", "END"),
        ("stop", {"stop_reason": 128009}, "end_turn", None),
    ],
)
def test_why_an_answer_ended(
    client: anthropic.Anthropic,
    finish: str,
    extra: dict[str, Any],
    reason: str,
    sequence: str | None,
) -> None:
    whole = chat({"content": "a"}, finish, **extra)
    parts = chat_stream({"content": "a"}, finish=finish, **extra)
    for answer in (ask(client, script(whole=whole)), stream(client, script(stream=parts))):
        assert (answer.stop_reason, answer.stop_sequence) == (reason, sequence)


# native


def native_stream() -> list[str]:
    begun = json.loads(json.dumps(NATIVE | {"content": [], "stop_reason": None}))
    begun["usage"]["output_tokens"] = 1
    events = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 9},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


NATIVE: dict[str, Any] = {
    "id": "msg_native",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 9},
}


@pytest.mark.parametrize("streamed", [False, True])
def test_an_expert_that_speaks_it_gets_the_request_as_it_is(
    client: anthropic.Anthropic, gateway: Gateway, upstream: UpstreamServer, streamed: bool
) -> None:
    messages: Any = [{"role": "user", "content": script(whole=NATIVE, stream=native_stream())}]
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    fields: Any = {"model": "auto", "max_tokens": 50, "messages": messages, "tools": [search]}
    raw_version = client.default_headers["anthropic-version"]
    fields |= {"extra_headers": {"anthropic-beta": "b1"}}
    if streamed:
        with client.messages.stream(**fields) as events:
            answer, headers = events.get_final_message(), events.response.headers
    else:
        raw = client.messages.with_raw_response.create(**fields)
        answer, headers = raw.parse(), raw.headers
    assert (answer.id, answer.content[0].text) == ("msg_native", "Hi")  # type: ignore[union-attr]
    assert headers["x-coe-expert"] == "native"
    (entry,) = upstream.seen(headers["x-request-id"])
    assert entry["path"] == "/v1/messages"
    assert json.loads(entry["raw"])["tools"] == [search]
    told = entry["headers"]
    assert (told["anthropic-version"], told["anthropic-beta"]) == (raw_version, "b1")
    assert told["x-api-key"] == "native-key"
    line = gateway.logged(headers["x-request-id"])
    assert (line["prompt_tokens"], line["completion_tokens"], line["usage"]) == (7, 9, "reported")
    assert (line["finish_reason"], line["outcome"]) == ("end_turn", "ok")


def test_a_virtual_expert_that_speaks_it_keeps_its_prompt(
    client: anthropic.Anthropic, upstream: UpstreamServer
) -> None:
    messages: Any = [{"role": "user", "content": script(whole=NATIVE)}]
    raw = client.messages.with_raw_response.create(
        model="virtual", max_tokens=5, messages=messages, system="Mine."
    )
    texts = [block["text"] for block in sent_for(upstream, raw)["system"]]
    assert texts == ["Be terse.", "Mine."]


def test_what_only_a_native_expert_takes_is_refused_elsewhere(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        ask(client, "hello", tools=[{"type": "web_search_20250305", "name": "web_search"}])


@pytest.mark.parametrize(
    "last", [[], ['event: error\ndata: {"type": "error"}\n\n'], ["data: {\n\n"]]
)
def test_a_native_stream_that_breaks_ends_with_an_error(
    client: anthropic.Anthropic, last: list[str]
) -> None:
    with pytest.raises(anthropic.APIStatusError, match="xpert"):
        stream(client, script(stream=[*native_stream()[:3], *last]), "native")


# what works for every dialect


def test_a_broken_stream_goes_on_with_the_next_expert(client: anthropic.Anthropic) -> None:
    answer = stream(client, CODE, "auto")
    assert answer.content[0].text == "One two threeé…" * 2
    assert answer.stop_reason == "end_turn"


def test_a_broken_stream_ends_with_an_error(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="connection"):
        stream(client, script(stream=chat_stream(*DEEP)[:6], cut=True))


def test_a_tool_call_that_is_no_json_is_a_failure(
    client: anthropic.Anthropic, gateway: Gateway
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    with pytest.raises(anthropic.InternalServerError, match="JSON") as failed:
        ask(client, script(whole=chat({"tool_calls": [call]}, "tool_calls")))
    line = gateway.logged(failed.value.response.headers["x-request-id"])
    assert (failed.value.status_code, line["status"], line["outcome"]) == (
        502,
        502,
        "expert_failed",
    )


def test_a_streamed_tool_call_without_a_name_is_a_failure_also_with_the_end_beside_it(
    client: anthropic.Anthropic, gateway: Gateway
) -> None:
    events = chat_stream({"role": "assistant"}, call_delta(0, "{}"), finish="tool_calls")
    message = {"role": "user", "content": script(stream=["".join([*events, "data: [DONE]\n\n"])])}
    body = {"model": "script", "max_tokens": 5, "messages": [message], "stream": True}
    answer = gateway.post("/v1/messages", json=body)
    assert "message_stop" not in answer.text
    assert "without a name" in answer.text
    assert gateway.logged(answer.headers["x-request-id"])["outcome"] == "cut"


def test_a_conversation_keeps_its_expert(client: anthropic.Anthropic) -> None:
    first: Any = {"role": "user", "content": f"{CODE}, please."}
    answer = client.messages.with_raw_response.create(
        model="auto", max_tokens=5, messages=[first], stream=False
    )
    expert = answer.headers["x-coe-expert"]
    told = [{"type": "text", "text": "Done.", "cache_control": {"type": "ephemeral"}}]
    more: Any = [first, {"role": "assistant", "content": told}]
    again = client.messages.with_raw_response.create(
        model="auto", max_tokens=5, messages=[*more, {"role": "user", "content": "Solve x^2 = 4."}]
    )
    assert again.headers["x-coe-expert"] == expert


# errors


def test_errors_are_those_of_anthropic(client: anthropic.Anthropic, gateway: Gateway) -> None:
    with pytest.raises(anthropic.NotFoundError) as not_found:
        ask(client, "hello", "nobody")
    assert not_found.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": not_found.value.body["error"]["message"]},  # type: ignore[index]
    }
    with pytest.raises(anthropic.BadRequestError, match="no"):
        ask(client, "hello", "s400")
    with pytest.raises(anthropic.InternalServerError):
        ask(client, "hello", "s500")
    wrong_method = gateway.get("/v1/messages")
    assert (wrong_method.status_code, wrong_method.json()["type"]) == (405, "error")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "role"),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content[0].source"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": 1}]}]},
            "content[0].name",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 7}]}]},
            "content[0].content",
        ),
        ({"tools": [{"description": "no name"}]}, "tools[0].name"),
        ({"system": 7}, "system"),
        ({"temperature": "hot"}, "temperature"),
        ({"system": "a\0"}, "'system'"),
        ({"system": "Hi.", "messages": [{"role": "user", "content": "\0"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "\0"}]}]},
            "messages[0].content[0].text",
        ),
    ],
)
def test_a_bad_request_is_refused_and_the_field_is_named(
    gateway: Gateway, fields: dict[str, Any], named: str
) -> None:
    body = {"model": "script", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}
    answer = gateway.post("/v1/messages", json={**body, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


# tokens


def test_tokens_are_counted_by_an_expert_that_can(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "{}"}]
    assert client.messages.count_tokens(model="native", messages=messages).input_tokens == 77


def test_tokens_are_estimated_elsewhere(client: anthropic.Anthropic) -> None:
    def count(text: str, **fields: Any) -> int:
        messages: Any = [{"role": "user", "content": text}]
        counted = client.messages.count_tokens(model="auto", messages=messages, **fields)
        return counted.input_tokens

    few = count("hello there")
    assert 3 <= few <= 20
    assert count("hello there " * 1000) >= 2000
    assert count("hello there", tools=[TOOL]) > few + 20


def test_an_expert_that_does_not_count_is_not_waited_for(
    client: anthropic.Anthropic, gateway: Gateway, upstream: UpstreamServer
) -> None:
    messages = [{"role": "user", "content": "hello there"}]
    body = {"model": "slow", "messages": messages, "stream": True}  # which means nothing here
    started_s = time.monotonic()
    answer = gateway.post("/v1/messages/count_tokens", json=body)
    assert time.monotonic() - started_s < 20  # the expert would take 30 s, and may 600 s
    assert (answer.status_code, 3 <= answer.json()["input_tokens"] <= 20) == (200, True)
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    assert entry["path"] == "/v1/messages/count_tokens"
    # its place is free, and its failure to count is none to answer
    with pytest.raises(anthropic.InternalServerError, match="in time"):
        stream(client, "hello", "slow")
