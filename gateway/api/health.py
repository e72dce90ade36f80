"""Whether the gateway lives, whether it is ready and what it waits for, and its metrics."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.auth import authorize_admin
from gateway.composition import label
from gateway.errors import CacheError, ExpertError
from gateway.experts import Expert
from gateway.live.follower import Follower
from gateway.services import Services, services_of
from gateway.supervisor.plan import process_of

router = APIRouter()

PROBE_TIMEOUT_S = 1.0


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that this process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Say whether every local expert is up; what is not, and why. 503 until then.

    The cache is reported and not waited for: requests go on without it. An edit of the experts that
    was refused is reported too: they are served as they were. So is which experts this process
    leaves alone after failures, and for how many seconds: others answer for them.

    `experts` holds the local ones alone. Experts with an address of their own are not asked, as
    that may cost, and are not waited for: of those, `left_alone_s` and ``coe experts check`` tell.
    """
    services = services_of(request)
    local = services.composition.registry.local_weights
    states = await asyncio.gather(*(_expert_state(services, e) for e in local.values()))
    experts = dict(zip(local, states, strict=True))
    ready = all(state == "ok" for state in states)
    shown = {
        "ready": ready,
        "routers": [label(router) for router in services.composition.routers],
        "experts": experts,
        "left_alone_s": _left_alone_s(services),
        "cache": await _cache_state(services),
        "config": _config_state(services.follower),
    }
    return JSONResponse(shown, status_code=200 if ready else 503)


async def _expert_state(services: Services, expert: Expert) -> str:
    """Return ``ok``, or what is known of a local process that does not answer."""
    try:
        await services.backend.http.get(expert, "models", PROBE_TIMEOUT_S)
    except ExpertError as error:
        return services.children().get(process_of(expert)) or error.message
    return "ok"


def _left_alone_s(services: Services) -> dict[str, float]:
    guards = services.dispatcher.guards
    rests = {
        e.name: guards.of(e).breaker.rests_for_s for e in services.composition.registry.values()
    }
    return {name: round(rest_s, 1) for name, rest_s in rests.items() if rest_s > 0}


def _config_state(follower: Follower) -> dict[str, Any]:
    live = follower.live
    return {"version": live.number, "digest": live.digest, "error": follower.error}


async def _cache_state(services: Services) -> str:
    try:
        await services.cache.ping()
    except CacheError as error:
        return f"{error}; requests go on without it"
    return "ok"


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics of all workers in the Prometheus text format.

    They tell of all tenants: where clients need keys, they are for administrators.
    """
    services = services_of(request)
    if services.settings.needs_key:
        authorize_admin(request, services.settings)
    best_b = services.composition.best_single_params_b
    services.metrics.resident_params_b.set(services.composition.registry.resident_params_b)
    services.metrics.best_single_params_b.set(math.nan if best_b is None else best_b)
    services.metrics.config_version.set(services.follower.live.number)
    services.metrics.config_errors.set(services.follower.n_refused)
    body: Any = services.metrics.render()
    return Response(body, media_type="text/plain; version=0.0.4")
