"""`vllm serve` run by the gateway itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Gateway, run_gateway, wait_for, write_experts
from tests.vllm.servers import ENVIRON, ENVIRONMENT, FLAGS, MODEL, START_TIMEOUT_S, engines

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    if not MODEL.exists():
        pytest.skip("needs vLLM: run make test-vllm")
    monkeypatch.setenv("PATH", f"{ENVIRONMENT / 'bin'}", prepend=":")
    monkeypatch.setenv("VLLM_API_KEY", "of remote servers")
    runtime = {"engine": "vllm", "args": list(FLAGS)}
    only = {"name": "only", "backend": "local", "model": str(MODEL), "context_window": 2048}
    config = write_experts(tmp_path / "experts.yaml", [{**only, "runtime": runtime}], {})
    with run_gateway(config, tmp_path, timeout_s=START_TIMEOUT_S, **ENVIRON) as running:
        yield running


def test_vllm_is_started_watched_and_stopped(gateway: Gateway) -> None:
    answer = gateway.chat("only", max_tokens=5, ignore_eos=True)
    assert answer.json()["usage"]["completion_tokens"] == 5

    first = engines(gateway.process.pid)
    first[0].kill()
    wait_for(lambda: gateway.get("/readyz").status_code == 503)
    wait_for(lambda: gateway.get("/readyz").status_code == 200, START_TIMEOUT_S)
    assert gateway.chat("only", max_tokens=5).status_code == 200

    second = engines(gateway.process.pid)
    assert second and not {process.pid for process in first} & {process.pid for process in second}
    gateway.process.terminate()
    assert gateway.process.wait(60) == 0
    wait_for(lambda: not any(process.is_running() for process in [*first, *second]))
