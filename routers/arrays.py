"""Named arrays in one ``.npz`` file: no pickle, the same bytes for the same arrays."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


_MOST_CELLS = 8_000
"""Of one product: above 9,216 OpenBLAS uses threads, which go on spinning for milliseconds."""


class Rows:
    """A float32 matrix, shape (n_rows, n_dims), that multiplies a vector on one thread."""

    def __init__(self, rows: AnyArray) -> None:
        self._n_rows, n_dims = rows.shape
        block = max(1, _MOST_CELLS // n_dims)
        padded = np.pad(rows.astype(np.float32), ((0, -self._n_rows % block), (0, 0)))
        self._blocks: npt.NDArray[np.float32] = padded.reshape(-1, block, n_dims)

    def __matmul__(self, vector: AnyArray) -> npt.NDArray[np.float32]:
        """Return the product with every row, shape (n_rows,)."""
        products: npt.NDArray[np.float32] = self._blocks @ vector.astype(np.float32, copy=False)
        return products.ravel()[: self._n_rows]


def write_arrays(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Write arrays as `numpy.savez_compressed` does, but without the time of day in the file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read_arrays(path: Path) -> dict[str, AnyArray]:
    """Read what `write_arrays` wrote.

    Raises
    ------
    Exception
        The file is another kind of file, broken, or holds Python objects; of which class depends on
        the damage.
    """
    # of a damaged file that it opened itself, numpy leaves some open
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def digest_arrays(arrays: Mapping[str, AnyArray]) -> str:
    """Return a SHA-256 over names, types, shapes and values."""
    content = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        content.update(array.tobytes())
    return content.hexdigest()
