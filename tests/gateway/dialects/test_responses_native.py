"""Experts that speak the Responses API themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway.dialects.conftest import script
from tests.gateway.dialects.test_responses_input import client_of, sent_for
from tests.servers import Gateway, UpstreamServer

NATIVE: dict[str, Any] = {
    "id": "resp_native",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [
        {"type": "reasoning", "id": "rs_n", "summary": []},
        {
            "type": "message",
            "id": "msg_n",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        },
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14},
}


def native_stream(last: str = "response.completed") -> list[str]:
    begun = {**NATIVE, "status": "in_progress", "output": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_text.delta", "delta": "Hi", "output_index": 0},
        {"type": last, "response": NATIVE},
    ]
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': i})}\n\n"
        for i, event in enumerate(events)
    ]


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


@pytest.mark.parametrize("streamed", [False, True])
def test_an_expert_that_speaks_it_gets_the_request_as_it_is(
    client: openai.OpenAI, gateway: Gateway, upstream: UpstreamServer, streamed: bool
) -> None:
    prompt = script(whole=NATIVE, stream=native_stream())
    fields: Any = {"tools": [{"type": "web_search"}], "include": ["x"]}
    raw = client.responses.with_raw_response.create(
        model="auto", input=prompt, stream=streamed, **fields
    )
    content = b"".join(raw.http_response.iter_bytes())
    if streamed:
        assert content.decode() == "".join(native_stream())
    else:
        assert json.loads(content) == NATIVE
    assert raw.headers["x-coe-expert"] == "native"
    sent = sent_for(upstream, raw)
    assert (sent["store"], sent["input"], sent["include"]) == (False, prompt, ["x"])
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["prompt_tokens"], line["completion_tokens"]) == (5, 9)
    # it is kept here: the next turn is whole, without reasoning that only the expert could read
    again = client.responses.with_raw_response.create(
        model="native", input="b", previous_response_id="resp_native"
    )
    kinds = [item["type"] for item in sent_for(upstream, again)["input"]]
    assert kinds == ["message", "message", "message"]
    client.responses.delete("resp_native")


def test_a_virtual_expert_that_speaks_it_keeps_its_prompt(
    client: openai.OpenAI, upstream: UpstreamServer
) -> None:
    raw = client.responses.with_raw_response.create(
        model="virtual", input=script(whole=NATIVE), instructions="Mine.", store=False
    )
    assert sent_for(upstream, raw)["instructions"] == "Be terse.\n\nMine."


def test_a_native_stream_that_breaks_ends_with_an_error(client: openai.OpenAI) -> None:
    for parts in (native_stream()[:2], native_stream("response.failed")):
        *_, last = client.responses.create(
            model="native", input=script(stream=parts), stream=True, store=False
        )
        assert last.type == "error"
        assert "xpert" in last.message


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("odd", [{"id": 7}, {"id": None}, {"output": 7}, {"output": ["Hi"]}])
def test_an_odd_response_passes_and_is_not_kept(
    gateway: Gateway, odd: dict[str, Any], streamed: bool
) -> None:
    whole = {**NATIVE, "id": "resp_odd", **odd}
    done = f"data: {json.dumps({'type': 'response.completed', 'response': whole})}\n\n"
    body = {"model": "native", "input": script(whole=whole, stream=[done]), "stream": streamed}
    answer = gateway.post("/v1/responses", json=body)
    assert (answer.text if streamed else answer.json()) == (done if streamed else whole)
    assert gateway.logged(answer.headers["x-request-id"])["outcome"] == "ok"
    assert gateway.get("/v1/responses/resp_odd").status_code == 404
