"""Conversations keep their expert while a switch would not pay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.sessions import session_keys
from gateway.plan import SWITCH_MARGIN, pays
from routers.base import decide
from tests.servers import Gateway, UpstreamServer, run_gateway, write_experts

CODE = "Write a Python function that reverses a linked list"
COOKING = "How do I bake a chocolate cake?"
ILLNESS = "I have had a fever, a cough and chest pain for three days. Which illness could it be?"
CATEGORIES = ("coding", "general", "medical")


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("sessions")
    names = ("general", "coding", "medical", "flaky")
    experts = [{"name": name, "model": "ok", "base_url": upstream.base_url} for name in names]
    mapping = {"coding": ["coding"], "medical": ["medical"]}
    config = write_experts(folder / "experts.yaml", experts, mapping)
    with run_gateway(config, folder, "--workers", "2") as running:
        yield running


def say(gateway: Gateway, *turns: str, headers: dict[str, str] | None = None) -> httpx.Response:
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Done."}]
    body = {"model": "auto", "messages": messages[:-1]}
    return gateway.post("/v1/chat/completions", json=body, headers=headers)


def expert_of(answer: httpx.Response) -> tuple[str, str]:
    return answer.headers["x-coe-expert"], answer.headers["x-coe-reason"]


def test_a_vague_follow_up_stays_on_any_worker(gateway: Gateway) -> None:
    turns = [CODE]
    assert expert_of(say(gateway, *turns))[0] == "coding"
    for follow_up in (
        "ok, go on with that please",
        "thanks a lot, that looks good to me",
        "hm, that is wrong, try again and be more careful this time",
    ):
        turns.append(follow_up)
        assert expert_of(say(gateway, *turns))[0] == "coding"


def test_a_clear_change_of_topic_switches(gateway: Gateway) -> None:
    assert expert_of(say(gateway, CODE, "thanks", ILLNESS))[0] == "medical"


def test_what_was_kept_in_spite_of_a_small_change_can_still_switch(gateway: Gateway) -> None:
    assert expert_of(say(gateway, CODE))[0] == "coding"
    assert expert_of(say(gateway, CODE, "fever and cough")) == ("coding", "sticky")
    assert expert_of(say(gateway, CODE, "fever and cough", ILLNESS))[0] == "medical"


def test_a_text_completion_says_nothing_of_a_conversation(gateway: Gateway) -> None:
    message = {"role": "user", "content": "Which day is it?"}
    body = {"model": "auto", "prompt": CODE, "messages": [message]}
    assert expert_of(gateway.post("/v1/completions", json=body))[0] == "coding"
    assert expert_of(gateway.chat("auto", message["content"]))[0] == "general"


def test_a_conversation_can_be_named(gateway: Gateway) -> None:
    mine = {"x-session-id": "mine"}
    assert expert_of(say(gateway, ILLNESS, headers=mine))[0] == "medical"
    assert expert_of(say(gateway, "hmm", headers=mine)) == ("medical", "sticky")
    assert expert_of(say(gateway, "hmm", headers={"x-session-id": "another"}))[0] == "general"
    off = {**mine, "x-coe-sticky": "off"}
    assert expert_of(say(gateway, "hmm", headers=off))[0] == "general"


@pytest.mark.parametrize(
    ("probabilities", "before", "switches"),
    [
        ([0.0, 0.0, 1.0], "coding", True),
        ([0.2, 0.05, 0.75], "coding", True),
        ([0.3, 0.1, 0.6], "coding", False),
        ([0.03, 0.84, 0.13], "coding", True),
        ([0.3, 0.7, 0.0], "coding", False),
        ([1.0, 0.0, 0.0], "coding", False),
        ([0.0, 0.1, 0.9], "gone", True),
        ([0.1, 0.45, 0.45], "coding", False),
    ],
)
def test_a_switch_pays_by_a_margin(probabilities: list[float], before: str, switches: bool) -> None:
    decision = decide(np.array(probabilities), CATEGORIES, 0.5)
    assert pays(decision, ILLNESS, CATEGORIES, before) is switches
    assert not pays(decision, "commit it", CATEGORIES, before)
    small_talk = "thanks a lot, that looks good to me"
    assert pays(decision, small_talk, CATEGORIES, before) is (
        switches and decision.category != "general"
    )
    assert 0 < SWITCH_MARGIN < 1


texts = st.text(max_size=20)


@given(texts, texts, texts, texts)
def test_tenants_and_names_never_share_a_conversation(a: str, b: str, c: str, d: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    one, other = (session_keys(tenant, name, {}, messages) for tenant, name in ((a, b), (c, d)))
    assert (one == other) is ((a, b) == (c, d))


def turns(*said: str) -> list[dict[str, Any]]:
    messages = []
    for text in said:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "Done."}]
    return messages[:-1]


def test_a_conversation_is_found_by_its_next_turn_alone() -> None:
    first = session_keys("t", None, {}, turns("a"))
    second = session_keys("t", None, {}, turns("a", "b"))
    assert first.so_far is None
    assert second.so_far == first.next
    third = session_keys("t", None, {}, turns("a", "b", "c"))
    assert third.so_far == second.next
    elsewhere = session_keys("t", None, {}, turns("a", "x", "c"))
    assert elsewhere.so_far not in {first.next, second.next, third.so_far}


@pytest.mark.parametrize("name", ["model", "user", "tools", "prompt_cache_key"])
def test_what_tells_conversations_apart(name: str) -> None:
    plain = session_keys("t", None, {}, turns("a", "b"))
    assert session_keys("t", None, {name: b'"x"'}, turns("a", "b")) != plain


def test_a_named_conversation_is_another_one_under_another_model() -> None:
    small, best = ({"model": model} for model in (b'"auto:small"', b'"auto:best"'))
    assert session_keys("t", "s", small, turns("a")) != session_keys("t", "s", best, turns("a"))
