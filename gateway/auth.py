"""Who may call: clients by one key, administrators by their own."""

from __future__ import annotations

from hmac import compare_digest

from pydantic import SecretStr
from starlette.requests import Request

from gateway.errors import AuthenticationError, PermissionDeniedError
from gateway.settings import Settings, is_loopback

DEFAULT_TENANT = "default"


def authenticate(request: Request, settings: Settings) -> str:
    """Return the tenant of a client.

    Raises
    ------
    AuthenticationError
        When a key is set and the request does not carry it.
    PermissionDeniedError
        When none is set and a page of another site has the browser ask.
    """
    if settings.api_key is None and request.headers.get("sec-fetch-site") == "cross-site":
        raise PermissionDeniedError(
            "Pages of other sites may not use a gateway without a key. Set COE_API_KEY."
        )
    if settings.api_key is not None and not _carries(request, settings.api_key):
        raise AuthenticationError(
            "No API key, or a wrong one. Send it as 'Authorization: Bearer <key>'."
        )
    return DEFAULT_TENANT


def authorize_admin(request: Request, settings: Settings) -> None:
    """Admit administrators only.

    Raises
    ------
    AuthenticationError
        When an admin key is set and the request does not carry it.
    PermissionDeniedError
        When none is set and the caller is not on this machine.
    """
    if settings.admin_key is not None:
        if not _carries(request, settings.admin_key):
            raise AuthenticationError(
                "No admin key, or a wrong one. Send it as 'Authorization: Bearer <key>'."
            )
        return
    if request.client is None or not is_loopback(request.client.host):
        raise PermissionDeniedError(
            "/admin is open to callers on this machine only while COE_ADMIN_KEY is not set."
        )


def _carries(request: Request, key: SecretStr) -> bool:
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    return compare_digest(sent.encode(), key.get_secret_value().encode())
