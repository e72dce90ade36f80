"""Answers through a running gateway, as clients see them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from uuid import uuid4

import httpx
import openai
import pytest

from gateway.api.exchange import NOBODY
from tests.gateway.conftest import CLIENT_KEY, EXPERT_KEY
from tests.servers import Gateway, UpstreamServer, run_gateway, write_experts
from tests.upstream import PIECES, USAGE

CODING = "Write a Python function that sorts a list of integers with quicksort."
ANSWER = "".join(PIECES)


def fresh(text: str) -> str:
    """Return a prompt that no cache has seen, about the same thing."""
    return f"{text} Ticket {uuid4().hex}."


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


# the official client


@pytest.mark.parametrize("model", ["good", "auto"])
def test_the_openai_client_gets_a_whole_answer(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": CODING}]
    )
    assert answer.choices[0].message.content == "ok answers"
    assert answer.usage is not None
    assert answer.usage.total_tokens == USAGE["total_tokens"]


@pytest.mark.parametrize("model", ["good", "auto"])
def test_the_openai_client_gets_a_stream(client: openai.OpenAI, model: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": CODING}], stream=True
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_the_openai_client_gets_the_usage_it_asks_for(client: openai.OpenAI) -> None:
    *_, last = client.chat.completions.create(
        model="good",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.usage is not None
    assert last.usage.completion_tokens == USAGE["completion_tokens"]
    assert last.model_extra == {"coe": {"expert": "good", "active_params_b": 7.0}}


def test_the_openai_client_lists_the_models(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert next(iter(models)) == "auto"
    assert models["good"].model_extra is not None
    assert models["good"].model_extra["active_params_b"] == 7
    assert models["unsized"].model_extra is not None
    assert models["unsized"].model_extra["active_params_b"] is None
    assert client.models.retrieve("good") == models["good"]
    assert client.models.retrieve("auto") == models["auto"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("x")


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": "hello"}])
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="auto", messages=[])
    assert bad.value.param == "messages"
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="s429", messages=[{"role": "user", "content": "hi"}])


# headers


def test_a_routed_answer_says_how_it_was_routed(gateway: Gateway) -> None:
    prompt = fresh(CODING)
    headers = gateway.chat("auto", prompt).headers
    assert headers["x-coe-expert"] == "good"
    assert headers["x-coe-category"] == "coding"
    assert 0 < float(headers["x-coe-confidence"]) <= 1
    assert headers["x-coe-reason"] == "routed"
    assert re.fullmatch(r"[a-z0-9._-]+@[0-9a-z.]+", headers["x-coe-router"])
    assert float(headers["x-coe-active-params-b"]) > 7
    assert headers["x-coe-cache"] == "miss"
    assert headers["x-request-id"]
    again = gateway.chat("auto", prompt).headers
    assert again["x-coe-cache"] == "hit"
    assert again["x-coe-reason"] == "cached_choice"
    assert again["x-coe-confidence"] == headers["x-coe-confidence"]
    assert float(again["x-coe-active-params-b"]) == 7


def test_a_pinned_answer_says_so(gateway: Gateway) -> None:
    headers = gateway.chat("good").headers
    coe = {name: value for name, value in headers.items() if name.startswith("x-coe-")}
    assert coe == {
        "x-coe-expert": "good",
        "x-coe-reason": "pinned",
        "x-coe-active-params-b": "7",
        "x-coe-cache": "off",
    }


def test_an_unknown_size_is_left_out(gateway: Gateway) -> None:
    assert "x-coe-active-params-b" not in gateway.chat("unsized").headers


def test_a_stream_carries_the_same_headers(gateway: Gateway) -> None:
    answer = gateway.chat("auto", CODING, stream=True)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-coe-expert"] == "good"
    assert answer.headers["x-coe-category"] == "coding"
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_harmless_request_id_is_kept_and_sent_on(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    body = {"model": "good", "messages": [{"role": "user", "content": "hello"}]}
    asked = f"Mine_1.{uuid4().hex}"
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-request-id": asked})
    assert answer.headers["x-request-id"] == asked
    assert len(upstream.seen(asked)) == 1


@pytest.mark.parametrize("asked", ["a b", "x" * 129, 'a"b', "é", ""])
def test_any_other_request_id_is_replaced(gateway: Gateway, asked: str) -> None:
    headers = {"x-request-id": asked.encode()}
    given = gateway.get("/healthz", headers=headers).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", given)


# what passes through


def test_unknown_fields_reach_the_expert_and_come_back_untouched(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    unknown = b'"x1": 1.50,"x2":1e-7,"x3":123456789012345678901,"x4":{ "b":[1.0],"a":"\\u00e9"}'
    body = (
        b'{"model":"good","messages":[{"role":"user","content":"hi", "k":2.50}],' + unknown + b"}"
    )
    answer = gateway.post("/v1/chat/completions", content=body)
    assert b'"an_unknown_field": {"kept": 1.5}' in answer.content
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    sent = entry["raw"].encode()
    for pair in (
        b'"x1":1.50',
        b'"x2":1e-7',
        b'"x3":123456789012345678901',
        b'"x4":{ "b":[1.0],"a":"\\u00e9"}',
        b'[{"role":"user","content":"hi", "k":2.50}]',
        b'"model":"ok"',
    ):
        assert pair in sent


def test_a_virtual_expert_puts_its_prompt_first(gateway: Gateway, upstream: UpstreamServer) -> None:
    answer = gateway.chat("terse", "hello")
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    assert json.loads(entry["raw"])["messages"] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "hello"},
    ]


def test_the_expert_is_asked_for_usage_in_place_of_the_client(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    answer = gateway.chat("good", stream=True)
    assert '"usage"' not in answer.text
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    assert json.loads(entry["raw"])["stream_options"] == {"include_usage": True}
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["prompt_tokens"], line["completion_tokens"]) == (11, 4)
    assert line["usage"] == "reported"


def test_tokens_are_estimated_when_the_expert_does_not_count_them(gateway: Gateway) -> None:
    answer = gateway.chat("uncounted", stream=True)
    line = gateway.logged(answer.headers["x-request-id"])
    assert line["usage"] == "estimated"
    assert line["completion_tokens"] == sum(map(bool, PIECES))


def test_a_stream_arrives_piece_by_piece(gateway: Gateway) -> None:
    body = {"model": "endless", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer:
        lines = (line for line in answer.iter_lines() if line)
        first = [json.loads(next(lines).removeprefix("data: ")) for _ in PIECES]
    said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in first)
    assert said == ANSWER


# what must not pass through


def test_no_key_leaves_the_gateway(gateway: Gateway, upstream: UpstreamServer) -> None:
    headers = {"authorization": f"Bearer {CLIENT_KEY}", "cookie": CLIENT_KEY, "x-key": CLIENT_KEY}
    for model in ("good", "s401", "terse"):
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        answer = gateway.post("/v1/chat/completions", json=body, headers=headers)
        (entry,) = upstream.seen(answer.headers["x-request-id"])
        assert CLIENT_KEY not in json.dumps(entry["headers"])
        wanted = None if model == "terse" else f"Bearer {EXPERT_KEY}"
        assert entry["headers"].get("authorization") == wanted
        assert EXPERT_KEY not in answer.text + str(answer.headers)
    gateway.logged(answer.headers["x-request-id"])
    log = gateway.log()
    assert EXPERT_KEY not in log
    assert CLIENT_KEY not in log


# the decision alone


def test_route_says_where_a_prompt_would_go(gateway: Gateway) -> None:
    prompt = fresh(CODING)
    shown = gateway.post("/v1/route", json={"prompt": prompt}).json()
    assert (shown["expert"], shown["category"], shown["reason"]) == ("good", "coding", "routed")
    assert shown["ranked"] == ["good"]
    assert sum(shown["probabilities"].values()) == pytest.approx(1)
    assert shown["probabilities"]["coding"] == shown["confidence"]
    assert shown["read"]["text"] == prompt
    headers = gateway.chat("auto", prompt).headers
    assert headers["x-coe-expert"] == shown["expert"]
    assert headers["x-coe-confidence"] == f"{shown['confidence']:.4f}"
    assert headers["x-coe-cache"] == "hit"


def test_route_takes_a_chat_request_as_well(gateway: Gateway) -> None:
    prompt = fresh(CODING)
    of_prompt = gateway.post("/v1/route", json={"prompt": prompt}).json()
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": prompt}]
    of_chat = gateway.post("/v1/route", json={"model": "auto", "messages": messages}).json()
    assert of_chat["probabilities"] == of_prompt["probabilities"]
    assert of_chat["cache"] == "hit"
    assert gateway.post("/v1/route", json={"messages": messages}).json() == of_chat
    pinned = gateway.post("/v1/route", json={"model": "terse", "messages": messages}).json()
    assert (pinned["expert"], pinned["reason"], pinned["category"]) == ("terse", "pinned", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [({"prompt": " "}, "prompt"), ({"prompt": 7}, "prompt"), ([], None)],
)
def test_route_refuses_what_is_no_prompt(gateway: Gateway, body: object, param: str) -> None:
    answer = gateway.post("/v1/route", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_route_of_nothing_names_both_that_it_takes(gateway: Gateway) -> None:
    error = gateway.post("/v1/route", json={}).json()["error"]
    assert error["param"] == "messages"
    assert error["message"].startswith("The request body must hold 'prompt' or 'messages'")


def test_route_asks_no_expert(gateway: Gateway, upstream: UpstreamServer) -> None:
    answer = gateway.post("/v1/route", json={"prompt": fresh(CODING)})
    assert upstream.seen(answer.headers["x-request-id"]) == []


# who may call


def test_keys_are_asked_for_where_they_are_set(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    experts = [{"name": "good", "base_url": upstream.base_url, "model": "ok"}]
    config = write_experts(folder / "experts.yaml", experts, {})
    keys = {"COE_API_KEY": "client-k", "COE_ADMIN_KEY": "admin-k"}
    with run_gateway(config, folder, **keys) as gateway:
        body = {"model": "good", "messages": [{"role": "user", "content": "hello"}]}
        for path in ("/v1/chat/completions", "/v1/route"):
            for header, status in (
                ({}, 401),
                ({"authorization": "Bearer admin-k"}, 401),
                ({"authorization": "Bearer client-k"}, 200),
            ):
                answer = gateway.post(path, json=body, headers=header)
                assert answer.status_code == status
                if status == 401 and path == "/v1/chat/completions":
                    line = gateway.logged(answer.headers["x-request-id"])
                    assert (line["outcome"], line["tenant"]) == ("invalid_api_key", NOBODY)
                if status == 401:
                    error = answer.json()["error"]
                    assert (error["type"], error["code"]) == (
                        "authentication_error",
                        "invalid_api_key",
                    )
        assert gateway.get("/v1/models").status_code == 401
        assert gateway.get("/admin/stats").status_code == 401
        assert gateway.get("/admin/stats", headers={"authorization": "Bearer client-k"}).is_error
        allowed = gateway.get("/admin/stats", headers={"authorization": "Bearer admin-k"})
        assert allowed.status_code == 200
        assert gateway.get("/healthz").status_code == 200
