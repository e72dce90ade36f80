"""The reference floor: a relay of FastAPI, orjson and aiohttp that does nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse


def create_app() -> FastAPI:
    """Make the application; ``RELAY_UPSTREAM`` holds the URL up to ``/v1``."""
    url = f"{os.environ['RELAY_UPSTREAM']}/chat/completions"

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> Response:
        body = orjson.loads(await request.body())
        body["model"] = "m"
        upstream = await request.app.state.session.post(
            url, data=orjson.dumps(body), headers={"content-type": "application/json"}
        )
        if body.get("stream"):
            return StreamingResponse(upstream.content.iter_any(), media_type="text/event-stream")
        async with upstream:
            return Response(await upstream.read(), media_type="application/json")

    return app
