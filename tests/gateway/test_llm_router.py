"""Routing by an expert, and by keywords, through a running gateway; then the asking alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from gateway.backends.ask import ExpertAsk
from gateway.cache.choices import Choice, RedisChoiceCache, choice_key
from gateway.cache.link import Link, connect
from gateway.composition import ROUTER_FAILURES, compose
from gateway.experts import Expert, ExpertRegistry
from gateway.metrics import Metrics
from gateway.planner import Planner
from routers.base import RouterError
from routers.llm import LABELS
from tests.servers import (
    NOBODY_URL,
    Gateway,
    UpstreamServer,
    Valkey,
    run_gateway,
    write_experts,
)


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer,
    categories: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("llm-router")
    letter = LABELS[categories.index("law")]
    shared = {"base_url": upstream.base_url}
    experts = [
        {**shared, "name": "good", "model": "ok", "active_params_b": 7},
        {**shared, "name": "judge", "model": f"letter-{letter}", "active_params_b": 2},
        {**shared, "name": "lawyer", "model": "ok", "active_params_b": 7},
    ]
    config = write_experts(
        folder / "experts.yaml",
        experts,
        {"law": ["lawyer"]},
        llm_router={"expert": "judge"},
        keywords={"finance": ["zanzibar bonds"]},
        min_confidence=0,
    )
    with run_gateway(config, folder) as running:
        yield running


def test_the_expert_is_asked_first_and_its_parameters_count(gateway: Gateway) -> None:
    prompt = f"Tell me about {uuid4().hex}."
    headers = gateway.chat("auto", prompt).headers
    assert (headers["x-coe-category"], headers["x-coe-expert"]) == ("law", "lawyer")
    assert headers["x-coe-confidence"] == "1.0000"
    assert "llm-judge@" in headers["x-coe-router"]
    assert headers["x-coe-active-params-b"] == "9"
    again = gateway.chat("auto", prompt).headers
    assert (again["x-coe-cache"], again["x-coe-active-params-b"]) == ("hit", "7")


def test_asking_is_a_step_of_its_own(gateway: Gateway) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": f"About {uuid4().hex}."}]}
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timing": "on"})
    steps = {step.split(";")[0] for step in answer.headers["server-timing"].split(", ")}
    assert steps >= {"classify", "cache", "queue", "ask"}
    assert "encode" not in steps


def test_the_trained_router_answers_when_the_expert_does_not(gateway: Gateway) -> None:
    prompt = f"Write a Python function that sorts a list, the elevator is out of order. {uuid4()}"
    headers = gateway.chat("auto", prompt).headers
    assert headers["x-coe-category"] == "coding"
    assert "default@" in headers["x-coe-router"]
    assert 7 < float(headers["x-coe-active-params-b"]) < 8
    assert "coe_router_failures_total" in gateway.get("/metrics").text
    gateway.wait_for_log("expert 'judge' answered 500 to the LLM router")


def test_keywords_go_before_both(gateway: Gateway) -> None:
    prompt = f"Buy Zanzibar bonds for {uuid4()}"
    for _ in range(2):  # the second time the choice is known
        headers = gateway.chat("auto", prompt).headers
        assert (headers["x-coe-category"], headers["x-coe-reason"]) == ("finance", "keyword")
        assert headers["x-coe-confidence"] == "1.0000"
    assert gateway.logged(headers["x-request-id"])["reason"] == "keyword"
    shown = gateway.post("/v1/route", json={"prompt": prompt}).json()
    assert (shown["reason"], shown["keyword"]) == ("keyword", "zanzibar bonds")
    assert gateway.post("/v1/route", json={"prompt": "hello"}).json()["keyword"] is None


def test_the_expert_says_why_when_asked(gateway: Gateway) -> None:
    asked = {"prompt": "Is this contract valid?", "explain": True}
    shown = gateway.post("/v1/route", json=asked).json()
    assert shown["explanation"] == {"category": "law", "reason": "It names a contract."}
    assert "explanation" not in gateway.post("/v1/route", json={"prompt": "hello"}).json()
    broken = {**asked, "prompt": "The elevator is out of order."}
    assert gateway.post("/v1/route", json=broken).json()["explanation"] is None


# the asking alone


class Handler(BaseHTTPRequestHandler):
    """Answers every request with `answer` and keeps what came."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"{}")
    came: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Handler.came = {"path": self.path, "key": self.headers["authorization"], "body": body}
        status, content = self.answer
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def listening(socket_path: Path, status: int, content: bytes) -> Iterator[None]:
    Handler.answer = (status, content)
    with UnixStreamServer(str(socket_path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def expert(folder: Path, **keys: Any) -> Expert:
    config = write_experts(folder / "e.yaml", [{"name": "judge", **keys}], {})
    return ExpertRegistry.load(config)["judge"]


def test_a_local_expert_is_asked_on_its_socket(tmp_path: Path) -> None:
    local = expert(tmp_path, backend="local", model="m.gguf")
    ask = ExpertAsk(local, tmp_path / "s", "key", 5)
    with listening(tmp_path / "s", 200, b'{"choices": []}'):
        assert ask({"temperature": 0}) == {"choices": []}
    assert (Handler.came["path"], Handler.came["key"]) == ("/v1/chat/completions", "Bearer key")
    assert json.loads(Handler.came["body"]) == {"model": "m.gguf", "temperature": 0}


@pytest.mark.parametrize(("status", "content"), [(500, b"{}"), (200, b"{"), (200, b"\xff")])
def test_an_answer_that_is_none_is_a_failure_of_the_router(
    tmp_path: Path, status: int, content: bytes
) -> None:
    local = expert(tmp_path, backend="local", model="m.gguf")
    with (
        listening(tmp_path / "s", status, content),
        pytest.raises(RouterError, match=r"expert 'judge' .* the LLM router"),
    ):
        ExpertAsk(local, tmp_path / "s", None, 5)({})


@pytest.mark.parametrize("url", [NOBODY_URL, NOBODY_URL.replace("http", "https")])
def test_nobody_there_is_a_failure_of_the_router(tmp_path: Path, url: str) -> None:
    with pytest.raises(RouterError, match="expert 'judge' did not answer the LLM router"):
        ExpertAsk(expert(tmp_path, base_url=url), None, None, 5)({})


def test_an_edit_lets_the_llm_router_try_again(tmp_path: Path) -> None:
    registry = ExpertRegistry.load(
        write_experts(
            tmp_path / "e.yaml",
            [{"name": "judge", "base_url": NOBODY_URL}],
            {},
            llm_router={"expert": "judge"},
        )
    )

    def ask(expert: Expert, timeout_s: float) -> ExpertAsk:
        return ExpertAsk(expert, None, None, timeout_s)

    async def fail(planner: Planner) -> None:
        for number in range(ROUTER_FAILURES):
            messages = [{"role": "user", "content": f"question {number}"}]
            await planner.plan("auto", messages, (), "t")

    first = compose(registry, ask)
    with ThreadPoolExecutor(1) as executor:
        planner = Planner(first, None, None, executor, Metrics(CollectorRegistry()))
        asyncio.run(fail(planner))
    assert first.ask_breaker.rests_for_s > 0
    assert compose(registry, ask, first).ask_breaker.rests_for_s == 0


def test_what_is_known_without_the_expert_does_not_say_that_it_works(
    tmp_path: Path, valkey: Valkey
) -> None:
    registry = ExpertRegistry.load(
        write_experts(
            tmp_path / "e.yaml",
            [{"name": "judge", "base_url": NOBODY_URL}],
            {},
            llm_router={"expert": "judge"},
            keywords={"law": ["notary"]},
        )
    )
    composition = compose(registry, lambda expert, limit_s: ExpertAsk(expert, None, None, limit_s))
    router = composition.routers[0]
    by_rule, known = "Where do I find a notary?", "Which question did somebody ask before?"

    async def plan_all(executor: ThreadPoolExecutor) -> list[str]:
        metrics = Metrics(CollectorRegistry())
        link = Link(connect(valkey.url, 1000), metrics, 1000)
        cache = RedisChoiceCache(link, 60)
        choice = Choice(composition.trained.predict_proba([known])[0])
        cache.set(choice_key("t", router, known), choice, shared=False)
        planner = Planner(composition, cache, None, executor, metrics)
        answered = []
        for number in range(ROUTER_FAILURES):
            for text in (by_rule, known, f"question {number}"):
                messages = [{"role": "user", "content": text}]
                answered.append((await planner.plan("auto", messages, (), "t")).router)
        await link.aclose()
        return [one.name for one in answered if one is not None]

    with ThreadPoolExecutor(1) as executor:
        names = asyncio.run(plan_all(executor))
    trained = composition.routers[-1].name
    assert names == [router.name, router.name, trained] * ROUTER_FAILURES
    assert composition.ask_breaker.rests_for_s > 0
