"""A limit of the requests under way in one worker: what is too much is refused at once."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.failures import on_gateway_error
from gateway.errors import OverloadedError
from gateway.wire import REST

RETRY_AFTER_S = 1.0


class InFlightLimit:
    """Refuses a POST below ``/v1/`` while `most` of them are under way.

    A worker that takes more than it can do answers all of them late, and holds their bodies.
    Nothing more is read from a refused request's connection until it may be tried again: clients
    that do not wait would leave no time for those that were let in.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI event."""
        counted = scope["type"] == "http" and scope["method"] == "POST"
        if not counted or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            error = OverloadedError(
                f"This gateway is full: {self._most} requests are under way "
                "(COE_MAX_IN_FLIGHT). Try again later.",
                retry_after_s=RETRY_AFTER_S,
            )
            scope["state"][REST] = RETRY_AFTER_S
            refused = await on_gateway_error(Request(scope, receive), error)
            await refused(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
