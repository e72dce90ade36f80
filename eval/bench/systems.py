"""The systems that are measured, each as processes that are started for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.error import URLError

from gateway.experts import ExpertRegistry
from routers.artifact import read_card

READY_TIMEOUT_S = 300.0
STREAM_ATTEMPTS = 40
"""Half a second apart, once whole answers come."""
N_CHUNKS, GAP_MS = 20, 20
"""Of a stream: chunks with content, and milliseconds between two."""

_ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"Hello there, how can I help?"},"finish_reason":'
    '"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":8,"total_tokens":19}}'
)
_NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 2m;
  keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location /v1/models {{ return 200 '{{"object":"list","data":[{{"id":"m"}}]}}'; }}
    location / {{ return 200 '{answer}'; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go.

    Attributes
    ----------
    pid : int
        Of the process that answers: counted, with its children, as what it costs.
    model : str
        What is asked for.
    headers : dict of str to str
        Sent along.
    """

    url: str
    pid: int
    model: str = "m"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class System:
    """Something that answers chat completions.

    Attributes
    ----------
    name : str
        As in the table.
    whole : Target
        For whole answers.
    streams : Target or None
        For streams, which come from another upstream; None when it does not answer them.
    """

    name: str
    whole: Target
    streams: Target | None


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The servers behind all systems: URLs up to ``/v1``."""

    whole: str
    streams: str


class Starter:
    """Starts processes, logs into one folder, and ends them when the stack is left."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._started: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}

    def start(self, name: str, command: list[str], **environ: str) -> int:
        """Start a process and return its id; its output goes into ``<name>.log``."""
        path = self.folder / f"{name}.log"
        log = self._stack.enter_context(path.open("wb"))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("COE_", "REDIS_"))}
        process = subprocess.Popen(  # noqa: S603  (commands of this package)
            command,
            stdout=log,
            stderr=log,
            env={**clean, **environ},
            cwd=self.folder,
            # Linux shares a busy machine out by session: one for each system, as ours has anyway
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        self._started[process.pid] = process, path
        return process.pid

    def log_of(self, pid: int) -> Path:
        """Return the file that a process of ours writes into."""
        return self._started[pid][1]

    def wait(self, system: System) -> System:
        """Return a system once it answers, without its streams where only these fail.

        Raises
        ------
        ValueError
            When it does not answer in time; the message holds the end of its log.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not _is_up(system.whole, stream=False):
            process, path = self._started[system.whole.pid]
            if time.monotonic() > deadline_s or process.poll() is not None:
                log = path.read_text(errors="replace")[-1500:]
                raise ValueError(f"{system.name} must answer; it does not. Its log ends:\n{log}")
            time.sleep(0.2)
        for _ in range(STREAM_ATTEMPTS):
            if system.streams is None or _is_up(system.streams, stream=True):
                return system
            time.sleep(0.5)
        return replace(system, streams=None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, then whatever is left of the session that it leads."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_up(target: Target, *, stream: bool) -> bool:
    messages = [{"role": "user", "content": "hello"}]
    body = json.dumps({"model": target.model, "messages": messages, "stream": stream})
    headers = {"content-type": "application/json", **target.headers}
    asked = urllib.request.Request(target.url, body.encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def free_port() -> int:
    """Return a TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def chat(port: int) -> str:
    """Return the URL of the endpoint on a port."""
    return f"http://127.0.0.1:{port}/v1/chat/completions"


@contextmanager
def running(folder: Path) -> Iterator[tuple[Starter, Upstreams, System]]:
    """Run the upstreams; yields them also as the system ``direct``."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None or shutil.which("wrk") is None:
        raise ValueError("nginx and wrk must be installed; on Debian: apt-get install nginx wrk")
    with ExitStack() as stack:
        starter = Starter(folder, stack)
        port, paced = free_port(), free_port()
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, port=port, answer=_ANSWER))
        first = starter.start("direct", [nginx, "-p", str(folder), "-c", str(config)])
        pacer = [sys.executable, "-m", "eval.bench.pacer", str(paced), str(N_CHUNKS), str(GAP_MS)]
        second = starter.start("pacer", pacer, PYTHONPATH=_here())
        direct = System("direct", Target(chat(port), first), Target(chat(paced), second))
        upstreams = Upstreams(f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{paced}/v1")
        yield starter, upstreams, starter.wait(direct)


def _here() -> str:
    return str(Path(__file__).parents[2])


def relay(starter: Starter, upstreams: Upstreams, workers: int) -> System:
    """Start the reference relay, once for each upstream."""
    name = f"relay x{workers}"
    targets = []
    for kind, upstream in (("", upstreams.whole), (" stream", upstreams.streams)):
        port = free_port()
        flags = ["--port", str(port), "--workers", str(workers), "--loop", "uvloop"]
        flags += ["--http", "httptools", "--log-level", "warning", "--no-access-log"]
        command = [sys.executable, "-m", "uvicorn", "--factory", "eval.bench.relay:create_app"]
        environ = {"RELAY_UPSTREAM": upstream, "PYTHONPATH": _here()}
        pid = starter.start(name + kind, [*command, *flags], **environ)
        targets.append(Target(chat(port), pid))
    return starter.wait(System(name, *targets))


def write_experts(path: Path, upstreams: Upstreams) -> None:
    """Write the experts file of our gateway: two experts, and one whose answers are kept."""
    categories = read_card(router_folder()).categories
    lines = [f"version: 1\nrouter: {router_folder()}\ngeneral: general\nexperts:"]
    for name in ("general", "expert"):
        lines.append(
            f"  - {{name: {name}, backend: openai, base_url: {upstreams.whole}, model: m}}"
        )
    kept = f"name: kept, backend: openai, base_url: {upstreams.whole}, model: m, cache: true"
    lines += [f"  - {{{kept}}}"]
    lines += ["mapping:", *(f"  {category}: [expert]" for category in categories)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    ExpertRegistry.load(path)


def router_folder() -> Path:
    """Return where the default router is."""
    return Path(_here()) / "routers" / "default"


PINNED, ROUTED, KEPT = "pinned", "routed", "answer hit"
_MODELS = {PINNED: "general", ROUTED: "auto", KEPT: "kept"}


def ours(
    starter: Starter,
    upstreams: Upstreams,
    workers: int,
    name: str,
    kinds: Sequence[str] = (PINNED, ROUTED),
    **environ: str,
) -> list[System]:
    """Start our gateway, once for each upstream; the kinds of requests share it."""
    started = []
    for kind, upstream in (("", upstreams.whole), (" stream", upstreams.streams)):
        process = f"{name} x{workers}{kind}"
        config = starter.folder / f"{process}.yaml"
        write_experts(config, Upstreams(upstream, upstream))
        port = free_port()
        flags = ["--config", str(config), "--port", str(port), "--workers", str(workers)]
        command = [sys.executable, "-m", "gateway", "serve", *flags]
        pid = starter.start(process, command, PYTHONPATH=_here(), **environ)
        started.append((chat(port), pid))
    return [starter.wait(_system(f"{name} {kind} x{workers}", kind, started)) for kind in kinds]


def _system(name: str, kind: str, started: Sequence[tuple[str, int]]) -> System:
    whole, streams = (Target(url, pid, _MODELS[kind]) for url, pid in started)
    return System(name, whole, None if kind == KEPT else streams)  # kept chunks are not timed anew
