"""Streams that break go on with another expert, between vLLM servers and between engines.

The last two tests end servers for good.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from httpx import stream

from tests.servers import Gateway
from tests.vllm.servers import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

N_TOKENS = 60


def broken_stream(
    gateway: Gateway, text: str, request_id: str, break_it: Callable[[], None]
) -> tuple[str, dict[str, Any]]:
    """Break a stream after its tenth chunk; returns its whole text and its last chunk."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": True}
    body |= {"max_tokens": N_TOKENS, "ignore_eos": True, "temperature": 0}
    body |= {"stream_options": {"include_usage": True}}
    headers = {"x-request-id": request_id}
    url = f"{gateway.url}/v1/chat/completions"
    parts: list[str] = []
    with stream("POST", url, json=body, headers=headers, timeout=120) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = msgspec.json.decode(line[6:])
            assert "error" not in chunk, chunk
            parts += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
            if len(parts) == 10:
                break_it()
    assert line in {"", "data: [DONE]"}
    return "".join(parts), chunk


def test_a_stream_of_llama_goes_on_with_vllm(gateway: Gateway) -> None:
    question = "Write a story about a fox and a rabbit"
    kill = gateway.child("gateway.supervisor.llama").kill
    text, last = broken_stream(gateway, question, "from-llama", kill)
    assert last["coe"]["rescued_by"] == ["general"]
    assert gateway.logged("from-llama")["attempts"][:2] == ["llama", "general"]
    assert len(text) > 100


def test_a_stream_of_vllm_goes_on_with_another_vllm(
    gateway: Gateway, servers: tuple[VllmServer, VllmServer]
) -> None:
    question = "Write a Python function that sorts a list of numbers"
    whole = gateway.chat("general", question, max_tokens=10, temperature=0).json()
    text, last = broken_stream(gateway, question, "from-vllm", servers[1].kill)
    assert last["coe"]["rescued_by"] == ["general"]
    beginning = whole["choices"][0]["message"]["content"]
    assert text.startswith(beginning)
    assert text.count(beginning) == 1  # nothing was said twice
    logged = gateway.logged("from-vllm")
    assert (logged["outcome"], logged["attempts"]) == ("ok", ["victim", "general"])
    assert logged["completion_tokens"] == pytest.approx(N_TOKENS, abs=2)


def test_a_stream_of_a_vllm_that_is_told_to_stop_goes_on_with_llama(
    gateway: Gateway, vllm: VllmServer
) -> None:
    question = "What is the integral of x squared?"
    told_s = []

    def stop() -> None:
        told_s.append(time.monotonic())
        vllm.kill(signal.SIGTERM)

    text, last = broken_stream(gateway, question, "from-stopping", stop)
    # on a busy machine vLLM may finish the answer before it heeds the signal
    assert last["coe"].get("rescued_by", ["llama"]) == ["llama"]
    assert len(text) > 50
    assert time.monotonic() - told_s[0] < 25  # vLLM may leave it silent: idle is 30 s
