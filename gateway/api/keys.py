"""The administrator's surface for API keys: make, list and revoke them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from gateway.api.body import read_body
from gateway.auth import authorize_admin
from gateway.errors import (
    CacheError,
    InvalidRequestError,
    KeysUnavailableError,
    NotFoundError,
)
from gateway.keys import MOST, KeyWish
from gateway.services import Services, services_of

router = APIRouter(prefix="/admin/keys")

MOST_BODY_BYTES = 100_000
_COUNT, _AMOUNT = f"a whole number from 1 to {MOST}", f"a number above 0, at most {MOST}"
_ALLOWED = {
    "tenant": "1 to 64 of the letters a to z and A to Z, digits, '.', '_' and '-', and begin with "
    "a letter or a digit",
    "models": "a list of one model or more",
    "requests_per_min": _COUNT,
    "tokens_per_min": _COUNT,
    "active_b_tokens_per_day": _AMOUNT,
    "expires_in_s": _AMOUNT,
}
"""Fields of a `KeyWish` -> what they may be."""
_BODY = {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}


@router.post("", status_code=201, openapi_extra={"requestBody": _BODY})
async def create_key(request: Request) -> dict[str, Any]:
    """Make a key; its text is in this answer and nowhere else."""
    services = services_of(request)
    authorize_admin(request, services.settings)
    wish = _read(await read_body(request, MOST_BODY_BYTES), services)
    with _told():
        key, text = await services.keys.create(wish)
    kept = "until the gateway stops" if services.settings.redis_url is None else "in REDIS_URL"
    return {"key": text, **key.shown(), "kept": kept, "needed": services.settings.needs_key}


@router.get("")
async def list_keys(request: Request) -> dict[str, Any]:
    """Return all keys, without their texts."""
    services = services_of(request)
    authorize_admin(request, services.settings)
    with _told():
        return {"keys": [key.shown() for key in await services.keys.list()]}


@router.delete("/{key_id}")
async def revoke_key(request: Request, key_id: str) -> dict[str, Any]:
    """Revoke a key: other workers and replicas refuse it within `gateway.keys.FRESH_S`."""
    services = services_of(request)
    authorize_admin(request, services.settings)
    with _told():
        revoked = await services.keys.revoke(key_id)
    if not revoked:
        raise NotFoundError(f"No API key has the id {key_id[:80]!r}. List them with coe keys list.")
    return {"id": key_id, "revoked": True}


def _read(body: bytes, services: Services) -> KeyWish:
    try:
        sent = msgspec.json.decode(body)
        wish = msgspec.convert(sent, KeyWish)
    except msgspec.ValidationError as error:
        raise _wish_error(sent, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The key cannot be made: {error}.") from error
    composition = services.composition
    allowed = (*composition.routes, *composition.registry)
    for model in wish.models or ():
        if model not in allowed:
            raise InvalidRequestError(
                f"'models' must be among {', '.join(allowed)}; got {model[:80]!r}.", param="models"
            )
    return wish


def _wish_error(sent: dict[str, object], problem: str) -> InvalidRequestError:
    """Name the field at fault, what it may be and what came."""
    field = problem.rpartition("`$.")[2].rstrip("`").partition("[")[0]
    if field not in _ALLOWED:
        return InvalidRequestError(
            f"The key cannot be made: {problem}. Fields are {', '.join(_ALLOWED)}."
        )
    came = repr(sent[field])[:80]
    return InvalidRequestError(f"'{field}' must be {_ALLOWED[field]}; got {came}.", param=field)


@contextmanager
def _told() -> Iterator[None]:
    """Tell the administrator when Redis cannot be reached."""
    try:
        yield
    except CacheError as error:
        raise KeysUnavailableError(
            "Redis, where keys are kept, cannot be reached. Try again.", retry_after_s=1
        ) from error
