"""Kept answers: only where asked for, only complete ones, equal requests of one tenant only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.backends.base import UpstreamRequest
from gateway.cache.answers import PREFIX, answer_key
from gateway.experts import Expert, ExpertRegistry
from tests.servers import (
    NOBODY_URL,
    Gateway,
    UpstreamServer,
    Valkey,
    run_gateway,
    wait_for,
    write_experts,
)


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("answers")
    shared = {"base_url": upstream.base_url, "active_params_b": 7, "continuation": "prefill"}
    models = {"good": "ok", "eager": "ok", "short": "length", "cut": "cut", "sick": "status-400"}
    models["long"] = "long"  # over the limit
    experts = [{**shared, "name": name, "model": model} for name, model in models.items()]
    experts[1]["cache"] = True
    experts[3]["open_after_failures"] = None
    speaks = ["messages", "responses", "embeddings"]
    experts.append({**shared, "name": "speaks", "model": "script", "capabilities": speaks})
    config = write_experts(folder / "experts.yaml", experts, {}, general="good")
    environ = {"REDIS_URL": valkey.url, "COE_REDIS_TIMEOUT_MS": "2000"}
    with run_gateway(config, folder, **environ) as running:
        yield running


def fresh() -> str:
    return f"What does ticket {uuid4().hex} say?"


def kept(valkey: Valkey) -> int:
    return len(list(valkey.client.scan_iter(f"{PREFIX}:*")))


def ask_twice(
    gateway: Gateway, valkey: Valkey, model: str, *, keeps: bool = True, **fields: Any
) -> tuple[httpx.Response, httpx.Response]:
    """Ask the same twice, the second time when the answer has had the time to be kept."""
    prompt, before = fresh(), kept(valkey)
    first = gateway.chat(model, prompt, **fields)
    gateway.logged(first.headers["x-request-id"])
    if keeps:
        wait_for(lambda: kept(valkey) == before + 1)
    return first, gateway.chat(model, prompt, **fields)


def calls(upstream: UpstreamServer, answer: httpx.Response) -> int:
    return len(upstream.seen(answer.headers["x-request-id"]))


def test_an_answer_is_given_again_where_the_request_asks_for_it(
    gateway: Gateway, valkey: Valkey, upstream: UpstreamServer
) -> None:
    before = gateway.stats()
    first, again = ask_twice(gateway, valkey, "good", cache=True)
    assert (first.headers["x-coe-cache"], again.headers["x-coe-cache"]) == ("off", "answer_hit")
    assert (calls(upstream, first), calls(upstream, again)) == (1, 0)
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    (entry,) = upstream.seen(first.headers["x-request-id"])
    assert "cache" not in json.loads(entry["raw"])  # it is for the gateway
    line = gateway.logged(again.headers["x-request-id"])
    assert (line["expert"], line["active_params_b"], line["attempts"]) == ("good", 0, [])
    assert (line["completion_tokens"], line["finish_reason"]) == (4, "stop")
    after = gateway.stats()
    assert after["requests"] - before["requests"] == 2
    assert again.headers["x-coe-active-params-b"] == "0"


def test_a_kept_stream_is_a_stream_with_the_same_events(
    gateway: Gateway, valkey: Valkey, upstream: UpstreamServer
) -> None:
    first, again = ask_twice(gateway, valkey, "good", cache=True, stream=True)
    assert again.headers["x-coe-cache"] == "answer_hit"
    assert calls(upstream, again) == 0
    assert again.content == first.content
    assert again.text.endswith("data: [DONE]\n\n")
    assert again.headers["content-type"] == "text/event-stream"
    assert gateway.logged(again.headers["x-request-id"])["completion_tokens"] == 4


def test_a_kept_stream_says_that_it_cost_nothing(gateway: Gateway, valkey: Valkey) -> None:
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    _, again = ask_twice(gateway, valkey, "good", cache=True, **fields)
    *_, last, _ = [line for line in again.text.splitlines() if line]
    chunk = json.loads(last.removeprefix("data: "))
    assert chunk["coe"] == {"expert": "good", "active_params_b": 0}
    assert chunk["usage"]["completion_tokens"] == 4


def test_an_expert_may_keep_its_answers_and_a_request_may_refuse(
    gateway: Gateway, valkey: Valkey, upstream: UpstreamServer
) -> None:
    _, again = ask_twice(gateway, valkey, "eager")
    assert again.headers["x-coe-cache"] == "answer_hit"
    _, again = ask_twice(gateway, valkey, "eager", keeps=False, cache=False)
    assert calls(upstream, again) == 1


def test_a_routed_request_is_planned_first(gateway: Gateway, valkey: Valkey) -> None:
    first, again = ask_twice(gateway, valkey, "auto", cache=True)
    assert (first.headers["x-coe-cache"], again.headers["x-coe-cache"]) == ("miss", "answer_hit")
    assert again.headers["x-coe-expert"] == "good"


WHOLE_MESSAGE = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": {}}
WHOLE_RESPONSE = {"id": "r", "status": "completed", "output": []}


def native_message(*last: str) -> str:
    events = [{"type": "message_start"}, {"type": "message_delta", "delta": WHOLE_MESSAGE}]
    events += [{"type": name} for name in last]
    return json.dumps({"stream": [f"data: {json.dumps(event)}\n\n" for event in events]})


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 5, **fields}


@pytest.mark.parametrize(
    ("path", "body", "keeps"),
    [
        ("embeddings", {"input": "some text"}, True),
        ("messages", said(json.dumps({"whole": WHOLE_MESSAGE})), True),
        ("messages", said(json.dumps({"whole": {**WHOLE_MESSAGE, "stop_reason": "x"}})), False),
        ("messages", said(native_message("message_stop"), stream=True), True),
        ("messages", said(native_message(), stream=True), False),
        ("messages", said("translated", model="good"), True),
        ("responses", {"input": "translated", "model": "good"}, True),
        # its id is that of a turn, which may be gone on with or deleted once
        ("responses", {"input": json.dumps({"whole": WHOLE_RESPONSE}), "store": False}, False),
    ],
)
def test_answers_in_other_forms_are_kept_too(
    gateway: Gateway,
    valkey: Valkey,
    upstream: UpstreamServer,
    path: str,
    body: dict[str, Any],
    keeps: bool,
) -> None:
    asked = {"model": "speaks", "user": uuid4().hex, "cache": True, **body}
    before = kept(valkey)
    first = gateway.post(f"/v1/{path}", json=asked)
    gateway.logged(first.headers["x-request-id"])
    (entry,) = upstream.seen(first.headers["x-request-id"])
    assert "cache" not in json.loads(entry["raw"])
    if keeps:
        wait_for(lambda: kept(valkey) == before + 1)
    again = gateway.post(f"/v1/{path}", json=asked)
    assert (first.status_code, again.status_code) == (200, 200)
    assert calls(upstream, again) == (not keeps)
    assert (again.headers["x-coe-cache"] == "answer_hit") is keeps
    if keeps and asked["model"] == "speaks":
        assert again.content == first.content


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("good", {}),
        ("good", {"cache": None}),
        ("short", {"cache": True}),
        ("short", {"cache": True, "stream": True}),
        ("cut", {"cache": True, "stream": True}),
        ("sick", {"cache": True}),
        ("long", {"cache": True}),
        ("long", {"cache": True, "stream": True}),
    ],
)
def test_nothing_else_is_kept(
    gateway: Gateway, valkey: Valkey, upstream: UpstreamServer, model: str, fields: dict[str, Any]
) -> None:
    before = kept(valkey)
    _, again = ask_twice(gateway, valkey, model, keeps=False, **fields)
    assert calls(upstream, again) >= 1
    assert kept(valkey) == before


def test_another_meaning_of_the_field_is_left_to_the_expert(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    answer = gateway.chat("good", fresh(), cache={"ttl": 5})
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    assert json.loads(entry["raw"])["cache"] == {"ttl": 5}


def test_tenants_never_share_an_answer(
    gateway: Gateway, valkey: Valkey, upstream: UpstreamServer
) -> None:
    prompt = fresh()
    body = {"model": "good", "messages": [{"role": "user", "content": prompt}], "cache": True}
    for tenant in ("team-a", "team-b", None):
        headers = {}
        if tenant is not None:
            key = gateway.post("/admin/keys", json={"tenant": tenant}).json()["key"]
            headers["authorization"] = f"Bearer {key}"
        before = kept(valkey)
        first = gateway.post("/v1/chat/completions", json=body, headers=headers)
        assert calls(upstream, first) == 1
        wait_for(lambda seen=before: kept(valkey) == seen + 1)
        again = gateway.post("/v1/chat/completions", json=body, headers=headers)
        assert again.headers["x-coe-cache"] == "answer_hit"


def test_garbage_in_the_place_of_an_answer_is_ignored(
    gateway: Gateway, valkey: Valkey, upstream: UpstreamServer
) -> None:
    prompt, before = fresh(), set(valkey.client.scan_iter(f"{PREFIX}:*"))
    gateway.chat("good", prompt, cache=True)
    (key,) = wait_for(lambda: set(valkey.client.scan_iter(f"{PREFIX}:*")) - before)
    assert 0 < valkey.client.ttl(key) <= 3600
    valkey.client.set(key, b"\x93\xa1a")
    answer = gateway.chat("good", prompt, cache=True)
    assert (answer.status_code, calls(upstream, answer)) == (200, 1)


# keys


def expert(tmp_path: Any, **fields: Any) -> Expert:
    entry = {"name": "one", "base_url": NOBODY_URL, "capabilities": ["tools", "vision"], **fields}
    return ExpertRegistry.load(write_experts(tmp_path / "experts.yaml", [entry], {}))["one"]


REQUEST = UpstreamRequest("chat/completions", b'{"model":"m"}', False, "id")


def test_whatever_could_change_an_answer_changes_its_key(tmp_path: Any) -> None:
    plain = expert(tmp_path)
    key = answer_key("t", plain, REQUEST)
    assert answer_key("t", expert(tmp_path), replace(REQUEST, request_id="other")) == key
    others = [
        answer_key("u", plain, REQUEST),
        answer_key("t", plain, replace(REQUEST, body=b'{"model":"m" }')),
        answer_key("t", plain, replace(REQUEST, path="completions")),
        answer_key("t", plain, replace(REQUEST, headers={"x": "y"})),
        *(
            answer_key("t", expert(tmp_path, **changed), REQUEST)
            for changed in (
                {"model": "n"},
                {"base_url": "http://127.0.0.1:2/v1"},
                {"system_prompt": "Be terse."},
                {"api_key_env": "OTHER_KEY"},
                {"capabilities": ["tools"]},
                {"timeout_s": {"total": 1}},
            )
        ),
    ]
    assert len({key, *others}) == 1 + len(others)
    assert b"m" not in key.removeprefix(PREFIX.encode())
