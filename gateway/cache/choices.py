"""The cache of routing choices: a router's probabilities for a text, kept across processes.

It can only ever make a request faster: when Redis fails, requests go on without it (`Link`).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol, cast
from urllib.parse import quote

import numpy as np
from cachetools import TTLCache

from gateway.cache.link import Link
from gateway.errors import CacheError
from routers.base import FloatArray, Router

PREFIX = "coe:1:choice"
"""Start of every key; the number changes with the format of the values."""
LOCAL_CHOICES = 4096
"""Choices kept in process, in front of Redis."""

_TOLERANCE = 1e-6


def choice_key(tenant: str, router: Router, text: str) -> bytes:
    """Return the key of a choice: nothing of the text can be read from it.

    Two tenants never share a key, nor do two versions of a router.
    """
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    parts = (tenant, router.name, router.version, digest.hexdigest())
    return ":".join((PREFIX, *(quote(part, safe="") for part in parts))).encode()


class ChoiceCache(Protocol):
    """Probabilities by key."""

    async def get(self, key: bytes, n_categories: int) -> FloatArray | None:
        """Return the probabilities, shape (n_categories,), or None when there are none."""
        ...

    def set(self, key: bytes, probabilities: FloatArray) -> None:
        """Keep the probabilities; does not wait, and does little when the cache is gone."""
        ...


class RedisChoiceCache:
    """A `ChoiceCache` in Redis with a small one of this process in front.

    Parameters
    ----------
    link : Link
        To Redis.
    ttl_s : int
        How long a choice is kept, in seconds.
    """

    def __init__(self, link: Link, ttl_s: int) -> None:
        self._link = link
        self._ttl_s = ttl_s
        self._local: TTLCache[bytes, FloatArray] = TTLCache(LOCAL_CHOICES, ttl_s)

    async def get(self, key: bytes, n_categories: int) -> FloatArray | None:
        """See `ChoiceCache.get`."""
        row = self._local.get(key)
        if row is not None:
            return row
        try:
            with self._link.guarded("get") as redis:
                row = decode_row(cast(bytes | None, await redis.get(key)), n_categories)
        except CacheError:
            return None
        if row is not None:
            self._local[key] = row
        return row

    def set(self, key: bytes, probabilities: FloatArray) -> None:
        """See `ChoiceCache.set`."""
        self._local[key] = probabilities
        self._link.put(key, encode_row(probabilities), self._ttl_s)


def encode_row(probabilities: FloatArray) -> bytes:
    """Return probabilities as little-endian float64: a choice comes back to the last bit."""
    return probabilities.astype("<f8").tobytes()


def decode_row(value: bytes | None, n_categories: int) -> FloatArray | None:
    """Return the probabilities of a cached value; None stays None.

    Raises
    ------
    ValueError
        When the value is not `n_categories` probabilities.
    """
    if value is None:
        return None
    row = np.frombuffer(value, dtype="<f8").astype(np.float64)
    each_fits = np.all((row >= 0) & (row <= 1 + _TOLERANCE))  # also keeps the sum from overflowing
    if row.shape != (n_categories,) or not each_fits or abs(float(row.sum()) - 1) > _TOLERANCE:
        raise ValueError(f"a cached choice must be {n_categories} probabilities")
    return row
