"""Whatever a client sends is answered with a 4xx in OpenAI's form, and the gateway goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers import Gateway, UpstreamServer, run_gateway, write_experts

CHAT = "/v1/chat/completions"
HELLO = b'"model":"good","messages":[{"role":"user","content":"hello"}]'
DEEP = 100_000


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("bad-input")
    shared = {"base_url": upstream.base_url, "model": "ok", "context_window": 4096}
    experts = [{"name": "good", **shared}, {"name": "virtual", **shared, "system_prompt": "Hi."}]
    config = write_experts(folder / "experts.yaml", experts, {})
    with run_gateway(config, folder, COE_MAX_BODY_MB="6") as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as keep_alive:
        yield keep_alive


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Check an answer's form and return its error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{" + HELLO, None),
        (b"[]", None),
        (b'{"model":"good"}', "messages"),
        (b'{"model":"good","messages":[]}', "messages"),
        (b'{"messages":[{"role":"user","content":"hello"}]}', "model"),
        (b'{"model":["good"],"messages":[{"role":"user","content":"hello"}]}', "model"),
        (b'{"model":"good","messages":[{"role":"user","content":""}]}', "messages[0].content"),
        (b'{"model":"good","messages":[{"role":"user","content":7}]}', "messages[0].content"),
        (b"{" + HELLO + b',"stream":"yes"}', "stream"),
        (b"{" + HELLO + b',"temperature":1e999}', "temperature"),
        (b"{" + HELLO + b',"max_tokens":' + b"9" * 400 + b"}", "max_tokens"),
        (b"{" + HELLO + b',"unknown":"\xff"}', None),
        (b'{"model":"good","messages":[{"role":"user","content":"\xff"}]}', None),
        (b'{"model":"good","messages":[{"role":"user","content":"a\0"}]}', None),
        (
            b'{"model":"good","messages":[{"role":"user","content":"\\u0000"}]}',
            "messages[0].content",
        ),
        (b'{"model":"good","messages":[{"role":"user","content":"\\ud83d"}]}', None),
        (b"\0" * 1000, None),
        (b"[" * DEEP, None),
        (b'{"a":' * DEEP, None),
        (b"{" + HELLO + b',"unknown":' + b"[" * DEEP + b"]" * DEEP + b"}", None),
        (b'{"model":"good","messages":' + b"[" * DEEP + b"]" * DEEP + b"}", "messages[0]"),
    ],
)
def test_a_bad_body_is_refused_and_the_field_is_named(
    client: httpx.Client, body: bytes, param: str | None
) -> None:
    assert refused(client.post(CHAT, content=body))["param"] == param
    assert client.get("/healthz").status_code == 200


def test_an_unknown_model_is_refused_with_those_that_exist(client: httpx.Client) -> None:
    body = {"model": "goood", "messages": [{"role": "user", "content": "hello"}]}
    error = refused(client.post(CHAT, json=body), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "auto, good, virtual" in error["message"]


def test_a_prompt_that_fits_no_expert_is_refused(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "word " * 1_000_000}]
    error = refused(client.post(CHAT, json={"model": "auto", "messages": messages}))
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
    assert "4096" in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/route"])
def test_an_answer_that_fits_no_expert_is_refused(client: httpx.Client, path: str) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    error = refused(client.post(path, json={**body, "max_tokens": 5000}))
    assert error["code"] == "context_length_exceeded"
    assert client.post(path, json={**body, "max_tokens": 500}).status_code == 200


def test_a_body_over_the_limit_is_refused(client: httpx.Client, gateway: Gateway) -> None:
    body = b"{" + HELLO + b',"x":"' + b"x" * 6_000_000 + b'"}'
    answer = client.post(CHAT, content=body)
    error = refused(answer, 413)
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["status"], line["outcome"]) == (413, "request_too_large")
    assert error["code"] == "request_too_large"
    assert "COE_MAX_BODY_MB" in error["message"]


def test_a_body_over_the_limit_of_unknown_length_is_refused(gateway: Gateway) -> None:
    pieces = (b"x" * 1_000_000 for _ in range(7))
    refused(gateway.post(CHAT, content=pieces), 413)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400, "9" * 5000, "1e-999"])
@pytest.mark.parametrize("model", ["good", "virtual"])
def test_huge_numbers_in_unknown_fields_are_the_experts_to_judge(
    client: httpx.Client, upstream: UpstreamServer, number: str, model: str
) -> None:
    body = b"{" + HELLO.replace(b"good", model.encode()) + f',"unknown":{number}}}'.encode()
    answer = client.post(CHAT, content=body)
    assert answer.status_code == 200
    (entry,) = upstream.seen(answer.headers["x-request-id"])
    assert f'"unknown":{number}' in entry["raw"]


@pytest.mark.parametrize("number", ["1e999", "9" * 400, "9" * 5000])
def test_huge_numbers_within_messages_never_break_a_virtual_expert(
    client: httpx.Client, number: str
) -> None:
    message = f'{{"role":"user","content":"hello","unknown":{number}}}'
    answer = client.post(CHAT, content=f'{{"model":"virtual","messages":[{message}]}}'.encode())
    assert answer.status_code in {200, 400}


def test_no_depth_of_nesting_breaks_a_virtual_expert(client: httpx.Client) -> None:
    statuses = set()
    for depth in range(700, 1000, 3):
        nested = "[" * depth + "]" * depth
        message = f'{{"role":"user","content":"hello","unknown":{nested}}}'
        body = f'{{"model":"virtual","messages":[{message}]}}'
        statuses.add(client.post(CHAT, content=body.encode()).status_code)
    assert statuses <= {200, 400}


NEST_OPENS = '{"type":"search_result","title":"t","source":"s","content":['


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/v1/route", '"prompt":"a","explain":"yes"', "'explain': expected"),
        ("/v1/responses", '"input":[{"type":"reasoning","summary":7}]', "'input[0].summary' must"),
        ("/v1/responses", '"input":[{"type":"reasoning","content":7}]', "'input[0].content' must"),
        (
            "/v1/messages",
            '"max_tokens":9,"messages":[{"role":"user","content":['
            + NEST_OPENS * 400
            + "]}" * 400
            + "]}]",
            "nested too deeply",
        ),
    ],
)
def test_other_surfaces_refuse_a_bad_body(
    client: httpx.Client, path: str, fields: str, message: str
) -> None:
    answer = client.post(path, content=f'{{"model":"good",{fields}}}')
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/%ff%00", 404),
        ("POST", "/v1/models", 405),
        ("GET", CHAT, 405),
        ("DELETE", "/healthz", 405),
    ],
)
def test_wrong_paths_and_methods_are_refused(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    message = refused(client.request(method, path), status)["message"]
    assert method in message
    assert "GET /openapi.json lists what there is." in message


def raw_answer(gateway: Gateway, head: bytes, body: bytes = b"") -> str:
    """Send bytes as they are and return the first line and the body of the answer."""
    address = urlsplit(gateway.url)
    with socket.create_connection((str(address.hostname), address.port or 80), 10) as connection:
        connection.sendall(head + b"\r\n\r\n" + body)
        connection.settimeout(10)
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts).decode("latin-1")


ODD_HEADERS = [
    b"host: [",
    b"host: a b\xff",
    b"host:",
    b"host: x\r\nx-request-id: \xff\xfe",
    b"host: x\r\nauthorization: Bearer \xff",
    b"host: x\r\ncontent-type: text/\xff; charset=nonsense",
    b"host: x\r\nexpect: nothing",
    b"host: x\r\nx-long: " + b"x" * 20_000,
    b"host: x\r\ncookie: \xff",
]


@pytest.mark.parametrize("headers", ODD_HEADERS)
@pytest.mark.parametrize("path", [CHAT, "/v1/route", "/nowhere", "/admin/stats"])
def test_odd_headers_are_no_reason_to_fail(gateway: Gateway, headers: bytes, path: str) -> None:
    body = b"{" + HELLO + b"}"
    length = f"content-length: {len(body)}\r\nconnection: close\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\n".encode() + length + headers
    status = int(raw_answer(gateway, head, body).split()[1])
    assert status == 200 if path in {CHAT, "/v1/route"} else status in {404, 405}


@pytest.mark.parametrize("length", [b"99999999999999999999", b"-1", b"x", b"1, 2"])
def test_odd_lengths_are_refused(gateway: Gateway, length: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %s"
    assert raw_answer(gateway, head % (CHAT.encode(), length)).split()[1] in {"400", "413"}


# whatever else there may be

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("a\0b")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)
PARTS = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["text", "image_url", "x"]) | SCALARS, "text": SCALARS}
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "system", "assistant", "tool"]) | VALUES,
        "content": st.text() | st.lists(PARTS | VALUES, max_size=3) | VALUES,
        "tool_calls": VALUES,
    },
)
BODIES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["auto", "good", "virtual"]) | VALUES,
        "messages": st.lists(MESSAGES | VALUES, max_size=3) | VALUES,
    },
    optional={
        "stream": st.booleans() | VALUES,
        "stream_options": st.fixed_dictionaries({"include_usage": VALUES}) | VALUES,
        "tools": VALUES,
        "response_format": VALUES,
        "temperature": VALUES,
        "unknown": VALUES,
    },
)
RAW = BODIES.map(lambda body: json.dumps(body).encode()) | st.binary() | st.text().map(str.encode)


@pytest.mark.parametrize("path", [CHAT, "/v1/route"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=RAW)
def test_no_body_makes_the_gateway_fail(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body)
    if answer.status_code != 200:
        refused(answer, 404 if answer.status_code == 404 else 400)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 200),
    inserted=st.binary(max_size=3) | st.sampled_from([b"\0", b"\xff", b"\\u0000", b"\\ud800"]),
    cut=st.integers(0, 5),
)
def test_no_damage_to_a_good_body_makes_the_gateway_fail(
    client: httpx.Client, at: int, inserted: bytes, cut: int
) -> None:
    parts = b'[{"type":"text","text":"hi"},{"type":"text","text":"you"}]'
    body = b"{" + HELLO.replace(b'"hello"', parts) + b',"stream":false,"stop":["a"],"seed":7}'
    answer = client.post(CHAT, content=body[:at] + inserted + body[at + cut :])
    if answer.status_code != 200:
        refused(answer, 404 if answer.status_code == 404 else 400)


def test_nothing_of_this_was_a_bug(gateway: Gateway) -> None:
    lines = [json.loads(line) for line in gateway.settled_log().splitlines() if "{" in line]
    assert [line for line in lines if line["message"] == "bug"] == []
    assert gateway.chat("good").status_code == 200
