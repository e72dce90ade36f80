"""The header of a GGUF file: which tensors there are, without reading them.

References
----------
The GGUF specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_STRING, _ARRAY = 8, 9
_MOST_ITEMS = 1 << 24
"""More strings, array items or tensors than this are taken for a broken file."""
_ROUTED_EXPERTS = "_exps."
"""In the names of tensors that hold all routed experts of a layer."""


class GgufError(ValueError):
    """A file is not a GGUF file, or it is cut off."""


def read_gguf_sizes(path: Path) -> tuple[int, int, str]:
    """Return the total and the active parameters of a GGUF file, and its architecture.

    Raises
    ------
    GgufError
        The header is broken.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (UnicodeDecodeError, RecursionError) as error:
            raise GgufError(f"a broken header: {error}") from error


def _read(file: BinaryIO) -> tuple[int, int, str]:
    if _take(file, 4) != _MAGIC:
        raise GgufError("a file that does not begin with GGUF")
    version = _scalar(file, "I")
    if version not in _VERSIONS:
        raise GgufError(f"version {version}; versions {_VERSIONS} are known")
    n_tensors, n_keys = _count(file), _count(file)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = _string(file)
        metadata[key] = _value(file, _scalar(file, "I"))
    architecture = str(metadata.get("general.architecture", "unknown"))
    n_experts = metadata.get(f"{architecture}.expert_count") or 0
    n_used = metadata.get(f"{architecture}.expert_used_count") or n_experts
    total = active = 0
    for _ in range(n_tensors):
        name, n_params = _tensor(file)
        routed = n_experts > 0 and _ROUTED_EXPERTS in name
        total += n_params
        active += n_params * n_used // n_experts if routed else n_params
    return total, active, architecture


def _tensor(file: BinaryIO) -> tuple[str, int]:
    """Return the name of a tensor and how many parameters it holds."""
    name = _string(file)
    shape = [_scalar(file, "Q") for _ in range(_scalar(file, "I"))]
    _take(file, 4 + 8)  # its type and its place
    return name, math.prod(shape)


def _value(file: BinaryIO, kind: int) -> Any:  # noqa: ANN401  (whatever the file holds)
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner = _scalar(file, "I")
        return [_value(file, inner) for _ in range(_count(file))]
    if kind not in _SCALARS:
        raise GgufError(f"a value of unknown type {kind}")
    return _scalar(file, _SCALARS[kind])


def _string(file: BinaryIO) -> str:
    return _take(file, _count(file)).decode()


def _count(file: BinaryIO) -> int:
    count: int = _scalar(file, "Q")
    if count > _MOST_ITEMS:
        raise GgufError(f"a count of {count}")
    return count


def _scalar(file: BinaryIO, code: str) -> Any:  # noqa: ANN401
    return struct.unpack(f"<{code}", _take(file, struct.calcsize(f"<{code}")))[0]


def _take(file: BinaryIO, n_bytes: int) -> bytes:
    taken = file.read(n_bytes)
    if len(taken) < n_bytes:
        raise GgufError("a file that is cut off in its header")
    return taken
