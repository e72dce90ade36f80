"""The HTTP side of the pipeline: hands requests to it, and stops it when the client leaves."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.body import read_body
from gateway.auth import authenticate
from gateway.dialects.base import Dialect
from gateway.errors import GatewayError, InvalidRequestError
from gateway.pipeline import Call, Pipeline
from gateway.record import Record
from gateway.services import services_of
from gateway.sse import data_event
from gateway.timing import current_timer, start_timer, step_done

JSON_BODY = {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}
"""What the OpenAPI description says of a body whose fields are the expert's to judge."""
NOBODY = "unauthenticated"
"""The tenant in the record of a request that was refused before anybody was known."""
MOST_TIMEOUT_S = 86_400
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


async def answer(request: Request, dialect: Dialect) -> Response:
    """Read a request and hand it to the pipeline, which keeps its record.

    What is refused before, for its key, its size or a header, gets a record here.
    """
    if request.headers.get("x-coe-timing") == "on":
        start_timer()
    services = services_of(request)
    headers, request_id = request.headers, request.state.request_id
    refused = Record(request_id, NOBODY)
    try:
        caller = await authenticate(request)
        refused.tenant, refused.key_id = caller.tenant, caller.key_id
        step_done("admit")
        body = await read_body(request, services.settings.max_body_mb * 10**6)
        step_done("receive")
        timeout_s = read_timeout_s(headers)
    except GatewayError as error:
        if (over_limit := getattr(request.state, "caller", None)) is not None:
            refused.tenant, refused.key_id = over_limit.tenant, over_limit.key_id
        refused.status, refused.outcome = error.status, error.code or error.type
        services.ledger.write(refused)
        raise
    call = Call(
        body,
        dialect,
        caller,
        request_id,
        timeout_s=timeout_s,
        session=headers.get("x-session-id"),
        sticky=headers.get("x-coe-sticky", "on").lower() != "off",
    )
    return Exchange(services.pipeline, call)


def read_timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return ``x-coe-timeout-s``: how long a client will wait; None when it does not say.

    Raises
    ------
    InvalidRequestError
        When it is not a positive number.
    """
    sent = headers.get("x-coe-timeout-s")
    if sent is None:
        return None
    try:
        timeout_s = float(sent)
    except ValueError:
        timeout_s = 0.0
    if 0 < timeout_s <= MOST_TIMEOUT_S:
        return timeout_s
    raise InvalidRequestError(
        f"'x-coe-timeout-s' must be seconds, above 0 and at most {MOST_TIMEOUT_S}.",
        param="x-coe-timeout-s",
    )


class _HttpSink:
    def __init__(self, send: Send) -> None:
        self._send = send

    async def start(self, status: int, headers: dict[str, str]) -> None:
        raw = [_raw(*header) for header in headers.items()]
        if (timer := current_timer()) is not None:
            raw.append((b"server-timing", timer.header().encode()))
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
        answering = cast(asyncio.Task[None], asyncio.current_task())
        leaving = asyncio.create_task(_cancel_when_left(receive, answering))
        try:
            await self._pipeline.answer(self._call, _HttpSink(send))
            _log_timing(self._call.request_id)
        except asyncio.CancelledError:
            if not leaving.done():  # cancelled by somebody else
                raise
            answering.uncancel()
        finally:
            leaving.cancel()


def _log_timing(request_id: str) -> None:
    """Write down what the header could not say: relaying and accounting come after it."""
    timer = current_timer()
    if timer is not None:
        _log.info("timing", extra={"fields": {"request_id": request_id, **timer.steps_ms}})


@lru_cache(4096)
def _raw(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a header as bytes; what an expert put into it that may not be there becomes ``?``."""
    printable = re.sub(rb"[^\t\x20-\x7e\x80-\xff]", b"?", value.encode("latin-1", "replace"))
    return name.encode("ascii"), printable


async def _cancel_when_left(receive: Receive, answering: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()
