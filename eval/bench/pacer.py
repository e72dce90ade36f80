"""A steady source of streams: ``python -m eval.bench.pacer PORT N_CHUNKS GAP_MS``.

Every chunk holds the time it was written, ``time.monotonic_ns()``, as its content: a client on the
same machine can tell how long it was under way, whatever stands between.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"cache-control: no-cache\r\n\r\n"
)
DELTA = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":"t%d "},"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":11,"completion_tokens":8,"total_tokens":19}}\n\n'
    b"data: [DONE]\n\n"
)
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'


class Pacer(asyncio.Protocol):
    """One connection; requests on it come one after the other.

    Parameters
    ----------
    n_chunks : int
        Chunks with content in a stream.
    gap_s : float
        Between two of them, in seconds.
    """

    def __init__(self, n_chunks: int, gap_s: float) -> None:
        self._n_chunks = n_chunks
        self._gap_s = gap_s
        self._came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._came += data
        head, ended, body = self._came.partition(b"\r\n\r\n")
        if not ended or len(body) < _content_length(head):
            return
        self._came = b""
        if head.startswith(b"POST"):
            self._transport.write(HEAD)
            self._next(self._n_chunks, asyncio.get_running_loop().time())
        else:
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            self._transport.write(head % len(MODELS) + MODELS)

    def _next(self, left: int, due_s: float) -> None:
        if self._transport.is_closing():
            return
        if not left:
            self._transport.write(_chunked(LAST) + b"0\r\n\r\n")
            return
        self._transport.write(_chunked(DELTA % time.monotonic_ns()))
        due_s += self._gap_s
        asyncio.get_running_loop().call_at(due_s, self._next, left - 1, due_s)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(port: int, n_chunks: int, gap_s: float) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Pacer(n_chunks, gap_s), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
