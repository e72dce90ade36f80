"""Calls that chat front ends make for themselves go to the smallest expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.background import is_background
from tests.servers import UpstreamServer, run_gateway, write_experts

TITLE = "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history."
HISTORY = "\n<chat_history>\nUSER: Write a Python function.\nASSISTANT: Here.\n</chat_history>"
CODE = "Write a Python function that reverses a string"

USERS = [
    TITLE + HISTORY,
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes" + HISTORY,
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts" + HISTORY,
    "### Task:\nYou are an autocompletion system. Continue the text",
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions.",
    "Please write a 5-10 word title for the following conversation:\n\nUser: hello",
]
SYSTEMS = [
    "You are a professional conversation summarizer. Generate a concise title",
    "Analyze if this message indicates a new conversation topic. If it does, extract",
    "You are Claude Code, a coding agent.\n\nGenerate a concise, sentence-case title (3-7 words)",
    "You are a title generator. You output ONLY a thread title. Nothing else.",
    "\n    - you will generate a short title based on the first message a user".replace("    ", ""),
]
OTHERS = [
    "What does '### Task:\nGenerate a concise, 3-5 word title' do in Open WebUI?",
    "### Task:\nWrite a function that suggests a title",
    "Give me a title for my essay about bees.",
    "Analyze this conversation and provide: a summary.",
]


@pytest.mark.parametrize("text", USERS)
@pytest.mark.parametrize("as_parts", [False, True])
def test_what_front_ends_ask_is_recognised(text: str, as_parts: bool) -> None:
    content: Any = [{"type": "text", "text": text}] if as_parts else text
    assert is_background([{"role": "user", "content": content}])


@pytest.mark.parametrize("text", SYSTEMS)
def test_it_may_stand_in_the_system_prompt(text: str) -> None:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "hello"}]
    assert is_background(messages)


@pytest.mark.parametrize("text", OTHERS)
def test_what_users_ask_is_not(text: str) -> None:
    assert not is_background([{"role": "user", "content": text}])
    assert not is_background([{"role": "user", "content": None}])
    about = [{"role": "system", "content": "You help."}, {"role": "user", "content": text}]
    assert not is_background(about)


def test_an_earlier_turn_does_not_count() -> None:
    turns = [{"role": "user", "content": TITLE}, {"role": "assistant", "content": "Strings"}]
    assert not is_background([*turns, {"role": "user", "content": CODE}])


@pytest.mark.parametrize("background", ["cheapest", "route"])
def test_they_go_to_the_smallest_expert_and_leave_conversations_alone(
    upstream: UpstreamServer, tmp_path: Path, background: str
) -> None:
    url = {"base_url": upstream.base_url, "model": "ok"}
    experts = [
        {"name": "general", "active_params_b": 70, **url},
        {"name": "coder", "active_params_b": 30, **url},
        {"name": "small", "active_params_b": 1, **url},
        {"name": "vectors", "active_params_b": 0.1, "capabilities": ["embeddings"], **url},
    ]
    mapping = {"coding": ["coder"], "writing": ["small"]}
    keys = {"min_confidence": 0, "background": background}
    config = write_experts(tmp_path / "experts.yaml", experts, mapping, **keys)
    with run_gateway(config, tmp_path) as gateway:
        asked = gateway.chat("auto", TITLE + HISTORY).headers
        if background == "route":
            assert asked["x-coe-reason"] != "background"
            return
        assert (asked["x-coe-expert"], asked["x-coe-reason"]) == ("small", "background")
        assert "x-coe-category" not in asked

        def turn(*texts: str) -> dict[str, str]:
            messages = [{"role": "user", "content": text} for text in texts]
            body = {"model": "auto", "messages": messages}
            headers = {"x-session-id": "s1"}
            answer = gateway.post("/v1/chat/completions", json=body, headers=headers)
            return dict(answer.headers)

        assert turn(CODE)["x-coe-expert"] == "coder"
        assert turn(TITLE + HISTORY)["x-coe-expert"] == "small"
        assert turn(CODE, "commit it")["x-coe-expert"] == "coder"
        assert gateway.chat("general", TITLE).headers["x-coe-reason"] == "pinned"
