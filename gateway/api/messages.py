"""The Anthropic surface: messages, and how many tokens they take."""

from __future__ import annotations

from dataclasses import replace
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
from gateway.usage import Count

router = APIRouter(prefix="/v1")


class _Count(msgspec.Struct):
    input_tokens: Count


COUNT_PATH = f"{PATH}/count_tokens"


@router.post("/messages", openapi_extra={"requestBody": JSON_BODY})
async def messages(request: Request) -> Response:
    """Answer a conversation in Anthropic's form; ``model: auto`` picks the expert."""
    return await answer(request, Messages(request.headers))


@router.post("/messages/count_tokens", openapi_extra={"requestBody": JSON_BODY})
async def count_tokens(request: Request) -> dict[str, Any]:
    """Say how many tokens a conversation takes.

    The expert that it would go to counts them where it has the capability ``messages``; elsewhere
    and where it does not answer in the time that a first token may take, they are estimated, rather
    too many than too few. A call counts as a request of its key; nothing is generated, so that the
    ledger has no record of it.
    """
    services = services_of(request)
    caller = await authenticate(request)
    body = await read_body(request, services.settings.max_body_mb * 10**6)
    asked = Messages(request.headers).translate(body, COUNT_PATH)
    chat = asked.request
    caller.check_model(chat.model)
    plan = await services.planner.plan(chat.model, chat.messages, asked.needs, caller.tenant)
    sent = upstream_request(asked, plan.experts[0], request.state.request_id)
    counted = await _counted(services, plan.experts[0], sent) if sent.path == COUNT_PATH else None
    return {"input_tokens": estimate_tokens(chat) if counted is None else counted}


async def _counted(services: Services, expert: Expert, sent: UpstreamRequest) -> int | None:
    """Return what an expert counted; None when it did not."""
    try:
        # 'stream' means nothing here
        body = await services.dispatcher.read_aside(expert, replace(sent, stream=False))
        return msgspec.json.decode(body, type=_Count).input_tokens
    except (ExpertError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
