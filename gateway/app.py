"""The composition root: every part of a worker is made here and handed to those that need it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.accounting import RedisLedger
from gateway.api import admin, experts, health, keys, messages, openai, responses, route
from gateway.api.direct import DirectRoutes
from gateway.api.failures import (
    on_bug,
    on_gateway_error,
    on_http_error,
    on_invalid_parameter,
)
from gateway.api.in_flight import InFlightLimit
from gateway.backends.chosen import ChosenBackend
from gateway.backends.litellm_sdk import LiteLLMBackend
from gateway.backends.openai_http import OpenAIBackend
from gateway.cache.answers import AnswerCache
from gateway.cache.choices import RedisChoiceCache
from gateway.cache.link import Link, connect, n_cancellations
from gateway.cache.responses import Responses
from gateway.cache.sessions import RedisSessions
from gateway.dispatch import Dispatcher
from gateway.errors import ConfigError, GatewayError
from gateway.keys import KeyStore
from gateway.limits import Limits
from gateway.live.editor import Editor
from gateway.live.follower import Follower
from gateway.live.versions import TIMEOUT_MS, VersionStore
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.planner import Planner
from gateway.services import Services
from gateway.settings import Settings
from gateway.supervisor.plan import cache_url
from gateway.supervisor.supervisor import read_states

LEDGER_PERIOD_S = 2.0

_log = logging.getLogger(__name__)


def create_app(settings: Settings, environ: Mapping[str, str] = os.environ) -> FastAPI:
    """Make the application of one worker.

    Parameters
    ----------
    settings : Settings
        Its `run_dir` must be set: the parent's folder, which says what to serve.
    environ : Mapping of str to str
        Where keys are read that experts name by ``api_key_env``.

    Raises
    ------
    ConfigError
        When the experts file, the router or a key is missing or broken.
    """
    services, executor = _services(settings, environ)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services
        storing = asyncio.create_task(_store_ledger(services))
        following = asyncio.create_task(
            services.follower.run(services.backend.prepare, services.swap)
        )
        yield
        for task in (storing, following):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await services.ledger.store()
        await services.backend.aclose()
        await services.limits.aclose()
        await services.cache.aclose()
        await services.editor.aclose()
        executor.shutdown()

    def outside(inner: ASGIApp) -> ASGIApp:
        direct = DirectRoutes(inner, [openai.router, messages.router, responses.router])
        most_mb = max(settings.max_in_flight_mb, settings.max_body_mb)
        return AnswerHeaders(InFlightLimit(direct, settings.max_in_flight, most_mb))

    app = _App(outside, lifespan)
    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)
    app.add_exception_handler(Exception, on_bug)
    for surface in (openai, messages, responses, route, admin, experts, keys, health):
        app.include_router(surface.router)
    return app


class _App(FastAPI):
    """FastAPI, with layers of ours outside of all of its own: most requests never reach those.

    Parameters
    ----------
    outside : callable
        Puts the layers around an application.
    """

    def __init__(
        self,
        outside: Callable[[ASGIApp], ASGIApp],
        lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    ) -> None:
        title = "Composition of Experts gateway"
        super().__init__(title=title, lifespan=lifespan, docs_url=None, redoc_url=None)
        self._outside = outside

    def build_middleware_stack(self) -> ASGIApp:
        """See `Starlette.build_middleware_stack`."""
        return self._outside(super().build_middleware_stack())


def _services(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[Services, ThreadPoolExecutor]:
    run_dir = settings.run_dir
    if run_dir is None:
        raise ConfigError("run_dir must be set. Start the gateway with: coe serve")
    follower = Follower(run_dir, settings.config, environ)
    metrics = Metrics(CollectorRegistry(), environ.get("PROMETHEUS_MULTIPROC_DIR"))
    url = settings.redis_url.get_secret_value() if settings.redis_url else cache_url(run_dir)
    redis = connect(url, settings.redis_timeout_ms)
    backend = ChosenBackend(OpenAIBackend(run_dir, environ), LiteLLMBackend(environ))
    backend.prepare(follower.composition.registry.values())
    link = Link(redis, metrics, settings.redis_timeout_ms)
    cache = RedisChoiceCache(link, settings.choice_ttl_s)
    executor = ThreadPoolExecutor(os.cpu_count() or 1, "classify")
    planner = Planner(follower.composition, cache, RedisSessions(link), executor, metrics)
    answers = AnswerCache(link, settings.answer_ttl_s)
    limits = Limits(link, lambda: planner.composition.registry.largest_active_params_b)
    ledger = RedisLedger(redis, uuid4().hex, metrics, limits.charge)
    dispatcher = Dispatcher(backend, metrics)
    versions = VersionStore(connect(url, TIMEOUT_MS), settings.config.name)
    services = Services(
        settings=settings,
        follower=follower,
        editor=Editor(versions, settings.config, run_dir, environ, backend.http),
        planner=planner,
        dispatcher=dispatcher,
        pipeline=Pipeline(planner, dispatcher, ledger, answers),
        backend=backend,
        cache=link,
        keys=KeyStore(link),
        limits=limits,
        responses=Responses(link),
        ledger=ledger,
        metrics=metrics,
        children=_children_of(run_dir),
        started_at=time.time(),
    )
    return services, executor


def _children_of(run_dir: Path) -> Callable[[], Mapping[str, str]]:
    return lambda: read_states(run_dir)


async def _store_ledger(services: Services) -> None:
    await services.ledger.fold()
    while not n_cancellations():
        await asyncio.sleep(LEDGER_PERIOD_S)
        await services.ledger.store()


class AnswerHeaders:
    """Gives every request an id, the client's own where it is harmless, and answers with it.

    What is put into ``request.state.headers`` on the way is added to the answer too.
    """

    _harmless = re.compile(rb"[A-Za-z0-9._-]{1,128}")

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = asked if self._harmless.fullmatch(asked) else uuid4().hex.encode()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()

        async def send_with_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in state.get("headers", {}).items()]
                added = [(b"x-request-id", request_id), *more]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_with_more)
