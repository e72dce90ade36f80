"""Every fault of Redis, for a request that uses all of it: it is answered, and does not wait."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest

from gateway.cache.link import RETRY_AFTER_S
from gateway.keys import FRESH_S, HASH
from tests.prompts import prompt_for_the_encoder
from tests.servers import Gateway, UpstreamServer, Valkey, run_gateway, wait_for, write_experts

TIMEOUT_S = 0.4
"""The gateway's longest wait, above what a busy machine adds; 50 ms by default."""
SLACK_S = 0.35
FAULTS = ("refuses", "hangs", "garbage", "drips", "closes")


class Wire:
    """What stands between the gateway and Redis: relays to one, or fails in the way of `mode`."""

    def __init__(self, redis_path: Path) -> None:
        self.mode, self.redis_path = "relays", redis_path
        self.open: set[socket.socket] = set()
        wire = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                wire.open.add(self.request)
                try:
                    wire.serve(self.request)
                except OSError:
                    return
                finally:
                    wire.open.discard(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"redis://127.0.0.1:{self.server.server_address[1]}/0"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as redis:
            redis.connect(str(self.redis_path))
            while asked := client.recv(1 << 20):
                mode = self.mode
                if mode in {"refuses", "closes"}:
                    return
                if mode == "hangs":
                    time.sleep(5 * TIMEOUT_S)
                    return
                if mode == "garbage":
                    client.sendall(b"?!\0nonsense\r\n")
                    continue
                redis.sendall(asked)
                answer = redis.recv(1 << 20)
                if mode == "drips":
                    time.sleep(0.7 * TIMEOUT_S)
                client.sendall(answer)

    def fail(self, mode: str) -> None:
        """Fail from now on; connections that are open are kept, or cut by ``closes``."""
        self.mode = mode
        if mode == "closes":
            self.cut()

    def cut(self) -> None:
        """End all connections."""
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self, redis_path: Path | None = None) -> None:
        """Relay again, to another Redis if one is named."""
        self.redis_path = redis_path or self.redis_path
        self.mode = "relays"
        self.cut()


@pytest.fixture(scope="module")
def valkeys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Valkey]]:
    servers = [Valkey(tmp_path_factory.mktemp("valkey")) for _ in range(2)]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


def path_of(valkey: Valkey) -> Path:
    return Path(valkey.url.removeprefix("unix://"))


@pytest.fixture(scope="module")
def wire(valkeys: list[Valkey]) -> Iterator[Wire]:
    made = Wire(path_of(valkeys[0]))
    yield made
    made.cut()
    made.server.shutdown()
    made.server.server_close()  # waits for its threads


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, wire: Wire, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that found a Redis which hangs when it started."""
    folder = tmp_path_factory.mktemp("faults")
    experts = [{"name": "good", "base_url": upstream.base_url, "model": "ok", "cache": True}]
    config = write_experts(folder / "experts.yaml", experts, {})
    timeout_ms = str(int(TIMEOUT_S * 1000))
    wire.fail("hangs")
    with run_gateway(
        config, folder, REDIS_URL=wire.url, COE_REDIS_TIMEOUT_MS=timeout_ms
    ) as running:
        assert running.chat("auto", "hello").status_code == 200
        wire.mend()
        yield running


class User:
    """A client with a limited key, a conversation, and answers that are kept."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.client = httpx.Client(base_url=gateway.url, timeout=30)
        wish = {"tenant": "t", "requests_per_min": 10_000, "tokens_per_min": 1_000_000}
        made = wait_for(lambda: self._made(wish))
        self.headers = {"authorization": f"Bearer {made['key']}", "x-session-id": uuid4().hex}

    def _made(self, wish: dict[str, Any]) -> dict[str, Any] | None:
        answer = self.client.post("/admin/keys", json=wish)
        return dict(answer.json()) if answer.status_code == 201 else None

    def ask(self) -> tuple[httpx.Response, float]:
        """Send a request that uses all that Redis is for; returns the answer and the seconds."""
        messages = [{"role": "user", "content": prompt_for_the_encoder()}]
        body = {"model": "auto", "messages": messages}
        started_s = time.monotonic()
        answer = self.client.post("/v1/chat/completions", json=body, headers=self.headers)
        return answer, time.monotonic() - started_s


