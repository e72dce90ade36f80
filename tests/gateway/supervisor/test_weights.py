from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry
from gateway.supervisor.weights import SMOLLM2, find_weights
from tests.servers import REPO, write_experts


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


FIND = """
import sys
from pathlib import Path
from gateway.errors import ConfigError
from tests.gateway.supervisor.test_weights import local
from gateway.supervisor.weights import find_weights
folder = Path(sys.argv[1])
try:
    print(find_weights(local(folder, "hf:owner/repository/model.gguf"), folder))
except ConfigError as error:
    print(error)
"""


def find_offline(folder: Path) -> str:
    environ = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FIND, str(folder)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, cwd=REPO
    )
    return done.stdout.strip()


def test_a_hugging_face_file_is_taken_from_the_cache_without_a_network(tmp_path: Path) -> None:
    assert "can be neither found in the local cache nor downloaded" in find_offline(tmp_path)
    repository = tmp_path / "hub/models--owner--repository"
    commit = "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    model = repository / "snapshots" / commit / "model.gguf"
    model.write_bytes(b"GGUF")
    assert find_offline(tmp_path) == str(model)
