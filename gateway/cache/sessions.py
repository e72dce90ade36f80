"""Which expert a conversation is with, kept in Redis so that every replica knows it.

A conversation keeps its expert while a switch would not pay: the other expert would have to read
all of it anew, and a follow-up like "commit it" says little by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from gateway.cache.link import Link
from gateway.errors import CacheError

PREFIX = "coe:1:session"
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
        self._writing: set[asyncio.Task[None]] = set()

    async def get(self, key: bytes) -> Session | None:
        """See `Sessions.get`."""
        try:
            with self._link.guarded("get") as redis:
                value = await redis.get(key)
                return None if value is None else msgspec.json.decode(value, type=Session)
        except CacheError:
            return None

    def set(self, key: bytes, session: Session) -> None:
        """See `Sessions.set`."""
        task = asyncio.create_task(self._set(key, session))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _set(self, key: bytes, session: Session) -> None:
        try:
            with self._link.guarded("set") as redis:
                await redis.set(key, msgspec.json.encode(session), ex=TTL_S)
        except CacheError:
            return


def session_key(
    tenant: str, named: str | None, fields: Mapping[str, Any], messages: list[dict[str, Any]]
) -> bytes:
    """Return the key of a conversation; two tenants never share one.

    Parameters
    ----------
    named : str or None
        What the client calls it (``x-session-id``); None when it does not, and it is then known by
        ``prompt_cache_key``, else by what does not change from turn to turn: ``user``, ``tools``,
        and the messages up to the first of the user.
    fields : Mapping
        The fields of the request, not decoded.
    """
    if named is not None:
        known: list[bytes] = [b"named", named.encode("utf-8", "surrogatepass")]
    elif "prompt_cache_key" in fields:
        known = [b"cache", bytes(fields["prompt_cache_key"])]
    else:
        first = next((i for i, m in enumerate(messages) if m["role"] == "user"), len(messages))
        same = [bytes(fields.get(name, b"")) for name in ("user", "tools")]
        known = [b"start", *same, msgspec.json.encode(messages[: first + 1])]
    digest = blake2b(digest_size=16)
    for part in (tenant.encode(), *known):
        digest.update(len(part).to_bytes(8, "big") + part)
    return f"{PREFIX}:{digest.hexdigest()}".encode()
