"""The decision alone: what the router says of a prompt, and which experts would answer it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import Raw

from gateway.api.body import read_body
from gateway.auth import authenticate
from gateway.composition import label
from gateway.errors import InvalidRequestError
from gateway.experts import AUTO
from gateway.plan import Plan
from gateway.protocol import ChatRequest, decode_fields, encode_fields, parse_chat_request
from gateway.services import services_of
from routers.base import Decision, Router, margins, windows
from routers.keyword import KeywordRouter
from routers.mapping import ExpertMapping, ScoredMapping

router = APIRouter(prefix="/v1")

_PROMPT = {"type": "object", "properties": {"prompt": {"type": "string"}}}
_BODY = {"content": {"application/json": {"schema": _PROMPT}}, "required": True}


class _Wish(msgspec.Struct):
    prompt: str | None = None
    model: str | None = None
    explain: bool | None = None


_decode_wish = msgspec.json.Decoder(_Wish).decode


@router.post("/route", openapi_extra={"requestBody": _BODY})
async def route(request: Request) -> dict[str, Any]:
    """Say where a request would go; takes ``{"prompt": ...}`` or a chat completion request.

    With ``"explain": true`` the LLM router, where there is one, also gives its reason.
    """
    services = services_of(request)
    caller = await authenticate(request)
    body = await read_body(request, services.settings.max_body_mb * 10**6)
    chat, explain = read_question(body)
    caller.check_model(chat.model)
    plan = await services.planner.plan(
        chat.model, chat.messages, chat.needs, caller.tenant, chat.max_tokens
    )
    shown = describe(plan)
    if explain and plan.reading is not None:
        shown["explanation"] = await services.planner.explain(plan.reading.text)
    return shown


def read_question(body: bytes) -> tuple[ChatRequest, bool]:
    """Return the chat completion request that is asked about, and whether reasons are wanted.

    Raises
    ------
    InvalidRequestError
        Naming the field at fault; also for bytes that are not JSON.
    """
    wish, fields = decode_fields(body, _decode_wish)
    return parse_chat_request(_as_chat(wish, fields)), bool(wish.explain)


def _as_chat(wish: _Wish, fields: Mapping[str, Raw]) -> bytes:
    """Return the chat completion request that is asked about; without a model, it is routed."""
    chat: dict[str, Any] = {**fields, "model": wish.model or AUTO}
    if wish.prompt is not None:
        if not wish.prompt.strip():
            raise InvalidRequestError("'prompt' must not be empty.", param="prompt")
        chat["messages"] = [{"role": "user", "content": wish.prompt}]
    elif "messages" not in fields:
        raise InvalidRequestError(
            "The request body must hold 'prompt' or 'messages'; got neither. "
            'Write {"prompt": "..."}, or send a chat completion request.',
            param="messages",
        )
    return encode_fields(chat)


def describe(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON: the answer of ``/v1/route`` and of ``coe route --json``.

    `lead` is by how much the likeliest category leads `general`, where there is such a category,
    and keeps the prompt when it is not less than `threshold`. `mapped` says whether the mapping
    names the category: where it does not, the general expert has it.
    """
    first, decision, reading = plan.experts[0], plan.decision, plan.reading
    size = first.active_params_b
    shown: dict[str, Any] = {
        "category": None,
        "confidence": None,
        "probabilities": None,
        "expert": first.name,
        "ranked": [expert.name for expert in plan.experts],
        "reason": plan.reason,
        "keyword": None,
        "lead": None,
        "threshold": None,
        "mapped": None,
        "router": None,
        "active_params_b": None if size is None else size + plan.router_active_params_b,
        "cache": plan.cache,
        "read": None,
        "experts": None,
    }
    if decision is not None and reading is not None and plan.router is not None:
        names = plan.router.categories_
        shown |= {
            "router": label(plan.router),
            "category": decision.category,
            "confidence": decision.confidence,
            "keyword": _keyword(plan.router, reading.text),
            "lead": _lead(plan.router, decision),
            "threshold": decision.min_margin,
            "mapped": plan.mapping is not None and decision.category in plan.mapping.plain(),
            "probabilities": dict(zip(names, decision.probabilities.tolist(), strict=True)),
            "read": {
                "text": reading.text,
                "of": asdict(reading.read),
                "windows": [asdict(one) for one in windows(plan.router, reading.text)],
            },
            "experts": _weighed(plan.mapping, decision, plan.preset),
        }
    return shown


def _lead(router: Router, decision: Decision) -> float | None:
    """Return what the threshold was held against, see `margins`; None where that is infinite."""
    lead = float(margins(decision.probabilities[None], router.categories_)[0])
    return lead if math.isfinite(lead) else None


def _keyword(router: Router, text: str) -> str | None:
    """Return the keyword of the operator that decides for a text, None where none does."""
    return router.rule_for(text) if isinstance(router, KeywordRouter) else None


def _weighed(
    mapping: ExpertMapping | None, decision: Decision, preset: str | None
) -> dict[str, dict[str, float]] | None:
    """Return expected score and utility by expert; None where experts are ranked by hand."""
    if not isinstance(mapping, ScoredMapping) or preset is None:
        return None
    scores, utilities = mapping.expected(decision), mapping.utility(decision, preset)
    return {
        name: {"expected_score": score, "utility": utility}
        for name, score, utility in zip(
            mapping.experts, scores.tolist(), utilities.tolist(), strict=True
        )
    }
