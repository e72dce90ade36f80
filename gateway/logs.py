"""Structured logs: one JSON object a line on standard error, written off the request path."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener

import msgspec


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


class _KeepQueueHandler(QueueHandler):
    """Hands records over as they are: they stay in this process."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record itself."""
        return record


@contextmanager
def json_logging(level: str) -> Iterator[None]:
    """Log as JSON from a thread of its own while the context lasts."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = QueueListener(records, handler)
    root = logging.getLogger()
    root.handlers = [_KeepQueueHandler(records)]
    root.setLevel(level)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
