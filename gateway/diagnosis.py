"""What the log says of a failed expert beside the error itself: where it is, and the cause.

None of it can hold a prompt, an answer or a key: a provider's error may quote them, so only the
names in it are taken.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec

from gateway.backends.base import UpstreamResponse
from gateway.errors import ExpertError
from gateway.experts import Expert

MOST_WAIT_S = 0.2
"""For the body of an error: another expert waits to be asked."""
_NAME = re.compile("[A-Za-z_]{1,50}")


class _Told(msgspec.Struct):
    type: str | int | None = None
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Told


async def names_in(response: UpstreamResponse) -> str | None:
    """Return the type and the code in an error that an expert sent; None where it has none."""
    with suppress(ExpertError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
        async with asyncio.timeout(MOST_WAIT_S):
            body = await response.read()
        told = msgspec.json.decode(body, type=_Body).error
        names = [str(n) for n in (told.type, told.code) if isinstance(n, int) or _is_name(n)]
        return ", ".join(names) or None
    return None


def _is_name(text: str | None) -> bool:
    return text is not None and _NAME.fullmatch(text) is not None


def fields_of(expert: Expert, error: ExpertError) -> dict[str, str]:
    """Return what a log line says of a failure: `expert`, `host`, `why`, `cause`, `upstream`.

    `host` is of an expert with an address; `cause` what failed beneath, such as a refused
    connection, a time limit, TLS or DNS; `upstream` the `names_in` what the expert sent.
    """
    address = urlsplit(expert.base_url or "").netloc.rpartition("@")[2]
    fields = {
        "expert": expert.name,
        "host": address or None,
        "why": str(error),
        "cause": _cause(error.__cause__),
        "upstream": error.upstream,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _cause(error: BaseException | None) -> str | None:
    """Return the class of an error, and what the system says of it: other texts may quote."""
    if error is None:
        return None
    beneath = getattr(error, "os_error", None) or getattr(error, "certificate_error", error)
    told = getattr(beneath, "strerror", None)
    return f"{type(beneath).__name__}: {told}" if told else type(beneath).__name__
