"""More clients than a worker can serve: nobody waits without end, and the excess is refused."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.servers import Gateway, UpstreamServer, run_gateway, wait_for, write_experts

MESSAGES = [{"role": "user", "content": "hello"}]
N_NEW = 200


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


@pytest.mark.parametrize(
    "limit", [{"COE_MAX_IN_FLIGHT": "8"}, {"COE_MAX_IN_FLIGHT_MB": "16", "COE_MAX_BODY_MB": "4"}]
)
def test_at_many_times_a_limit_all_are_answered_or_refused_and_memory_is_bounded(
    upstream: UpstreamServer, tmp_path: Path, limit: dict[str, str]
) -> None:
    """256 MB come at once; without a limit they take more than three times as much."""
    experts = [{"name": "paced", "base_url": upstream.base_url}]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    with run_gateway(config, tmp_path, **limit) as full:
        worker = full.child("gateway.worker")
        full.chat("paced")
        before_mb = worker.memory_info().rss / 1e6
        Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # the peak begins anew
        answers = asyncio.run(ask_at_once(full, n=64, chars=4_000_000 - 200))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert 0 < len(refused) < len(answers)
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert all("[DONE]" in answer.text for answer in answers if answer not in refused)
        status = Path(f"/proc/{worker.pid}/status").read_text()
        peak_mb = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1.024e-3
        assert peak_mb - before_mb < 400
        assert full.chat("paced").status_code == 200


async def ask_at_once(gateway: Gateway, n: int, chars: int) -> list[httpx.Response]:
    messages = [{"role": "user", "content": "x" * chars}]
    body = json.dumps({"model": "paced", "messages": messages, "stream": True})
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        url = f"{gateway.url}/v1/chat/completions"
        return await asyncio.gather(*(client.post(url, content=body) for _ in range(n)))


def test_who_asks_again_at_once_is_not_heard_before_it_may(
    upstream: UpstreamServer, tmp_path: Path
) -> None:
    experts = [{"name": "endless", "base_url": upstream.base_url}]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    body = {"model": "endless", "messages": MESSAGES, "stream": True}
    with run_gateway(config, tmp_path, COE_MAX_IN_FLIGHT="1") as full, ExitStack() as held:
        url = f"{full.url}/v1/chat/completions"
        held.enter_context(httpx.stream("POST", url, json=body, timeout=30))
        with httpx.Client(timeout=30) as client:
            started_s = time.monotonic()
            for _ in range(4):
                assert client.post(url, json=body).status_code == 503
            assert time.monotonic() - started_s > 2.5  # a second after each but the last
        assert full.chat("endless").status_code == 503  # others are told at once


def test_new_connections_do_not_wait_for_many_turns_of_those_before_them(
    gateway: Gateway,
) -> None:
    """The last of them is accepted before the first has had dozens of answers."""
    assert max(asyncio.run(answers_until_all_have_one(gateway)).values()) <= N_NEW / 5


async def answers_until_all_have_one(gateway: Gateway) -> Counter[int]:
    """Connect at once, ask again and again, and return how many answers each client had by then."""
    answers: Counter[int] = Counter()
    worker = gateway.child("gateway.worker")

    async def ask(index: int) -> None:
        while len(answers) < N_NEW:
            writers[index].write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            await readers[index].readuntil(b"}")
            answers[index] += 1

    address = urlsplit(gateway.url)
    worker.suspend()
    try:
        opening = (asyncio.open_connection(address.hostname, address.port) for _ in range(N_NEW))
        readers, writers = zip(*await asyncio.gather(*opening), strict=True)
        asking = [asyncio.create_task(ask(index)) for index in range(N_NEW)]
        await asyncio.sleep(0)
    finally:
        worker.resume()
    await asyncio.gather(*asking)
    for writer in writers:
        writer.close()
    return answers
