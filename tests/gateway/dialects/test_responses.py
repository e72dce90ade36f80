"""The Responses API through the official client, whole and streamed, translated and native."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from prometheus_client import CollectorRegistry

from gateway.cache.link import Link, connect
from gateway.cache.responses import MOST_BYTES, Responses, StoredResponse
from gateway.metrics import Metrics
from tests.gateway.dialects.conftest import ADMIN_KEY, CODE, call_delta, chat, chat_stream, script
from tests.gateway.dialects.test_responses_input import ITEMS, client_of, sent_for
from tests.servers import Gateway, UpstreamServer, Valkey, run_gateway, write_experts

DEEP = [
    {"reasoning": "Let me "},
    {"reasoning": "think."},
    {"content": "It is "},
    {"content": "sunny."},
    call_delta(0, "", id="call_a", name="weather"),
    call_delta(0, '{"city": "Ro'),
    call_delta(1, '{"city": ', id="call_b", name="weather"),
    call_delta(0, 'me"}'),
    call_delta(1, '"Oslo"}'),
]


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


def stream(client: openai.OpenAI, prompt: str, **fields: Any) -> tuple[list[Any], Response]:
    """Return the events and the response of a stream."""
    with client.responses.stream(**{"model": "script", "input": prompt, **fields}) as events:
        return list(events), events.get_final_response()


def check_deep(response: Response) -> None:
    reasoning, message, rome, oslo = response.output
    assert reasoning.content[0].text == "Let me think."  # type: ignore[union-attr, index]
    assert message.content[0].text == "It is sunny."  # type: ignore[union-attr, index]
    calls: Any = (rome, oslo)
    assert [(call.call_id, json.loads(call.arguments)) for call in calls] == [
        ("call_a", {"city": "Rome"}),
        ("call_b", {"city": "Oslo"}),
    ]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (20, 6)
    assert response.usage.input_tokens_details.cached_tokens == 8
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert (response.status, response.model) == ("completed", "m")


# answers


def test_a_whole_answer_becomes_a_response(client: openai.OpenAI) -> None:
    def call(index: str, city: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        return {"id": index, "type": "function", "function": function}

    calls = [call("call_a", "Rome"), call("call_b", "Oslo")]
    said = {"content": "It is sunny.", "reasoning": "Let me think.", "tool_calls": calls}
    prompt = script(whole=chat(said, "tool_calls"))
    response = client.responses.create(model="script", input=prompt, metadata={"a": "b"}, top_p=0.5)
    check_deep(response)
    assert (response.metadata, response.top_p, response.temperature) == ({"a": "b"}, 0.5, 1)
    assert response.id.startswith("resp_")


def test_a_streamed_answer_loses_nothing(client: openai.OpenAI) -> None:
    events, response = stream(client, script(stream=chat_stream(*DEEP, finish="tool_calls")))
    check_deep(response)
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_the_events_of_a_text_come_in_order(client: openai.OpenAI) -> None:
    prompt = script(stream=chat_stream({"content": "a"}, {"content": "b"}))
    raw = client.responses.create(model="script", input=prompt, stream=True)
    assert [event.type for event in raw] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_refusal_and_logprobs_come_through(client: openai.OpenAI) -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    whole = chat({"content": "a"}, logprobs={"content": [token]})
    fields: Any = {"include": ["message.output_text.logprobs"]}
    answer: Any = client.responses.create(model="script", input=script(whole=whole), **fields)
    assert answer.output[0].content[0].logprobs[0].logprob == -0.5
    refused = script(stream=chat_stream({"refusal": "I "}, {"refusal": "won't."}))
    refusal: Any = stream(client, refused)[1].output[0]
    assert refusal.content[0].refusal == "I won't."


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_cut_short_is_incomplete(client: openai.OpenAI, finish: str, reason: str) -> None:
    whole = script(whole=chat({"content": "a"}, finish))
    answer = client.responses.create(model="script", input=whole)
    parts = script(stream=chat_stream({"content": "a"}, finish=finish))
    *_, last = client.responses.create(model="script", input=parts, stream=True)
    assert last.type == "response.incomplete"
    for response in (answer, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == reason


# what is kept


def test_a_conversation_goes_on_by_id(client: openai.OpenAI, upstream: UpstreamServer) -> None:
    prompt = script(whole=chat({"content": "Hi."}), stream=chat_stream({"content": "Yes."}))
    first = client.responses.create(model="script", input=prompt, instructions="Not carried on.")
    _, second = stream(client, "Again?", previous_response_id=first.id)
    raw = client.responses.with_raw_response.create(
        model="script", input="And now?", previous_response_id=second.id
    )
    assert raw.parse().previous_response_id == second.id
    assert sent_for(upstream, raw)["messages"] == [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Again?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And now?"},
    ]
    client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        client.responses.create(model="script", input="a", previous_response_id=second.id)
    assert gone.value.code == "previous_response_not_found"


def test_a_response_is_shown_and_deleted(client: openai.OpenAI) -> None:
    prompt = script(whole=chat({"content": "Hi."}))
    made = client.responses.create(model="script", input=prompt)
    assert made.to_dict()["store"] is True
    assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
    with pytest.raises(openai.BadRequestError, match="nothing to cancel"):
        client.responses.cancel(made.id)
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_what_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    prompt = script(whole=chat({"content": "Hi."}))
    made = client.responses.create(model="script", input=prompt, store=False)
    assert made.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_input_items_are_listed_page_by_page(client: openai.OpenAI) -> None:
    made = client.responses.create(model="script", input=ITEMS)
    pages = client.responses.input_items.list(made.id, order="asc", limit=3)
    listed = [item.to_dict() for item in pages]
    as_part = {"type": "message", "content": [{"type": "input_text", "text": ITEMS[0]["content"]}]}
    given = [{**ITEMS[0], **as_part}, *ITEMS[1:-1], {**ITEMS[-1], "type": "message"}]
    assert [
        {**item, "id": shown["id"]} for item, shown in zip(given, listed, strict=True)
    ] == listed
    newest = client.responses.input_items.list(made.id, limit=1).data[0]
    assert newest.to_dict() == listed[-1]
    answer = client._client.get(f"{client.base_url}responses/{made.id}/input_items?limit=x")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_an_item_may_be_named_instead_of_sent(
    client: openai.OpenAI, upstream: UpstreamServer
) -> None:
    made = client.responses.create(model="script", input=script(whole=chat({"content": "Hi."})))
    reference: Any = {"type": "item_reference", "id": made.output[0].id}
    raw = client.responses.with_raw_response.create(
        model="script", input=[reference, {"role": "user", "content": "b"}],
        previous_response_id=made.id,
    )  # fmt: skip
    roles = [message["role"] for message in sent_for(upstream, raw)["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_tenants_do_not_see_each_others_responses(gateway: Gateway) -> None:
    def key(tenant: str) -> str:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        made = gateway.post("/admin/keys", json={"tenant": tenant}, headers=headers).json()
        return next(value for value in made.values() if str(value).startswith("coe-"))

    prompt = script(whole=chat({"content": "Hi."}))
    with client_of(gateway, key("a")) as mine, client_of(gateway, key("b")) as theirs:
        made = mine.responses.create(model="script", input=prompt)
        assert mine.responses.retrieve(made.id).id == made.id
        with pytest.raises(openai.NotFoundError):
            theirs.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            theirs.responses.delete(made.id)
        with pytest.raises(openai.BadRequestError):
            theirs.responses.create(model="script", input="a", previous_response_id=made.id)


@contextmanager
def killed(valkey: Valkey) -> Iterator[None]:
    """Have it end with the block."""
    try:
        yield
    finally:
        valkey.kill()


def test_a_long_conversation_is_not_kept(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()

    async def put() -> list[bool]:
        redis = connect(valkey.url, 10_000)
        kept = Responses(Link(redis, Metrics(CollectorRegistry()), 10_000))
        item = {"type": "message", "content": "x" * (MOST_BYTES // 2)}
        first = StoredResponse({"id": "r1", "output": []}, [item])
        done = [await kept.put("t", first)]
        (turn,) = await kept.turns("t", "r1")
        assert MOST_BYTES / 2 < turn.size < MOST_BYTES
        for items in ([], [item]):
            second = StoredResponse({"id": "r2", "output": []}, items, ("r1",), turn.size)
            done.append(await kept.put("t", second))
        await redis.aclose()
        return done

    with killed(valkey):
        assert asyncio.run(put()) == [True, True, False]


def test_any_replica_goes_on_and_redis_may_fail(upstream: UpstreamServer, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    experts = [{"name": "script", "base_url": upstream.base_url}]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    prompt = script(whole=chat({"content": "Hi."}))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    environ = {"REDIS_URL": valkey.url, "COE_REDIS_TIMEOUT_MS": "2000"}
    with (
        killed(valkey),
        run_gateway(config, tmp_path / "one", **environ) as one,
        run_gateway(config, tmp_path / "two", **environ) as two,
        client_of(one) as first,
        client_of(two) as second,
    ):
        made = first.responses.create(model="script", input=prompt)
        raw = second.responses.with_raw_response.create(
            model="script", input="b", previous_response_id=made.id
        )
        assert len(sent_for(upstream, raw)["messages"]) == 3
        valkey.kill()
        assert first.responses.create(model="script", input=prompt).to_dict()["store"] is False
        with pytest.raises(openai.InternalServerError, match="Stored responses"):
            first.responses.create(model="script", input="b", previous_response_id=made.id)
        with pytest.raises(openai.InternalServerError, match="Stored responses"):
            first.responses.delete(made.id)


# what works for every dialect


def test_a_broken_stream_goes_on_with_the_next_expert(client: openai.OpenAI) -> None:
    _, response = stream(client, CODE, model="auto")
    assert response.output_text == "One two threeé…" * 2


def test_a_broken_stream_ends_with_a_failed_response(client: openai.OpenAI) -> None:
    parts = chat_stream(*DEEP)[:6]
    *_, last = client.responses.create(
        model="script", input=script(stream=parts, cut=True), stream=True
    )
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model"):
        client.responses.create(model="nobody", input="a")
    with pytest.raises(openai.BadRequestError, match="no"):
        client.responses.create(model="s400", input="a")
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="s500", input="a")


def test_input_tokens_are_estimated(client: openai.OpenAI) -> None:
    few = client.responses.input_tokens.count(model="script", input="hello there").input_tokens
    many = client.responses.input_tokens.count(model="script", input="hello there " * 1000)
    assert 3 <= few <= 20
    assert many.input_tokens >= 2000
