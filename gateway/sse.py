"""Server-sent events as they pass through: bytes are relayed whole, usage is read on the way.

References
----------
WHATWG HTML, section 9.2 (event stream format); OpenAI API, streaming of chat completions.
"""

from __future__ import annotations

import re

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\r?\n|\r\r")
MAX_EVENT_BYTES = 16_000_000
"""An event that grows past this is not held back any more."""


class EventSplitter:
    """Cuts a byte stream into whole events; the bytes joined are the bytes fed."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._searched = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that `chunk` completes, each with the blank line that ends it."""
        tail = self._tail
        tail += chunk
        events = []
        start = 0
        # a boundary may lie across chunks: look again at the last three bytes searched
        for match in _BOUNDARY.finditer(tail, max(0, self._searched - 3)):
            events.append(bytes(tail[start : match.end()]))
            start = match.end()
        del tail[:start]
        self._searched = len(tail)
        if len(tail) > MAX_EVENT_BYTES:
            events.append(self.flush())
        return events

    def flush(self) -> bytes:
        """Return what is left: bytes after the last whole event."""
        rest = bytes(self._tail)
        self._tail.clear()
        self._searched = 0
        return rest


def event_data(event: bytes) -> bytes:
    """Return the data of an event: its ``data:`` lines without the field name, joined."""
    lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(data)


def data_event(data: bytes) -> bytes:
    """Return `data`, which must hold no line break, as an event."""
    return b"data: " + data + b"\n\n"


def named_event(name: str, data: bytes) -> bytes:
    """Return `data`, which must hold no line break, as an event with a name."""
    return b"event: " + name.encode() + b"\n" + data_event(data)
