"""Whatever a client sends, a dialect translates it or says what is wrong with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.link import Link
from gateway.cache.responses import Responses
from gateway.dialects.base import Translation
from gateway.dialects.messages import PATH, Messages
from gateway.dialects.responses import ResponsesDialect
from gateway.dialects.tokens import estimate_tokens
from gateway.errors import InvalidRequestError
from gateway.experts import Expert, ExpertRegistry
from tests.gateway.dialects.test_sinks import ODD, some
from tests.servers import NOBODY_URL, write_experts

TYPES = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", "document")
TYPES += ("search_result", "input_text", "output_text", "input_image", "input_audio", "input_file")
TYPES += ("message", "reasoning", "function_call", "function_call_output", "item_reference", "x")
KIND = st.sampled_from(TYPES)
SOURCE = some(
    type=st.sampled_from(["base64", "url", "text", "content"]),
    data=st.text(),
    url=st.text(),
    media_type=st.just("image/png"),
    content=st.text(),
)
LEAF = some(type=KIND, text=st.text(), thinking=st.text(), source=SOURCE)
BLOCK = some(
    type=KIND,
    text=st.text(),
    thinking=st.text(),
    refusal=st.text(),
    id=st.text(),
    tool_use_id=st.text(),
    call_id=st.text(),
    name=st.text(),
    arguments=st.text(),
    input=some(a=ODD),
    content=st.text() | st.lists(LEAF, max_size=2),
    output=st.text() | st.lists(LEAF, max_size=2),
    summary=st.lists(LEAF, max_size=2),
    image_url=st.text(),
    input_audio=some(data=st.text()),
    file_data=st.text(),
    source=SOURCE,
    title=st.text(),
    context=st.text(),
    role=st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
)
CONTENT = st.text() | st.lists(BLOCK, max_size=3)
TURN = some(role=st.sampled_from(["user", "assistant", "system"]), content=CONTENT)
TOOL = some(
    type=st.sampled_from(["function", "custom", "web_search"]),
    name=st.text(),
    parameters=some(type=st.just("object")),
    input_schema=some(type=st.just("object")),
)
SHARED: dict[str, Any] = {
    "tools": st.lists(TOOL, max_size=2),
    "tool_choice": st.just("auto") | some(type=st.sampled_from(["auto", "tool"]), name=st.text()),
    "stream": st.booleans(),
    "metadata": some(user_id=st.text()),
    "cache": st.booleans(),
    "stop_sequences": st.lists(st.text(), max_size=2),
}
MESSAGES = some(
    model=st.just("auto"),
    max_tokens=st.integers(0, 9),
    messages=st.lists(TURN, min_size=1, max_size=3),
    system=CONTENT,
    output_config=some(effort=st.just("low"), format=some(type=st.just("json_schema"))),
    **SHARED,
)
RESPONSES = some(
    model=st.just("auto"),
    input=st.text() | st.lists(BLOCK, max_size=3),
    instructions=st.text(),
    text=some(format=some(type=st.just("json_schema"), name=st.text()), verbosity=st.text()),
    reasoning=some(effort=st.text()),
    include=st.lists(st.just("message.output_text.logprobs")),
    top_logprobs=st.integers(0, 9),
    conversation=st.text(),
    **SHARED,
)


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Expert:
    folder: Path = tmp_path_factory.mktemp("odd")
    entry = {"name": "one", "base_url": NOBODY_URL, "system_prompt": "Be terse."}
    return ExpertRegistry.load(write_experts(folder / "experts.yaml", [entry], {}))["one"]


def check(translate: Callable[[bytes], Translation], body: object, expert: Expert) -> None:
    try:
        asked = translate(json.dumps(body).encode())
    except InvalidRequestError as error:
        assert error.message
        return
    assert asked.request.messages
    assert estimate_tokens(asked.request) >= 0
    assert asked.native is not None
    sent = json.loads(asked.native.body_for(expert))
    assert sent["model"] == "one"
    assert asked.request.cache is None or "cache" not in sent


@given(MESSAGES)
def test_messages_are_translated_or_refused(expert: Expert, body: object) -> None:
    check(lambda sent: Messages({}).translate(sent, PATH), body, expert)


@given(RESPONSES)
def test_responses_are_translated_or_refused(expert: Expert, body: object) -> None:
    dialect = ResponsesDialect(Responses(cast(Link, None)))  # nothing is asked of it
    check(lambda sent: asyncio.run(dialect.parse(sent, "t")), body, expert)
