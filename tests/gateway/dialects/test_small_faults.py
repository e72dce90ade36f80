"""An expert's small faults do not cost the client its answer, whatever dialect it speaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.gateway.dialects.conftest import ADMIN_KEY, call_delta, chat, chat_stream, script
from tests.gateway.dialects.test_messages import NATIVE as NATIVE_MESSAGE
from tests.gateway.dialects.test_messages import native_stream as native_messages
from tests.gateway.dialects.test_responses_native import NATIVE as NATIVE_RESPONSE
from tests.gateway.dialects.test_responses_native import native_stream as native_responses
from tests.servers import Gateway

PATHS = ("chat/completions", "messages", "responses")
Fault = Callable[[dict[str, Any]], object]


def each_choice(**fields: Any) -> Fault:
    return lambda answer: [choice.update(fields) for choice in answer["choices"]]


def each_part(**fields: Any) -> Fault:
    def of(choice: dict[str, Any]) -> object:
        return choice["delta" if "delta" in choice else "message"].update(fields)

    return lambda answer: [of(choice) for choice in answer["choices"]]


FAULTS: dict[str, Fault] = {
    "no usage": lambda answer: answer.update(usage=None),
    "usage of another kind": lambda answer: answer.update(usage=[]),
    "no prompt tokens": lambda answer: (answer.get("usage") or {}).update(prompt_tokens=None),
    "no details": lambda answer: (answer.get("usage") or {}).update(prompt_tokens_details=None),
    "odd details": lambda answer: (answer.get("usage") or {}).update(
        prompt_tokens_details=7, completion_tokens_details={"reasoning_tokens": "few"}
    ),
    "no ids": lambda answer: answer.update(id=None, model=None, created=None),
    "a number as id": lambda answer: answer.update(id=7),
    "no index": each_choice(index=None),
    "odd logprobs": each_choice(logprobs={"content": None}, stop_reason=[1]),
    "no calls": each_part(tool_calls=None, reasoning=None, refusal=None),
}


def ask(gateway: Gateway, path: str, prompt: str, model: str = "script", **more: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    body = {"input": prompt} if path == "responses" else {"messages": messages, "max_tokens": 9}
    return gateway.post(f"/v1/{path}", json={"model": model, **body, **more})


def damaged(fault: Fault, answer: dict[str, Any], parts: list[str]) -> str:
    """Return the prompt for an answer with a fault, whole and streamed."""
    fault(answer)
    chunks = [json.loads(part[6:]) for part in parts if part[6:7] == "{"]
    for chunk in chunks:
        fault(chunk)
    return script(whole=answer, stream=[f"data: {json.dumps(chunk)}\n\n" for chunk in chunks])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("path", PATHS)
def test_a_small_fault_costs_nothing(gateway: Gateway, path: str, fault: Fault) -> None:
    prompt = damaged(fault, chat({"content": "It is sunny."}), chat_stream({"content": "Sunny."}))
    whole = ask(gateway, path, prompt)
    assert (whole.status_code, "It is sunny." in whole.text) == (200, True)
    streamed = ask(gateway, path, prompt, stream=True)
    assert "Sunny." in streamed.text
    assert "error" not in streamed.text.replace('"error":null', "")
    assert gateway.logged(streamed.headers["x-request-id"])["outcome"] == "ok"


@pytest.mark.parametrize("path", ["messages", "responses"])
def test_odd_tool_calls_and_contents_are_read(gateway: Gateway, path: str) -> None:
    function = {"name": "weather", "arguments": {"city": "Rome"}}
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "sunny."}, 7]
    said = {"content": parts, "tool_calls": [{"id": None, "index": None, "function": function}]}
    stream = chat_stream({"content": parts}, call_delta(0, "{}", id="", name="weather"))
    prompt = script(whole=chat(said, "eos"), stream=stream)
    for streamed in (False, True):
        answer = ask(gateway, path, prompt, stream=streamed)
        assert answer.status_code == 200
        assert "It is sunny." in answer.text
        assert '"name":"weather"' in answer.text.replace('": ', '":')


@pytest.mark.parametrize("count", [-5, 10**9, 2**60, 1.5, "many", None])
@pytest.mark.parametrize("path", PATHS)
def test_counts_that_cannot_be_spoil_no_account(gateway: Gateway, path: str, count: object) -> None:
    def fault(answer: dict[str, Any]) -> None:
        if answer.get("usage"):
            answer["usage"] |= {"prompt_tokens": count, "completion_tokens": count}

    prompt = damaged(fault, chat({"content": "Hi."}), chat_stream({"content": "Hi."}))
    whole = gateway.logged(ask(gateway, path, prompt).headers["x-request-id"])
    assert (whole["completion_tokens"], whole["usage"]) == (1, "estimated")
    answer = ask(gateway, path, prompt, stream=True)
    streamed = gateway.logged(answer.headers["x-request-id"])
    assert (streamed["completion_tokens"], streamed["usage"]) == (1, "estimated")
    assert len(prompt) / 4 < streamed["prompt_tokens"] == whole["prompt_tokens"] < len(prompt)


@pytest.mark.parametrize(
    ("path", "whole", "stream"),
    [
        ("messages", NATIVE_MESSAGE, native_messages()),
        ("responses", NATIVE_RESPONSE, native_responses()),
    ],
)
def test_native_counts_that_cannot_be_spoil_nothing(
    gateway: Gateway, path: str, whole: dict[str, Any], stream: list[str]
) -> None:
    broken = {**whole, "usage": {"input_tokens": -5, "output_tokens": 10**12}}
    parts = [part.replace('_tokens": ', '_tokens": -') for part in stream]
    prompt = script(whole=broken, stream=parts)
    more = {"store": False} if path == "responses" else {}
    answer = ask(gateway, path, prompt, "native", **more)
    assert answer.json() == broken
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["completion_tokens"], line["usage"], line["outcome"]) == (0, "none", "ok")
    answer = ask(gateway, path, prompt, "native", stream=True, **more)
    assert answer.text == "".join(parts)
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["usage"], line["outcome"]) == ("estimated", "ok")
    assert 1 <= line["completion_tokens"] <= 2


def test_a_client_that_leaves_before_the_count_pays_for_its_prompt(gateway: Gateway) -> None:
    key = gateway.post(
        "/admin/keys",
        json={"tenant": "leaves", "tokens_per_min": 10**6},
        headers={"authorization": f"Bearer {ADMIN_KEY}"},
    ).json()["key"]
    prompt = "A long story. " * 1000
    body = {"model": "endless", "messages": [{"role": "user", "content": prompt}], "stream": True}
    url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as answer:
        for line in answer.iter_lines():
            if '"x"' in line:
                break
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["outcome"], line["usage"]) == ("client_left", "estimated")
    assert line["prompt_tokens"] > 3000


def test_choices_that_have_not_finished_count_too(gateway: Gateway) -> None:
    finished = chat_stream({"content": "Hi."})[:-1]  # six tokens
    others = [part.replace('"index": 0', '"index": 1') for part in chat_stream({"content": "No"})]
    prompt = script(stream=[*finished, *others[:1] * 9], cut=True)
    answer = ask(gateway, "chat/completions", prompt, n=2, stream=True)
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["outcome"], line["completion_tokens"]) == ("cut", 10)


@pytest.mark.parametrize("path", PATHS)
def test_what_an_expert_says_of_its_failure_is_not_logged(gateway: Gateway, path: str) -> None:
    secret = f"the prompt was {uuid4().hex}"
    begun = chat_stream({"content": "Hi."})[0]
    failure = f'data: {{"error": {{"message": "{secret}"}}}}\n\n'
    answer = ask(gateway, path, script(stream=[begun, failure]), stream=True)
    assert secret in answer.text
    gateway.logged(answer.headers["x-request-id"])
    assert secret not in gateway.settled_log()
