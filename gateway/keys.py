"""API keys: whose they are, what they may do, and how one is recognised.

A key looks like ``coe-<id>-<secret>``. Redis holds its SHA-256 only: the secret is 256 random bits,
so that nothing slower is needed. Each worker remembers the keys it has seen: for `FRESH_S` a key
costs no round trip, and a revoked one is refused after that at the latest. While Redis is down, a
key that was good less than `STALE_S` ago goes on; any other has to wait.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, Any, cast

import msgspec
from cachetools import TTLCache
from msgspec import Meta

from gateway.cache.link import WRITE_TIMEOUT_S, Link
from gateway.errors import (
    AuthenticationError,
    CacheError,
    KeysUnavailableError,
    PermissionDeniedError,
)

HASH = "coe:1:keys"
"""Redis hash: id of a key -> `ApiKey` as JSON."""
PREFIX = "coe-"
DEFAULT_TENANT = "default"
"""The tenant of the static key, and of everybody where no key is needed."""
FRESH_S = 2.0
STALE_S = 3600.0
MOST_REMEMBERED = 10_000
_SECRET_BYTES = 32
_ID_BYTES = 6

MOST = 2**53
"""Of what a key is limited to: JSON holds no larger whole number for certain."""
Count = Annotated[int, Meta(ge=1, le=MOST)]
Amount = Annotated[float, Meta(gt=0, le=MOST)]


class KeyWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an administrator asks for.

    Attributes
    ----------
    models : tuple of str or None
        What `model` may be; None: anything.
    requests_per_min, tokens_per_min : int or None
        Tokens are those of prompts and answers. None: no limit.
    active_b_tokens_per_day : float or None
        Budget of a UTC day in 10^9 active parameters x tokens: 1,000 tokens of an expert with 7 x
        10^9 active parameters take 7,000. None: no limit.
    expires_in_s : float or None
        Seconds; None: it does not expire.
    """

    tenant: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
    models: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    requests_per_min: Count | None = None
    tokens_per_min: Count | None = None
    active_b_tokens_per_day: Amount | None = None
    expires_in_s: Amount | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key; see `KeyWish`.

    Attributes
    ----------
    id : str
        Its visible part.
    digest : str
        SHA-256 of the whole key, hexadecimal.
    created_at, expires_at : float or None
        Seconds since 1970; None: it does not expire.
    """

    id: str
    digest: str
    tenant: str
    models: tuple[str, ...] | None
    requests_per_min: int | None
    tokens_per_min: int | None
    active_b_tokens_per_day: float | None
    created_at: float
    expires_at: float | None

    def shown(self) -> dict[str, Any]:
        """Return what administrators see: all but the digest."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name != "digest"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes
    ----------
    key : ApiKey or None
        None for the static key, and where no key is needed.
    """

    tenant: str = DEFAULT_TENANT
    key: ApiKey | None = None

    @property
    def key_id(self) -> str | None:
        """The visible part of the key."""
        return None if self.key is None else self.key.id

    def may_use(self, model: str) -> bool:
        """Whether `model` is among what the key allows."""
        return self.key is None or self.key.models is None or model in self.key.models

    def check_model(self, model: str) -> None:
        """Raise `PermissionDeniedError` when the key does not allow `model`."""
        if self.key is not None and self.key.models is not None and not self.may_use(model):
            allowed = ", ".join(self.key.models)
            raise PermissionDeniedError(
                f"This API key may use the models {allowed}; got {model[:80]!r}.", param="model"
            )


class KeyStore:
    """The keys, in Redis, with those that were seen lately in front.

    Parameters
    ----------
    link : Link
        To Redis.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock
        self._seen: TTLCache[str, tuple[ApiKey, float]] = TTLCache(
            MOST_REMEMBERED, STALE_S, timer=clock
        )

    async def find(self, sent: str) -> ApiKey:
        """Return the key that a client sent.

        Raises
        ------
        AuthenticationError
            When there is none like it, or no longer.
        KeysUnavailableError
            When it is not known here and Redis cannot be asked.
        """
        digest = _digest(sent)
        seen = self._seen.get(digest)
        if seen is not None and self._clock() - seen[1] < FRESH_S:
            return _unexpired(seen[0])
        try:
            key = await self._load(sent)
        except CacheError as error:
            if seen is None:
                raise KeysUnavailableError(
                    "API keys cannot be checked just now. Try again.", retry_after_s=1
                ) from error
            return _unexpired(seen[0])
        if key is None or not compare_digest(key.digest, digest):
            self._seen.pop(digest, None)
            raise AuthenticationError("This API key is not known, or was revoked.")
        self._seen[digest] = (key, self._clock())
        return _unexpired(key)

    async def create(self, wish: KeyWish) -> tuple[ApiKey, str]:
        """Make a key; returns it and its text, which is kept nowhere.

        Raises
        ------
        CacheError
            When Redis cannot be reached. A key that it stored without saying so is of no use to
            anybody: its text is lost.
        """
        key_id = secrets.token_hex(_ID_BYTES)
        text = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
        now_s = round(time.time(), 3)
        fields = msgspec.structs.asdict(wish)
        lasts_s = fields.pop("expires_in_s")
        expires_at = None if lasts_s is None else now_s + lasts_s
        key = ApiKey(
            id=key_id, digest=_digest(text), created_at=now_s, expires_at=expires_at, **fields
        )
        async with self._link.guarded("keys", WRITE_TIMEOUT_S) as redis:
            await redis.hset(HASH, key_id, msgspec.json.encode(key))
        return key, text

    async def list(self) -> list[ApiKey]:
        """Return all keys, oldest first; raises `CacheError` when Redis cannot be reached."""
        async with self._link.guarded("keys", WRITE_TIMEOUT_S) as redis:
            stored = cast(dict[bytes, bytes], await redis.hgetall(HASH))
            keys = [_decode(value) for value in stored.values()]
        return sorted(keys, key=lambda key: key.created_at)

    async def revoke(self, key_id: str) -> bool:
        """Forget a key; False when there is none. Raises `CacheError` as `list` does."""
        async with self._link.guarded("keys", WRITE_TIMEOUT_S) as redis:
            revoked = bool(await redis.hdel(HASH, key_id))
        for digest in [d for d, (key, _) in self._seen.items() if key.id == key_id]:
            del self._seen[digest]
        return revoked

    async def _load(self, sent: str) -> ApiKey | None:
        key_id = sent.removeprefix(PREFIX).partition("-")[0]
        async with self._link.guarded("keys") as redis:
            value = cast(bytes | None, await redis.hget(HASH, key_id))
            return None if value is None else _decode(value)


def _digest(sent: str) -> str:
    return sha256(sent.encode("utf-8", "surrogatepass")).hexdigest()


def _decode(value: bytes) -> ApiKey:
    return msgspec.json.decode(value, type=ApiKey)


def _unexpired(key: ApiKey) -> ApiKey:
    if key.expires_at is not None and key.expires_at <= time.time():
        raise AuthenticationError("This API key has expired.")
    return key
