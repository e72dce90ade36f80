"""Real vLLM servers, on the CPU."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from tests.servers import REPO, wait_for

ENVIRONMENT = REPO / ".venv-vllm"
MODEL, ADAPTER = ENVIRONMENT / "models/smollm2", ENVIRONMENT / "models/adapter"
START_TIMEOUT_S = 400.0
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Of every server; the first is the memory for its conversations, in GiB."""
FLAGS = ("--enforce-eager", "--dtype", "bfloat16")
SMALL = ("--max-model-len", "2048")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
LORA = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"twisted={ADAPTER}")


class VllmServer:
    """A running `vllm serve`, which knows its model as ``smol``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/v1"
        self.ready_after_s = 0.0
        self._process = process
        self._log_path = log_path

    def wait_until_ready(self) -> None:
        started_s = time.monotonic()
        wait_for(self._is_ready, START_TIMEOUT_S)
        self.ready_after_s = time.monotonic() - started_s

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = httpx.get(f"{self.root}/metrics", timeout=10).text
        return sum(float(value) for value in re.findall(rf"^{name}\{{.*}} (\S+)$", text, re.M))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server; by SIGKILL with its engine, as when a machine is lost."""
        if number == signal.SIGKILL:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log_path.read_text()[-4000:]
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.root}/health", timeout=2).status_code == 200
        return False


@contextmanager
def run_vllm(folder: Path, *flags: str) -> Iterator[VllmServer]:
    """Run a server until the block ends; it is not ready at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(ENVIRONMENT / "bin/vllm"), "serve", str(MODEL), "--served-model-name", "smol"]
    command += ["--host", "127.0.0.1", "--port", str(port), *FLAGS, *SMALL, *flags]
    log_path = folder / f"vllm-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **ENVIRON}, start_new_session=True
        )
    server = VllmServer(process, port, log_path)
    try:
        yield server
    finally:
        server.stop()


def engines(parent_pid: int) -> list[psutil.Process]:
    """Return the engines and workers of the vLLM servers below a process."""
    below = psutil.Process(parent_pid).children(recursive=True)
    return [process for process in below if "VLLM::" in " ".join(process.cmdline())]
