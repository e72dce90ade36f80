"""Who may call: clients by the static key or one of `gateway.keys`, administrators by their own."""

from __future__ import annotations

from hmac import compare_digest
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.requests import Request

from gateway.errors import AuthenticationError, PermissionDeniedError
from gateway.keys import PREFIX, Caller
from gateway.services import services_of
from gateway.settings import Settings, is_loopback

_PROXIED = {"forwarded", "via", "x-forwarded-for", "x-real-ip"}
"""Headers that proxies add for the client behind them."""


async def authenticate(request: Request) -> Caller:
    """Return who asks, after counting the request against the limits of its key.

    Raises
    ------
    AuthenticationError
        When a key is needed and the request does not carry a good one.
    KeysUnavailableError
        When its key cannot be checked because Redis cannot be asked.
    RateLimitError
        When a limit of its key is used up.
    PermissionDeniedError
        When no key is needed and a page of another site has the browser ask.
    """
    services = services_of(request)
    settings, sent = services.settings, sent_key(request)
    services.cache.begin_request()
    if settings.api_key is not None and _same(sent, settings.api_key):
        return Caller()
    if sent.startswith(PREFIX):
        key = await services.keys.find(sent)
        caller = request.state.caller = Caller(key.tenant, key)
        # the middleware that adds the request's id adds these to every answer, errors too
        request.state.headers = await services.limits.admit(key)
        return caller
    if settings.needs_key:
        raise AuthenticationError(
            "No API key, or a wrong one. Send it as 'Authorization: Bearer <key>'."
        )
    if _asked_by_foreign_page(request):
        raise PermissionDeniedError(
            "Pages of other sites may not use a gateway without a key. Set COE_API_KEY."
        )
    return Caller()


def authorize_admin(request: Request, settings: Settings) -> None:
    """Admit administrators only.

    Raises
    ------
    AuthenticationError
        When an admin key is set and the request does not carry it.
    PermissionDeniedError
        When none is set and the caller is not on this machine, or asks for somebody else: a proxy
        that says so, or a browser for a page of another site, by its Origin or by a name of its own
        that leads here (DNS rebinding).
    """
    if settings.admin_key is not None:
        if not _same(sent_key(request), settings.admin_key):
            raise AuthenticationError(
                "No admin key, or a wrong one. Send it as 'Authorization: Bearer <key>'."
            )
        return
    nearby = request.client is not None and is_loopback(request.client.host)
    here = is_loopback(_host_of(f"//{request.headers.get('host', '')}"))
    proxied = not _PROXIED.isdisjoint(request.headers)
    if not nearby or not here or proxied or _asked_by_foreign_page(request):
        raise PermissionDeniedError(
            "This is for administrators: while COE_ADMIN_KEY is not set, callers on this machine "
            "only, by its loopback address or as localhost."
        )


def sent_key(request: Request) -> str:
    """Return the key of a request, as OpenAI's clients send it or as Anthropic's do; '' for none.

    References
    ----------
    OpenAI API, ``Authorization: Bearer``; Anthropic API, ``x-api-key``.
    """
    bearer = request.headers.get("authorization")
    if bearer is None:
        return request.headers.get("x-api-key", "")
    scheme, _, key = bearer.partition(" ")
    return key if scheme.lower() == "bearer" else bearer


def _asked_by_foreign_page(request: Request) -> bool:
    """Whether a browser asks for a page that is not of this machine."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        return True
    origin = request.headers.get("origin")
    return origin is not None and not is_loopback(_host_of(origin))


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _same(sent: str, key: SecretStr) -> bool:
    return compare_digest(sent.encode(), key.get_secret_value().encode())
