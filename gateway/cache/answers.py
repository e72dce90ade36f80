"""The cache of answers: only where it is asked for, only complete ones, never across tenants.

An answer is kept as the bytes its expert sent, under all that could have changed them: the tenant,
everything that ``experts.yaml`` says of the expert, and the request as it was sent upstream. Whole
and streamed answers are kept apart; a kept stream is sent as a stream, with the events it had.
Embeddings are kept too. What an expert gives as a response of its own is not: its id names a turn
that clients go on with or delete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from hashlib import blake2b
from typing import Any, cast

import msgspec
from pydantic import BaseModel

from gateway.backends.base import UpstreamRequest
from gateway.cache.link import Link
from gateway.dispatch import Opened
from gateway.errors import CacheError
from gateway.experts import Expert
from gateway.guard import Guard
from gateway.relay import Reading

PREFIX = "coe:1:answer"
MOST_BYTES = 1_000_000
"""A longer answer is not kept."""


class Answer(msgspec.Struct, frozen=True):
    """What is kept of an answer.

    Attributes
    ----------
    reading : Reading or None
        What a whole answer cost; None for a stream, which is read anew.
    """

    content_type: str
    body: bytes
    reading: Reading | None


class Recording:
    """Writes along what an expert sends.

    Parameters
    ----------
    opened : Opened
        Its stream is read through this from now on.
    """

    def __init__(self, opened: Opened) -> None:
        self.expert = opened.expert
        self.request = opened.request
        self._content_type = opened.response.headers.get("content-type", "application/json")
        self._reading = opened.reading
        self._parts = [opened.first]
        self._size = len(opened.first)
        self._ended = opened.rest is None
        if opened.rest is not None:
            opened.rest = self._along(opened.rest)

    @property
    def answer(self) -> Answer | None:
        """What came; None when it did not end, or is too long."""
        if not self._ended or self._size > MOST_BYTES:
            return None
        return Answer(self._content_type, b"".join(self._parts), self._reading)

    async def _along(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._size += len(chunk)
            if self._size <= MOST_BYTES:
                self._parts.append(chunk)
            yield chunk
        self._ended = True


class AnswerCache:
    """Answers in Redis.

    Parameters
    ----------
    link : Link
        To Redis.
    ttl_s : int
        How long an answer is kept, in seconds.
    """

    def __init__(self, link: Link, ttl_s: int) -> None:
        self._link = link
        self._ttl_s = ttl_s

    async def find(self, tenant: str, expert: Expert, request: UpstreamRequest) -> Opened | None:
        """Return the answer that the expert gave to an equal request; None when none is kept."""
        try:
            async with self._link.guarded("get") as redis:
                value = cast(bytes | None, await redis.get(answer_key(tenant, expert, request)))
                answer = None if value is None else msgspec.msgpack.decode(value, type=Answer)
        except CacheError:
            return None
        if answer is None:
            return None
        response = _Kept(answer)
        rest = response.chunks() if request.stream else None
        guard = Guard(expert)  # of its own: the expert is not asked
        return Opened(expert, request, response, answer.body, rest, answer.reading, guard)

    def keep(self, tenant: str, recording: Recording) -> None:
        """Keep a complete answer; does not wait, and does nothing when Redis cannot be reached."""
        answer = recording.answer
        if answer is None:
            return
        key = answer_key(tenant, recording.expert, recording.request)
        self._link.put(key, msgspec.msgpack.encode(answer), self._ttl_s)


class _Kept:
    """A kept answer as a response; see `gateway.backends.base.UpstreamResponse`."""

    def __init__(self, answer: Answer) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {"content-type": answer.content_type}
        self._body = answer.body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield nothing: the first part is all."""
        nothing: tuple[bytes, ...] = ()
        for chunk in nothing:
            yield chunk

    async def read(self) -> bytes:
        """See `UpstreamResponse.read`."""
        return self._body

    async def aclose(self) -> None:
        """See `UpstreamResponse.aclose`."""


def answer_key(tenant: str, expert: Expert, request: UpstreamRequest) -> bytes:
    """Return the key of an answer: nothing of the request can be read from it."""
    sent_headers = msgspec.json.encode(dict(request.headers), order="sorted")
    about = msgspec.json.encode(expert, enc_hook=_plain, order="deterministic")
    digest = blake2b(digest_size=32)
    for part in (tenant.encode(), about, request.path.encode(), sent_headers, request.body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return f"{PREFIX}:{digest.hexdigest()}".encode()


def _plain(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise NotImplementedError(type(value))
