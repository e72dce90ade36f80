"""The cache of routing choices: a router's probabilities for a text, kept across processes.

It can only ever make a request faster: when Redis is gone, slow, full or holds garbage, requests
go on without it, the failure is counted, and it is tried again after `RETRY_AFTER_S`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Protocol, cast
from urllib.parse import quote

import numpy as np
from cachetools import LRUCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.errors import CacheError, ConfigError
from gateway.metrics import Metrics
from routers.base import FloatArray, Router

PREFIX = "coe:1:choice"
"""Start of every key; the number changes with the format of the values."""
RETRY_AFTER_S = 0.5
"""After a failure the cache is left alone for this long, in seconds."""
LOCAL_CHOICES = 4096
"""Choices kept in process, in front of Redis."""

_log = logging.getLogger(__name__)


def connect(url: str, timeout_ms: int) -> Redis:
    """Return a Redis client that fails fast instead of waiting or retrying.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``.
    timeout_ms : int
        Longest wait for a connection or an answer, in milliseconds.

    Raises
    ------
    ConfigError
        When `url` is no such URL; it is not repeated, since it may hold a password.
    """
    timeout_s = timeout_ms / 1000
    try:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError(
            "REDIS_URL must look like redis://host:6379/0, rediss://host:6379/0 or "
            "unix:///path/to/socket. Correct it, or unset it to use the embedded cache"
        ) from error
    return client


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

    async def set(self, key: bytes, probabilities: FloatArray) -> None:
        """Keep the probabilities; does nothing when the cache cannot be reached."""
        ...

    async def ping(self) -> None:
        """Raise `CacheError` when the cache cannot be reached."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class RedisChoiceCache:
    """A `ChoiceCache` in Redis with a small one of this process in front.

    Parameters
    ----------
    redis : Redis
        From `connect`; closed by `aclose`.
    ttl_s : int
        How long a choice is kept, in seconds.
    metrics : Metrics
        Where failures are counted.
    """

    def __init__(self, redis: Redis, ttl_s: int, metrics: Metrics) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._metrics = metrics
        self._local: LRUCache[bytes, FloatArray] = LRUCache(LOCAL_CHOICES)
        self._rest_until_s = 0.0
        self._failing = False

    async def get(self, key: bytes, n_categories: int) -> FloatArray | None:
        """See `ChoiceCache.get`."""
        row = self._local.get(key)
        if row is not None or self._resting:
            return row
        try:
            with self._guard("get"):
                row = decode_row(cast(bytes | None, await self._redis.get(key)), n_categories)
        except CacheError:
            return None
        if row is not None:
            self._local[key] = row
        return row

    async def set(self, key: bytes, probabilities: FloatArray) -> None:
        """See `ChoiceCache.set`."""
        self._local[key] = probabilities
        if self._resting:
            return
        try:
            with self._guard("set"):
                await self._redis.set(key, encode_row(probabilities), ex=self._ttl_s)
        except CacheError:
            return

    async def ping(self) -> None:
        """See `ChoiceCache.ping`."""
        with self._guard("ping"):
            await self._redis.ping()

    async def aclose(self) -> None:
        """See `ChoiceCache.aclose`."""
        await self._redis.aclose()

    @property
    def _resting(self) -> bool:
        return time.monotonic() < self._rest_until_s

    @contextmanager
    def _guard(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            self._metrics.cache_errors.labels(operation).inc()
            self._rest_until_s = time.monotonic() + RETRY_AFTER_S
            if not self._failing:
                _log.warning(
                    "cache failed, going on without",
                    extra={"fields": {"error": type(error).__name__}},
                )
            self._failing = True
            raise CacheError(f"cache {operation}: {type(error).__name__}") from error
        if self._failing:
            _log.warning("cache is back")
        self._failing = False


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
    if row.shape != (n_categories,) or not np.all(row >= 0) or abs(float(row.sum()) - 1) > 1e-6:
        raise ValueError(f"a cached choice must be {n_categories} probabilities")
    return row
