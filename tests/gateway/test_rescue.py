"""Experts that fail for a while or in the middle: who takes over, and what the client sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.servers import Gateway, UpstreamServer, run_gateway, wait_for, write_experts

CODE = "Write a Python function that reverses a string"
MEDICAL = "I have had a fever, a cough and chest pain for three days. Which illness is it?"
MATH = "Solve the equation x^2 - 5x + 6 = 0 and show each step."
SCIENCE = "Why does ice float on water? Explain it with the density of its crystals."
LAW = "Is a verbal contract enforceable in court if there was no witness?"
WHOLE = "One two threeé…"


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("rescue")
    url = {"base_url": upstream.base_url}
    patient = {"open_after_failures": None, **url}
    experts: list[dict[str, Any]] = [
        {"name": "good", "model": "ok", "active_params_b": 1, "continuation": "prefill", **url},
        {"name": "vllm", "model": "ok", "continuation": "continue_final_message", **url},
        {"name": "plain", "model": "ok", "active_params_b": 7, **url},
        *({"name": name, "active_params_b": 2, **patient} for name in ("cut", "fails")),
        {"name": "unfinished", "max_retries": 0, **url},
        {"name": "undone", **url},
        {"name": "begins", "active_params_b": 70, **patient},
        {"name": "errs", "max_retries": 0, **patient},
        {"name": "toolong", **url},
        {"name": "refuses", "model": "status-400", "continuation": "prefill", **url},
        {"name": "late", "continuation": "prefill", **url},
        {"name": "malformed", "active_params_b": 2, **patient},
        {"name": "toolcut", "active_params_b": 2, **patient},
        {"name": "stalled", "active_params_b": 2, "timeout_s": {"idle": 0.3}, **url},
        {"name": "flaps", "model": "flap-2", **url},
        {"name": "broken", "model": "status-500", "max_retries": 0, **url},
        {"name": "elsewhere", "model": "status-404", **url},
        {"name": "narrow", "model": "endless", "max_concurrency": 1, "max_queue": 0, **url},
    ]
    mapping = {
        "coding": ["cut", "good"],
        "law": ["toolong", "good"],
        "medical": ["begins", "plain"],
        "math": ["errs", "good"],
        "science": ["cut", "refuses"],
    }
    config = write_experts(folder / "experts.yaml", experts, mapping, min_confidence=0)
    with run_gateway(config, folder) as running:
        yield running


def text_of(answer: httpx.Response) -> str:
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[6:7] == "{"]
    choices = [choice for event in events for choice in event.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_a_cut_stream_goes_on_with_the_next_expert(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    answer = gateway.chat(
        "auto", CODE, stream=True, stream_options={"include_usage": True}, max_tokens=50
    )
    request_id = answer.headers["x-request-id"]
    assert text_of(answer) == WHOLE + WHOLE  # what the second expert says is its own affair
    assert answer.text.rstrip().endswith("data: [DONE]")
    usage = json.loads(answer.text.split("data: ")[-2])
    assert usage["usage"]["completion_tokens"] == 4 + 4
    assert usage["usage"]["total_tokens"] == 11 + 4 + 4
    assert usage["coe"]["rescued_by"] == ["good"]
    second = json.loads(upstream.seen(request_id)[1]["raw"])
    assert second["messages"][-1] == {"role": "assistant", "content": WHOLE}
    assert second["max_tokens"] == 46
    line = gateway.logged(request_id)
    assert line["rescued_by"] == ["good"]
    assert line["expert_active_params_b"] == 3
    assert line["outcome"] == "ok"


def test_a_cut_text_completion_goes_on_behind_its_prompt(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    body = {"model": "auto", "prompt": CODE, "stream": True, "max_tokens": 50}
    answer = gateway.post("/v1/completions", json=body)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[6:7] == "{"]
    texts = [choice.get("text") or "" for event in events for choice in event["choices"]]
    assert "".join(texts) == WHOLE + WHOLE
    assert answer.text.endswith("data: [DONE]\n\n")
    second = json.loads(upstream.seen(answer.headers["x-request-id"])[1]["raw"])
    assert (second["prompt"], second["max_tokens"]) == (CODE + WHOLE, 46)
    assert "messages" not in second


@pytest.mark.parametrize("fields", [{"echo": True}, {"prompt": [1, 2]}, {"n": 2}, {"suffix": "x"}])
def test_a_text_completion_that_cannot_be_continued_ends_with_an_error(
    gateway: Gateway, fields: dict[str, Any]
) -> None:
    body = {"model": "cut", "prompt": CODE, "stream": True, **fields}
    answer = gateway.post("/v1/completions", json=body)
    assert "[DONE]" not in answer.text
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "expert_failed"


def test_the_openai_client_sees_one_answer(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": CODE}], stream=True
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE + WHOLE
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


def test_the_parts_have_one_id_and_one_role(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        helper = client.chat.completions.stream(
            model="auto", messages=[{"role": "user", "content": CODE}]
        )
        with helper as stream:
            events = [event.chunk for event in stream if event.type == "chunk"]
            message = stream.get_final_completion().choices[0].message
    assert {chunk.id for chunk in events} == {"cut"}
    assert (message.role, message.content) == ("assistant", WHOLE + WHOLE)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_too_long_for_one_expert_goes_to_the_next(gateway: Gateway, stream: bool) -> None:
    answer = gateway.chat("auto", LAW, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-coe-reason"] == "fallback"
    assert gateway.logged(answer.headers["x-request-id"])["attempts"] == ["toolong", "good"]
    assert gateway.chat("toolong").json() == {"error": {"code": "context_length_exceeded"}}


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"response_format": {"type": "json_object"}}],
)
def test_what_cannot_be_continued_ends_with_an_error(
    gateway: Gateway, fields: dict[str, Any]
) -> None:
    answer = gateway.chat("auto", CODE, stream=True, **fields)
    assert "[DONE]" not in answer.text
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "expert_failed"
    assert gateway.logged(answer.headers["x-request-id"])["outcome"] == "cut"


def test_an_answer_of_which_nothing_was_said_begins_anew(gateway: Gateway) -> None:
    json_object = {"type": "json_object"}
    answer = gateway.chat("auto", MEDICAL, stream=True, n=1, response_format=json_object)
    assert text_of(answer) == WHOLE
    assert answer.text.endswith("data: [DONE]\n\n")
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["rescued_by"], line["expert_active_params_b"]) == (["plain"], 7)


def test_a_refusal_is_no_rest_of_an_answer(gateway: Gateway) -> None:
    answer = gateway.chat("auto", SCIENCE, stream=True)
    assert text_of(answer) == WHOLE
    assert "from_upstream" not in answer.text
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "expert_failed"
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["attempts"], line["rescued_by"]) == (["cut", "refuses"], [])


def test_a_stream_that_begins_with_a_failure_never_began(gateway: Gateway) -> None:
    answer = gateway.chat("auto", MATH, stream=True)
    told = answer.headers
    assert (told["x-coe-expert"], told["x-coe-reason"]) == ("good", "fallback")
    assert text_of(answer) == WHOLE
    line = gateway.logged(told["x-request-id"])
    assert (line["attempts"], line["rescued_by"]) == (["errs", "good"], [])
    alone = gateway.chat("errs", stream=True)
    assert (alone.status_code, alone.json()["error"]["code"]) == (502, "expert_failed")


@pytest.mark.parametrize("expert", ["malformed", "toolcut"])
def test_a_pinned_expert_without_continuation_ends_with_an_error(
    gateway: Gateway, expert: str
) -> None:
    answer = gateway.chat(expert, stream=True)
    assert "[DONE]" not in answer.text
    assert "{not json" not in answer.text
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "expert_failed"


def test_a_stream_that_breaks_after_its_end_is_whole(gateway: Gateway) -> None:
    answer = gateway.chat("late", stream=True)
    assert answer.text.count("[DONE]") == 1
    assert text_of(answer) == WHOLE
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["outcome"], line["rescued_by"]) == ("ok", [])


def test_an_end_that_the_expert_left_out_is_added(gateway: Gateway) -> None:
    answer = gateway.chat("undone", stream=True)
    assert text_of(answer) == WHOLE
    assert answer.text.endswith("}\n\ndata: [DONE]\n\n")


def test_an_expert_that_fails_for_a_moment_is_tried_again(gateway: Gateway) -> None:
    answer = gateway.chat("flaps")
    assert answer.status_code == 200
    assert gateway.logged(answer.headers["x-request-id"])["attempts"] == ["flaps"] * 3


def test_a_lone_expert_that_keeps_failing_is_left_alone(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    answers = [gateway.chat("broken") for _ in range(5)]
    assert [answer.status_code for answer in answers[:3]] == [502, 503, 503]  # it asked for 7 s
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 7
    assert "left alone" in answers[-1].json()["error"]["message"]
    seen = [upstream.seen(answer.headers["x-request-id"]) for answer in answers]
    assert [len(calls) for calls in seen] == [1, 0, 0, 0, 0]
    shown = gateway.get("/readyz").json()
    assert shown["ready"]
    assert 0 < shown["left_alone_s"]["broken"] <= 7


def test_an_expert_whose_streams_all_break_is_left_alone(gateway: Gateway) -> None:
    def refusal() -> httpx.Response | None:
        answer = gateway.chat("unfinished", stream=True)
        return None if answer.status_code == 200 else answer

    refused = wait_for(refusal)
    assert "left alone" in refused.json()["error"]["message"]


def test_clients_that_leave_give_their_places_back(gateway: Gateway) -> None:
    body = {"model": "narrow", "messages": [{"role": "user", "content": "x"}], "stream": True}

    def is_admitted() -> bool:
        url = f"{gateway.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=20) as answer:
            return answer.status_code == 200

    for _ in range(5):  # each leaves in the middle
        wait_for(is_admitted)


def test_an_expert_without_an_endpoint_is_asked_on(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    body = {"model": "elsewhere", "prompt": "x"}
    answers = [gateway.post("/v1/completions", json=body) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [502] * 5
    seen = [upstream.seen(answer.headers["x-request-id"]) for answer in answers]
    assert [len(calls) for calls in seen] == [1] * 5


def test_a_full_expert_refuses_at_once(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "narrow", "messages": messages, "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=20) as held:
        assert held.status_code == 200
        pieces = held.iter_raw()  # dropping it would close the stream
        next(pieces)
        with ThreadPoolExecutor(4) as pool:
            refused = list(pool.map(lambda _: gateway.chat("narrow", stream=True), range(4)))
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert refused[0].json()["error"]["type"] == "rate_limit_error"


def test_the_client_says_how_long_it_waits(gateway: Gateway) -> None:
    body = {"model": "narrow", "messages": [{"role": "user", "content": "x"}], "stream": True}
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timeout-s": "0.4"})
    error = json.loads(answer.text.split("data: ")[-1])["error"]
    assert error["code"] == "expert_timeout"
    assert "0.4 s" in error["message"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "1e9"])
def test_a_time_limit_that_is_none_is_refused(gateway: Gateway, value: str) -> None:
    body = {"model": "good", "messages": [{"role": "user", "content": "x"}]}
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timeout-s": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-coe-timeout-s"
