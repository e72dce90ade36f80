"""One HTTP worker of a gateway: ``python -m gateway.worker LISTEN_FD``; see `gateway.serve`."""

from __future__ import annotations

import ctypes
import gc
import signal
import socket
import sys
from functools import partial

from gateway.errors import ConfigError
from gateway.logs import json_logging
from gateway.settings import load_settings

BACKLOG = 2048
ACCEPTS = 8
"""New connections in one turn of the event loop: libuv takes one from each listening socket. The
last of many that come at once would wait for as many turns, each full of work for the first. More
sockets let them in sooner, and each new connection wakes a worker once for every one of them."""
GC_THRESHOLDS = (20_000, 20, 20)
"""Requests leave hardly a cycle behind; by default those under way are looked through each time."""


def main() -> None:
    """Serve until told to stop; exit code 2 means that the configuration is broken."""
    import uvicorn

    settings = load_settings()
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with json_logging(settings.log_level):
        try:
            from gateway.app import create_app
            from gateway.wire import BoundedProtocol

            app = create_app(settings)
            _settle()
        except ConfigError as error:
            sys.stderr.write(f"coe: a worker cannot start: {error}\n")
            sys.exit(2)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            # a class in the eyes of uvicorn, which calls it
            http=partial(BoundedProtocol, client_timeout_s=settings.client_timeout_s),  # type: ignore[arg-type]
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=settings.drain_timeout_s,
        )
        # uvicorn raises the signal that ended it once more: the last log lines are still to come
        signal.signal(signal.SIGTERM, lambda *_: None)
        # else dup() would have it block, and the other workers' event loops with it
        listener.setblocking(False)
        again = [listener.dup() for _ in range(ACCEPTS - 1)]
        uvicorn.Server(config).run(sockets=[listener, *again])


def _settle() -> None:
    """Take what was made at start as lasting, and give back what was needed for making it."""
    gc.collect()
    gc.freeze()  # looking through it takes 50 ms each time
    gc.set_threshold(*GC_THRESHOLDS)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


if __name__ == "__main__":
    main()
