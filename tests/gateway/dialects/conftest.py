"""A gateway over experts that answer as the prompt tells them, for the dialects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import Gateway, UpstreamServer, run_gateway, write_experts

CODE = "Write a Python function that reverses a string"
ADMIN_KEY = "admin-key-5b"
ALL = ["tools", "json_schema", "vision"]


@pytest.fixture(scope="package")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("dialects")
    url = {"base_url": upstream.base_url, "max_retries": 0, "open_after_failures": None}
    experts: list[dict[str, Any]] = [
        {"name": "script", "capabilities": ALL, "active_params_b": 3, **url},
        {
            "name": "native",
            "model": "script",
            "capabilities": [*ALL, "messages", "responses"],
            "api_key_env": "NATIVE_KEY",
            **url,
        },
        {
            "name": "virtual",
            "model": "script",
            "capabilities": ["messages", "responses"],
            "system_prompt": "Be terse.",
            **url,
        },
        {"name": "cut", **url},
        {"name": "endless", **url},
        {
            "name": "slow",
            "capabilities": ["messages"],
            "timeout_s": {"first_token": 2},
            "max_concurrency": 1,
            **url,
            "open_after_failures": 1,
        },
        {"name": "good", "model": "ok", "continuation": "prefill", **url},
        {"name": "s500", "model": "status-500", **url},
        {"name": "s400", "model": "status-400", **url},
    ]
    mapping = {"coding": ["cut", "good"], "math": ["script"]}
    config = write_experts(folder / "experts.yaml", experts, mapping, min_confidence=0)
    environ = {"NATIVE_KEY": "native-key", "COE_ADMIN_KEY": ADMIN_KEY}
    with run_gateway(config, folder, COE_REDIS_TIMEOUT_MS="2000", **environ) as running:
        yield running


def script(**parts: Any) -> str:
    """Return the prompt that makes an expert answer with `parts`: `whole`, `stream`, `status`."""
    return json.dumps(parts)


def chat(message: dict[str, Any], finish: str = "stop", **extra: Any) -> dict[str, Any]:
    """Return a whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 6,
        "total_tokens": 26,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    base = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**base, "choices": [{**choice, **extra}], "usage": usage}


def chat_stream(*deltas: dict[str, Any], finish: str = "stop", **extra: Any) -> list[str]:
    """Return a streamed chat completion."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    chunks.append(
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish, **extra}]}
    )
    chunks.append({**base, "choices": [], "usage": chat({})["usage"]})
    return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]


def call_delta(index: int, arguments: str, **begin: str) -> dict[str, Any]:
    """Return a delta with a part of a tool call; `begin` holds its `id` and `name`."""
    function = {"arguments": arguments, **({"name": begin["name"]} if begin else {})}
    call = {"index": index, "function": function}
    return {"tool_calls": [{**call, "id": begin["id"], "type": "function"} if begin else call]}
