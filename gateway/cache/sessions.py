"""Which expert a conversation is with, kept in Redis so that every replica knows it.

A conversation keeps its expert while a switch would not pay: the other expert would have to read
all of it anew, and a follow-up like "commit it" says little by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gateway.cache.link import Link
from gateway.errors import CacheError

if TYPE_CHECKING:
    from _hashlib import HASH

PREFIX = "coe:1:session"
_TELLING = ("model", "user", "tools", "prompt_cache_key")
TTL_S = 3600
"""A conversation that rests for longer starts anew, in seconds."""


class Session(msgspec.Struct, frozen=True):
    """What is kept of a conversation: its last expert, and the category that led there."""

    expert: str
    category: str


class Sessions(Protocol):
    """Conversations by key."""

    async def get(self, key: bytes) -> Session | None:
        """Return what is known of a conversation; None when nothing is."""
        ...

    def set(self, key: bytes, session: Session) -> None:
        """Keep what is known; does not wait, and does nothing when the cache cannot be reached."""
        ...


class RedisSessions:
    """`Sessions` in Redis.

    Parameters
    ----------
    link : Link
        To Redis.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def get(self, key: bytes) -> Session | None:
        """See `Sessions.get`."""
        try:
            async with self._link.guarded("get") as redis:
                value = self._link.unwritten(key) or await redis.get(key)
                return None if value is None else msgspec.json.decode(value, type=Session)
        except CacheError:
            return None

    def set(self, key: bytes, session: Session) -> None:
        """See `Sessions.set`."""
        self._link.put(key, msgspec.json.encode(session), TTL_S)


class SessionKeys(NamedTuple):
    """Where a conversation is looked up and where it is kept for its next turn.

    Attributes
    ----------
    so_far : bytes or None
        None for the first turn of a conversation without a name: there is nothing to look up.
    """

    so_far: bytes | None
    next: bytes


def session_keys(
    tenant: str, named: str | None, fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> SessionKeys:
    """Return the keys of a conversation; two tenants never share one.

    Parameters
    ----------
    named : str or None
        What the client calls it (``x-session-id``); under each ``model`` it is another one, so that
        ``auto:best`` is not kept where ``auto:small`` went. None: it is known by what was said. Its
        next request repeats all turns of the user and adds one, so it is kept under all of them and
        looked up under all but the last. Two conversations that only begin alike stay apart.
    fields : Mapping
        The fields of the request, not decoded: ``model``, ``user``, ``tools`` and
        ``prompt_cache_key`` tell conversations apart too.
    """
    if named is not None:
        model = bytes(fields.get("model", b""))
        key = _key(tenant, b"named", named.encode("utf-8", "surrogatepass"), model)
        return SessionKeys(key, key)
    digest = _digest(tenant, b"said", *(bytes(fields.get(name, b"")) for name in _TELLING))
    lasting = [m for m in messages if m["role"] in {"user", "system", "developer"}]
    users = [i for i, m in enumerate(lasting) if m["role"] == "user"]
    so_far = None
    for index, message in enumerate(lasting):
        if len(users) > 1 and index == users[-1]:
            so_far = _name(digest)
        _add(digest, message["role"].encode(), _said(message.get("content")))
    return SessionKeys(so_far, _name(digest))


def _key(tenant: str, *parts: bytes) -> bytes:
    return _name(_digest(tenant, *parts))


def _digest(tenant: str, *parts: bytes) -> HASH:
    digest = (
        sha256()
    )  # megabytes, where a conversation is long: most processors have instructions for it
    _add(digest, tenant.encode("utf-8", "surrogatepass"), *parts)
    return digest


def _add(digest: HASH, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)


def _said(content: object) -> bytes:
    """Return the content of a message, so that no two kinds of it are alike."""
    if isinstance(content, str):
        return b'"' + content.encode("utf-8", "surrogatepass")  # sooner than as JSON
    return msgspec.json.encode(content)


def _name(digest: HASH) -> bytes:
    return f"{PREFIX}:{digest.hexdigest()[:32]}".encode()
