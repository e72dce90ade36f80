"""Every error the gateway raises on purpose, with its HTTP status and OpenAI `type` and `code`.

::

    GatewayError                     500 api_error
    ├── InvalidRequestError          400 invalid_request_error
    │   ├── RequestTimeoutError      408 invalid_request_error  request_timeout
    │   ├── BodyTooLargeError        413 invalid_request_error  request_too_large
    │   ├── ResponseGoneError        400 invalid_request_error  previous_response_not_found
    │   ├── NotFoundError            404 invalid_request_error
    │   ├── ModelNotFoundError       404 invalid_request_error  model_not_found
    │   └── ContextLengthError       400 invalid_request_error  context_length_exceeded
    ├── AuthenticationError          401 authentication_error   invalid_api_key
    ├── PermissionDeniedError        403 permission_error
    ├── RateLimitError               429 rate_limit_error       rate_limit_exceeded
    │   └── QuotaError               429 rate_limit_error       insufficient_quota
    ├── OvertakenEditError           412 invalid_request_error  overtaken
    ├── UnconditionalEditError       428 invalid_request_error  if_match_missing
    ├── OverloadedError              503 api_error              overloaded
    ├── EditsUnavailableError        503 api_error              edits_unavailable
    ├── KeysUnavailableError         503 api_error              keys_unavailable
    ├── StateUnavailableError        503 api_error              state_unavailable
    └── ExpertError                  502 api_error              expert_failed
        ├── ExpertMisusedError       502 api_error              expert_misconfigured
        ├── ExpertBusyError          429 rate_limit_error       expert_busy
        │   └── ExpertFullError      429 rate_limit_error       expert_busy
        ├── ExpertUnavailableError   503 api_error              expert_unavailable
        └── ExpertTimeoutError       504 api_error              expert_timeout
    ConfigError                      never over HTTP: a broken experts.yaml or environment
    CacheError                       never over HTTP: counted, and the request goes on

Clients of the OpenAI protocol find these fields in ``{"error": {message, type, param, code}}``,
and, when a stream is already open, in an event ``data: {"error": ...}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class GatewayError(Exception):
    """Base of the errors that reach a client.

    Parameters
    ----------
    message : str
        What is wrong, where, what is allowed, what came, and how to mend it.
    param : str or None
        The request field at fault, e.g. ``messages[0].content``; None when it is no one field.
    retry_after_s : float or None
        Seconds after which a retry may succeed; None when waiting does not help.
    headers : Mapping of str to str
        Further headers of the answer.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers

    def envelope(self) -> dict[str, Any]:
        """Return the OpenAI error object of this error."""
        fields = {"message": self.message, "type": self.type, "param": self.param}
        return {"error": {**fields, "code": self.code}}


class InvalidRequestError(GatewayError):
    """The request is malformed."""

    status = 400
    type = "invalid_request_error"


class RequestTimeoutError(InvalidRequestError):
    """The request body came too slowly."""

    status = 408
    code = "request_timeout"


class ClientLeftError(InvalidRequestError):
    """The client left before its request was whole: nobody reads the answer."""

    status = 499
    code = "client_left"


class BodyTooLargeError(InvalidRequestError):
    """The request body is over the limit."""

    status = 413
    code = "request_too_large"


class ResponseGoneError(InvalidRequestError):
    """The response that a request goes on with is not stored, or no longer."""

    code = "previous_response_not_found"


class NotFoundError(InvalidRequestError):
    """There is no such thing."""

    status = 404


class ModelNotFoundError(InvalidRequestError):
    """`model` names neither a route nor an expert."""

    status = 404
    code = "model_not_found"


class ContextLengthError(InvalidRequestError):
    """No expert has a context window that could hold the prompt."""

    code = "context_length_exceeded"


class AuthenticationError(GatewayError):
    """No API key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDeniedError(GatewayError):
    """The caller may not use this."""

    status = 403
    type = "permission_error"


class RateLimitError(GatewayError):
    """The requests or tokens that an API key may use in a minute are used up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QuotaError(RateLimitError):
    """The active parameters that an API key may use in a day are used up."""

    code = "insufficient_quota"


class OvertakenEditError(GatewayError):
    """Somebody else edited the experts first."""

    status = 412
    type = "invalid_request_error"
    code = "overtaken"


class UnconditionalEditError(GatewayError):
    """An edit does not say which state it edits."""

    status = 428
    type = "invalid_request_error"
    code = "if_match_missing"


class OverloadedError(GatewayError):
    """The worker has as many requests under way, or as much in their bodies, as it may."""

    status = 503
    code = "overloaded"


class EditsUnavailableError(GatewayError):
    """Redis, where the versions of the experts are, cannot be asked."""

    status = 503
    code = "edits_unavailable"


class KeysUnavailableError(GatewayError):
    """An API key cannot be checked because Redis cannot be reached."""

    status = 503
    code = "keys_unavailable"


class StateUnavailableError(GatewayError):
    """What was stored for a client cannot be read just now."""

    status = 503
    code = "state_unavailable"


class ExpertError(GatewayError):
    """An expert answered with a failure or with garbage.

    Attributes
    ----------
    asked_s : float or None
        How long the expert itself asked to be left alone, in seconds; None when it did not.
    upstream : str or None
        Type and code of the error that it sent, for the log; None when it sent none.
    """

    status = 502
    code = "expert_failed"
    asked_s: float | None = None
    upstream: str | None = None


class ExpertMisusedError(ExpertError):
    """An expert refuses what the operator configured: its key, its model or its address."""

    code = "expert_misconfigured"


class ExpertBusyError(ExpertError):
    """An expert refused the call because of its own limits."""

    status = 429
    type = "rate_limit_error"
    code = "expert_busy"


class ExpertFullError(ExpertBusyError):
    """An expert has no place left in this gateway; waiting is left to the client."""


class ExpertUnavailableError(ExpertError):
    """An expert cannot be reached, or is still loading."""

    status = 503
    code = "expert_unavailable"


class ExpertTimeoutError(ExpertError):
    """An expert did not answer in time."""

    status = 504
    code = "expert_timeout"


class ConfigError(Exception):
    """The configuration is broken; the message says where and how to mend it."""


class CacheError(Exception):
    """The cache failed; callers count it and go on without."""
