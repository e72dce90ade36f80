"""Requests of the Responses API, as the experts get them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.responses import ResponsesDialect
from gateway.errors import InvalidRequestError
from tests.gateway.dialects.conftest import chat, script
from tests.servers import Gateway, UpstreamServer

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
ITEMS: Any = [
    {"role": "user", "content": script(whole=chat({"content": "a"}))},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
    },
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
    {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    {
        "type": "function_call_output",
        "call_id": "c2",
        "output": [
            {"type": "input_text", "text": "rainy"},
            {"type": "input_image", "image_url": "https://a/b.png", "detail": "low"},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "And?"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:x"},
        ],
    },
]


def tool_call(call_id: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": "{}"}
    return {"id": call_id, "type": "function", "function": function}


IMAGE = {"url": "https://a/b.png", "detail": "low"}
FUNCTION = {key: WEATHER[key] for key in ("name", "parameters", "strict")}


SENT = {
    "model": "script",
    "messages": [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        ITEMS[0],
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [tool_call("c1"), tool_call("c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "rainy"},
        {"role": "user", "content": [{"type": "image_url", "image_url": IMAGE}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?"},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}},
            ],
        },
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "reasoning_effort": "high",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}},
    },
    "verbosity": "low",
    "max_tokens": 50,
    "temperature": 0.5,
    "prompt_cache_key": "k",
    "chat_template_kwargs": {"a": 1},
}


def client_of(gateway: Gateway, api_key: str = "x") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key, max_retries=0)


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


def sent_for(upstream: UpstreamServer, raw: Any) -> dict[str, Any]:
    """Return the body that the expert got for a raw response."""
    (entry,) = upstream.seen(raw.headers["x-request-id"])
    body: dict[str, Any] = json.loads(entry["raw"])
    return body


def test_a_request_reaches_the_expert_whole(
    client: openai.OpenAI, upstream: UpstreamServer
) -> None:
    raw = client.responses.with_raw_response.create(
        model="script",
        instructions="Be kind.",
        input=[{"role": "developer", "content": "Be brief."}, *ITEMS],
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "high"},
        text={
            "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}},
            "verbosity": "low",
        },
        max_output_tokens=50,
        temperature=0.5,
        prompt_cache_key="k",
        extra_body={"chat_template_kwargs": {"a": 1}},
    )

    assert sent_for(upstream, raw) == SENT


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "'input'"),
        ({"input": []}, "'input'"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "content[0].type"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name"),
        ({"input": [{"type": "item_reference", "id": "gone"}]}, "input[0].id"),
        ({"input": "a", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "a", "previous_response_id": "gone"}, "previous_response_id"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "temperature": "hot"}, "temperature"),
        ({"input": " "}, "'input' must hold some content"),
        ({"input": [{"role": "user", "content": "\0"}]}, "input[0].content"),
        ({"input": "a", "instructions": "\0"}, "'instructions'"),
    ],
)
def test_a_bad_request_is_refused_and_the_field_is_named(
    gateway: Gateway, fields: dict[str, Any], named: str
) -> None:
    answer = gateway.post("/v1/responses", json={"model": "script", **fields})
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


# whatever else there may be

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
)
ITEM_KINDS = [
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "item_reference",
    "x",
]
PART_KINDS = ["input_text", "output_text", "input_image", "input_file", "input_audio", "refusal"]
PART: Any = st.fixed_dictionaries(
    {"type": st.sampled_from(PART_KINDS) | SCALARS},
    optional=dict.fromkeys(("text", "image_url", "file_data", "refusal"), SCALARS),
)
CONTENT = st.lists(PART | SCALARS, max_size=2) | SCALARS
ITEM: Any = st.fixed_dictionaries(
    {"type": st.sampled_from(ITEM_KINDS) | SCALARS},
    optional={
        "role": st.sampled_from(["user", "assistant", "developer"]) | SCALARS,
        **dict.fromkeys(("content", "summary", "output"), CONTENT),
        **dict.fromkeys(("id", "call_id", "name", "arguments"), SCALARS),
    },
)
BODIES: Any = st.fixed_dictionaries(
    {"input": st.lists(ITEM, max_size=3) | SCALARS},
    optional={
        **dict.fromkeys(("instructions", "text", "reasoning", "conversation", "include"), SCALARS),
        "tools": st.lists(st.fixed_dictionaries({"type": st.just("function") | SCALARS})),
        "tool_choice": st.dictionaries(st.just("type"), SCALARS) | SCALARS,
    },
)


class NothingStored:
    """A store that is never asked."""


@pytest.mark.parametrize("stream", [False, True])
def test_what_could_not_be_echoed_is_refused(gateway: Gateway, stream: bool) -> None:
    seen = set()
    for depth in range(700, 1000, 10):
        metadata = '{"a":' * depth + "1" + "}" * depth
        whole = f'{{"model": "good", "input": "Hello", "metadata": {metadata}'
        body = f'{whole}, "stream": {json.dumps(stream)}}}'
        answer = gateway.post("/v1/responses", content=body)
        seen.add(answer.status_code)
        assert answer.status_code in {200, 400}
        assert '"type":"error"' not in answer.text
    assert seen == {200, 400}


@settings(max_examples=100)
@given(BODIES)
def test_any_body_is_translated_or_refused(body: dict[str, Any]) -> None:
    dialect = ResponsesDialect(cast(Any, NothingStored()))
    with suppress(InvalidRequestError):
        asyncio.run(dialect.parse(json.dumps(body).encode(), "tenant"))
