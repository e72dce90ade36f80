"""A real vLLM server as an expert: everything that the OpenAI protocol offers goes through."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from gateway.discovery import discover
from tests.servers import Gateway, run_gateway, wait_for, write_experts
from tests.vllm.conftest import VLLM
from tests.vllm.servers import ENVIRONMENT, VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

QUESTION: list[Any] = [{"role": "user", "content": "Name the planets of the solar system."}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)


def test_a_whole_answer_is_the_servers_own(gateway: Gateway, vllm: VllmServer) -> None:
    body = {"model": "general", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    ours = gateway.post("/v1/chat/completions", json=body).json()
    url = f"{vllm.base_url}/chat/completions"
    direct = httpx.post(url, json={**body, "model": "smol"}, timeout=60).json()
    assert ours.keys() == direct.keys()
    assert ours["choices"] == direct["choices"]
    assert ours["usage"] == direct["usage"]


def test_a_stream_ends_with_what_it_cost(client: OpenAI, gateway: Gateway) -> None:
    stream = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "What is the integral of x squared?"}],
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers={"x-request-id": "streamed"},
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 12
    assert last.model_dump()["coe"]["expert"] == "general"
    logged = gateway.logged("streamed")
    assert (logged["category"], logged["usage"], logged["completion_tokens"]) == (
        *("math", "reported"),
        12,
    )


def tool_request(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_tokens": 60,
        "temperature": 0,
    }


def test_a_tool_call_is_the_servers_own(client: OpenAI, vllm: VllmServer) -> None:
    def called(asked: OpenAI, model: str) -> dict[str, Any]:
        answer = asked.chat.completions.create(**tool_request(model))
        (call,) = answer.choices[0].message.tool_calls or ()
        assert call.type == "function"
        return call.function.model_dump()

    direct = OpenAI(base_url=vllm.base_url, api_key="unused")
    ours = called(client, "general")
    assert ours == called(direct, "smol")
    assert ours["name"] == "weather"
    assert json.loads(ours["arguments"])  # without `strict` vLLM does not hold it to the schema


def test_a_streamed_tool_call_is_the_servers_own(client: OpenAI, vllm: VllmServer) -> None:
    def streamed(asked: OpenAI, model: str) -> list[Any]:
        stream = asked.chat.completions.create(**tool_request(model), stream=True)
        calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
        return [call.function.model_dump() for call in calls if call.function]

    direct = OpenAI(base_url=vllm.base_url, api_key="unused")
    assert streamed(client, "general") == streamed(direct, "smol")
    assert streamed(client, "general")[0]["name"] == "weather"


def test_an_answer_keeps_to_a_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="general",
        messages=[{"role": "user", "content": "Which city is the capital of Italy?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
        max_tokens=60,
        temperature=0,
    )
    assert json.loads(answer.choices[0].message.content or "")["city"] in {"Paris", "Rome"}


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_through(client: OpenAI, stream: bool) -> None:
    answer: Any = client.chat.completions.create(
        model="general",
        messages=QUESTION,
        max_tokens=4,
        logprobs=True,
        top_logprobs=3,
        stream=stream,
        extra_body={"ignore_eos": True},
    )
    parts = [part.choices[0].logprobs for part in (answer if stream else [answer])]
    tokens = [token for part in parts if part is not None for token in part.content or ()]
    assert [len(token.top_logprobs) for token in tokens] == [3, 3, 3, 3]


def test_a_text_completion_goes_to_the_server(client: OpenAI) -> None:
    answer = client.completions.create(
        model="general", prompt="One, two, three,", max_tokens=6, temperature=0
    )
    assert "four" in answer.choices[0].text


def test_what_vllm_refuses_reaches_the_client(gateway: Gateway) -> None:
    answer = gateway.chat("general", max_tokens=4000)
    assert answer.status_code == 400
    assert "max_model_len=2048" in answer.json()["error"]["message"]


def test_a_client_that_leaves_stops_the_generation(gateway: Gateway, vllm: VllmServer) -> None:
    body = {"model": "general", "messages": QUESTION, "stream": True}
    body |= {"max_tokens": 1900, "ignore_eos": True}
    before = vllm.metric("vllm:generation_tokens_total")
    with httpx.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60
    ) as answer:
        lines = answer.iter_lines()
        for _ in range(10):
            next(lines)
        assert vllm.metric("vllm:num_requests_running") == 1
    wait_for(lambda: vllm.metric("vllm:num_requests_running") == 0, 10)
    assert vllm.metric("vllm:generation_tokens_total") - before < 1000


def test_an_adapter_answers_in_its_own_way_and_shares_the_weights(gateway: Gateway) -> None:
    own, base = (
        gateway.chat(name, max_tokens=12, temperature=0).json() for name in ("adapter", "general")
    )
    assert own["model"] == "twisted"
    assert own["choices"] != base["choices"]
    # the weights of general and adapter, of victim and of llama
    assert gateway.stats()["resident_params_b"] == pytest.approx(3 * 0.1345)


@pytest.mark.parametrize(
    ("text", "expert"),
    [
        ("What is the derivative of sin(x) * x^2?", "general"),
        ("Can my landlord evict me without notice under the lease?", "adapter"),
        ("Write a short poem about the autumn wind", "llama"),
    ],
)
def test_vllm_and_llama_make_one_composition(gateway: Gateway, text: str, expert: str) -> None:
    answer = gateway.chat("auto", text, max_tokens=8)
    assert answer.status_code == 200
    assert answer.headers["x-coe-expert"] == expert


def test_what_it_serves_is_discovered(vllm: VllmServer) -> None:
    base, adapter = asyncio.run(discover(vllm.base_url))
    assert (base.id, base.parent, base.context_window) == ("smol", None, 2048)
    assert base.capabilities == ("tools", "json_schema")
    assert base.continuation == "continue_final_message"
    assert base.total_params_b == pytest.approx(0.1345, rel=0.01)
    assert (adapter.id, adapter.parent) == ("twisted", "smol")


@pytest.mark.parametrize("method", ["logprobs", "json_schema"])
def test_it_can_be_the_llm_router(vllm: VllmServer, tmp_path: Path, method: str) -> None:
    expert = {"name": "judge", "base_url": vllm.base_url, **VLLM, "description": "everything"}
    asked = {"expert": "judge", "method": method, "timeout_s": 60}
    config = write_experts(tmp_path / "experts.yaml", [expert], {}, llm_router=asked)
    with run_gateway(config, tmp_path) as gateway:
        answer = gateway.chat("auto", "Is a verbal contract enforceable?", max_tokens=4)
        assert answer.status_code == 200
        assert answer.headers["x-coe-router"].startswith("llm-judge@")


def test_a_scanner_of_openai_compatibility_passes_all_its_probes(gateway: Gateway) -> None:
    scanner = ENVIRONMENT / "node_modules/.bin/compatcanary"
    if not scanner.exists():
        pytest.skip("needs compatcanary: install Node.js, then run make test-vllm anew")
    where = ["--base-url", f"{gateway.url}/v1", "--model", "general"]
    command = [str(scanner), "scan", *where, "--format", "json", "--timeout", "120000"]
    done = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert [one for one in report["results"] if one["status"] != "pass"] == []
    assert len(report["results"]) == 7
