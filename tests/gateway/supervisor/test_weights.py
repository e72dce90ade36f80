from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry
from gateway.supervisor.weights import SMOLLM2, find_weights
from tests.servers import write_experts


def local(folder: Path, model: str) -> Expert:
    expert = {"name": "only", "backend": "local", "model": model}
    return ExpertRegistry.load(write_experts(folder / "experts.yaml", [expert], {}))["only"]


def test_the_embedded_model_is_found_in_its_package(tmp_path: Path) -> None:
    path = find_weights(local(tmp_path, f"embedded:{SMOLLM2}"), tmp_path)
    assert path.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("model", ["a.gguf", "./a.gguf", "{}/a.gguf"])
def test_a_path_starts_from_the_folder_of_the_experts_file(tmp_path: Path, model: str) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    path = find_weights(local(tmp_path, model.format(tmp_path)), tmp_path)
    assert path.resolve() == tmp_path / "a.gguf"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("embedded:other", f"model must be embedded:{SMOLLM2}; got embedded:other"),
        ("nowhere.gguf", "no file at .*nowhere.gguf"),
        ("hf:owner/file.gguf", "must look like hf:OWNER/REPO/FILE.gguf; got hf:owner/file.gguf"),
        ("hf:owner/repository/model.safetensors", "must look like hf:OWNER/REPO/FILE.gguf"),
        ("text.gguf", "text.gguf must be a GGUF file; it starts with b'text'. Convert"),
        (".", "no file at"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, model: str, message: str) -> None:
    (tmp_path / "text.gguf").write_text("text")
    with pytest.raises(ConfigError, match=f"expert 'only': .*{message}"):
        find_weights(local(tmp_path, model), tmp_path)


def test_a_hugging_face_file_is_taken_from_the_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    expert = local(tmp_path, "hf:owner/repository/model.gguf")
    with pytest.raises(ConfigError, match="neither found in the local cache nor downloaded"):
        find_weights(expert, tmp_path)
    commit = "0" * 40
    repository = tmp_path / "models--owner--repository"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    model = repository / "snapshots" / commit / "model.gguf"
    model.write_bytes(b"GGUF")
    assert find_weights(expert, tmp_path) == model
