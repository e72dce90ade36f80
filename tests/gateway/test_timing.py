"""Where the time went is told to those who ask, and a full worker says so at once."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx

from tests.servers import Gateway, UpstreamServer, run_gateway, wait_for, write_experts

MESSAGES = [{"role": "user", "content": "hello"}]


def test_the_steps_of_a_request_are_timed_where_asked(gateway: Gateway) -> None:
    text = f"Write a Python function about {uuid4().hex}"
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timing": "on"})
    timing = answer.headers["server-timing"]
    steps = "admit receive parse plan cache classify prepare upstream first_byte"
    assert re.findall(r"(\w+);dur=\d+\.\d{3}", timing) == steps.split()
    spent_ms = sum(float(ms) for ms in re.findall(r"dur=([\d.]+)", timing))
    assert 0 < spent_ms <= 1000 * answer.elapsed.total_seconds()
    request_id = answer.headers["x-request-id"]
    wait_for(lambda: re.search(f'"timing".*{request_id}.*"account"', gateway.log_path.read_text()))
    assert "server-timing" not in gateway.chat("auto").headers


def test_a_full_worker_refuses_at_once(upstream: UpstreamServer, tmp_path: Path) -> None:
    experts = [{"name": "paced", "base_url": upstream.base_url}]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    with (
        run_gateway(config, tmp_path, COE_MAX_IN_FLIGHT="2") as full,
        ThreadPoolExecutor(2) as pool,
    ):
        body = {"model": "paced", "messages": MESSAGES, "stream": True}
        held = [pool.submit(full.post, "/v1/chat/completions", json=body) for _ in range(2)]
        refused = wait_for(lambda: refusal(full))
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert refused.elapsed.total_seconds() < 1
        assert full.get("/healthz").status_code == 200
        assert all(b"[DONE]" in one.result().content for one in held)
        assert full.chat("paced").status_code == 200


def refusal(gateway: Gateway) -> httpx.Response | None:
    answer = gateway.chat("paced")
    return answer if answer.status_code == 503 else None
