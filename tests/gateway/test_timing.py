"""Where the time went is told to those who ask, and a full worker says so at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.prompts import prompt_for_the_cheap_stage, prompt_for_the_encoder
from tests.servers import Gateway, UpstreamServer, run_gateway, wait_for, write_experts

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("prompt", "routing"),
    [
        (prompt_for_the_cheap_stage, "classify"),
        (prompt_for_the_encoder, "classify cache queue encode"),
    ],
    ids=["at once", "with the encoder"],
)
def test_the_steps_of_a_request_are_timed_where_asked(
    gateway: Gateway, prompt: Callable[[], str], routing: str
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt()}]}
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timing": "on"})
    timing = answer.headers["server-timing"]
    steps = f"admit receive parse plan {routing} prepare connect send upstream first_byte"
    assert re.findall(r"(\w+);dur=\d+\.\d{3}", timing) == steps.split()
    spent_ms = sum(float(ms) for ms in re.findall(r"dur=([\d.]+)", timing))
    assert 0 < spent_ms <= 1000 * answer.elapsed.total_seconds()
    request_id = answer.headers["x-request-id"]
    wait_for(lambda: re.search(f'"timing".*{request_id}.*"account"', gateway.log()))
    assert "server-timing" not in gateway.chat("auto").headers


def test_a_full_worker_refuses_at_once(upstream: UpstreamServer, tmp_path: Path) -> None:
    experts = [{"name": name, "base_url": upstream.base_url} for name in ("ok", "endless")]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    body = {"model": "endless", "messages": MESSAGES, "stream": True}
    with run_gateway(config, tmp_path, COE_MAX_IN_FLIGHT="2") as full, ExitStack() as held:
        url = f"{full.url}/v1/chat/completions"
        for _ in range(2):
            held.enter_context(httpx.stream("POST", url, json=body, timeout=30))
        refused = full.chat("ok")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert full.get("/healthz").status_code == 200
        held.close()
        wait_for(lambda: full.chat("ok").status_code == 200)
