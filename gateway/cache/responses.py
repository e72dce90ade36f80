"""Answers of the Responses API, kept in Redis so that any replica can go on with them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, cast

import msgspec

from gateway.cache.link import WRITE_TIMEOUT_S, Link
from gateway.errors import CacheError, ResponseGoneError, StateUnavailableError

PREFIX = "coe:1:response"
TTL_S = 86_400
"""A response that nobody goes on with is forgotten after this, in seconds."""
MOST_BYTES = 8_000_000
"""A conversation that is longer is not kept: Redis would make all others wait for it."""

Item = dict[str, Any]


class StoredResponse(msgspec.Struct, frozen=True):
    """One turn.

    Attributes
    ----------
    response : dict
        As the client got it.
    input : list of dict
        The items that the client sent for it.
    chain : tuple of str
        Ids of the responses before it, oldest first.
    size : int
        Bytes of those before it; once it is stored, its own too.
    """

    response: dict[str, Any]
    input: list[Item]
    chain: tuple[str, ...] = ()
    size: int = 0

    @property
    def items(self) -> list[Item]:
        """What was said in this turn, in order."""
        return [*self.input, *self.response["output"]]


class Responses:
    """The responses of all tenants; nobody finds those of another.

    Parameters
    ----------
    link : Link
        To Redis.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """Return a response; None when there is none.

        Raises
        ------
        StateUnavailableError
            When Redis cannot be asked.
        """
        (found,) = await self._load(tenant, [response_id])
        return found

    async def turns(self, tenant: str, response_id: str) -> list[StoredResponse]:
        """Return a response and those before it, oldest first.

        Raises
        ------
        ResponseGoneError
            When one of them is not there any more.
        StateUnavailableError
            When Redis cannot be asked.
        """
        last = await self.get(tenant, response_id)
        earlier = await self._load(tenant, last.chain) if last and last.chain else []
        turns = [turn for turn in (*earlier, last) if turn is not None]
        if last is None or len(turns) <= len(last.chain):
            raise ResponseGoneError(
                f"'previous_response_id' must name a response that was stored less than "
                f"{TTL_S // 3600} hours ago and not deleted; got {response_id[:80]!r}.",
                param="previous_response_id",
            )
        return turns

    async def put(self, tenant: str, stored: StoredResponse) -> bool:
        """Keep a response, and those before it as long.

        Returns
        -------
        bool
            False when the conversation is too long or too deep, or Redis cannot be reached.
        """
        key = _key(tenant, stored.response["id"])
        try:
            size = stored.size + len(msgspec.json.encode(stored))
            if size > MOST_BYTES:
                return False
            stored = msgspec.structs.replace(stored, size=size)
            async with self._link.guarded("set", WRITE_TIMEOUT_S) as redis:
                commands = redis.pipeline(transaction=False)
                commands.set(key, msgspec.json.encode(stored), ex=TTL_S)
                for earlier in stored.chain:
                    commands.expire(_key(tenant, earlier), TTL_S)
                await commands.execute()
        except (CacheError, RecursionError):  # nested too deeply to be written
            return False
        return True

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a response; False when there is none. Raises as `get` does."""
        try:
            async with self._link.guarded("delete", WRITE_TIMEOUT_S) as redis:
                return bool(await redis.delete(_key(tenant, response_id)))
        except CacheError as error:
            raise _unavailable() from error

    async def _load(
        self, tenant: str, response_ids: list[str] | tuple[str, ...]
    ) -> list[StoredResponse | None]:
        try:
            async with self._link.guarded("get", WRITE_TIMEOUT_S) as redis:
                keys = [_key(tenant, response_id) for response_id in response_ids]
                values = cast(list[bytes | None], await redis.mget(keys))
                return [
                    None if value is None else msgspec.json.decode(value, type=StoredResponse)
                    for value in values
                ]
        except CacheError as error:
            raise _unavailable() from error


def _unavailable() -> StateUnavailableError:
    return StateUnavailableError(
        "Stored responses cannot be read just now. Try again, or send the whole conversation as "
        "'input'.",
        retry_after_s=1,
    )


def _key(tenant: str, response_id: str) -> str:
    digest = blake2b(digest_size=16)
    for part in (tenant, response_id):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return f"{PREFIX}:{digest.hexdigest()}"
