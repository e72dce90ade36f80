from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequestError
from gateway.protocol import parse_chat_request, upstream_body, with_system_prompt

HELLO = b'"model":"auto","messages":[{"role":"user","content":"hello"}]'


def chat(**fields: Any) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": "auto", "messages": messages, **fields}).encode()


def chat_with(message: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [message]}).encode()


# what is read


def test_what_routing_needs_is_read() -> None:
    options = {"include_usage": True}
    request = parse_chat_request(chat(stream=True, stream_options=options, tools=[{"type": "x"}]))
    assert (request.model, request.stream, request.include_usage) == ("auto", True, True)
    assert request.messages == [{"role": "user", "content": "hello"}]
    assert request.needs == {"tools"}


def test_nulls_are_as_good_as_left_out() -> None:
    request = parse_chat_request(chat(stream=None, stream_options=None, max_tokens=None, seed=None))
    assert not request.stream
    assert not request.include_usage
    assert request.needs == frozenset()


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"tools": []}, set()),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"response_format": {"type": "json_schema"}}, {"json_schema"}),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, {"vision"}),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, {"audio"}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, set()),
    ],
)
def test_a_request_needs_the_capabilities_it_uses(fields: dict[str, Any], needs: set[str]) -> None:
    assert parse_chat_request(chat(**fields)).needs == needs


# what is refused: body, field at fault, a part of the message

BAD_FIELDS = [
    (b'{"messages":[{"role":"user","content":"hello"}]}', "model", "missing"),
    (b'{"model":"auto"}', "messages", "missing"),
    (chat(model=7), "model", "expected `str`, got `int`"),
    (chat(model=""), "model", "length >= 1"),
    (chat(model="m" * 257), "model", "length <= 256"),
    (chat(messages=[]), "messages", "length >= 1"),
    (chat(messages="hello"), "messages", "expected `array`, got `str`"),
    (chat(messages=["hello"]), "messages[0]", "expected `object`, got `str`"),
    (chat(stream=1), "stream", "expected `bool | null`, got `int`"),
    (chat(stream_options=[]), "stream_options", "expected `object | null`"),
    (chat(max_tokens=-1), "max_tokens", ">= 0"),
    (chat(max_tokens=2**40), "max_tokens", "<= 2147483648"),
    (chat(max_completion_tokens="9"), "max_completion_tokens", "got `str`"),
    (chat(temperature=3), "temperature", "<= 2"),
    (chat(top_p=-0.1), "top_p", ">= 0"),
    (chat(n=0), "n", ">= 1"),
    (chat(seed=10**30), "seed", "expected"),
    (chat(stop=["a", 1]), "stop[1]", "expected `str`, got `int`"),
    (chat(tools={}), "tools", "expected `array | null`"),
    (b"{" + HELLO + b',"temperature":1e999}', "temperature", "out of range"),
    (b"{" + HELLO + b',"max_tokens":' + b"9" * 400 + b"}", "max_tokens", "<= 2147483648"),
    (chat_with({"content": "hello"}), "messages[0].role", "must be a string such as 'user'"),
    (chat_with({"role": 1, "content": "hello"}), "messages[0].role", "got 1"),
    (chat_with({"role": "user", "content": 1}), "messages[0].content", "a string or a list"),
    (chat_with({"role": "user", "content": ""}), "messages[0].content", "every message is empty"),
    (chat_with({"role": "user", "content": " \n"}), "messages[0].content", "is empty"),
    (chat_with({"role": "user"}), "messages[0].content", "is empty"),
    (chat_with({"role": "user", "content": []}), "messages[0].content", "is empty"),
    (chat_with({"role": "user", "content": ["x"]}), "messages[0].content[0]", "'type'; got 'x'"),
    (chat_with({"role": "user", "content": [{}]}), "messages[0].content[0]", "string 'type'"),
    (
        chat_with({"role": "user", "content": [{"type": "text"}]}),
        "messages[0].content[0].text",
        "must be a string; got None",
    ),
    (chat_with({"role": "user", "content": "a\0b"}), "messages[0].content", "NUL"),
    (
        chat_with({"role": "user", "content": [{"type": "text", "text": "\0"}]}),
        "messages[0].content[0].text",
        "NUL",
    ),
    (chat_with({"role": "user", "content": 9 * [{"a": "b" * 99}]}), "messages[0].content[0]", ".."),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD_FIELDS)
