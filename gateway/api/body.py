"""Read a request body within limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from gateway.errors import BodyTooLargeError, ClientLeftError, RequestTimeoutError
from gateway.services import services_of

LEAST_BYTES_PER_S = 100_000
"""A long body may take longer than the client's timeout if it comes this fast on average."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises
    ------
    BodyTooLargeError
        As soon as more than `limit_bytes` are announced or have come.
    RequestTimeoutError
        When it comes too slowly.
    ClientLeftError
        When it ends in the middle.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    deadline_s = asyncio.get_running_loop().time() + services_of(request).settings.client_timeout_s
    try:
        async with asyncio.timeout_at(deadline_s) as limit:
            async for part in request.stream():
                size += len(part)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                parts.append(part)
                limit.reschedule(deadline_s + size / LEAST_BYTES_PER_S)
    except TimeoutError as error:
        raise RequestTimeoutError(
            "The request body did not come in time (COE_CLIENT_TIMEOUT_S)."
        ) from error
    except ClientDisconnect as error:
        raise ClientLeftError("The client left in the middle of its request.") from error
    return b"".join(parts)


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The request body must be at most {limit_bytes // 10**6} MB (COE_MAX_BODY_MB)."
    )
