"""What was measured, when and on what: a number is worth little without it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
CPUS = Path("/proc/cpuinfo")


def stamp(cores: list[int], rivals_folder: Path | None) -> dict[str, Any]:
    """Return date, commit, machine and versions of what a run measures."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "machine": f"{platform.machine()}, {_cpu()}, cores {cores}",
        "python": platform.python_version(),
        "rivals": {} if rivals_folder is None else dict(sorted(_versions(rivals_folder))),
    }


def _commit() -> str | None:
    """Return what `git describe` says, ``-dirty`` where files were changed; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)  # noqa: S603
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _cpu() -> str:
    lines = CPUS.read_text().splitlines() if CPUS.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def _versions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each rival and its version: a package of pip or npm that its folder is named for."""
    for home in folder.iterdir():
        paths = [str(path) for path in home.glob("lib/python*/site-packages")]
        for found in distributions(path=paths):
            if found.name.replace("_", "-") == home.name:
                yield home.name, found.version
        for package in home.glob(f"node_modules/@{home.name}*/gateway/package.json"):
            yield home.name, json.loads(package.read_text(encoding="utf-8"))["version"]
