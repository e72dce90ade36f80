"""The process of one local expert: ``vllm serve``, on a Unix socket."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from gateway.errors import ConfigError
from gateway.experts import Expert
from gateway.supervisor.child import ChildSpec

_HUGGING_FACE = "hf:"
_ENVIRON = {
    "VLLM_API_KEY": "",  # meant for remote servers; this one has a private socket
    "VLLM_NO_USAGE_STATS": "1",
}


def vllm_spec(expert: Expert, name: str, config_dir: Path, socket_path: Path) -> ChildSpec:
    """Return the process of a local expert whose engine is vLLM.

    Parameters
    ----------
    name : str
        What to call the process.
    config_dir : Path
        Folder of the experts file, which relative paths start from.

    Raises
    ------
    ConfigError
        When vLLM is not installed or there is no such model.
    """
    flags = ["--served-model-name", expert.model, "--uds", str(socket_path)]
    if expert.context_window is not None:
        flags += ["--max-model-len", str(expert.context_window)]
    flags += ["--disable-uvicorn-access-log", *map(str, expert.runtime.args)]
    return ChildSpec(
        name,
        (_program(expert.name), "serve", *_model(expert, config_dir), *flags),
        environ=_ENVIRON,
        log_path=socket_path.with_suffix(".log"),
        socket_path=socket_path,
        orphan_signal=signal.SIGTERM,  # vLLM then ends its engine too
    )


def _program(expert_name: str) -> str:
    """Return vLLM's program: of this environment, else of ``PATH``."""
    beside = Path(sys.executable).with_name("vllm")
    program = str(beside) if beside.is_file() else shutil.which("vllm")
    if program is None:
        raise ConfigError(
            f"expert {expert_name!r}: runtime.engine vllm needs the program vllm; it is not on "
            f"PATH. Run: {sys.executable} -m pip install 'coe-gateway[vllm]'"
        )
    return program


def _model(expert: Expert, config_dir: Path) -> list[str]:
    """Return the model as `vllm serve` takes it."""
    if expert.model.startswith(_HUGGING_FACE):
        repository, _, revision = expert.model.removeprefix(_HUGGING_FACE).partition("@")
        if repository.count("/") == 1 and not repository.startswith("/"):
            return [repository, *(["--revision", revision] if revision else [])]
    folder = config_dir / Path(expert.model).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"expert {expert.name!r}: with engine vllm model must be a folder with config.json, or "
            f"hf:OWNER/REPO@REVISION; got {expert.model!r}"
        )
    return [str(folder.resolve())]
