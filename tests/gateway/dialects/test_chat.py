"""Chat completions lose nothing on the way: requests and answers, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.dialects.conftest import call_delta, chat, chat_stream, script
from tests.servers import Gateway, UpstreamServer

FIELDS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": True,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    },
    "logprobs": True,
    "top_logprobs": 2,
    "n": 2,
    "seed": 7,
    "stop": ["END", "STOP"],
    "temperature": 0.25,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": False},
    "logit_bias": {"50256": -100},
    "modalities": ["text"],
    "metadata": {"a": "b"},
    "vendor_field": {"deep": [1.5, None]},
}
PARTS = [
    {"type": "text", "text": "Look and listen."},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
    {"type": "file", "file": {"file_id": "f1"}},
]
TURNS: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "done"},
    {"role": "user", "content": PARTS, "name": "me"},
]
SAID = {
    "content": "a",
    "reasoning_content": "Hm.",
    "refusal": None,
    "annotations": [],
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}],
}
STREAM = chat_stream(
    {"role": "assistant", "content": ""},
    {"reasoning_content": "Hm."},
    {"reasoning": "Hm."},
    {"content": "é…"},
    call_delta(0, "", id="a", name="f"),
    call_delta(1, "", id="b", name="f"),
    call_delta(0, '{"x":'),
    call_delta(1, "{}"),
    finish="tool_calls",
    logprobs={"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]},
    vendor_field=1.50,
)


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_is_lost_on_the_way(
    gateway: Gateway, upstream: UpstreamServer, streamed: bool
) -> None:
    whole = chat(SAID, "tool_calls", logprobs={"content": []}, vendor_field=1.5)
    whole["system_fingerprint"] = "fp"
    messages = [{"role": "user", "content": script(whole=whole, stream=STREAM)}, *TURNS]
    fields = {**FIELDS, "stream": streamed}
    if streamed:
        fields["stream_options"] = {"include_usage": False, "include_obfuscation": False}
    body = {"model": "script", "messages": messages, **fields}
    answer = gateway.post("/v1/chat/completions", json=body)
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    sent = json.loads(entry["raw"])
    if streamed:
        assert sent.pop("stream_options") == {"include_usage": True, "include_obfuscation": False}
        body.pop("stream_options")
        usage_at = len(STREAM) - 2
        assert answer.text == "".join(STREAM[:usage_at] + STREAM[usage_at + 1 :])
    else:
        assert answer.json() == whole
    assert sent == body
