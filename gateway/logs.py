"""Structured logs: one JSON object a line on standard error, written off the request path."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import msgspec

MOST_KEPT = 100_000
"""Records that wait while nothing can be written; of more, the oldest are lost."""
WRITE_EVERY_S = 0.1
"""Lines wait for at most this long, so that many are written at once, in seconds."""


class JsonFormatter(logging.Formatter):
    """Formats a record, and the dict in its ``fields``, as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        shown = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(shown).decode()


class BatchHandler(logging.Handler):
    """Keeps records until `write_out` is called: waking a thread for each would cost more.

    Parameters
    ----------
    stream : text file
        Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._records: deque[logging.LogRecord] = deque(maxlen=MOST_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._records.append(record)

    def write_out(self) -> None:
        """Format and write what was kept; what cannot be written is lost, later lines are not."""
        lines = [self._line(self._records.popleft()) for _ in range(len(self._records))]
        if lines:
            with suppress(OSError, ValueError):  # a full disk, a closed terminal or pipe
                self._stream.write("".join(lines))
                self._stream.flush()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return f"{self.format(record)}\n"
        except Exception:  # a line that cannot be formatted must not end the log
            self.handleError(record)
            return ""


@contextmanager
def json_logging(level: str) -> Iterator[None]:
    """Log as JSON from a thread of its own while the context lasts."""
    handler = BatchHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    stopped = threading.Event()

    def write_often() -> None:
        while not stopped.wait(WRITE_EVERY_S):
            handler.write_out()

    writer = threading.Thread(target=write_often, name="log", daemon=True)
    writer.start()
    try:
        yield
    finally:
        stopped.set()
        writer.join()
        handler.write_out()
