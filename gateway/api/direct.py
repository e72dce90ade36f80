"""The short way to the endpoints that answer with a model: FastAPI's costs as much as they do."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.failures import on_bug, on_gateway_error
from gateway.errors import GatewayError


class DirectRoutes:
    """Calls POST endpoints that make their own `Response` straight; others through FastAPI.

    Parameters
    ----------
    app : ASGI application
        FastAPI's own way to the same endpoints, and to all others.
    routers : sequence of APIRouter
        Their endpoints take a `Request` and nothing else.
    """

    def __init__(self, app: ASGIApp, routers: Sequence[APIRouter]) -> None:
        self._app = app
        routes = [route for router in routers for route in router.routes]
        self._endpoints = {
            route.path: route.endpoint
            for route in routes
            if isinstance(route, APIRoute)
            and "POST" in (route.methods or ())
            and inspect.signature(route.endpoint, eval_str=True).return_annotation is Response
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI event."""
        posted = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._endpoints.get(scope["path"]) if posted else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        request = Request(scope, receive)
        try:
            response = await endpoint(request)
            await response(scope, receive, noting_send)
        except GatewayError as error:
            if started:
                raise
            failed = await on_gateway_error(request, error)
            await failed(scope, receive, send)
        except Exception as error:
            if not started:
                failed = await on_bug(request, error)
                await failed(scope, receive, send)
            raise