def test_a_bad_field_is_named(body: bytes, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat_request(body)
    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message or "'messages'" in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"{" + HELLO,
        b"{" + HELLO + b"}}",
        b"{" + HELLO + b',"temperature":NaN}',
        b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}',
        b"{" + HELLO + b',"unknown":"\xff"}',
        b"{" + HELLO + b',"unknown\xff":1}',
        b'{"model":"auto","messages":[{"role":"user","content":"a\0b"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}',
        b"\xfe\xff" + ("{" + HELLO.decode() + "}").encode("utf-16-be"),
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON"):
        parse_chat_request(body)


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"'])
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="expected `object`"):
        parse_chat_request(body)


@pytest.mark.parametrize("nested", [b'"messages":', b'"unknown":', b'"tools":', b'"stop":'])
@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(nested: bytes, bracket: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_chat_request(b"{" + HELLO + b"," + nested + bracket * 100_000)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_our_error(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_chat_request(body)


# what is sent upstream

LITERALS = ["1.50", "1e-7", "1E+2", "-0.0", "123456789012345678901234567890", "9" * 5000, "1e999"]
LITERALS += [r'"\u00e9\/"', '{ "b" : 1 , "a":[ 1.0 ] }', "null", '"\u00e9"', "[ ]", '{"a":1,"a":2}']


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("system_prompt", [None, "be brief"])
def test_an_unknown_field_leaves_with_its_bytes(literal: str, system_prompt: str | None) -> None:
    body = b"{" + HELLO + b',"unknown":' + literal.encode() + b"}"
    sent = upstream_body(parse_chat_request(body), "m", system_prompt)
    assert b'"unknown":' + literal.encode() in sent


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KNOWN = {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"}
KNOWN |= {"n", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "user"}
KNOWN |= {"logprobs", "top_logprobs", "stop", "tools", "response_format"}


@settings(max_examples=50)
@given(st.dictionaries(st.text().filter(lambda key: key not in KNOWN), JSON), st.booleans())
def test_all_but_the_model_leaves_with_its_bytes(unknown: dict[str, Any], ascii_only: bool) -> None:
    pairs = [
        json.dumps(key, ensure_ascii=False).encode()
        + b":"
        + json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
        for key, value in unknown.items()
    ]
    body = b"{" + b",".join([HELLO, *pairs]) + b"}"
    sent = upstream_body(parse_chat_request(body), "auto", None)
    assert sent == body


def test_the_model_is_the_one_the_expert_knows() -> None:
    sent = json.loads(upstream_body(parse_chat_request(chat(top_p=0.5)), "Qwen/Q", None))
    assert sent == {**json.loads(chat(top_p=0.5)), "model": "Qwen/Q"}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream_options": {"x": 1.5}}, {"x": 1.5, "include_usage": True}),
        ({"stream_options": {"include_usage": True, "x": 1}}, {"include_usage": True, "x": 1}),
    ],
)
def test_a_stream_always_asks_for_usage(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    request = parse_chat_request(chat(stream=True, **asked))
    assert json.loads(upstream_body(request, "m", None))["stream_options"] == sent


def test_without_a_stream_usage_is_not_asked_for() -> None:
    assert "stream_options" not in json.loads(upstream_body(parse_chat_request(chat()), "m", None))


# system prompts of virtual experts

USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "merged"),
    [
        ([USER], [{"role": "system", "content": "S"}, USER]),
        (
            [{"role": "system", "content": "mine"}, USER],
            [{"role": "system", "content": "S\n\nmine"}, USER],
        ),
        (
            [{"role": "developer", "content": "mine", "name": "n"}, USER],
            [{"role": "developer", "content": "S\n\nmine", "name": "n"}, USER],
        ),
        ([{"role": "system", "content": None}, USER], [{"role": "system", "content": "S"}, USER]),
        (
            [{"role": "system", "content": [{"type": "text", "text": "mine"}]}, USER],
            [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "S"}, {"type": "text", "text": "mine"}],
                },
                USER,
            ],
        ),
        (
            [USER, {"role": "system", "content": "late"}],
            [{"role": "system", "content": "S"}, USER, {"role": "system", "content": "late"}],
        ),
    ],
)
def test_a_system_prompt_comes_first(
    messages: list[dict[str, Any]], merged: list[dict[str, Any]]
) -> None:
    before = json.dumps(messages)
    assert with_system_prompt(messages, "S") == merged
    assert json.dumps(messages) == before


def test_unknown_fields_of_messages_survive_a_system_prompt() -> None:
    message = {"role": "user", "content": "hello", "cache_control": {"a": [1.5, None, "é"]}}
    sent = json.loads(upstream_body(parse_chat_request(chat_with(message)), "m", "S"))
    assert sent["messages"] == [{"role": "system", "content": "S"}, message]
