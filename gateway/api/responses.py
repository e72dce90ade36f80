"""OpenAI's Responses API: create, and what is kept of it."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from gateway.api.body import read_body
from gateway.api.exchange import JSON_BODY, answer
from gateway.auth import authenticate
from gateway.cache.responses import StoredResponse
from gateway.dialects.responses import ResponsesDialect
from gateway.dialects.tokens import estimate_tokens
from gateway.errors import InvalidRequestError, NotFoundError
from gateway.services import services_of

router = APIRouter(prefix="/v1/responses")


@router.post("", openapi_extra={"requestBody": JSON_BODY})
async def create(request: Request) -> Response:
    """Answer an input; it is kept for ``previous_response_id`` unless ``store`` is false."""
    return await answer(request, ResponsesDialect(services_of(request).responses))


@router.post("/input_tokens", openapi_extra={"requestBody": JSON_BODY})
async def input_tokens(request: Request) -> dict[str, Any]:
    """Say about how many tokens an input takes, rather too many than too few."""
    services = services_of(request)
    caller = await authenticate(request)
    body = await read_body(request, services.settings.max_body_mb * 10**6)
    asked = await ResponsesDialect(services.responses).parse(body, caller.tenant)
    return {"object": "response.input_tokens", "input_tokens": estimate_tokens(asked.request)}


@router.get("/{response_id}")
async def show(request: Request, response_id: str) -> dict[str, Any]:
    """Show a response that was kept."""
    return (await _find(request, response_id)).response


@router.delete("/{response_id}")
async def delete(request: Request, response_id: str) -> dict[str, Any]:
    """Forget a response."""
    caller = await authenticate(request)
    if not await services_of(request).responses.delete(caller.tenant, response_id):
        raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/{response_id}/cancel")
async def cancel(request: Request, response_id: str) -> dict[str, Any]:
    """Refuse: every response is answered at once, so that there is nothing to cancel."""
    await _find(request, response_id)
    raise InvalidRequestError("This response has ended; there is nothing to cancel.")


@router.get("/{response_id}/input_items")
async def input_items(
    request: Request,
    response_id: str,
    limit: int = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """List the items that a response was made from, without those of responses before it."""
    items = (await _find(request, response_id)).input
    if order == "desc":
        items = items[::-1]
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    page = items[start : start + max(1, min(limit, 100))]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < len(items),
    }


async def _find(request: Request, response_id: str) -> StoredResponse:
    caller = await authenticate(request)
    stored = await services_of(request).responses.get(caller.tenant, response_id)
    if stored is None:
        raise _not_found(response_id)
    return stored


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no response {response_id[:80]!r}, or no longer.", param="response_id"
    )
