"""The link to Redis that the request path uses: it fails fast, then is left alone for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.errors import CacheError, ConfigError
from gateway.metrics import Metrics

RETRY_AFTER_S = 0.5
"""After a failure the link is left alone for this long, in seconds."""

WRITE_EVERY_S = 0.02
"""A trip costs as much as a call of an expert: after one, what is stored within this time waits for
the next, in seconds."""
WRITE_TIMEOUT_S = 1.0
"""For values that are stored while nobody waits, and for what administrators ask, in seconds."""
LATE_S = 0.01
"""A timeout that is noticed later than this was missed by a loop that stood still, in seconds."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waited:
    """How long a request has waited for Redis so far, in seconds."""

    seconds: float = 0.0


_waited: ContextVar[_Waited | None] = ContextVar("waited", default=None)


def n_cancellations() -> int:
    """Return how often the running task was told to end.

    Where that grew during a call of redis-py and nothing was raised, the call lost it: it sends by
    ``asyncio.wait_for``, which in Python 3.11 drops a cancellation that comes as it ends.

    References
    ----------
    https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def connect(url: str, timeout_ms: int) -> Redis:
    """Return a Redis client that fails instead of retrying; `Link` has it fail fast.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``.
    timeout_ms : int
        Longest wait for a connection or an answer, in milliseconds, if more than
        `WRITE_TIMEOUT_S`.

    Raises
    ------
    ConfigError
        When `url` is no such URL; it is not repeated, since it may hold a password.
    """
    timeout_s = max(timeout_ms / 1000, WRITE_TIMEOUT_S)
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


class Link:
    """Guards every use of Redis on the request path.

    When Redis is gone, slow, full or holds garbage, requests go on without it, the failure is
    counted, and it is tried again after `RETRY_AFTER_S`: a failure costs one timeout, not one for
    each request.

    Parameters
    ----------
    redis : Redis
        From `connect`; closed by `aclose`.
    metrics : Metrics
        Where failures are counted.
    timeout_ms : int
        Longest wait for one operation, in milliseconds.
    """

    def __init__(self, redis: Redis, metrics: Metrics, timeout_ms: int) -> None:
        self._redis = redis
        self._metrics = metrics
        self._timeout_s = timeout_ms / 1000
        self._rest_until_s = 0.0
        self._answered_s = -RETRY_AFTER_S
        self._failing = False
        self._unwritten: dict[bytes, tuple[bytes, int]] = {}
        self._under_way: dict[bytes, tuple[bytes, int]] = {}
        self._writing: asyncio.Task[None] | None = None

    def begin_request(self) -> None:
        """Let all that this task does with Redis from now on have one timeout together."""
        _waited.set(_Waited())

    @asynccontextmanager
    async def guarded(
        self, operation: str, timeout_s: float | None = None, *, though_resting: bool = False
    ) -> AsyncIterator[Redis]:
        """Lend the client for one operation, with reading what it returned.

        All of it, a new connection with its greetings included, has one timeout.

        Parameters
        ----------
        timeout_s : float or None
            In seconds, if more than the link's own; None: what is left of that for this request.
        though_resting : bool
            Try it after a failure, too; another one does not prolong the rest then.

        Raises
        ------
        CacheError
            When the operation failed, or was not tried because the last one has just failed.
        """
        rests = time.monotonic() < self._rest_until_s
        if rests and not though_resting:
            raise CacheError(f"cache {operation}: left alone after a failure")
        waited = _waited.get() if timeout_s is None else None
        granted_s = max(timeout_s or 0.0, self._timeout_s)
        left_s = granted_s - (waited.seconds if waited else 0.0)
        started_s, cancelled = time.monotonic(), n_cancellations()
        try:
            async with asyncio.timeout(left_s):
                yield self._redis
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            is_fair = not isinstance(error, TimeoutError) or self._was_fair(started_s, left_s)
            if is_fair and not rests:
                self._note_failure(operation, error)
            raise CacheError(f"cache {operation}: {type(error).__name__}") from error
        finally:
            if waited is not None:
                waited.seconds += time.monotonic() - started_s
        if n_cancellations() > cancelled:
            raise asyncio.CancelledError
        if self._failing:
            _log.warning("cache is back")
        self._failing = False
        self._answered_s = time.monotonic()
        self._rest_until_s = 0.0

    def _was_fair(self, started_s: float, had_s: float) -> bool:
        """Whether a timeout says that Redis is slow.

        Not where it had less time than the link grants, and not where the loop stood still (over a
        large body, say) and Redis had answered just before.
        """
        is_late = time.monotonic() - started_s > had_s + LATE_S
        stood_still = is_late and started_s - self._answered_s < RETRY_AFTER_S
        return had_s >= self._timeout_s and not stood_still

    def put(self, key: bytes, value: bytes, ttl_s: int) -> None:
        """Store a value soon, for `ttl_s` seconds; does not wait, and a failure loses it."""
        self._unwritten[key] = (value, ttl_s)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    def unwritten(self, key: bytes) -> bytes | None:
        """Return a value that `put` has not stored yet; None when there is none."""
        found = self._unwritten.get(key) or self._under_way.get(key)
        return None if found is None else found[0]

    async def _write(self) -> None:
        try:
            while self._unwritten:
                self._under_way, self._unwritten = self._unwritten, {}
                with suppress(CacheError):
                    async with self.guarded("set", WRITE_TIMEOUT_S) as redis:
                        trip = redis.pipeline(transaction=False)
                        for key, (value, ttl_s) in self._under_way.items():
                            trip.set(key, value, ex=ttl_s)
                        await trip.execute()
                self._under_way = {}
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            self._writing = None

    async def ping(self) -> None:
        """Raise `CacheError` when Redis does not answer; asks it after a failure too."""
        async with self.guarded("ping", though_resting=True) as redis:
            await redis.ping()

    async def aclose(self) -> None:
        """Store what is left and close the connections."""
        if self._writing is not None:
            await self._writing
        await self._redis.aclose()

    def _note_failure(self, operation: str, error: Exception) -> None:
        self._metrics.cache_errors.labels(operation).inc()
        self._rest_until_s = time.monotonic() + RETRY_AFTER_S
        if not self._failing:
            fields = {"error": type(error).__name__}
            _log.warning("cache failed, going on without", extra={"fields": fields})
        self._failing = True
