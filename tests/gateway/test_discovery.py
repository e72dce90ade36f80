"""What is learned of servers: a real llama.cpp, and stand-ins that answer as others do, or lie."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import discovery
from gateway.discovery import ServedModel, discover
from gateway.errors import ConfigError
from tests.servers import NOBODY_URL, wait_for

Answers = dict[str, Any]
"""Path -> what is answered: JSON, bytes as they are, a status, or a function of the request."""


def ask(answers: Answers, model: str | None = None) -> tuple[ServedModel, ...]:
    async def answer(request: web.Request) -> web.StreamResponse:
        found = answers.get(request.path, 404)
        if callable(found):
            found = await found(request)
        if isinstance(found, int):
            return web.Response(status=found)
        return web.Response(body=found if isinstance(found, bytes) else json.dumps(found))

    async def run() -> tuple[ServedModel, ...]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server:
            return await discover(str(server.make_url("/v1")), "key", model)

    return asyncio.run(run())


def listed(*models: dict[str, Any]) -> Answers:
    return {"/v1/models": {"object": "list", "data": [{"object": "model", **m} for m in models]}}


VLLM = {"id": "Qwen/Qwen2.5-7B", "owned_by": "vllm", "parent": None, "max_model_len": 4096}
ADAPTER = {"id": "sql", "owned_by": "vllm", "root": "/adapters/sql", "parent": VLLM["id"]}


def test_vllm_tells_its_context_and_its_adapters_are_models_of_their_own(tmp_path: Any) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    config |= {"vocab_size": 1000, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    answers = listed({**ADAPTER, "max_model_len": 2048}, {**VLLM, "root": str(tmp_path)})
    base, adapter = ask({**answers, "/v1/chat/completions": {}})
    assert base.id == VLLM["id"]
    assert base.context_window == 4096
    assert base.continuation == "continue_final_message"
    assert base.capabilities == ("tools", "json_schema")
    assert base.total_params_b == base.active_params_b == pytest.approx(0.0002, rel=0.2)
    assert base.notes == ()
    assert (adapter.id, adapter.parent, adapter.context_window) == ("sql", base.id, 2048)
    (alone,) = ask(answers, "sql")
    assert alone.parent == base.id


def test_vllm_without_tools_and_of_unknown_size_says_so() -> None:
    answers = {**listed({**VLLM, "root": "/models/gone"}), "/v1/chat/completions": 400}
    (model,) = ask(answers)
    assert model.capabilities == ("json_schema",)
    assert model.total_params_b is None
    tools, size = model.notes
    assert "--enable-auto-tool-choice" in tools
    assert "size unknown" in size


def test_ollama_is_taken_at_num_ctx_and_not_at_what_the_model_could_hold() -> None:
    info = {"general.architecture": "llama", "general.parameter_count": 8_030_261_312}
    info["llama.context_length"] = 131_072
    shown = {"model_info": info, "capabilities": ["completion", "tools"]}
    answers = {**listed({"id": "llama3:8b", "owned_by": "library"}), "/api/show": shown}
    (model,) = ask(answers)
    assert (model.total_params_b, model.active_params_b) == (8.03, 8.03)
    assert model.capabilities == ("json_schema", "tools")
    assert model.context_window is None
    assert "num_ctx" in model.notes[0]
    running = {"models": [{"name": "llama3:8b", "context_length": 4096}]}
    assert ask({**answers, "/api/ps": running})[0].context_window == 4096
    answers["/api/show"] = {**shown, "parameters": 'stop "x"\nnum_ctx     16384\n'}
    assert ask(answers)[0].context_window == 16384
    info["llama.expert_count"] = 8
    assert ask(answers)[0].active_params_b is None


def test_llama_cpp_is_taken_at_the_context_of_one_conversation() -> None:
    meta = {"n_ctx_train": 131_072, "n_params": 134_515_008}
    answers = listed({"id": "m", "owned_by": "llamacpp", "meta": meta})
    answers["/props"] = {
        "default_generation_settings": {"n_ctx": 2048},
        "chat_template_caps": {"supports_tools": True},
        "modalities": {"vision": True},
        "model_path": "/nowhere/m.gguf",
    }
    (model,) = ask(answers)
    assert model.context_window == 2048
    assert model.total_params_b == 0.1345
    assert model.active_params_b is None
    assert model.capabilities == ("json_schema", "tools", "vision")
    assert "active parameters unknown" in model.notes[0]


LLAMA = """
import signal, sys, xllamacpp
from gateway.supervisor.weights import _embedded
params = xllamacpp.CommonParams()
params.model.path = str(_embedded("x", "smollm2-135m-instruct"))
params.model_alias = {"small"}
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[1])
params.n_parallel, params.n_ctx = 2, 1024
server = xllamacpp.Server(params)
signal.pause()
"""


@contextmanager
def llama_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-c", LLAMA, str(port)], stdout=subprocess.DEVNULL, stderr=-3
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def test_a_real_llama_cpp_is_described_in_full() -> None:
    with llama_server() as url:

        def described() -> tuple[ServedModel, ...]:
            try:
                return asyncio.run(discover(url))
            except ConfigError:
                return ()

        (model,) = wait_for(described, 50)
    assert model == ServedModel(
        "small",
        context_window=512,
        total_params_b=0.1345,
        active_params_b=0.1345,
        capabilities=("json_schema",),  # its template knows no tools
        continuation="prefill",
    )


def test_of_another_server_only_the_name_and_the_context_are_known() -> None:
    (model,) = ask(listed({"id": "m", "owned_by": "someone", "context_length": 8192}))
    assert (model.id, model.context_window, model.capabilities) == ("m", 8192, ())
    assert "does not tell" in model.notes[0]


@pytest.mark.parametrize("claim", [0, -1, True, "8192", 10**9, 2048.5, [], {"a": 1}])
def test_a_context_that_cannot_be_is_not_believed(claim: object) -> None:
    (model,) = ask(listed({"id": "m", "max_model_len": claim}))
    assert model.context_window is None
    assert "is not believed" in model.notes[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>Welcome</html>",
        b"\xff\xfe",
        b"[" * 100_000,
        {},
        {"data": None},
        {"data": []},
        {"data": ["m"]},
        {"data": [{"id": 1}]},
        {"data": [{"id": ""}]},
        {"data": [{"id": "a\nb"}]},
        {"data": [{"id": "x" * 300}]},
        {"data": [{"id": "m"}, {"id": "m"}]},
    ],
    ids=repr,
)
def test_what_is_no_list_of_models_is_refused(garbage: object) -> None:
    with pytest.raises(ConfigError, match=r"/v1/models must answer with"):
        ask({"/v1/models": garbage})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (401, "wants a key"),
        (404, "must answer 200; got 404"),
        (302, "must answer 200; got 302"),
        (b" " * (discovery.MOST_BYTES + 1), "at most 4194304 bytes"),
    ],
)
def test_a_server_that_answers_otherwise_is_refused(answer: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask({"/v1/models": answer})


def test_which_of_several_models_is_meant_must_be_said() -> None:
    answers = listed({"id": "a"}, {"id": "b"})
    with pytest.raises(ConfigError, match=r"serves 2 models\. Name one: --model; a, b"):
        ask(answers)
    assert ask(answers, "b")[0].id == "b"
    with pytest.raises(ConfigError, match=r"does not serve 'c'\. Allowed: a, b"):
        ask(answers, "c")


@pytest.mark.parametrize("url", [NOBODY_URL, "http://[::1/v1", "nonsense"])
def test_an_address_where_nobody_answers_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be asked"):
        asyncio.run(discover(url))


def test_a_server_that_hangs_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(ConfigError, match="did not answer within 3 s"):
            asyncio.run(discover(url))


def test_an_endless_answer_is_cut() -> None:
    async def endless(request: web.Request) -> int:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 2**20)
        except ConnectionError:
            return 500

    with pytest.raises(ConfigError, match="at most 4194304 bytes"):
        ask({"/v1/models": endless})
