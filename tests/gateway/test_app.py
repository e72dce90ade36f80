"""The application of one worker, in this process: what no client of a real one can bring about."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.backends.base import UpstreamRequest, UpstreamResponse
from gateway.backends.litellm_sdk import Whole
from gateway.cache.answers import AnswerCache
from gateway.dialects.openai import Plain
from gateway.dispatch import Dispatcher
from gateway.errors import GatewayError
from gateway.experts import Expert
from gateway.keys import Caller
from gateway.live.state import Live, write_live
from gateway.logs import JsonFormatter
from gateway.pipeline import Call, Pipeline
from gateway.protocol import parse_chat_request
from gateway.services import Services
from gateway.settings import load_settings
from tests.servers import NOBODY_URL, write_experts


def with_app(
    tmp_path: Path,
    use: Callable[[FastAPI, Callable[..., httpx.AsyncClient]], Awaitable[None]],
    **settings: object,
) -> None:
    """Run `use` with an application and a maker of clients."""
    config = write_experts(
        tmp_path / "experts.yaml", [{"name": "only", "base_url": NOBODY_URL}], {}
    )
    nowhere = f"unix://{tmp_path}/nowhere"
    write_live(tmp_path, Live(1, 1, config.read_text()))
    given = {"config": config, "run_dir": tmp_path, "redis_url": nowhere, **settings}
    app = create_app(load_settings(**given), {})

    def client(address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def run() -> None:
        async with app.router.lifespan_context(app):
            await use(app, client)

    asyncio.run(run())


def test_a_bug_is_logged_and_answered_in_openai_form(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        def bug() -> None:
            raise ZeroDivisionError("the prompt could be in here")

        app.add_api_route("/bug", bug)
        async with client() as caller:
            answer = await caller.get("/bug")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "api_error"
        assert "could be" not in answer.text
        assert answer.headers["x-request-id"]
        assert answer.headers["connection"] == "close"  # uvicorn does

    with_app(tmp_path, use)
    (record,) = [record for record in caplog.records if record.message == "bug"]
    assert record.__dict__["fields"] == {"path": "/bug"}
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["path"]) == ("error", "/bug")
    assert "ZeroDivisionError" in line["exception"]


def test_a_bug_on_the_short_way_is_answered_likewise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        del app.state.services
        async with client() as caller:
            answer = await caller.post("/v1/chat/completions", json={})
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "api_error"
        assert len(answer.headers.get_list("x-request-id")) == 1

    with_app(tmp_path, use)
    assert [record.message for record in caplog.records].count("bug") == 1


class BuggyBackend:
    """A backend with a bug."""

    async def open(self, expert: Expert, request: UpstreamRequest) -> UpstreamResponse:
        raise ZeroDivisionError

    async def aclose(self) -> None:
        return


class NoSink:
    """A sink that nothing may be written to."""

    async def start(self, status: int, headers: dict[str, str]) -> None:
        raise AssertionError

    async def write(self, data: bytes) -> None:
        raise AssertionError

    async def fail(self, error: GatewayError) -> None:
        raise AssertionError

    async def end(self) -> None:
        raise AssertionError


def test_a_bug_on_the_way_is_accounted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = b'{"model":"only","messages":[{"role":"user","content":"hello"}]}'

    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        services: Services = app.state.services
        dispatcher = Dispatcher(BuggyBackend(), services.metrics)
        answers = AnswerCache(services.cache, 60)
        pipeline = Pipeline(services.planner, dispatcher, services.ledger, answers)
        with pytest.raises(ZeroDivisionError):
            call = Call(body, Plain(parse_chat_request), Caller(), "id")
            await pipeline.answer(call, NoSink())
        assert (await services.ledger.stats(None))["failed"] == 1

    with_app(tmp_path, use)
    (line,) = [record.__dict__["fields"] for record in caplog.records if record.msg == "request"]
    assert (line["status"], line["outcome"], line["attempts"]) == (500, "internal_error", ["only"])


class OneAnswerBackend(BuggyBackend):
    """A backend that gives one whole answer."""

    async def open(self, expert: Expert, request: UpstreamRequest) -> UpstreamResponse:
        return Whole(200, {}, b'{"choices": [{"finish_reason": "stop"}]}')


class SlowSink(NoSink):
    """A client that takes its time to read."""

    def __init__(self) -> None:
        self.read = b""

    async def start(self, status: int, headers: dict[str, str]) -> None:
        return

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(3)
        self.read += data

    async def end(self) -> None:
        return


def test_a_whole_answer_is_not_cut_while_it_is_read(tmp_path: Path) -> None:
    body = b'{"model":"only","messages":[{"role":"user","content":"hello"}]}'

    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        services: Services = app.state.services
        dispatcher = Dispatcher(OneAnswerBackend(), services.metrics)
        answers = AnswerCache(services.cache, 60)
        pipeline = Pipeline(services.planner, dispatcher, services.ledger, answers)
        sink = SlowSink()
        call = Call(body, Plain(parse_chat_request), Caller(), "id", timeout_s=2)
        await pipeline.answer(call, sink)
        assert sink.read.startswith(b'{"choices"')
        assert (await services.ledger.stats(None))["failed"] == 0

    with_app(tmp_path, use)


def test_strangers_do_not_see_the_ledger(tmp_path: Path) -> None:
    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        async with client("203.0.113.9") as stranger, client("::1") as neighbour:
            refused = await stranger.get("/admin/stats")
            assert refused.status_code == 403
            assert "COE_ADMIN_KEY" in refused.json()["error"]["message"]
            assert (await neighbour.get("/admin/stats")).status_code == 200
            for somebody_else in (
                {"sec-fetch-site": "cross-site"},
                {"origin": "http://rebound.example"},
                {"host": "rebound.example:8080"},
                {"x-forwarded-for": "203.0.113.9"},
                {"forwarded": "for=203.0.113.9"},
            ):
                answer = await neighbour.get("/admin/stats", headers=somebody_else)
                assert answer.status_code == 403

    with_app(tmp_path, use)


def test_a_single_process_renders_its_own_metrics(tmp_path: Path) -> None:
    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        async with client() as caller:
            await caller.post("/v1/chat/completions", json={})
            assert 'outcome="invalid_request_error"' in (await caller.get("/metrics")).text

    with_app(tmp_path, use)


def test_strangers_do_not_see_the_metrics_of_a_gateway_with_a_key(tmp_path: Path) -> None:
    async def use(app: FastAPI, client: Callable[..., httpx.AsyncClient]) -> None:
        async with client("203.0.113.9") as stranger, client() as neighbour:
            assert (await stranger.get("/metrics")).status_code == 403
            assert (await neighbour.get("/metrics")).status_code == 200

    with_app(tmp_path, use, api_key="static-key")
