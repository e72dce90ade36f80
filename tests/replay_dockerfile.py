"""Do what the Dockerfile says without Docker, in a clean folder: ``make check-compose``.

COPY and RUN happen below a temporary folder in place of ``/``; then the image's command serves,
with its environment, until its health check succeeds. What only a container has (user, read-only
root, the base image's libraries) is not shown.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers import REPO, wait_for

PORT = 8097


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, word and rest, continuation lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parts = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in parts]


def inside(root: Path, text: str) -> str:
    """Put the absolute paths of the image below `root`."""
    return re.sub(r"(?<![\w.:/])/(src|opt/coe|etc/coe)\b", rf"{root}/\1", text)


def replay(root: Path) -> dict[str, str]:
    """Run COPY and RUN below `root`; returns the image's ENV, HEALTHCHECK and command."""
    image: dict[str, str] = {"command": ""}
    folder = root
    for word, rest in instructions(REPO / "Dockerfile"):
        if word == "WORKDIR":
            folder = Path(inside(root, rest))
            folder.mkdir(parents=True, exist_ok=True)
        elif word == "COPY" and not rest.startswith("--from"):
            *sources, target = inside(root, rest).split()
            for source in sources:
                copy(REPO / source, folder / target, to_folder=target.endswith("/"))
        elif word == "RUN" and not rest.startswith("apt-get"):
            subprocess.run(["bash", "-ec", inside(root, rest)], cwd=folder, check=True)
        elif word == "ENV":
            image |= dict(part.split("=", 1) for part in shlex.split(inside(root, rest)))
        elif word == "HEALTHCHECK":
            image["health"] = rest.partition("CMD ")[2]
        elif word in {"ENTRYPOINT", "CMD"}:
            image["command"] += " " + shlex.join(json.loads(rest))
    return image


def copy(source: Path, target: Path, *, to_folder: bool) -> None:
    target = target / source.name if to_folder or target.name == "." else target
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def serve(root: Path, image: dict[str, str]) -> None:
    """Run the image's command until its health check succeeds."""
    path = image["PATH"].replace("$PATH", os.environ["PATH"])
    kept = {name: image[name] for name in image if name.startswith("COE_")}
    environ = {**kept, "PATH": path, "COE_HOST": "127.0.0.1", "COE_PORT": str(PORT)}
    health = json.loads(image["health"].replace(":8080", f":{PORT}"))
    command = shlex.split(image["command"])
    with subprocess.Popen(command, env=environ, cwd=root / "etc/coe") as gateway:
        try:
            wait_for(lambda: is_healthy(health, environ), 120)
        finally:
            gateway.terminate()


def is_healthy(command: list[str], environ: dict[str, str]) -> bool:
    return subprocess.run(command, env=environ, capture_output=True).returncode == 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        serve(Path(folder), replay(Path(folder)))
