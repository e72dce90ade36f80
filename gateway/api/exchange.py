"""The HTTP side of the pipeline: sends what it writes, and stops it when the client leaves."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.pipeline import Call, Pipeline
from gateway.sse import data_event

_encode = msgspec.json.Encoder().encode


class _HttpSink:
    def __init__(self, send: Send) -> None:
        self._send = send

    async def start(self, status: int, headers: dict[str, str]) -> None:
        raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def fail(self, error: GatewayError) -> None:
        await self.write(data_event(_encode(error.envelope())))

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Exchange(Response):
    """A response that is made by the pipeline while it is sent.

    When the client leaves, the pipeline is cancelled, and with it the call upstream.
    """

    def __init__(self, pipeline: Pipeline, call: Call) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        work = asyncio.ensure_future(self._pipeline.answer(self._call, _HttpSink(send)))
        left = asyncio.ensure_future(_client_left(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone = not work.done()
            work.cancel()
            left.cancel()
            await asyncio.wait({work, left})
        if not gone:
            work.result()


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
