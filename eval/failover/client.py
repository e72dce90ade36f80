"""A client that writes down exactly what it saw of an answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from eval.failover.wire import Orders

PATIENCE_S = 20.0
"""An answer that takes longer hangs."""


@dataclass(slots=True)
class Seen:
    """What a client saw of an answer.

    Attributes
    ----------
    status : int or None
        None when no answer came.
    error : dict or None
        The OpenAI error object, of the body or of an event.
    broken : str or None
        How the connection broke; None when it did not.
    hung : bool
        Whether the client gave up after `PATIENCE_S`.
    finish_reason : str or None
        The last one sent.
    done : bool
        Whether ``[DONE]`` came.
    usage : dict or None
        The last one sent.
    unreadable : int
        Events or bodies that are not JSON of the protocol.
    """

    stream: bool
    status: int | None = None
    text: str = ""
    error: dict[str, Any] | None = None
    broken: str | None = None
    hung: bool = False
    finish_reason: str | None = None
    done: bool = False
    usage: dict[str, Any] | None = None
    unreadable: int = 0
    first_s: float | None = None
    elapsed_s: float = 0.0

    def ended(self) -> bool:
        """Whether the answer claims to be whole."""
        said_so = self.done or self.finish_reason is not None or not self.stream
        return self.status == 200 and said_so and not self.told()

    def told(self) -> bool:
        """Whether a client can tell that something went wrong."""
        failed = self.status is not None and self.status >= 400
        return failed or bool(self.error or self.broken or self.unreadable)

    def read(self, data: bytes) -> None:
        """Read a body or the data of an event."""
        try:
            content = json.loads(data)
            self._read(content)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.unreadable += 1

    def _read(self, content: dict[str, Any]) -> None:
        if content.get("error"):
            error = content["error"]
            self.error = error if isinstance(error, dict) else {"message": str(error)}
            return
        self.usage = content.get("usage") or self.usage
        for choice in content["choices"]:
            said = choice.get("delta") or choice.get("message") or {}
            self.text += said.get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway under test.

    Attributes
    ----------
    url : str
        Up to and with ``/v1``.
    model : str
        Asks the faulty upstream first and the healthy one as fallback.
    headers : mapping of str to str
        Sent with every request.
    """

    name: str
    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asking:
    """How a request is made.

    Attributes
    ----------
    usage : bool
        Whether a stream is to end with its usage.
    pause_s : float
        How long the client stops reading after the first bytes, in seconds.
    patience_s : float
        After how many seconds it leaves.
    """

    stream: bool = False
    usage: bool = False
    pause_s: float = 0.0
    patience_s: float = PATIENCE_S


async def ask(
    session: aiohttp.ClientSession, target: Target, orders: Orders, asking: Asking
) -> Seen:
    """Make one request and return what came of it; never raises for what the gateway does."""
    body: dict[str, Any] = {
        "model": target.model,
        "messages": [{"role": "user", "content": orders.prompt()}],
        "stream": asking.stream,
    }
    if asking.usage:
        body["stream_options"] = {"include_usage": True}
    seen = Seen(asking.stream)
    started_s = time.monotonic()
    try:
        async with (
            asyncio.timeout(asking.patience_s),
            session.post(
                f"{target.url}/chat/completions", json=body, headers=target.headers
            ) as response,
        ):
            await _read(response, seen, asking, started_s)
    except TimeoutError:
        seen.hung = True
    except (aiohttp.ClientError, OSError, ValueError) as error:
        seen.broken = type(error).__name__
    seen.elapsed_s = time.monotonic() - started_s
    return seen


async def _read(
    response: aiohttp.ClientResponse, seen: Seen, asking: Asking, started_s: float
) -> None:
    seen.status = response.status
    if not response.content_type.startswith("text/event-stream"):
        seen.read(await response.read())
        return
    async for line in _lines(response, asking.pause_s):
        seen.first_s = seen.first_s or time.monotonic() - started_s
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            # comments and fields that carry no data say nothing of the answer
            seen.unreadable += bool(line.strip()) and not line.startswith((b":", b"event:", b"id:"))
        elif data == b"[DONE]":
            seen.done = True
        else:
            seen.read(data)


async def _lines(response: aiohttp.ClientResponse, pause_s: float) -> AsyncIterator[bytes]:
    """Yield the lines of a body, with a pause after the first bytes."""
    rest = b""
    while chunk := await response.content.readany():
        if pause_s:
            await asyncio.sleep(pause_s)
            pause_s = 0.0
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
