"""A measurement that is told to end takes with it what it started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.servers import REPO, wait_for

BENCH = ["bench", "--quick", "--only", "relay"]


@pytest.mark.parametrize(
    "command", [["soak", "--minutes", "5"], BENCH], ids=lambda command: command[0]
)
def test_sigterm_ends_its_servers_and_removes_its_folders(
    command: list[str], tmp_path: Path
) -> None:
    if command == BENCH and not (shutil.which("nginx") and shutil.which("wrk")):
        pytest.skip("`coe eval bench` needs nginx and wrk")
    run = [sys.executable, "-m", "gateway", "eval", *command]
    # coverage holds a lock while it counts: a signal that ends the process then would wait for it
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environ = {**kept, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(run, cwd=REPO, stderr=subprocess.DEVNULL, env=environ) as process:
        whole = psutil.Process(process.pid)
        wait_for(lambda: len(whole.children(recursive=True)) >= 2, timeout_s=60)
        children = whole.children(recursive=True)
        deadline_s = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline_s:
            process.terminate()  # whoever is impatient tells it again
            time.sleep(0.001)
        process.kill()
        assert process.wait() == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
