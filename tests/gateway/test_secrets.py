"""No secret comes out of a gateway: every surface and every failure is driven, all output read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.servers import (
    NOBODY_URL,
    Gateway,
    UpstreamServer,
    Valkey,
    run_gateway,
    write_experts,
)

SECRETS = {
    "COE_API_KEY": "static-key-8d1f02",
    "COE_ADMIN_KEY": "admin-key-77ab31",
    "EXPERT_KEY": "expert-key-c90e55",
    "REDIS_PASSWORD": "redis-password-1f6b",
    "PROMPT": "prompt-zanzibar-4c2e",
}
MODELS = ("ok", "nousage", "cut", "unfinished", "fails", "garbage", "empty", "malformed", "reset")
STATUSES = tuple(f"status-{status}" for status in (307, 400, 401, 403, 404, 429, 500, 503))


class Heard:
    """A gateway and everything it said."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.client = httpx.Client(base_url=gateway.url, timeout=30)
        self.answers: list[httpx.Response] = []

    def ask(self, method: str, path: str, key: str | None, **kwargs: Any) -> httpx.Response:
        headers = {"cookie": SECRETS["COE_API_KEY"], "x-forwarded-for": SECRETS["COE_API_KEY"]}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        answer = self.client.request(method, path, headers=headers, **kwargs)
        self.answers.append(answer)
        return answer

    def chat(self, model: str, key: str | None, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": SECRETS["PROMPT"]}]
        body = {"model": model, "messages": messages, **fields}
        return self.ask("POST", "/v1/chat/completions", key, json=body)


@pytest.fixture(scope="module")
def heard(upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    folder = tmp_path_factory.mktemp("secrets")
    valkey = Valkey(folder)
    valkey.start()
    valkey.client.config_set("requirepass", SECRETS["REDIS_PASSWORD"])
    shared = {"base_url": upstream.base_url, "api_key_env": "EXPERT_KEY", "max_retries": 0}
    experts = [{**shared, "name": model, "model": model} for model in (*MODELS, *STATUSES)]
    experts.append({**shared, "name": "refuses", "base_url": NOBODY_URL})
    config = write_experts(folder / "experts.yaml", experts, {})
    environ = {name: SECRETS[name] for name in ("COE_API_KEY", "COE_ADMIN_KEY", "EXPERT_KEY")}
    redis_url = valkey.url.replace("unix://", f"unix://:{SECRETS['REDIS_PASSWORD']}@")
    environ |= {"REDIS_URL": redis_url, "COE_LOG_LEVEL": "DEBUG"}
    with run_gateway(config, folder, **environ) as gateway:
        everything = Heard(gateway)
        with everything.client:
            drive(everything)
            valkey.kill()
            drive(everything)
            yield everything


def drive(heard: Heard) -> None:
    """Use every surface, rightly and wrongly."""
    key, admin = SECRETS["COE_API_KEY"], SECRETS["COE_ADMIN_KEY"]
    paths = heard.gateway.get("/openapi.json").json()["paths"]
    for path in paths:
        for method in paths[path]:
            for sent in (None, key, admin, f"coe-000000000000-{key}"):
                heard.ask(method, path, sent, content=SECRETS["PROMPT"])
    for model in (*MODELS, *STATUSES, "refuses", "auto"):
        for stream in (False, True):
            heard.chat(model, key, stream=stream)
    made = heard.ask("POST", "/admin/keys", admin, json={"tenant": "t", "models": ["auto"]})
    if made.status_code == 201:
        heard.answers.pop()  # the one place where a key is shown
        SECRETS["CREATED"] = made.json()["key"].split("-", 2)[2]  # may itself hold a "-"
        for model in ("auto", "ok"):
            heard.chat(model, made.json()["key"])
        heard.ask("GET", "/admin/keys", admin)


def test_everything_was_driven(heard: Heard) -> None:
    statuses = {answer.status_code for answer in heard.answers}
    assert {200, 400, 401, 403, 404, 429, 502, 503} <= statuses
    assert "CREATED" in SECRETS
    heard.gateway.wait_for_log("cache failed")


def test_no_answer_holds_a_secret(heard: Heard) -> None:
    for answer in heard.answers:
        said = answer.text + str(answer.headers)
        for name, secret in SECRETS.items():
            assert secret not in said, (name, answer.request.url, said)


def test_the_log_holds_no_secret(heard: Heard) -> None:
    log = heard.gateway.settled_log()
    assert "expert failed" in log
    for name, secret in SECRETS.items():
        assert not [line for line in log.splitlines() if secret in line], name


def test_experts_get_their_own_key_only(heard: Heard, upstream: UpstreamServer) -> None:
    seen = [
        entry for answer in heard.answers for entry in upstream.seen(answer.headers["x-request-id"])
    ]
    assert len(seen) > len(MODELS)
    for entry in seen:
        sent = json.dumps(entry["headers"])
        assert f"Bearer {SECRETS['EXPERT_KEY']}" in sent
        for name in ("COE_API_KEY", "COE_ADMIN_KEY", "REDIS_PASSWORD"):
            assert SECRETS[name] not in sent + entry["raw"]


def test_no_secret_is_in_a_command_line(heard: Heard) -> None:
    lines = [" ".join(child.cmdline()) for child in heard.gateway.children()]
    assert any("gateway.worker" in line for line in lines)
    assert not [line for line in lines for secret in SECRETS.values() if secret in line]
