"""The Anthropic surface: messages, and how many tokens they take."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.api.body import read_body
from gateway.api.exchange import JSON_BODY, answer
from gateway.auth import authenticate
from gateway.backends.base import UpstreamRequest
from gateway.dialects.messages import PATH, Messages
from gateway.dialects.tokens import estimate_tokens
from gateway.errors import ExpertError
from gateway.experts import Expert
from gateway.pipeline import upstream_request
from gateway.services import Services, services_of

router = APIRouter(prefix="/v1")


class _Count(msgspec.Struct):
    input_tokens: int


COUNT_PATH = f"{PATH}/count_tokens"


@router.post("/messages", openapi_extra={"requestBody": JSON_BODY})
async def messages(request: Request) -> Response:
    """Answer a conversation in Anthropic's form; ``model: auto`` picks the expert."""
    return await answer(request, Messages(request.headers))


@router.post("/messages/count_tokens", openapi_extra={"requestBody": JSON_BODY})
async def count_tokens(request: Request) -> dict[str, Any]:
    """Say how many tokens a conversation takes.

    The expert that it would go to counts them where it has the capability ``messages``; elsewhere
    they are estimated, rather too many than too few.
    """
    services = services_of(request)
    caller = await authenticate(request)
    body = await read_body(request, services.settings.max_body_mb * 10**6)
    asked = Messages(request.headers).translate(body, COUNT_PATH)
    caller.check_model(asked.request.model)
    chat = asked.request
    plan = await services.planner.plan(chat.model, chat.messages, asked.needs, caller.tenant)
    sent = upstream_request(asked, plan.experts[0], request.state.request_id)
    counted = await _counted(services, plan.experts[0], sent) if sent.path == COUNT_PATH else None
    return {"input_tokens": estimate_tokens(asked.request) if counted is None else counted}


async def _counted(services: Services, expert: Expert, sent: UpstreamRequest) -> int | None:
    """Return what an expert counted; None when it did not."""
    try:
        response = await services.backend.open(expert, sent)
        try:
            body = await response.read()
        finally:
            await response.aclose()
        return (
            None if response.status != 200 else msgspec.json.decode(body, type=_Count).input_tokens
        )
    except (ExpertError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
