"""``coe serve``: the parent of a gateway's processes. It serves nothing itself.

It checks the configuration, opens the listening socket, then starts the embedded cache, one process
for each distinct local weights, and the workers, and restarts what ends.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from gateway.cache.link import connect
from gateway.composition import checked_registry
from gateway.config import read_experts_text
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.live.keeper import Keeper
from gateway.live.versions import TIMEOUT_MS, VersionStore
from gateway.logs import json_logging
from gateway.settings import Settings
from gateway.supervisor.plan import (
    WORKER,
    cache_spec,
    cache_url,
    expert_specs,
    run_folder,
    worker_spec,
)
from gateway.supervisor.supervisor import Supervisor
from gateway.worker import BACKLOG

READY_POLL_S = 0.1
STOP_SLACK_S = 5.0

_log = logging.getLogger(__name__)


def serve(settings: Settings, say: Callable[[str], None]) -> int:
    """Run a gateway until SIGINT or SIGTERM; returns the exit code.

    Parameters
    ----------
    settings : Settings
        Validated settings.
    say : callable
        Tells the operator, in a line, what happens.

    Raises
    ------
    ConfigError
        When the configuration is broken or the port is taken: nothing was started then.
    """
    settings.check_exposure()
    settings.check_redis_url()
    text = read_experts_text(settings.config)
    # not resolved: what a link leads to may be replaced while we serve
    registry = checked_registry(text, settings.config.absolute(), os.environ)
    with (
        open_listener(settings.host, settings.port) as listener,
        run_folder() as run_dir,
        json_logging(settings.log_level),
    ):
        code = asyncio.run(_run(settings, registry, text, listener, run_dir, say))
        # the loop's end made it deadly again, and there is a folder to remove
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return code


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises
    ------
    ConfigError
        When the address is not ours or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {_why_not(error)}") from error


def _why_not(error: OSError) -> str:
    """Return why an address cannot be listened on, and the mend."""
    if error.errno == errno.EADDRINUSE:
        return "another process does. Stop it, or choose another port with --port"
    if error.errno == errno.EACCES:
        return "ports below 1024 need a privilege. Choose another port with --port"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine does not have that address. Choose another one with --host"
    return f"{error}. Choose another address with --host and --port"


async def _run(
    settings: Settings,
    registry: ExpertRegistry,
    text: str,
    listener: socket.socket,
    run_dir: Path,
    say: Callable[[str], None],
) -> int:
    host, port = listener.getsockname()[:2]
    specs = expert_specs(registry, run_dir)
    cache = [] if settings.redis_url else [cache_spec(run_dir)]
    metrics_dir = run_dir / "metrics"
    metrics_dir.mkdir()
    environ = {
        "COE_CONFIG": str(registry.path),
        "COE_RUN_DIR": str(run_dir),
        "COE_LOG_LEVEL": settings.log_level,
        "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir),
    }
    workers = [worker_spec(i, listener.fileno(), environ) for i in range(settings.workers)]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with (
        Supervisor(run_dir) as supervisor,
        _keeper(settings, run_dir, supervisor, say) as keeper,
    ):
        say(f"starting {_counted(len(specs), len(cache), len(workers))} ...")
        supervisor.start(cache)
        keeper.begin(registry, text, specs)
        stopped = asyncio.create_task(stopping.wait())
        if settings.redis_url is not None:  # replicas may have a newer version than our file
            following = asyncio.create_task(keeper.follow())
            await asyncio.wait({stopped, following}, return_when=asyncio.FIRST_COMPLETED)
        supervisor.start(workers)
        keeping = asyncio.create_task(keeper.run())
        ready = asyncio.create_task(_announce(host, port, say))
        ready.add_done_callback(lambda _: supervisor.settle())
        failed = asyncio.create_task(supervisor.failed())
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        code = failed.result() if failed.done() else 0
        for task in (ready, stopped, failed, keeping):
            task.cancel()
        say("stopping: open answers are finished first ...")
        listener.close()  # new clients are refused instead of kept waiting
        await supervisor.stop(WORKER, settings.drain_timeout_s + STOP_SLACK_S)
    say("stopped")
    return code


def _counted(n_experts: int, n_caches: int, n_workers: int) -> str:
    """Return in words what a gateway starts."""
    counts = {"local model": n_experts, "cache": n_caches, "worker": n_workers}
    return ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in counts.items() if n)


@asynccontextmanager
async def _keeper(
    settings: Settings, run_dir: Path, supervisor: Supervisor, say: Callable[[str], None]
) -> AsyncIterator[Keeper]:
    url = settings.redis_url.get_secret_value() if settings.redis_url else cache_url(run_dir)
    redis = connect(url, TIMEOUT_MS)
    path = settings.config.absolute()
    store = VersionStore(redis, path.name)
    linger_s = settings.drain_timeout_s
    try:
        yield Keeper(path, run_dir, supervisor, store, os.environ, linger_s, say)
    finally:
        await store.aclose()


async def _announce(host: str, port: int, say: Callable[[str], None]) -> None:
    """Tell the operator once the gateway is ready."""
    started_s = time.monotonic()
    while not await asyncio.to_thread(_is_ready, host, port):
        await asyncio.sleep(READY_POLL_S)
    shown = f"[{host}]" if ":" in host else host
    say(f"ready after {time.monotonic() - started_s:.1f} s: http://{shown}:{port}/v1")


def _is_ready(host: str, port: int) -> bool:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = HTTPConnection(reachable, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
