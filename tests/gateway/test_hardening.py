"""Clients that are slow, greedy or forge: what they cost, and what they get into the log."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.servers import Gateway, UpstreamServer, run_gateway, wait_for, write_experts

TIMEOUT_S = 1.0
SLACK_S = 5.0
REQUEST_LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("hardening")
    experts = [
        {"name": name, "base_url": upstream.base_url, "model": model}
        for name, model in {"good": "ok", "flood": "flood", "odd": "oddtype"}.items()
    ]
    config = write_experts(folder / "experts.yaml", experts, {})
    with run_gateway(config, folder, COE_CLIENT_TIMEOUT_S=str(TIMEOUT_S)) as running:
        yield running


@pytest.fixture
def connection(gateway: Gateway) -> Iterator[socket.socket]:
    address = urlsplit(gateway.url)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect((str(address.hostname), address.port or 80))
        opened.settimeout(TIMEOUT_S + SLACK_S)
        yield opened


def rest(connection: socket.socket) -> bytes:
    """Return what comes until the gateway closes the connection."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def body_of(answer: bytes) -> dict[str, object]:
    error: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return error


def until_closed(connection: socket.socket, drip: bytes) -> float:
    """Send a byte or so at a time; returns after how many seconds the gateway had enough."""
    started_s = time.monotonic()
    connection.settimeout(0.2)
    while time.monotonic() - started_s < TIMEOUT_S + SLACK_S:
        try:
            connection.sendall(drip)
            if connection.recv(65_536) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - started_s


@pytest.mark.parametrize("start", [b"", b"P", REQUEST_LINE, REQUEST_LINE + b"x-a: "])
def test_a_head_that_does_not_come_ends_the_connection(
    connection: socket.socket, start: bytes
) -> None:
    connection.sendall(start)
    assert rest(connection) == b""


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"])
@pytest.mark.parametrize("drip", [b"\r\n", b"x"])
def test_a_head_that_drips_ends_the_connection(
    connection: socket.socket, start: bytes, drip: bytes
) -> None:
    connection.sendall(start)
    first = REQUEST_LINE + b"x-a: " if drip == b"x" else b""
    connection.sendall(first)
    assert until_closed(connection, drip) < TIMEOUT_S + SLACK_S


def test_a_connection_may_rest_between_requests(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200")
        time.sleep(0.6 * TIMEOUT_S)


@pytest.mark.parametrize("length", [b"content-length: 50\r\n", b"transfer-encoding: chunked\r\n"])
def test_a_body_that_does_not_come_is_refused(connection: socket.socket, length: bytes) -> None:
    connection.sendall(REQUEST_LINE + length + b"\r\n")
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert body_of(answer)["code"] == "request_timeout"


def test_a_refusal_before_the_body_is_the_only_answer(connection: socket.socket) -> None:
    connection.sendall(REQUEST_LINE + b"content-length: 100000000\r\n\r\n")
    answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    for _ in range(20):
        connection.sendall(b"x" * 16_000)
        time.sleep(0.01)
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):  # it does not end
        while part := connection.recv(65_536):
            answer += part
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_client_that_does_not_read_is_left(
    connection: socket.socket, upstream: UpstreamServer
) -> None:
    request_id = uuid4().hex
    message = {"role": "user", "content": "hello"}
    body = json.dumps({"model": "flood", "stream": True, "messages": [message]}).encode()
    head = f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    connection.sendall(REQUEST_LINE + head + body)
    wait_for(lambda: [entry["left"] for entry in upstream.seen(request_id)] == [True])


@pytest.mark.parametrize(
    "head",
    [
        REQUEST_LINE + b"x-a: " + b"a" * 500_000,
        b"POST /" + b"a" * 500_000,
        REQUEST_LINE + b"".join(b"x-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_head_that_is_too_long_or_none_is_refused(connection: socket.socket, head: bytes) -> None:
    try:
        connection.sendall(head)
        answer = rest(connection)
    except ConnectionResetError:  # it went on sending after the refusal
        return
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert body_of(answer)["type"] == "invalid_request_error"


def test_others_are_served_meanwhile(gateway: Gateway) -> None:
    assert gateway.chat("good").status_code == 200


FORGED = '{"message": "request", "tenant": "forged"}'


@pytest.mark.parametrize(
    "send",
    [
        lambda gateway: gateway.chat(f"x\n{FORGED}\n"),
        lambda gateway: gateway.chat("good", user=f"\r\n{FORGED}\r\n"),
        lambda gateway: gateway.get(f"/x%0a{FORGED}%0a"),
        lambda gateway: gateway.get("/healthz", headers={"x-request-id": FORGED}),
        lambda gateway: gateway.chat("good", f"\u2028{FORGED}\u0085{FORGED}\x1b[2J"),
    ],
)
def test_no_line_of_the_log_can_be_forged(
    gateway: Gateway, send: Callable[[Gateway], object]
) -> None:
    send(gateway)
    gateway.logged(gateway.chat("good").headers["x-request-id"])
    log = gateway.log()
    lines = [json.loads(line) for line in log.splitlines() if not line.startswith("coe:")]
    assert not [line for line in lines if line.get("tenant") == "forged"]
    assert "\x1b" not in log


@pytest.mark.parametrize("model", ["auto\r\nx-forged: 1", "good\r\n\r\nHTTP/1.1 200 OK"])
def test_no_header_can_be_forged(gateway: Gateway, model: str) -> None:
    answer = gateway.chat(model)
    assert answer.status_code == 404
    assert "x-forged" not in answer.headers


def test_an_odd_header_of_an_expert_is_made_harmless(gateway: Gateway) -> None:
    answer = gateway.chat("odd")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/???")


def test_a_client_that_leaves_while_it_sends_is_no_bug(
    gateway: Gateway, connection: socket.socket
) -> None:
    request_id = uuid4().hex
    head = f"x-request-id: {request_id}\r\ncontent-length: 100\r\n\r\n"
    connection.sendall(REQUEST_LINE + head.encode() + b'{"model"')
    connection.close()
    line = gateway.logged(request_id)
    assert (line["outcome"], line["status"]) == ("client_left", 499)
