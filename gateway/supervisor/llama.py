"""The process of one local expert: llama.cpp's own HTTP server, on a Unix socket.

Run as ``python -m gateway.supervisor.llama '<json>'`` with the fields of `LlamaConfig`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """What llama.cpp is started with.

    Attributes
    ----------
    context_window : int
        Tokens of one conversation; 0 takes what the model was trained with.
    parallel : int
        Conversations at the same time; each has its own `context_window`.
    threads : int or None
        CPU threads; None takes half of the cores: threads of llama.cpp wait by spinning, and lose
        badly when another process wants their core.
    """

    model_path: str
    alias: str
    socket_path: str
    context_window: int
    parallel: int
    threads: int | None
    gpu_layers: int

    def command(self) -> tuple[str, ...]:
        """Return the command line that runs this configuration."""
        return (sys.executable, "-m", "gateway.supervisor.llama", json.dumps(asdict(self)))


def main() -> None:
    """Serve until killed."""
    config = LlamaConfig(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    import xllamacpp

    threads = config.threads or max(1, (os.cpu_count() or 2) // 2)
    params = xllamacpp.CommonParams()
    params.model.path = config.model_path
    params.model_alias = {config.alias}
    params.hostnames = [config.socket_path]
    params.n_parallel = config.parallel
    params.n_ctx = config.context_window * config.parallel
    params.n_gpu_layers = config.gpu_layers
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = 1
    server = xllamacpp.Server(params)  # answers 503 on the socket until the model is loaded
    while server is not None:
        signal.pause()


if __name__ == "__main__":
    main()
