"""Where the time went is told to those who ask."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.prompts import prompt_for_the_cheap_stage, prompt_for_the_encoder
from tests.servers import Gateway, wait_for


@pytest.mark.parametrize(
    ("prompt", "routing"),
    [
        (prompt_for_the_cheap_stage, "classify"),
        (prompt_for_the_encoder, "classify cache queue encode"),
    ],
    ids=["at once", "with the encoder"],
)
def test_the_steps_of_a_request_are_timed_where_asked(
    gateway: Gateway, prompt: Callable[[], str], routing: str
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt()}]}
    answer = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timing": "on"})
    timing = answer.headers["server-timing"]
    steps = f"admit receive parse plan {routing} prepare connect send upstream first_byte"
    assert re.findall(r"(\w+);dur=\d+\.\d{3}", timing) == steps.split()
    spent_ms = sum(float(ms) for ms in re.findall(r"dur=([\d.]+)", timing))
    assert 0 < spent_ms <= 1000 * answer.elapsed.total_seconds()
    request_id = answer.headers["x-request-id"]
    wait_for(lambda: re.search(f'"timing".*{request_id}.*"account"', gateway.log()))
    assert "server-timing" not in gateway.chat("auto").headers


HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("chat/completions", {"messages": HELLO}),
        ("messages", {"messages": HELLO, "max_tokens": 9}),
        ("responses", {"input": "hello"}),
    ],
)
def test_the_steps_are_told_in_every_dialect_and_before_a_stream(
    gateway: Gateway, path: str, fields: dict[str, object], stream: bool
) -> None:
    body = {"model": "good", "stream": stream, **fields}
    answer = gateway.post(f"/v1/{path}", json=body, headers={"x-coe-timing": "on"})
    steps = re.findall(r"(\w+);dur=\d+\.\d{3}", answer.headers["server-timing"])
    told = ["admit", "receive", "parse", "plan", "prepare", "connect", "send", "upstream"]
    assert steps == [*told, "first_byte"]
    assert stream == answer.headers["content-type"].startswith("text/event-stream")
    request_id = answer.headers["x-request-id"]
    wait_for(lambda: re.search(f'"timing".*{request_id}.*"relay".*"account"', gateway.log()))
