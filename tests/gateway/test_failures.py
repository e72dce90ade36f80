"""Experts that fail, stall or are left alone: what the client sees, and what the ledger says."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from tests.gateway.conftest import FAILING
from tests.servers import Gateway, UpstreamServer, wait_for

ELSEWHERE = "Hello, how are you today?"
"""Goes to any category but coding."""
MISUSED = {"s401", "s404", "redirects"}
"""Experts that only the operator can mend."""
CODES = {429: "expert_busy", 502: "expert_failed", 503: "expert_unavailable", 504: "expert_timeout"}


def events(answer: httpx.Response) -> list[str]:
    """Return the data of a stream's events."""
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line]


# before anything was sent


WHOLE_AND_STREAMED = [
    ("s401", 502, "refused the gateway's key (401): see its api_key_env"),
    ("s404", 502, "answered 404: see its base_url and its model"),
    ("s500", 502, "answered with status 500"),
    ("redirects", 502, "answered 307: see its base_url"),
    ("s429", 429, "is over its limits"),
    ("s503", 503, "is not ready"),
    ("resets", 502, "broke the connection"),
    ("refuses", 503, "cannot be reached"),
    ("slow", 504, "did not answer in time"),
]


@pytest.mark.parametrize(
    ("expert", "stream", "status", "message"),
    [(name, stream, *rest) for name, *rest in WHOLE_AND_STREAMED for stream in (False, True)]
    + [
        ("garbage", False, 502, "is not a valid completion"),
        ("page", False, 502, "is not a valid completion"),
        ("page", True, 502, "sent no stream of events but 'text/html"),
        ("empty", True, 502, "sent an empty stream"),
    ],
)
def test_a_failure_of_a_pinned_expert_is_an_error_in_openai_form(
    gateway: Gateway, expert: str, stream: bool, status: int, message: str
) -> None:
    answer = gateway.chat(expert, stream=stream)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    code = "expert_misconfigured" if expert in MISUSED else CODES[status]
    assert error["code"] == code
    assert message in error["message"]
    assert "127.0.0.1" not in error["message"]
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["status"], line["outcome"]) == (status, code)
    assert line["attempts"] == [expert]
    assert line["expert"] is None


def test_the_log_says_where_a_failed_expert_is_and_why_it_failed(
    gateway: Gateway, upstream: UpstreamServer
) -> None:
    host = upstream.base_url.removeprefix("http://").removesuffix("/v1")
    for expert in ("refuses", "s500", "slow"):
        gateway.chat(expert)
    lines = [json.loads(line) for line in gateway.settled_log().splitlines() if line[0] == "{"]
    failed = {line["expert"]: line for line in lines if line["message"] == "expert failed"}
    assert failed["refuses"]["host"] == "127.0.0.1:1"
    assert failed["refuses"]["cause"].startswith("ConnectionRefusedError: ")
    assert (failed["s500"]["host"], failed["s500"]["upstream"]) == (host, "x, from_upstream")
    assert "Timeout" in failed["slow"]["cause"]


def test_an_expert_may_say_when_to_come_back(gateway: Gateway) -> None:
    assert gateway.chat("s429").headers["retry-after"] == "7"
    assert gateway.chat("refuses").headers["retry-after"] == "1"
    assert "retry-after" not in gateway.chat("resets").headers


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_client_did_wrong_is_passed_through(gateway: Gateway, stream: bool) -> None:
    answer = gateway.chat("s400", stream=stream)
    assert answer.status_code == 400
    assert answer.json() == {
        "error": {"message": "no", "type": "x", "param": None, "code": "from_upstream"}
    }
    assert answer.headers["x-coe-expert"] == "s400"
    assert "x-coe-active-params-b" not in answer.headers  # it produced nothing
    line = gateway.logged(answer.headers["x-request-id"])
    assert line["outcome"] == "rejected_by_expert"


# fallback


