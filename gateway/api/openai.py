"""The OpenAI surface: chat and text completions, embeddings, and the list of models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.api.exchange import JSON_BODY, answer
from gateway.auth import authenticate
from gateway.dialects.openai import Plain
from gateway.errors import ModelNotFoundError
from gateway.keys import Caller
from gateway.protocol import parse_chat_request
from gateway.protocol_text import parse_completion_request, parse_embedding_request
from gateway.services import Services, services_of

router = APIRouter(prefix="/v1")

CHAT = Plain(parse_chat_request)
COMPLETIONS = Plain(parse_completion_request)
EMBEDDINGS = Plain(parse_embedding_request)


@router.post("/chat/completions", openapi_extra={"requestBody": JSON_BODY})
async def chat_completions(request: Request) -> Response:
    """Answer a conversation; ``model: auto`` picks the expert, an expert's name pins it."""
    return await answer(request, CHAT)


@router.post("/completions", openapi_extra={"requestBody": JSON_BODY})
async def completions(request: Request) -> Response:
    """Go on with a text; ``model: auto`` picks the expert by it."""
    return await answer(request, COMPLETIONS)


@router.post("/embeddings", openapi_extra={"requestBody": JSON_BODY})
async def embeddings(request: Request) -> Response:
    """Return the embeddings of texts, by an expert with the capability ``embeddings``."""
    return await answer(request, EMBEDDINGS)


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List what `model` may be: ``auto``, ``auto:<preset>`` and the experts."""
    services = services_of(request)
    caller = await authenticate(request)
    return {"object": "list", "data": _models(services, caller)}


@router.get("/models/{name}")
async def show_model(request: Request, name: str) -> dict[str, Any]:
    """Show one entry of the list of models."""
    services = services_of(request)
    caller = await authenticate(request)
    models = {model["id"]: model for model in _models(services, caller)}
    if name not in models:
        raise ModelNotFoundError(
            f"'model' must be one of: {', '.join(models)}; got {name[:80]!r}.", param="model"
        )
    return models[name]


def _models(services: Services, caller: Caller) -> list[dict[str, Any]]:
    registry = services.composition.registry
    shared: dict[str, Any] = {
        "object": "model",
        "created": int(services.started_at),
        "owned_by": "coe",
    }
    routed = [
        {"id": name, **shared, "description": f"routed by the prompt, preset {preset}"}
        for name, preset in services.composition.routes.items()
    ]
    experts = [
        {
            "id": expert.name,
            **shared,
            "description": expert.description,
            "active_params_b": expert.active_params_b,
            "total_params_b": expert.total_params_b,
            "max_model_len": expert.context_window,
        }
        for expert in registry.values()
    ]
    return [model for model in (*routed, *experts) if caller.may_use(model["id"])]