@pytest.fixture
def user(gateway: Gateway, wire: Wire) -> Iterator[User]:
    made = User(gateway)
    wait_for(lambda: made.ask()[0].status_code == 200)
    yield made
    made.client.close()
    wire.mend()


@pytest.mark.parametrize("mode", FAULTS)
def test_no_request_fails_or_waits_longer_than_the_timeout(
    user: User, wire: Wire, mode: str
) -> None:
    usual_s = min(user.ask()[1] for _ in range(3))
    wire.fail(mode)
    if mode in {"refuses", "garbage"}:
        wire.cut()
    for _ in range(4):
        answer, took_s = user.ask()
        assert answer.status_code == 200
        assert took_s < usual_s + TIMEOUT_S + SLACK_S
        time.sleep(RETRY_AFTER_S / 2)  # so that Redis is tried again in between
    wire.mend()
    wait_for(lambda: user.ask()[0].headers["x-ratelimit-remaining-requests"])
    assert user.gateway.get("/readyz").status_code == 200


def test_a_full_redis_is_read_and_not_written(user: User, valkeys: list[Valkey]) -> None:
    valkeys[0].client.config_set("maxmemory-policy", "noeviction")
    valkeys[0].client.config_set("maxmemory", "1")
    try:
        time.sleep(FRESH_S + 0.1)  # the key is looked up again, which a full Redis can do
        for _ in range(4):
            assert user.ask()[0].status_code == 200
        refused = user.client.post("/admin/keys", json={"tenant": "t"})
        assert refused.json()["error"]["code"] == "keys_unavailable"
    finally:
        valkeys[0].client.config_set("maxmemory", "0")


@pytest.mark.parametrize("value", [b"", b"\xff\0nonsense", b'{"id": 7}'])
def test_garbage_in_the_place_of_values_is_survived(
    user: User, valkeys: list[Valkey], value: bytes
) -> None:
    client = valkeys[0].client
    for name in cast(list[bytes], client.keys("coe:1:*")):
        if client.type(name) == b"string":
            client.set(name, value)
    for _ in range(2):
        assert user.ask()[0].status_code == 200
        time.sleep(RETRY_AFTER_S)


def test_garbage_in_the_place_of_a_key_lets_nobody_in(user: User, valkeys: list[Valkey]) -> None:
    valkeys[0].client.hset(HASH, "badbadbadbad", b"nonsense")
    headers = {"authorization": "Bearer coe-badbadbadbad-x"}
    assert user.client.get("/v1/models", headers=headers).status_code == 503
    valkeys[0].client.hdel(HASH, "badbadbadbad")


def test_after_a_flush_keys_are_gone_and_all_else_begins_anew(
    user: User, valkeys: list[Valkey]
) -> None:
    keys = cast(bytes, valkeys[0].client.dump(HASH))
    valkeys[0].client.flushall()
    answer, _ = user.ask()  # remembered for a few seconds
    assert answer.status_code == 200
    wait_for(lambda: user.ask()[0].status_code == 401)
    anybody = user.gateway.chat("auto", "hello")  # no key is needed here
    assert anybody.status_code == 200
    valkeys[0].client.restore(HASH, 0, keys)
    wait_for(lambda: user.ask()[0].status_code == 200)


def test_another_redis_takes_over(user: User, wire: Wire, valkeys: list[Valkey]) -> None:
    keys = cast(bytes, valkeys[0].client.dump(HASH))
    valkeys[1].client.restore(HASH, 0, keys, replace=True)
    wire.mend(path_of(valkeys[1]))
    for _ in range(3):
        assert user.ask()[0].status_code == 200
    wait_for(lambda: user.ask() and valkeys[1].client.keys("coe:1:limit:*"))
    assert wait_for(lambda: user.gateway.stats()["scope"] == "all processes")
    wire.mend(path_of(valkeys[0]))
