"""The cache of routing choices: what a router says of a text, kept across processes.

It can only ever make a request faster: when Redis fails, requests go on without it (`Link`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol, cast
from urllib.parse import quote

import numpy as np
from cachetools import TTLCache

from gateway.cache.link import Link
from gateway.errors import CacheError
from routers.base import FloatArray, Router
from routers.finer import FinerMap

PREFIX = "coe:1:choice"
"""Start of every key; the number changes with the format of the values."""
LOCAL_CHOICES = 4096
"""Choices kept in process, in front of Redis."""

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Choice:
    """What is known of a text before the mapping chooses.

    Attributes
    ----------
    probabilities : ndarray of float64, shape (n_categories,)
        A row of the router's.
    expected : ndarray of float64, shape (n_experts,), or None
        What the mapping's finer categories expect of its experts; None where there are none.
    """

    probabilities: FloatArray
    expected: FloatArray | None = None


def choice_key(tenant: str, router: Router, text: str, finer: FinerMap | None = None) -> bytes:
    """Return the key of a choice: nothing of the text can be read from it.

    Two tenants never share a key, nor do two versions of a router or of finer categories.
    """
    known_by = (tenant, router.name, router.version, *(() if finer is None else (finer.digest,)))
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{_prefix(known_by)}:{digest.hexdigest()}".encode()


@lru_cache(1024)
def _prefix(known_by: tuple[str, ...]) -> str:
    return ":".join((PREFIX, *(quote(part, safe="") for part in known_by)))


class ChoiceCache(Protocol):
    """Choices by key."""

    def at_hand(self, key: bytes) -> Choice | None:
        """Return a choice that this process knows, or None."""
        ...

    async def get(self, key: bytes, n_categories: int, n_experts: int = 0) -> Choice | None:
        """Return a choice that any process knows, or None when there is none.

        `n_experts` is how many the finer categories know; 0 without any.
        """
        ...

    def set(self, key: bytes, choice: Choice, *, shared: bool) -> None:
        """Keep a choice, for this process or for all; does not wait.

        It does little when the cache is gone.
        """
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
        self._local: TTLCache[bytes, Choice] = TTLCache(LOCAL_CHOICES, ttl_s)

    def at_hand(self, key: bytes) -> Choice | None:
        """See `ChoiceCache.at_hand`."""
        return self._local.get(key)

    async def get(self, key: bytes, n_categories: int, n_experts: int = 0) -> Choice | None:
        """See `ChoiceCache.get`."""
        try:
            async with self._link.guarded("get") as redis:
                value = cast(bytes | None, await redis.get(key))
                choice = decode_choice(value, n_categories, n_experts)
        except CacheError:
            return None
        if choice is not None:
            self._local[key] = choice
        return choice

    def set(self, key: bytes, choice: Choice, *, shared: bool) -> None:
        """See `ChoiceCache.set`."""
        self._local[key] = choice
        if shared:
            self._link.put(key, encode_choice(choice), self._ttl_s)


def encode_choice(choice: Choice) -> bytes:
    """Return a choice as little-endian float64: it comes back to the last bit."""
    parts = [choice.probabilities] + ([] if choice.expected is None else [choice.expected])
    return np.concatenate(parts).astype("<f8").tobytes()


def decode_choice(value: bytes | None, n_categories: int, n_experts: int = 0) -> Choice | None:
    """Return the choice of a cached value; None stays None.

    Raises
    ------
    ValueError
        When the value is not `n_categories` probabilities, with or without `n_experts` scores.
    """
    if value is None:
        return None
    numbers = np.frombuffer(value, dtype="<f8").astype(np.float64)
    row, expected = numbers[:n_categories], numbers[n_categories:]
    each_fits = np.all((row >= 0) & (row <= 1 + _TOLERANCE))  # also keeps the sum from overflowing
    if row.shape != (n_categories,) or not each_fits or abs(float(row.sum()) - 1) > _TOLERANCE:
        raise ValueError(f"a cached choice must be {n_categories} probabilities")
    if len(expected) not in (0, n_experts) or not np.isfinite(expected).all():
        raise ValueError(f"a cached choice must hold {n_experts} expected scores or none")
    return Choice(row, expected if len(expected) else None)
