"""Live edits that start, replace and stop local experts, over the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers import Gateway, UpstreamServer, run_gateway, wait_for, write_experts

LOCAL = {"name": "small", "backend": "local", "model": "embedded:smollm2-135m-instruct"}


def llamas(gateway: Gateway) -> set[int]:
    children = gateway.children()
    return {c.pid for c in children if "gateway.supervisor.llama" in " ".join(c.cmdline())}


def config_of(gateway: Gateway) -> dict[str, Any]:
    return dict(gateway.get("/readyz").json()["config"])


def test_local_experts_come_change_and_go(upstream: UpstreamServer, tmp_path: Path) -> None:
    remote = {"name": "remote", "base_url": upstream.base_url, "model": "ok"}
    config = tmp_path / "experts.yaml"

    def write(*local: dict[str, Any]) -> None:
        write_experts(config, [remote, *local], {})

    write()
    with run_gateway(config, tmp_path, COE_DRAIN_TIMEOUT_S="1") as gateway:
        assert llamas(gateway) == set()
        small = {**LOCAL, "context_window": 512}
        write(small)
        wait_for(lambda: gateway.chat("small", max_tokens=1).status_code == 200, 45)
        (first,) = llamas(gateway)

        (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
        write({**small, "model": "broken.gguf"})
        wait_for(lambda: "does not start" in str(config_of(gateway)["error"]), 30)
        assert gateway.chat("small", max_tokens=1).status_code == 200
        assert llamas(gateway) == {first}

        write({**small, "context_window": 256})  # a new process, then the old one goes
        wait_for(lambda: llamas(gateway) and first not in llamas(gateway), 45)
        assert config_of(gateway)["error"] is None
        assert gateway.chat("small", max_tokens=1).status_code == 200
        write()
        wait_for(lambda: llamas(gateway) == set(), 15)
        assert gateway.get("/readyz").status_code == 200
        outcomes = {line["outcome"] for line in gateway.requests_logged()}
        assert outcomes <= {"ok", "model_not_found"}
