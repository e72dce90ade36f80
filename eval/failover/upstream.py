"""An OpenAI-compatible server that fails as it is told, run as a process of its own.

``python -m eval.failover.upstream --role faulty`` prints its port. How it fails is in the prompt
(`eval.failover.wire`). ``GET /calls/<nonce>`` lists the calls that came for a nonce.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click
from aiohttp import web

from eval.failover.wire import OK, PROMPT_TOKENS, ROLES, Orders, begun, read_orders

MOST_REMEMBERED = 10_000
"""Nonces whose calls are kept."""
LONG_S = 60.0
"""How long a silent upstream holds a call."""
_PADDING = "x" * 4_000
_STREAM = {"content-type": "text/event-stream"}


@dataclass(slots=True)
class Received:
    """A call that came.

    Attributes
    ----------
    cancelled : bool
        Whether the gateway hung up before the answer was whole.
    """

    fault: str
    stream: bool
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A call that is being answered.

    Attributes
    ----------
    pieces : list of str
        Of the answer, less what another expert has said already.
    usage : bool
        Whether a stream ends with its usage.
    """

    request: web.Request
    orders: Orders
    pieces: list[str]
    role: str
    fault: str
    detail: str
    stream: bool
    usage: bool

    def counted(self) -> dict[str, int]:
        """Return the usage of the answer."""
        prompt, completion = PROMPT_TOKENS[self.role], len(self.pieces)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def abort(self) -> None:
        """Reset the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()


class Upstream:
    """Answers chat completions as it is told.

    Parameters
    ----------
    role : {"faulty", "healthy"}
        Whose orders it follows.
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self._calls: OrderedDict[str, list[Received]] = OrderedDict()
        self._n_flaps = 0

    def app(self) -> web.Application:
        """Return the server's application."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/calls/{nonce}", self._show)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._role}]})

    async def _show(self, request: web.Request) -> web.Response:
        calls = self._calls.get(request.match_info["nonce"], [])
        return web.json_response([asdict(call) for call in calls])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        orders = read_orders(body["messages"])
        fault, _, detail = self._fault(orders).partition("-")
        stream = bool(body.get("stream"))
        call = Received(fault, stream)
        self._remember(orders.nonce, call)
        pieces = orders.after(begun(body["messages"]))
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        job = Job(request, orders, pieces, self._role, fault, detail, stream, usage)
        try:
            return await _HOW.get(fault, _answer)(job)
        except (asyncio.CancelledError, ConnectionError):
            call.cancelled = True
            raise

    def _fault(self, orders: Orders) -> str:
        fault = orders.faults.get(self._role, OK)
        if fault == "flap":
            self._n_flaps += 1
            return "status-500" if self._n_flaps % 2 else OK
        return fault

    def _remember(self, nonce: str, call: Received) -> None:
        self._calls.setdefault(nonce, []).append(call)
        if len(self._calls) > MOST_REMEMBERED:
            self._calls.popitem(last=False)


# ways to answer


async def _answer(job: Job) -> web.StreamResponse:
    if job.stream:
        return await _stream(job)
    return web.json_response(_completion(job))


async def _late(job: Job) -> web.StreamResponse:
    await asyncio.sleep(float(job.detail))
    return await _answer(job)


async def _silence(job: Job) -> web.StreamResponse:
    await asyncio.sleep(LONG_S)
    return web.Response(status=500)


async def _reset(job: Job) -> web.StreamResponse:
    job.abort()
    return web.Response()


async def _status(job: Job) -> web.StreamResponse:
    """Answer ``status-<status>`` or ``status-<status>-<seconds to retry after>``."""
    status, _, retry_after_s = job.detail.partition("-")
    headers = {"retry-after": retry_after_s} if retry_after_s else {}
    return _error(int(status), "upstream_says_no", headers)


async def _context(_: Job) -> web.StreamResponse:
    message = "This model's maximum context length is 8 tokens. Please reduce the messages."
    return _error(400, "context_length_exceeded", {}, message)


async def _bad(_: Job) -> web.StreamResponse:
    return _error(400, "unsupported_value", {}, "'temperature' does not support 1.9.")


async def _html(_: Job) -> web.StreamResponse:
    return web.Response(
        text="<html><body>Welcome to nginx!</body></html>", content_type="text/html"
    )


async def _truncated(job: Job) -> web.StreamResponse:
    """Answer with half of the JSON, as if that were all."""
    whole = json.dumps(_completion(job)).encode()
    return web.Response(body=whole[: len(whole) // 2], content_type="application/json")


async def _cut_body(job: Job) -> web.StreamResponse:
    """Reset the connection in the middle of the JSON."""
    whole = json.dumps(_completion(job)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(whole))}
    response = web.StreamResponse(headers=headers)
    await response.prepare(job.request)
    await response.write(whole[: len(whole) // 2])
    await _cut(job, response)
    return response


def _error(
    status: int, code: str, headers: Mapping[str, str], message: str = "told to fail"
) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def _completion(job: Job) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(job.pieces)}
    return {
        **_frame(job, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": job.counted(),
    }


def _frame(job: Job, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{job.orders.nonce}",
        "object": kind,
        "created": 1_700_000_000,
        "model": job.role,
    }


def _chunk(job: Job, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    padding = {"obfuscation": _PADDING} if job.fault == "padded" else {}
    return _event({**_frame(job, "chat.completion.chunk"), "choices": [choice], **padding})


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


async def _stream(job: Job) -> web.StreamResponse:
    """Stream the answer, and do what the fault says in its middle and at its end."""
    response = web.StreamResponse(headers=_STREAM)
    await response.prepare(job.request)
    middle = len(job.pieces) // 2
    await response.write(_chunk(job, {"role": "assistant", "content": ""}))
    for i, piece in enumerate(job.pieces):
        if i == middle and job.fault in _MIDDLE:
            if await _MIDDLE[job.fault](job, response):
                return response
            continue  # in place of this piece
        await response.write(_chunk(job, {"content": piece}))
        await asyncio.sleep(float(job.detail) if job.fault == "paced" else 0)
    await response.write(_chunk(job, {}, "stop"))
    if job.usage:
        frame = _frame(job, "chat.completion.chunk")
        await response.write(_event({**frame, "choices": [], "usage": job.counted()}))
    if job.fault != "nodone":
        await response.write(b"data: [DONE]\n\n")
    return response


async def _headers_only(job: Job) -> web.StreamResponse:
    response = web.StreamResponse(headers=_STREAM)
    await response.prepare(job.request)
    if job.detail == "reset":
        job.abort()
    else:
        await asyncio.sleep(LONG_S)
    return response


# what happens in the middle of a stream; True when nothing follows


async def _cut(job: Job, _: web.StreamResponse) -> bool:
    await asyncio.sleep(0.05)  # an abort drops what has not left yet
    job.abort()
    return True


async def _ends(_: Job, __: web.StreamResponse) -> bool:
    return True


async def _stalls(_: Job, __: web.StreamResponse) -> bool:
    await asyncio.sleep(LONG_S)
    return True


async def _malformed(job: Job, response: web.StreamResponse) -> bool:
    await response.write(_chunk(job, {"content": "lost"})[:-20] + b"\n\n")
    return False


async def _reports(_: Job, response: web.StreamResponse) -> bool:
    error = {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}
    await response.write(_event({"error": error}))
    await response.write(b"data: [DONE]\n\n")
    return True


async def _filtered(job: Job, response: web.StreamResponse) -> bool:
    await response.write(_chunk(job, {}, "content_filter"))
    await response.write(b"data: [DONE]\n\n")
    return True


async def _toolcut(job: Job, response: web.StreamResponse) -> bool:
    function = {"name": "pay", "arguments": '{"amount": 1'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    await response.write(_chunk(job, {"tool_calls": [call]}))
    return await _cut(job, response)


_MIDDLE: dict[str, Callable[[Job, web.StreamResponse], Awaitable[bool]]] = {
    "cut": _cut,
    "ends": _ends,
    "stalls": _stalls,
    "malformed": _malformed,
    "reports": _reports,
    "filtered": _filtered,
    "toolcut": _toolcut,
}
_HOW: dict[str, Callable[[Job], Awaitable[web.StreamResponse]]] = {
    "late": _late,
    "silence": _silence,
    "reset": _reset,
    "status": _status,
    "context": _context,
    "bad": _bad,
    "html": _html,
    "truncated": _truncated,
    "cutbody": _cut_body,
    "headers": _headers_only,
}


async def _serve(role: str, port: int) -> None:
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # failing is its task
    runner = web.AppRunner(Upstream(role).app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    click.echo(runner.addresses[0][1])
    await asyncio.Event().wait()


@click.command()
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True)
def main(role: str, port: int) -> None:
    """Serve on 127.0.0.1 and print the port."""
    asyncio.run(_serve(role, port))


if __name__ == "__main__":
    main()
