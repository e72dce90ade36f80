"""Files that a run appends to as it goes, so that one that was cut goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from routers.data import read_lines

_Item = TypeVar("_Item")


def read_kept(path: Path, parse: Callable[[bytes], _Item], wanted: str) -> list[_Item]:
    """Read JSON lines that earlier runs appended; none where there is no file yet.

    A last line that was cut while it was written is taken off the file.

    Parameters
    ----------
    path : Path
    parse, wanted
        See `routers.data.read_lines`, also for what is raised.
    """
    if not path.exists():
        return []
    end = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, end)
    return read_lines([path], parse, wanted) if end else []
