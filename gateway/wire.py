"""HTTP connections that do not wait for clients forever, nor take more of a head than they should.

uvicorn bounds idle connections only. Here a client must also begin and finish the head of its
request, and take what is written to it, within the same time; `gateway.api.body` bounds the body.
A client that was told to come back later is not listened to before (`gateway.api.in_flight`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import InvalidRequestError

MOST_HEAD_BYTES = 65_536
MOST_HEADERS = 100
REST = "rest_s"
"""In the state of a request: for how long nothing is read after its answer, in seconds."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Parameters
    ----------
    client_timeout_s : float
        How long a client may take for a head, or leave what was written to it, in seconds.
    **kwargs : object
        Those of uvicorn's own protocol.
    """

    def __init__(self, *, client_timeout_s: float, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._client_timeout_s = client_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._has_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop(self._head_timer)
        self._stop(self._write_timer)
        self._stop(self._rest_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse a head that is too long."""
        super().data_received(data)
        if self._head_timer is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """Count the time and the bytes of a head."""
        super().on_message_begin()
        self._has_ended = False
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one too many makes the request invalid."""
        if len(self.headers) >= MOST_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop counting."""
        self._stop(self._head_timer)
        self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body: it is none of the next head, where the answer came before it."""
        super().on_body(body)
        self._head_bytes -= len(body)

    def on_message_complete(self) -> None:
        """Note that all of a request has come."""
        super().on_message_complete()
        self._has_ended = True
        self._rest()

    def on_response_complete(self) -> None:
        """Expect the next request, unless it is here already."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._expect_head()
            self._rest()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not forever."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._client_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._stop(self._write_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, in the form of every other error, and close."""
        body = json.dumps(InvalidRequestError(msg).envelope()).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _rest(self) -> None:
        """Read nothing for a while where that was asked for, once request and answer are over."""
        if self._has_ended and self.cycle.response_complete and REST in self.scope["state"]:
            self.flow.pause_reading()
            rest_s = self.scope["state"].pop(REST)
            self._rest_timer = self.loop.call_later(rest_s, self.flow.resume_reading)

    def _expect_head(self) -> None:
        self._stop(self._head_timer)
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self._client_timeout_s, self.transport.close)

    def _stop(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
