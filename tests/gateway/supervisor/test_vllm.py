"""`vllm serve` as a local expert, over a stand-in; `tests/vllm` runs the real one."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from gateway.cli import coe
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.inspection import START_TIMEOUT_S
from gateway.supervisor.child import ChildSpec
from gateway.supervisor.plan import expert_specs
from tests.servers import NOBODY_URL, REPO, Gateway, run_gateway, wait_for, write_experts

STAND_IN = f"""\
#!{sys.executable}
import asyncio, os, signal, subprocess, sys
sys.path.insert(0, {str(REPO)!r})
from aiohttp import web
from tests.upstream import Upstream

async def main():
    engine = subprocess.Popen(["sleep", "600"])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end, engine)
    runner = web.AppRunner(Upstream().app())
    await runner.setup()
    await web.UnixSite(runner, sys.argv[sys.argv.index("--uds") + 1]).start()
    await asyncio.Event().wait()

def end(engine):
    engine.terminate()
    os._exit(0)

asyncio.run(main())
"""
"""Like vLLM: a server with an engine of its own, which outlives it when the server is killed."""


def expert_file(folder: Path, *others: dict[str, Any], **keys: Any) -> Path:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text("{}")
    expert = {"name": "only", "backend": "local", "model": "model", "runtime": {"engine": "vllm"}}
    return write_experts(folder / "experts.yaml", [{**expert, **keys}, *others], {})


def spec_of(config: Path) -> ChildSpec:
    (spec,) = expert_specs(ExpertRegistry.load(config), config.parent)
    return spec


def test_the_gateways_secrets_are_not_for_local_experts(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COE_ADMIN_KEY", "REDIS_URL", "OTHERS_KEY", "LANGUAGE"):
        monkeypatch.setenv(name, "x")
    other = {"name": "other", "base_url": NOBODY_URL, "api_key_env": "OTHERS_KEY"}
    hidden = spec_of(expert_file(tmp_path, other)).hidden
    assert hidden >= {"COE_ADMIN_KEY", "REDIS_URL", "OTHERS_KEY"}
    assert "LANGUAGE" not in hidden


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin/vllm"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    return path


@pytest.fixture
def gateway(program: Path, tmp_path: Path) -> Iterator[Gateway]:
    with run_gateway(expert_file(tmp_path), tmp_path) as running:
        yield running


def family(gateway: Gateway) -> list[psutil.Process]:
    """Return the server and its engine."""

    def both() -> list[psutil.Process] | None:
        found = [p for p in gateway.children() if {"--uds", "600"} & set(p.cmdline())]
        return found if len(found) == 2 else None

    return list(wait_for(both))


def test_vllm_is_told_what_the_expert_says(tmp_path: Path, program: Path) -> None:
    spec = spec_of(
        expert_file(
            tmp_path,
            model="hf:Qwen/Qwen3-8B@b968826",
            context_window=4096,
            runtime={"engine": "vllm", "args": ["--gpu-memory-utilization", 0.8]},
        )
    )
    assert spec.command == (
        *(str(program), "serve", "Qwen/Qwen3-8B", "--revision", "b968826"),
        *("--served-model-name", "hf:Qwen/Qwen3-8B@b968826", "--uds", str(spec.socket_path)),
        *("--max-model-len", "4096", "--disable-uvicorn-access-log"),
        *("--gpu-memory-utilization", "0.8"),
    )


def test_a_folder_starts_from_the_experts_file(tmp_path: Path, program: Path) -> None:
    assert str(tmp_path / "model") in spec_of(expert_file(tmp_path)).command


@pytest.mark.parametrize("model", ["nowhere", "hf:owner", "embedded:smollm2-135m-instruct"])
def test_what_is_no_model_is_refused(tmp_path: Path, program: Path, model: str) -> None:
    with pytest.raises(ConfigError, match=f"must be a folder with config.json.*got '{model}'"):
        spec_of(expert_file(tmp_path, model=model))


def test_without_vllm_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"expert 'only': .*pip install 'coe-gateway\[vllm\]'"):
        spec_of(expert_file(tmp_path))


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"engine": "vllm", "parallel": 4}, "must not hold parallel with engine vllm"),
        ({"args": ["--seed", 1]}, "must not hold args with engine llama"),
        ({"engine": "vllm", "args": ["--uds=/x"]}, "must not hold --uds in args"),
        ({"engine": "vllm", "args": ["--max_model_len", 9]}, "must not hold --max-model-len in"),
    ],
)
def test_what_an_engine_does_not_take_is_refused(
    tmp_path: Path, runtime: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ExpertRegistry.load(expert_file(tmp_path, runtime=runtime))


def test_a_killed_server_takes_its_engine_along_and_is_started_again(gateway: Gateway) -> None:
    assert gateway.chat("only").status_code == 200
    server, engine = family(gateway)
    server.kill()
    wait_for(lambda: not engine.is_running())
    wait_for(lambda: gateway.chat("only").status_code == 200)
    assert family(gateway)[0].pid != server.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_engine_ends_with_the_gateway(gateway: Gateway, number: signal.Signals) -> None:
    processes = family(gateway)
    gateway.process.send_signal(number)
    gateway.process.wait(30)
    wait_for(lambda: not any(process.is_running() for process in processes))


def test_a_check_does_not_wait_for_a_server_that_ends(program: Path, tmp_path: Path) -> None:
    program.write_text("#!/bin/sh\necho no accelerator; exit 1\n")
    started_s = time.monotonic()
    command = ["experts", "check", "--config", str(expert_file(tmp_path)), "--json"]
    result = CliRunner().invoke(coe, command)
    assert result.exit_code == 1
    assert not json.loads(result.stdout)["experts"][0]["ok"]
    assert time.monotonic() - started_s < 0.5 * START_TIMEOUT_S
