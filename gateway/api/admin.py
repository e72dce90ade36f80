"""The administrator's surface: what the ledger counted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.auth import authorize_admin
from gateway.services import services_of

router = APIRouter(prefix="/admin")


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """Return totals and averages: over all requests, by expert, category, tenant and preset."""
    services = services_of(request)
    authorize_admin(request, services.settings)
    registry, best = services.composition.registry, services.composition.best_single
    best_b = services.composition.best_single_params_b
    return {
        "resident_params_b": registry.resident_params_b,
        "unknown_weights": registry.unknown_weights,
        "best_single": None if best is None else {"expert": best.name, "active_params_b": best_b},
        **await services.ledger.stats(best_b),
    }
