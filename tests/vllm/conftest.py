"""Two vLLM servers, and a gateway over them, a LoRA adapter and llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import Gateway, run_gateway, write_experts
from tests.vllm.servers import ENVIRONMENT, LORA, TOOLS, VllmServer, run_vllm

SIZE = {"active_params_b": 0.1345, "total_params_b": 0.1345, "context_window": 2048}
VLLM = {"model": "smol", "continuation": "continue_final_message", **SIZE}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmServer, VllmServer]]:
    """Two that start side by side: the first stays up, the second one is there to be killed."""
    if not (ENVIRONMENT / "models/adapter/adapter_config.json").exists():
        pytest.skip("needs vLLM: run make test-vllm")
    folder = tmp_path_factory.mktemp("vllm")
    with run_vllm(folder, *TOOLS, *LORA) as lasting, run_vllm(folder) as victim:
        for server in (lasting, victim):
            server.wait_until_ready()
        yield lasting, victim


@pytest.fixture(scope="session")
def vllm(servers: tuple[VllmServer, VllmServer]) -> VllmServer:
    return servers[0]


@pytest.fixture(scope="session")
def gateway(
    servers: tuple[VllmServer, VllmServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    lasting, victim = (server.base_url for server in servers)
    able: dict[str, Any] = {**VLLM, "weights": "smol", "capabilities": ["tools", "json_schema"]}
    llama = {"backend": "local", "model": "embedded:smollm2-135m-instruct"}
    experts: list[dict[str, Any]] = [
        {"name": "general", "base_url": lasting, **able},
        {"name": "adapter", "base_url": lasting, **able, "model": "twisted"},
        {"name": "victim", "base_url": victim, **VLLM},
        {"name": "llama", **llama, **SIZE, "continuation": "prefill"},
    ]
    mapping = {
        "coding": ["victim", "general"],
        "math": ["general", "llama"],
        "law": ["adapter"],
        "writing": ["llama", "general"],
    }
    config = write_experts(folder / "experts.yaml", experts, mapping, min_confidence=0)
    with run_gateway(config, folder) as running:
        yield running