@pytest.mark.parametrize("stream", [False, True])
def test_auto_asks_the_next_expert_until_one_answers(
    gateway: Gateway, upstream: UpstreamServer, stream: bool
) -> None:
    answer = gateway.chat("auto", ELSEWHERE, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-coe-expert"] == "good"
    assert answer.headers["x-coe-reason"] == "fallback"
    request_id = answer.headers["x-request-id"]
    line = gateway.logged(request_id)
    assert line["attempts"] == [*FAILING, "good"]
    assert line["outcome"] == "ok"
    models = [json.loads(entry["raw"])["model"] for entry in upstream.seen(request_id)]
    assert models == [*(f"status-{n}" for n in (401, 404, 500, 503, 429)), "reset", "ok"]


def ask(gateway: Gateway, content: Any, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": content}]
    body = {"model": "auto", "messages": messages, **fields}
    return gateway.post("/v1/chat/completions", json=body)


def test_auto_does_not_hide_what_the_client_did_wrong(gateway: Gateway) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    answer = ask(gateway, [{"type": "text", "text": ELSEWHERE}, image])
    assert answer.status_code == 400
    assert answer.headers["x-coe-expert"] == "s400"  # the only one with vision
    assert answer.json()["error"]["code"] == "from_upstream"


def test_when_all_fail_the_failure_of_the_best_is_told(gateway: Gateway) -> None:
    answer = ask(gateway, ELSEWHERE, response_format={"type": "json_schema"})
    assert answer.status_code == 502  # of s500 and s503, which alone have json_schema
    error = answer.json()["error"]
    assert error["code"] == "expert_failed"
    assert error["message"] == (
        "Expert 's500' answered with status 500. Expert 's503' is not ready."
    )
    assert gateway.logged(answer.headers["x-request-id"])["attempts"] == ["s500", "s503"]


def test_a_capability_that_no_expert_has_is_refused(gateway: Gateway) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    answer = ask(gateway, [audio])
    assert answer.status_code == 400
    assert "No expert has what this request needs: audio" in answer.json()["error"]["message"]


def test_failed_calls_are_counted_by_expert(gateway: Gateway) -> None:
    gateway.chat("s500")
    metrics = gateway.get("/metrics").text
    assert 'coe_expert_failures_total{code="expert_failed",expert="s500"}' in metrics


# after something was sent


@pytest.mark.parametrize(
    ("expert", "outcome", "code", "message"),
    [
        ("cut", "cut", "expert_failed", "broke the connection"),
        ("unfinished", "cut", "expert_failed", "ended its answer in the middle"),
        ("stalled", "cut", "expert_timeout", "did not answer in time"),
        ("overlong", "cut", "expert_timeout", "did not answer in time"),
        ("fails", "cut", "expert_failed", "broke"),
    ],
)
def test_a_broken_stream_ends_with_an_error_event_and_never_with_done(
    gateway: Gateway, expert: str, outcome: str, code: str | None, message: str
) -> None:
    answer = gateway.chat(expert, stream=True)
    assert answer.status_code == 200
    *pieces, last = events(answer)
    assert json.loads(pieces[0])["choices"][0]["delta"]["content"] == "One"
    error = json.loads(last)["error"]
    assert error.get("code") == code
    assert message in error["message"]
    assert "[DONE]" not in answer.text
    line = gateway.logged(answer.headers["x-request-id"])
    assert line["outcome"] == outcome
    assert line["expert"] == expert
    assert (line["usage"], line["completion_tokens"] >= 4) == ("estimated", True)


@pytest.mark.parametrize("expert", ["cut", "fails"])
def test_the_openai_client_raises_on_a_broken_stream(gateway: Gateway, expert: str) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=expert, messages=[{"role": "user", "content": "hello"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke"):
            list(stream)


# clients that leave


@pytest.mark.parametrize(("expert", "stream"), [("held", False), ("held", True), ("endless", True)])
def test_a_client_that_leaves_cancels_the_call_upstream(
    gateway: Gateway, upstream: UpstreamServer, expert: str, stream: bool
) -> None:
    request_id = uuid4().hex
    messages = [{"role": "user", "content": "hello"}]

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=0.5) as client:
            body = {"model": expert, "messages": messages, "stream": stream}
            headers = {"x-request-id": request_id}
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as answer:
                await anext(answer.aiter_raw())

    if expert == "held":
        with pytest.raises(httpx.ReadTimeout):
            asyncio.run(leave())
    else:
        asyncio.run(leave())
    wait_for(lambda: [entry["left"] for entry in upstream.seen(request_id)] == [True])
    line = gateway.logged(request_id)
    assert line["outcome"] == "client_left"
    assert (line["completion_tokens"] > 0) is (expert == "endless")
