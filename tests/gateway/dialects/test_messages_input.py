"""Requests of Anthropic's client, as the experts get them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.messages import Messages
from gateway.errors import InvalidRequestError
from tests.gateway.dialects.conftest import chat, script
from tests.servers import Gateway, UpstreamServer

TOOL = {
    "name": "weather",
    "description": "Say how the weather is.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "aGk="}
IMAGE = {"type": "image", "source": PIXEL}
RESULT = {"type": "tool_result", "tool_use_id": "t1"}
MESSAGES: Any = [
    {"role": "user", "content": script(whole=chat({"content": "a"}))},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Here.", "cache_control": {"type": "ephemeral"}},
            {**RESULT, "content": [{"type": "text", "text": "sunny"}, IMAGE]},
            {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2"}]},
]

FIELDS: Any = dict(
    model="script",
    max_tokens=50,
    system=[
        {"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
        {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ],
    messages=MESSAGES,
    tools=[TOOL],
    tool_choice={"type": "any", "disable_parallel_tool_use": True},
    stop_sequences=["END"],
    metadata={"user_id": "u1"},
    extra_body={
        "temperature": 0.5,
        "top_k": 7,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "chat_template_kwargs": {"enable_thinking": True},
        "output_config": {
            "effort": "max",
            "format": {"type": "json_schema", "schema": {"type": "object"}},
        },
    },
)

DATA_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
FAR_URL = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
FUNCTION = {"name": "weather", "arguments": '{"city":"Rome"}'}
SENT = {
    "model": "script",
    "messages": [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        MESSAGES[0],
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "t1", "type": "function", "function": FUNCTION}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
        {"role": "user", "content": [{"type": "text", "text": "Here."}, DATA_URL, FAR_URL]},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
    ],
    "max_tokens": 50,
    "stop": ["END"],
    "temperature": 0.5,
    "top_k": 7,
    "user": "u1",
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": TOOL["description"],
                "parameters": TOOL["input_schema"],
            },
        }
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "reasoning_effort": "high",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    },
    "chat_template_kwargs": {"enable_thinking": True},
}


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="x", max_retries=0) as client:
        yield client


def sent_for(upstream: UpstreamServer, raw: Any) -> dict[str, Any]:
    """Return the body that the expert got for a raw response."""
    (entry,) = upstream.seen(raw.headers["x-request-id"])
    body: dict[str, Any] = json.loads(entry["raw"])
    return body


def test_a_request_reaches_the_expert_whole(
    client: anthropic.Anthropic, upstream: UpstreamServer
) -> None:
    raw = client.messages.with_raw_response.create(**FIELDS)
    assert sent_for(upstream, raw) == SENT


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            {"type": "document", "source": {"type": "text", "data": "D"}, "title": "T"},
            [{"type": "text", "text": "T"}, {"type": "text", "text": "D"}],
        ),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
            },
            [
                {
                    "type": "file",
                    "file": {
                        "filename": "document.pdf",
                        "file_data": "data:application/pdf;base64,aGk=",
                    },
                }
            ],
        ),
        (
            {
                "type": "search_result",
                "title": "T",
                "source": "S",
                "content": [{"type": "text", "text": "C"}],
            },
            [{"type": "text", "text": "T\nS"}, {"type": "text", "text": "C"}],
        ),
    ],
)
def test_documents_reach_the_expert(
    client: anthropic.Anthropic, upstream: UpstreamServer, block: Any, part: Any
) -> None:
    messages: Any = [
        {"role": "user", "content": script(whole=chat({"content": "a"}))},
        {"role": "user", "content": [block]},
    ]
    raw = client.messages.with_raw_response.create(model="script", max_tokens=5, messages=messages)
    assert sent_for(upstream, raw)["messages"][1]["content"] == part


# whatever else there may be

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
KINDS = ["text", "image", "document", "tool_use", "tool_result", "thinking", "search_result"]
BLOCKS: Any = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | SCALARS},
    optional={
        **dict.fromkeys(("text", "thinking", "id", "name", "tool_use_id", "title"), SCALARS),
        "source": st.dictionaries(st.sampled_from(["type", "data", "url", "content"]), SCALARS)
        | SCALARS,
        "content": st.text() | st.lists(st.fixed_dictionaries({"type": st.sampled_from(KINDS)})),
        "input": SCALARS | st.dictionaries(st.text(), SCALARS),
    },
)
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("m"),
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant"]),
                    "content": st.text() | st.lists(BLOCKS | SCALARS, max_size=3),
                }
            ),
            max_size=3,
        ),
    },
    optional={
        "system": st.text() | st.lists(BLOCKS, max_size=2),
        "tools": st.lists(st.fixed_dictionaries({}, optional={"name": SCALARS, "type": SCALARS})),
        "tool_choice": st.dictionaries(st.sampled_from(["type", "name"]), SCALARS) | SCALARS,
        "metadata": st.dictionaries(st.just("user_id"), SCALARS) | SCALARS,
        "output_config": st.dictionaries(st.sampled_from(["effort", "format"]), SCALARS) | SCALARS,
    },
)


@settings(max_examples=100)
@given(BODIES)
def test_any_body_is_translated_or_refused(body: dict[str, Any]) -> None:
    with suppress(InvalidRequestError):
        Messages({}).translate(json.dumps(body).encode(), "messages")
