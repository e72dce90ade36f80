"""The OpenAI surface: chat and text completions, embeddings, and the list of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.api.body import read_body
from gateway.api.exchange import Exchange
from gateway.auth import authenticate
from gateway.dialects.base import Dialect
from gateway.dialects.openai import Plain
from gateway.errors import InvalidRequestError, ModelNotFoundError
from gateway.keys import Caller
from gateway.pipeline import Call
from gateway.protocol import parse_chat_request
from gateway.protocol_text import parse_completion_request, parse_embedding_request
from gateway.services import Services, services_of

router = APIRouter(prefix="/v1")

CHAT = Plain(parse_chat_request)
COMPLETIONS = Plain(parse_completion_request)
EMBEDDINGS = Plain(parse_embedding_request)
MOST_TIMEOUT_S = 86_400
_BODY = {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}


@router.post("/chat/completions", openapi_extra={"requestBody": _BODY})
async def chat_completions(request: Request) -> Response:
    """Answer a conversation; ``model: auto`` picks the expert, an expert's name pins it."""
    return await answer(request, CHAT)


@router.post("/completions", openapi_extra={"requestBody": _BODY})
async def completions(request: Request) -> Response:
    """Go on with a text; ``model: auto`` picks the expert by it."""
    return await answer(request, COMPLETIONS)


@router.post("/embeddings", openapi_extra={"requestBody": _BODY})
async def embeddings(request: Request) -> Response:
    """Return the embeddings of texts, by an expert with the capability ``embeddings``."""
    return await answer(request, EMBEDDINGS)


async def answer(request: Request, dialect: Dialect) -> Response:
    """Read a request and hand it to the pipeline."""
    services = services_of(request)
    caller = await authenticate(request)
    body = await read_body(request, services.settings.max_body_mb * 10**6)
    headers = request.headers
    call = Call(
        body,
        dialect,
        caller,
        request.state.request_id,
        timeout_s=read_timeout_s(headers),
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
