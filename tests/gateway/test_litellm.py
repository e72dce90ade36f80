"""Experts at providers with a protocol of their own, through the SDK of LiteLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.config import parse_experts_file
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry, check_keys
from tests.gateway.dialects.conftest import script
from tests.gateway.dialects.test_messages import NATIVE, native_stream
from tests.servers import NOBODY_URL, Gateway, UpstreamServer, run_gateway, wait_for, write_experts
from tests.upstream import PIECES

needs_litellm = pytest.mark.litellm


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    if find_spec("litellm") is None:
        pytest.skip("needs litellm: make test-litellm")
    folder = tmp_path_factory.mktemp("litellm")
    shared: dict[str, Any] = {
        "backend": "litellm",
        "base_url": upstream.base_url,
        "api_key_env": "PROVIDER_KEY",
        "max_retries": 0,
        "open_after_failures": None,
    }

    def expert(name: str, model: str, **keys: Any) -> dict[str, Any]:
        return {"name": name, "model": model, **shared, **keys}

    experts = [
        expert("good", "openai/ok", active_params_b=3, capabilities=["embeddings"]),
        expert("claude", "anthropic/script", base_url=upstream.base_url.removesuffix("/v1")),
        *(expert(f"s{status}", f"openai/status-{status}") for status in (400, 401, 429, 500)),
        expert("cut", "openai/cut"),
        expert("endless", "openai/endless"),
        expert("slow", "openai/slow", timeout_s={"first_token": 0.4, "total": 0.8}),
        expert("stalled", "openai/stalled", timeout_s={"idle": 0.4}),
        expert("refuses", "openai/ok", base_url=NOBODY_URL),
        expert("nobodys", "no-such-provider/x"),
    ]
    config = write_experts(folder / "experts.yaml", experts, {"coding": ["cut", "good"]})
    with run_gateway(config, folder, PROVIDER_KEY="provider-key") as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        yield client


@needs_litellm
def test_a_whole_answer(client: openai.OpenAI, gateway: Gateway, upstream: UpstreamServer) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="good",
        messages=[{"role": "user", "content": "hello"}],
        extra_body={"chat_template_kwargs": {"a": 1}, "api_base": NOBODY_URL, "api_key": "stolen"},
    )
    assert raw.parse().choices[0].message.content == "ok answers"
    (entry,) = upstream.seen(raw.headers["x-request-id"])
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["expert"], line["completion_tokens"], line["outcome"]) == ("good", 4, "ok")
    assert entry["headers"]["authorization"] == "Bearer provider-key"
    assert json.loads(entry["raw"])["chat_template_kwargs"] == {"a": 1}


@needs_litellm
def test_a_stream(client: openai.OpenAI, gateway: Gateway) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="good", messages=[{"role": "user", "content": "hello"}], stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        chunks = list(raw.parse())
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "".join(PIECES)
    assert chunks[-1].choices[0].finish_reason == "stop"
    line = gateway.logged(request_id)
    assert (line["prompt_tokens"], line["completion_tokens"], line["usage"]) == (11, 4, "reported")


@needs_litellm
@pytest.mark.parametrize("streamed", [False, True])
def test_a_provider_with_its_own_protocol(
    client: openai.OpenAI, gateway: Gateway, streamed: bool
) -> None:
    prompt = script(whole=NATIVE, stream=native_stream())
    answer: Any = client.chat.completions.create(
        model="claude", messages=[{"role": "user", "content": prompt}], stream=streamed
    )
    if streamed:
        pieces = [chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices]
        assert "".join(pieces) == "Hi"
    else:
        assert answer.choices[0].message.content == "Hi"
        assert answer.usage.completion_tokens == 9


@needs_litellm
def test_texts_and_embeddings(client: openai.OpenAI) -> None:
    assert client.completions.create(model="good", prompt="Once").choices[0].text == "ok goes on"
    vectors = client.embeddings.create(model="auto", input="a", encoding_format="float")
    assert vectors.data[0].embedding == [0.25, -1.5]


@needs_litellm
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("s400", 400, "from_upstream"),
        ("s401", 502, "expert_misconfigured"),
        ("s429", 429, "expert_busy"),
        ("s500", 502, "expert_failed"),
        ("slow", 504, "expert_timeout"),
        ("refuses", 502, "expert_failed"),
        ("nobodys", 400, None),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_failures_are_those_of_any_expert(
    gateway: Gateway, model: str, status: int, code: str | None, streamed: bool
) -> None:
    answer = gateway.chat(model, stream=streamed)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert "provider-key" not in answer.text


@needs_litellm
def test_a_stream_that_breaks(gateway: Gateway) -> None:
    stalled = gateway.chat("stalled", stream=True)
    assert json.loads(stalled.text.split("data: ")[-1])["error"]["code"] == "expert_timeout"
    cut = gateway.chat("cut", stream=True)
    assert "[DONE]" not in cut.text
    assert '"error"' in cut.text


@needs_litellm
def test_a_client_that_leaves_ends_the_call(gateway: Gateway) -> None:
    body = {"model": "endless", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer:
        next(answer.iter_bytes())
        request_id = answer.headers["x-request-id"]
    assert wait_for(lambda: gateway.logged(request_id))["outcome"] == "client_left"


@needs_litellm
def test_the_log_holds_no_key_and_no_prompt(gateway: Gateway) -> None:
    gateway.chat("s500", "a very private prompt")
    log = gateway.settled_log()
    assert "provider-key" not in log
    assert "private prompt" not in log
    assert "cost map" not in log


# without it


def registry_of(tmp_path: Path, **keys: Any) -> ExpertRegistry:
    expert = {"name": "a", "backend": "litellm", "model": "anthropic/x", **keys}
    path = write_experts(tmp_path / "experts.yaml", [expert], {})
    return ExpertRegistry(parse_experts_file(path.read_text()), path)


@pytest.mark.skipif(find_spec("litellm") is not None, reason="litellm is installed")
def test_where_it_is_missing_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'coe-gateway\[litellm\]'"):
        check_keys(registry_of(tmp_path), {})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"capabilities": ["messages"]}, "capabilities must not hold messages"),
        ({"runtime": {"threads": 2}}, "runtime is for backend local only"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path: Path, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        registry_of(tmp_path, **keys)
