"""The versions of an experts file, in Redis: what replicas follow, and what can be gone back to.

Gateways on one Redis whose experts files have the same name are replicas of each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

from gateway.cache.link import n_cancellations
from gateway.errors import CacheError

PREFIX = "coe:1:experts"
KEPT = 20
"""Versions that are kept."""
TIMEOUT_MS = 1000
"""Longest wait for them: no request waits with it."""


def digest_of(text: str) -> str:
    """Return a short hash of an experts file's text: equal texts are the same version."""
    return sha256(text.encode("utf-8")).hexdigest()[:16]


class Version(msgspec.Struct, frozen=True):
    """One state of the experts file.

    Attributes
    ----------
    number : int
        Counts up over all replicas.
    written_at : float
        Seconds since 1970.
    source : str
        Where it came from: ``file`` or ``admin``.
    """

    number: int
    text: str
    written_at: float
    source: str

    @property
    def digest(self) -> str:
        """See `digest_of`."""
        return digest_of(self.text)


class OvertakenError(Exception):
    """Somebody else has written a version in between."""


class VersionStore:
    """Versions by number, newest first.

    Parameters
    ----------
    redis : Redis
        Shared by the replicas.
    name : str
        Name of the experts file.
    """

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis = redis
        self._versions = f"{PREFIX}:{name}"
        self._seen = f"{PREFIX}:{name}:seen"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def current(self) -> Version | None:
        """Return the newest version; None when there is none.

        Raises
        ------
        CacheError
            When Redis cannot be reached or holds garbage; so do the other methods.
        """
        with _guarded():
            return _decoded(await self._redis.lindex(self._versions, 0))

    async def history(self) -> list[Version]:
        """Return the versions that are kept, newest first."""
        with _guarded():
            found = await self._redis.lrange(self._versions, 0, KEPT - 1)
            return [msgspec.json.decode(one, type=Version) for one in found]

    async def was_current(self, digest: str) -> bool:
        """Whether a text was ever the newest version, also one that is not kept any more."""
        with _guarded():
            return bool(await self._redis.hexists(self._seen, digest))

    async def publish(
        self,
        text: str,
        source: str,
        *,
        base: str | None = None,
        least_number: int = 1,
    ) -> Version:
        """Make a text the newest version; returns that version.

        Nothing is written where the newest version has this text already.

        Parameters
        ----------
        base : str or None
            Digest of the version that was edited; None replaces whatever is there.
        least_number : int
            The lowest number it may get.

        Raises
        ------
        OvertakenError
            When `base` is not the newest version any more.
        """
        with _guarded():
            async with self._redis.pipeline(transaction=True) as pipe:
                while True:
                    await pipe.watch(self._versions)
                    head = _decoded(await pipe.lindex(self._versions, 0))
                    if base is not None and (head is None or head.digest != base):
                        raise OvertakenError
                    if head is not None and head.text == text:
                        return head
                    number = max(least_number, 1 if head is None else head.number + 1)
                    version = Version(number, text, time.time(), source)
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.lpush(self._versions, msgspec.json.encode(version))
                    pipe.ltrim(self._versions, 0, KEPT - 1)
                    pipe.hset(self._seen, version.digest, str(number))
                    try:
                        await pipe.execute()
                    except WatchError:
                        continue
                    return version


@contextmanager
def _guarded() -> Iterator[None]:
    cancelled = n_cancellations()
    try:
        yield
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise CacheError(f"versions of the experts: {type(error).__name__}") from error
    if n_cancellations() > cancelled:
        raise asyncio.CancelledError


def _decoded(value: Any) -> Version | None:  # noqa: ANN401 (redis-py types no answer)
    return None if value is None else msgspec.json.decode(value, type=Version)
