"""A stand-in for an OpenAI-compatible server, run as a process of its own on a real socket.

``python -m tests.upstream`` prints its port. What it does is chosen by the request's ``model``;
``GET /seen/<request id>`` returns what it received and whether the client left early.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from aiohttp import web

PIECES = ("One", " two", " three", "é…", "")
USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}


def usage(kind: str, detail: str) -> dict[str, int] | None:
    """Return the usage to report: model ``counts-25`` takes 25 tokens, ``nousage`` is silent."""
    counted = {**USAGE, "completion_tokens": int(detail)} if kind == "counts" else USAGE
    return None if kind == "nousage" else counted


def chunk(delta: dict[str, Any], finish: str | None = None, **extra: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **extra}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def text_chunk(piece: str) -> bytes:
    choice = {"index": 0, "text": piece, "finish_reason": None}
    body = {"id": "c1", "object": "text_completion", "choices": [choice]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def usage_chunk(counted: dict[str, int]) -> bytes:
    body = {"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": counted}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def finish(kind: str) -> str:
    """Return why an answer ends: model ``length`` runs into a limit."""
    return "length" if kind == "length" else "stop"


def times(kind: str) -> int:
    """Return how often everything is said: model ``long`` answers with more than 10^6 bytes."""
    return 100_000 if kind == "long" else 1


def completion(
    content: str, counted: dict[str, int] | None, reason: str = "stop"
) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": counted,
        "an_unknown_field": {"kept": 1.50},
    }


def letter(body: Asked, chosen: str) -> web.Response:
    """Answer an LLM router: the letter it must take, or a failure when the prompt says so."""
    if b"out of order" in bytes(body.messages):
        return web.json_response({}, status=500)
    alternatives = [{"token": chosen, "logprob": -0.25}, {"token": "the", "logprob": -2.0}]
    answer = completion(chosen, USAGE)
    if body.response_format is not None:
        answer = completion('{"reason": "It names a contract.", "category": "law"}', USAGE)
    answer["choices"][0]["logprobs"] = {"content": [{"top_logprobs": alternatives}]}
    return web.json_response(answer)


class Asked(msgspec.Struct):
    """What it reads of a request."""

    model: str
    messages: msgspec.Raw = msgspec.Raw(b"[]")
    input: msgspec.Raw = msgspec.Raw(b"[]")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


def script_in(body: Asked) -> Any:
    """Return the JSON in the first message, or in the first item of an input, that is a text."""
    asked = json.loads(bytes(body.messages)) or json.loads(bytes(body.input))
    texts = [asked] if isinstance(asked, str) else [item.get("content") for item in asked]
    texts += [text[0].get("text") for text in texts if isinstance(text, list)]
    return next(json.loads(text) for text in texts if isinstance(text, str) and text[:1] == "{")


LAST_EVENTS = {
    "malformed": b"data: {not json\n\n",
    "toolcut": chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}),
    "fails": b'data: {"error": {"message": "broke"}}\n\n',
}
"""What ends a stream that breaks off."""


OTHER_BODIES = {
    "toolong": (400, "application/json", b'{"error": {"code": "context_length_exceeded"}}'),
    "garbage": (200, "application/json", b'{"choices": ['),
    "page": (200, "text/html", b"<html>It works!</html>"),
    "oddtype": (400, "text/тип", b"{}"),
}
"""What is answered, status, type and body, in place of a completion."""

PATHS = ("chat/completions", "completions", "embeddings", "messages")
PATHS += ("messages/count_tokens", "responses")
VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}],
    "model": "upstream",
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}


FIXED = {"/v1/embeddings": VECTORS, "/v1/messages/count_tokens": {"input_tokens": 77}}


class Upstream:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        for path in PATHS:
            app.router.add_post(f"/v1/{path}", self.answer)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/seen/{request_id}", self.show)
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def show(self, request: web.Request) -> web.Response:
        wanted = request.match_info["request_id"]
        found = [entry for entry in self.seen if entry["headers"].get("x-request-id") == wanted]
        return web.json_response(found)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = msgspec.json.decode(text, type=Asked)
        headers = {name.lower(): value for name, value in request.headers.items()}
        entry = {"raw": text, "headers": headers, "left": False, "path": request.path}
        self.seen.append(entry)
        try:
            if body.model in {"ok", "script"} and request.path in FIXED:
                return web.json_response(FIXED[request.path])
            act = self.play if body.model == "script" else self.act
            return await act(request, body)
        except (asyncio.CancelledError, ConnectionError):
            entry["left"] = True
            raise

    def of(self, request: web.Request) -> list[dict[str, Any]]:
        """Return the calls made for the same request, this one included."""
        request_id = request.headers["x-request-id"]
        return [seen for seen in self.seen if seen["headers"].get("x-request-id") == request_id]

    async def act(self, request: web.Request, body: Asked) -> web.StreamResponse:
        kind, _, detail = body.model.partition("-")
        if kind == "status":
            error = {"message": "no", "type": "x", "param": None, "code": "from_upstream"}
            headers = {"retry-after": "7"}
            return web.json_response({"error": error}, status=int(detail), headers=headers)
        if kind == "letter":
            return letter(body, detail)
        if kind == "flap" and len(self.of(request)) <= int(detail):
            return web.json_response({}, status=500)
        if kind == "slow":
            await asyncio.sleep(30)
        if kind == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if kind in OTHER_BODIES:
            status, type_, body_bytes = OTHER_BODIES[kind]
            return web.Response(body=body_bytes, status=status, content_type=type_)
        if body.stream:
            asked = (body.stream_options or {}).get("include_usage")
            return await self.stream(request, kind, usage(kind, detail) if asked else None)
        whole = completion(f"{kind} answers" * times(kind), usage(kind, detail), finish(kind))
        if request.path == "/v1/completions":
            whole["choices"] = [{"index": 0, "text": f"{kind} goes on", "finish_reason": "stop"}]
        return web.json_response(whole)

    async def play(self, request: web.Request, body: Asked) -> web.StreamResponse:
        """Answer as the first message tells: its text is JSON."""
        script = script_in(body)
        if not body.stream:
            return web.json_response(script["whole"], status=script.get("status", 200))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in script["stream"]:
            await response.write(part.encode())
        if script.get("cut"):
            assert request.transport is not None
            request.transport.abort()
        return response

    async def stream(
        self, request: web.Request, kind: str, counted: dict[str, int] | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if kind == "empty":
            return response
        if kind == "errs":
            await response.write(LAST_EVENTS["fails"])
            return response
        if kind == "begins":
            await response.write(chunk({"role": "assistant", "content": ""}, id=kind))
            return response
        as_text = request.path == "/v1/completions"
        for i, piece in enumerate(piece * times(kind) for piece in PIECES):
            role = {} if i else {"role": "assistant"}
            said = chunk({**role, "content": piece}, id=kind)
            await response.write(text_chunk(piece) if as_text else said)
            await asyncio.sleep(0.3 if kind == "paced" else 0)
        if await self.breaks(request, kind, response):
            return response
        await response.write(chunk({}, finish(kind)))
        if counted is not None:
            await response.write(usage_chunk(counted))
        if kind == "undone":
            return response
        await response.write(b"data: [DONE]\n\n")
        if kind == "late" and request.transport is not None:
            request.transport.abort()
        return response

    async def breaks(self, request: web.Request, kind: str, response: web.StreamResponse) -> bool:
        """Break a stream off in the way that `kind` names; False when it names none."""
        if kind == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif kind == "endless":
            while True:
                await response.write(chunk({"content": "x"}))
                await asyncio.sleep(0.02)
        elif kind == "flood":
            while True:
                await response.write(chunk({"content": "x" * 100_000}))
        elif kind == "stalled":
            await asyncio.sleep(30)
        elif kind in LAST_EVENTS:
            await response.write(LAST_EVENTS[kind])
        else:
            return kind == "unfinished"
        return True


async def main() -> None:
    runner = web.AppRunner(Upstream().app(), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    print(site._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[attr-defined]  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
