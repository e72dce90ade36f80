"""Limits of what is under way in one worker: what is too much is refused at once."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.failures import on_gateway_error
from gateway.errors import OverloadedError
from gateway.wire import REST

RETRY_AFTER_S = 1.0


class InFlightLimit:
    """Refuses a POST below ``/v1/`` while the worker has its fill of them.

    A worker that takes more than it can do answers all of them late, and holds their bodies.
    Nothing more is read from a refused request's connection until it may be tried again: clients
    that do not wait would leave no time for those that were let in.

    Parameters
    ----------
    most : int
        Requests under way.
    most_mb : int
        What their bodies may hold together, in 10^6 bytes; those that have come, not those that
        were announced.
    """

    def __init__(self, app: ASGIApp, most: int, most_mb: int) -> None:
        self._app = app
        self._most = most
        self._most_mb = most_mb
        self._under_way = 0
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI event."""
        counted = scope["type"] == "http" and scope["method"] == "POST"
        if not counted or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            error = _full(scope, f"{self._most} requests are under way (COE_MAX_IN_FLIGHT)")
            refused = await on_gateway_error(Request(scope, receive), error)
            await refused(scope, receive, send)
            return
        mine_bytes = 0

        async def receive_counted() -> Message:
            nonlocal mine_bytes
            message = await receive()
            size = len(message.get("body", b""))
            if self._held_bytes + size > self._most_mb * 10**6:
                what = f"the requests under way hold {self._most_mb} MB (COE_MAX_IN_FLIGHT_MB)"
                raise _full(scope, what)
            mine_bytes += size
            self._held_bytes += size
            return message

        self._under_way += 1
        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._under_way -= 1
            self._held_bytes -= mine_bytes


def _full(scope: Scope, what: str) -> OverloadedError:
    """Return why a request is refused, and let its connection rest."""
    scope["state"][REST] = RETRY_AFTER_S
    text = f"This gateway is full: {what}. Try again later."
    return OverloadedError(text, retry_after_s=RETRY_AFTER_S)
