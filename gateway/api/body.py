"""Read a request body within a limit."""

from __future__ import annotations

from starlette.requests import Request

from gateway.errors import BodyTooLargeError


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises
    ------
    BodyTooLargeError
        As soon as more than `limit_bytes` are announced or have come.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The request body must be at most {limit_bytes // 10**6} MB (COE_MAX_BODY_MB)."
    )
