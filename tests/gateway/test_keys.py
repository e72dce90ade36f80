"""API keys: who gets in, for what and how much, on several replicas and without Redis."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import openai
import pytest
from click.testing import CliRunner

from gateway.cache.link import RETRY_AFTER_S
from gateway.cli import coe
from gateway.keys import FRESH_S, HASH
from tests.servers import Gateway, UpstreamServer, Valkey, run_gateway, wait_for, write_experts

ADMIN_KEY = "admin-key-51ce"
ENVIRON = {"COE_REQUIRE_KEYS": "true", "COE_ADMIN_KEY": ADMIN_KEY}


@pytest.fixture(scope="module")
def replicas(
    upstream: UpstreamServer, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways on one Redis."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    experts = [
        {"name": "big", "model": "counts-25", "active_params_b": 7},
        {"name": "unsized", "model": "counts-25"},
    ]
    experts = [{"base_url": upstream.base_url, **expert} for expert in experts]
    config = write_experts(one / "experts.yaml", experts, {})
    environ = {**ENVIRON, "REDIS_URL": valkey.url, "COE_REDIS_TIMEOUT_MS": "300"}
    with run_gateway(config, one, **environ) as first, run_gateway(config, two, **environ) as other:
        yield first, other


@pytest.fixture
def gateway(replicas: tuple[Gateway, Gateway]) -> Gateway:
    return replicas[0]


def admin(gateway: Gateway, method: str, path: str = "", **kwargs: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    url = f"{gateway.url}/admin/keys{path}"
    return httpx.request(method, url, headers=headers, timeout=30, **kwargs)


def create(gateway: Gateway, **wish: Any) -> dict[str, Any]:
    answer = admin(gateway, "POST", json={"tenant": "team-a", **wish})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def ask(gateway: Gateway, key: str | None, model: str = "big", **headers: str) -> httpx.Response:
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return gateway.post("/v1/chat/completions", json=body, headers=headers)


def test_what_is_over_a_limit_is_booked_under_its_tenant(gateway: Gateway) -> None:
    made = create(gateway, tenant="over", requests_per_min=1)
    answers = [ask(gateway, made["key"]) for _ in range(3)]  # a minute may end in between
    refused = next(answer for answer in answers if answer.status_code == 429)
    line = gateway.logged(refused.headers["x-request-id"])
    assert (line["tenant"], line["key_id"], line["status"]) == ("over", made["id"], 429)


# the command line


def run(gateway: Gateway, *args: str) -> Any:
    environ = {"COE_ADMIN_KEY": ADMIN_KEY}
    shown = CliRunner().invoke(coe, ["keys", *args, "--url", gateway.url], env=environ)
    assert shown.exit_code == 0, shown.output
    return shown


def test_a_key_is_made_used_listed_and_revoked(gateway: Gateway, valkey: Valkey) -> None:
    limits = ("--requests-per-min", "100", "--tokens-per-min", "50000", "--expires-in-days", "90")
    budget = ("--active-b-tokens-per-day", "5e6")
    made = run(gateway, "create", "--tenant", "team-a", *limits, *budget, "--json")
    key = json.loads(made.stdout)
    assert ask(gateway, key["key"]).status_code == 200
    assert ask(gateway, None, authorization=f"bearer {key['key']}").status_code == 200
    listed = {
        entry["id"]: entry for entry in json.loads(run(gateway, "list", "--json").stdout)["keys"]
    }
    assert listed[key["id"]]["requests_per_min"] == 100
    shown = run(gateway, "list").stdout
    assert key["id"] in shown, "whole in 80 columns: `revoke` needs it"
    assert "team-a" in shown
    secret = key["key"].split("-", 2)[2]
    stored = cast(dict[bytes, bytes], valkey.client.hgetall(HASH))
    assert not any(secret in text for text in (shown, str(listed), str(stored)))
    run(gateway, "revoke", key["id"])
    assert ask(gateway, key["key"]).status_code == 401
    assert admin(gateway, "DELETE", f"/{key['id']}").status_code == 404


def test_the_key_alone_is_on_standard_output(gateway: Gateway) -> None:
    made = run(gateway, "create", "--tenant", "team-a")
    assert ask(gateway, made.stdout.strip()).status_code == 200
    assert "kept in REDIS_URL" in made.stderr


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"tenant": "a b"}, "'.', '_' and '-', and begin with a letter or a digit; got 'a b'."),
        ({"tenant": "a\n"}, r"'tenant' must be 1 to 64 of the letters"),
        ({"model": ["x"]}, "unknown field `model`. Fields are tenant, models, requests_per_min"),
        ({"models": []}, "'models' must be a list of one model or more; got []"),
        ({"models": [1]}, "'models' must be a list of one model or more; got [1]"),
        ({"models": ["x"]}, "'models' must be among auto, big, unsized; got 'x'"),
        ({"requests_per_min": 0}, "'requests_per_min' must be a whole number from 1 to 90071"),
        ({"active_b_tokens_per_day": -1}, "per_day' must be a number above 0, at most 900719"),
    ],
)
def test_a_wrong_wish_is_refused(gateway: Gateway, wish: dict[str, Any], message: str) -> None:
    answer = admin(gateway, "POST", json={"tenant": "team-a", **wish})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"tenant": 1', b'{"tenant": ' + b"[" * 50_000])
def test_what_is_no_wish_is_refused(gateway: Gateway, body: bytes) -> None:
    answer = admin(gateway, "POST", content=body)
    assert answer.status_code == 400
    assert "The key cannot be made" in answer.json()["error"]["message"]


@pytest.mark.parametrize("budget", ["nan", "inf", "-1", "0", "much"])
def test_a_budget_that_cannot_be_is_refused(budget: str) -> None:
    args = ["keys", "create", "--tenant", "a", "--active-b-tokens-per-day", budget]
    shown = CliRunner().invoke(coe, args)
    assert shown.exit_code == 2
    assert f"must be a number above 0, such as 5e6; got '{budget}'" in shown.output


def test_keys_are_listed_in_80_columns(gateway: Gateway) -> None:
    ends = {"expires_in_s": 30 * 86_400}
    limits = {"requests_per_min": 60, "tokens_per_min": 5 * 10**6, "active_b_tokens_per_day": 5e8}
    key = create(gateway, tenant="team-in-berlin", models=["auto", "big"], **limits, **ends)
    environ = {"COE_ADMIN_KEY": ADMIN_KEY, "TTY_COMPATIBLE": "1", "COLUMNS": "80"}
    args = ["keys", "list", "--url", gateway.url]
    shown = CliRunner().invoke(coe, args, env={**environ, "NO_COLOR": "1"}).stdout
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    at = next(index for index, line in enumerate(lines) if key["id"] in line)
    assert lines[at].split()[1:4] == ["team-in-berlin", "auto,", "big"]
    told = [line.strip() for line in lines[at + 1 : at + 4]]
    assert lines[at].rstrip().endswith("60 requests a minute")
    assert told[:2] == ["5,000,000 tokens a minute", "500,000,000 B x tokens a day"]
    assert re.fullmatch(r"until 20\d\d-\d\d-\d\d \d\d:\d\d UTC", told[2])


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:1/v1"])
def test_a_gateway_that_is_not_there_is_named(url: str) -> None:
    shown = CliRunner().invoke(coe, ["keys", "list", "--url", url])
    assert "http://127.0.0.1:1/admin/keys must be the admin API" in str(shown.exception)
    assert "nobody answers there. Start it with coe serve" in str(shown.exception)


def test_administrators_alone_make_keys(gateway: Gateway) -> None:
    key = create(gateway)["key"]
    for sent in (None, key):
        headers = {"authorization": f"Bearer {sent}"} if sent else {}
        answer = gateway.post("/admin/keys", json={"tenant": "me"}, headers=headers)
        assert answer.status_code == 401


# who gets in


def test_metrics_name_all_tenants_and_are_for_administrators(gateway: Gateway) -> None:
    key = create(gateway)["key"]
    assert ask(gateway, key).status_code == 200
    for sent in ({}, {"authorization": f"Bearer {key}"}):
        assert gateway.get("/metrics", headers=sent).status_code == 401
    as_admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    wait_for(lambda: 'name="team-a"' in gateway.get("/metrics", headers=as_admin).text)


def test_every_surface_for_clients_needs_a_key(gateway: Gateway) -> None:
    paths = gateway.get("/openapi.json").json()["paths"]
    asked = [(path, method) for path in paths for method in paths[path] if path.startswith("/v1/")]
    assert ("/v1/chat/completions", "post") in asked
    for path, method in asked:
        for headers in ({}, {"authorization": "Bearer coe-000000000000-x"}, {"x-api-key": "x"}):
            answer = httpx.request(method, f"{gateway.url}{path}", headers=headers, content=b"{}")
            assert answer.status_code == 401, (method, path)


def test_a_key_stands_for_its_tenant(gateway: Gateway) -> None:
    key = create(gateway, tenant="team-b")
    answer = ask(gateway, key["key"])
    assert answer.status_code == 200
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["tenant"], line["key_id"]) == ("team-b", key["id"])


def test_keys_may_be_sent_as_anthropic_clients_do(gateway: Gateway) -> None:
    assert ask(gateway, None, **{"x-api-key": create(gateway)["key"]}).status_code == 200


@pytest.mark.parametrize("damage", [lambda key: key[:-1], lambda key: key + "x", str.upper])
def test_a_damaged_key_is_refused(gateway: Gateway, damage: Callable[[str], str]) -> None:
    key = create(gateway)["key"]
    assert ask(gateway, key).status_code == 200
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=damage(key), max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.code == "invalid_api_key"


def test_an_expired_key_is_refused(gateway: Gateway) -> None:
    key = create(gateway, expires_in_s=0.5)["key"]
    assert ask(gateway, key).status_code == 200
    time.sleep(0.5)
    answer = ask(gateway, key)
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]["message"]


def test_a_revoked_key_is_refused_by_other_replicas_within_seconds(
    replicas: tuple[Gateway, Gateway],
) -> None:
    first, other = replicas
    key = create(first)
    assert ask(other, key["key"]).status_code == 200
    admin(first, "DELETE", f"/{key['id']}")
    started_s = time.monotonic()
    wait_for(lambda: ask(other, key["key"]).status_code == 401)
    assert time.monotonic() - started_s < FRESH_S + 2


def test_a_key_seen_lately_costs_no_round_trip(gateway: Gateway, valkey: Valkey) -> None:
    key = create(gateway)["key"]
    ask(gateway, key)

    def looked_up() -> int:
        return int(
            cast(dict[str, Any], valkey.client.info("commandstats"))["cmdstat_hget"]["calls"]
        )

    before, started_s = looked_up(), time.monotonic()
    for _ in range(10):
        assert ask(gateway, key).status_code == 200
    assert looked_up() - before <= (time.monotonic() - started_s) / FRESH_S + 1


# for what


def test_a_key_may_be_held_to_some_models(gateway: Gateway) -> None:
    key = create(gateway, models=["auto", "unsized"])["key"]
    assert ask(gateway, key, "unsized").status_code == ask(gateway, key, "auto").status_code == 200
    for path in ("/v1/chat/completions", "/v1/route"):
        body = {"model": "big", "messages": [{"role": "user", "content": "hello"}]}
        answer = gateway.post(path, json=body, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("permission_error", "model")
        assert "may use the models auto, unsized; got 'big'" in error["message"]
    listed = gateway.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()
    assert [model["id"] for model in listed["data"]] == ["auto", "unsized"]


# how much


def test_requests_are_limited_over_all_replicas(replicas: tuple[Gateway, Gateway]) -> None:
    key = create(replicas[0], requests_per_min=2)["key"]
    answers = [ask(replicas[i % 2], key) for i in range(5)]  # in two windows at the most
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 1 <= len(refused) <= 3
    assert all(answer.status_code == 200 for answer in answers if answer not in refused)
    answer = refused[0]
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "2 requests a minute" in error["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["x-ratelimit-limit-requests"] == "2"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize(
    ("limit", "amount", "model", "code"),
    [
        ("tokens_per_min", 36, "big", "rate_limit_exceeded"),  # 11 and 25 tokens an answer
        ("active_b_tokens_per_day", 36 * 7, "big", "insufficient_quota"),
        ("active_b_tokens_per_day", 36 * 7, "unsized", "insufficient_quota"),  # as the largest
    ],
)
def test_tokens_and_parameters_are_limited(
    gateway: Gateway, limit: str, amount: int, model: str, code: str
) -> None:
    key = create(gateway, **{limit: amount})["key"]
    answers = [ask(gateway, key, model)]
    assert answers[0].status_code == 200
    gateway.logged(answers[0].headers["x-request-id"])  # charged when it was written
    for _ in range(2):  # in case a minute ends in between
        time.sleep(0.1)
        answers.append(ask(gateway, key, model))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].json()["error"]["code"] == code


def test_a_key_without_limits_gets_no_headers_about_them(gateway: Gateway) -> None:
    headers = ask(gateway, create(gateway)["key"]).headers
    assert not [name for name in headers if name.startswith("x-ratelimit")]


# without Redis


def test_while_redis_is_down_known_keys_go_on_and_unknown_ones_wait(
    gateway: Gateway, valkey: Valkey
) -> None:
    known = create(gateway, requests_per_min=2)["key"]
    unknown = create(gateway)["key"]
    keys = valkey.client.dump(HASH)
    assert ask(gateway, known).status_code == 200
    valkey.kill()
    try:
        statuses = [ask(gateway, known).status_code for _ in range(5)]
        assert statuses.count(200) in {1, 2, 3, 4}  # counted by this process alone
        assert 429 in statuses
        time.sleep(FRESH_S)
        assert ask(gateway, known).status_code in {200, 429}
        answer = ask(gateway, unknown)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "keys_unavailable"
        assert ask(gateway, None).status_code == 401
        assert admin(gateway, "GET").status_code == 503
    finally:
        valkey.start()
        valkey.client.restore(HASH, 0, cast(bytes, keys), replace=True)
    time.sleep(RETRY_AFTER_S)
    assert wait_for(lambda: ask(gateway, unknown).status_code == 200)
