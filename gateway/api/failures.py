"""How failures are answered: in the form that the clients of a path read."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.dialects.messages_answer import error_body
from gateway.errors import GatewayError, InvalidRequestError

_log = logging.getLogger(__name__)


async def on_gateway_error(request: Request, error: Exception) -> Response:
    """Answer with an error that was raised on purpose."""
    if not isinstance(error, GatewayError):
        raise error
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return _shaped(request, error, error.status, headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method in the same form as every other error."""
    if not isinstance(error, HTTPException):
        raise error
    hint = " GET /openapi.json lists what there is." if error.status_code in {404, 405} else ""
    message = f"{error.detail}: {request.method} {request.url.path[:200]}.{hint}"
    return _shaped(request, InvalidRequestError(message), error.status_code, error.headers)


async def on_invalid_parameter(request: Request, error: Exception) -> Response:
    """Answer a query that is not of its type in the same form as every other error."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    name = str(first["loc"][-1])
    refused = InvalidRequestError(f"'{name}': {first['msg']}.", param=name)
    return _shaped(request, refused, refused.status, {})


async def on_bug(request: Request, error: Exception) -> Response:
    """Answer after a fault of the gateway itself; the log says what it was."""
    _log.error("bug", exc_info=error, extra={"fields": {"path": request.url.path[:200]}})
    # uvicorn closes after it, as it does not know what state the connection is in
    headers = {"connection": "close"}
    return _shaped(request, GatewayError("The gateway failed; see its log."), 500, headers)


def _shaped(
    request: Request, error: GatewayError, status: int, headers: Mapping[str, str] | None
) -> Response:
    """Return an error in Anthropic's form on its paths, in OpenAI's everywhere else."""
    anthropic = request.url.path.startswith("/v1/messages")
    body = error_body(status, error.message) if anthropic else error.envelope()
    return JSONResponse(body, status, headers)
