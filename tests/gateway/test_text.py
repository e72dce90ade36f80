"""Text completions and embeddings through a running gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import openai
import pytest

from tests.gateway.conftest import CLIENT_KEY
from tests.servers import Gateway, UpstreamServer
from tests.upstream import PIECES

CODE = "def quicksort(numbers: list[int]) -> list[int]:  # sorts a list in Python\n"


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


# text completions


def test_a_text_completion_is_routed_by_its_prompt(
    client: openai.OpenAI, gateway: Gateway, upstream: UpstreamServer
) -> None:
    raw = client.completions.with_raw_response.create(
        model="auto", prompt=f"{CODE}# {uuid4().hex}", extra_body={"top_k": 3}
    )
    assert raw.parse().choices[0].text == "ok goes on"
    assert (raw.headers["x-coe-expert"], raw.headers["x-coe-category"]) == ("good", "coding")
    (entry,) = upstream.seen(raw.headers["x-request-id"])
    assert entry["path"] == "/v1/completions"
    assert json.loads(entry["raw"])["top_k"] == 3
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["completion_tokens"], line["finish_reason"]) == (4, "stop")


def test_a_text_completion_is_streamed(client: openai.OpenAI, gateway: Gateway) -> None:
    with client.completions.with_streaming_response.create(
        model="good", prompt="Once upon a time", stream=True
    ) as answer:
        request_id = answer.headers["x-request-id"]
        texts = [chunk.choices[0].text for chunk in answer.parse() if chunk.choices]
    assert "".join(text or "" for text in texts) == "".join(PIECES)
    line = gateway.logged(request_id)
    assert (line["prompt_tokens"], line["usage"], line["stream"]) == (11, "reported", True)


def test_the_prompt_of_a_virtual_expert_does_not_change_a_text(
    client: openai.OpenAI, upstream: UpstreamServer
) -> None:
    raw = client.completions.with_raw_response.create(model="terse", prompt="Once")
    (entry,) = upstream.seen(raw.headers["x-request-id"])
    assert json.loads(entry["raw"]) == {"model": "ok", "prompt": "Once"}


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1, 2], [3]], None])
def test_all_forms_of_a_prompt_reach_the_expert(
    gateway: Gateway, upstream: UpstreamServer, prompt: object
) -> None:
    answer = gateway.post("/v1/completions", json={"model": "auto", "prompt": prompt})
    assert answer.status_code in {200, 502}  # most categories of this gateway fail
    (entry, *_) = upstream.seen(answer.headers["x-request-id"])
    assert json.loads(entry["raw"])["prompt"] == prompt


# embeddings


@pytest.mark.parametrize(("model", "reason"), [("auto", "capability"), ("vectors", "pinned")])
def test_embeddings_come_from_the_expert_that_has_them(
    client: openai.OpenAI, gateway: Gateway, model: str, reason: str
) -> None:
    raw = client.embeddings.with_raw_response.create(
        model=model, input=["a", "b"], encoding_format="float"
    )
    assert raw.parse().data[0].embedding == [0.25, -1.5]
    assert raw.headers["x-coe-expert"] == "vectors"
    assert raw.headers["x-coe-reason"] == reason
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["prompt_tokens"], line["completion_tokens"], line["usage"]) == (3, 0, "reported")


def test_nobody_takes_over_embeddings(gateway: Gateway) -> None:
    answer = gateway.post("/v1/embeddings", json={"model": "s500", "input": "a"})
    assert answer.status_code == 502
    assert gateway.logged(answer.headers["x-request-id"])["attempts"] == ["s500"]


# what is refused


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("completions", {"prompt": "a"}, 400, "model"),
        ("completions", {"model": "good", "prompt": 7}, 400, "prompt"),
        ("completions", {"model": "good", "prompt": ["a\0"]}, 400, "prompt"),
        ("completions", {"model": "nobody", "prompt": "a"}, 404, "model"),
        ("embeddings", {"model": "vectors"}, 400, "input"),
        ("embeddings", {"model": "vectors", "input": ""}, 400, "input"),
        ("embeddings", {"model": "vectors", "input": []}, 400, "input"),
        ("embeddings", {"model": "vectors", "input": {"a": 1}}, 400, "input"),
        ("embeddings", {"model": "nobody", "input": "a"}, 404, "model"),
        ("embeddings", {"model": "good", "input": "a"}, 400, "model"),
    ],
)
def test_a_bad_body_is_refused_and_the_field_is_named(
    gateway: Gateway, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = gateway.post(f"/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
