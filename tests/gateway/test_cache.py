"""The choice cache on a real Valkey: it makes requests faster, and never makes one fail."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.accounting import KEY as LEDGER
from gateway.cache.choices import (
    PREFIX,
    Choice,
    choice_key,
    decode_choice,
    encode_choice,
)
from gateway.cache.link import RETRY_AFTER_S, connect
from gateway.errors import ConfigError
from routers.artifact import load_router
from routers.base import Router
from tests.prompts import prompt_for_the_cheap_stage, prompt_for_the_encoder
from tests.servers import (
    REPO,
    Gateway,
    UpstreamServer,
    Valkey,
    run_gateway,
    wait_for,
    write_experts,
)

BEFORE = "What is the capital of France, asked before the restart?"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that found no cache when it started, and one that its predecessor had filled."""
    folder = tmp_path_factory.mktemp("cache")
    experts = [{"name": "good", "base_url": upstream.base_url, "model": "ok"}]
    config = write_experts(folder / "experts.yaml", experts, {})
    environ = {"REDIS_URL": valkey.url, "COE_REDIS_TIMEOUT_MS": "300"}
    with run_gateway(config, folder, **environ) as first:
        assert first.get("/readyz").json()["cache"].startswith("cache ping: ConnectionError")
        assert first.chat("auto", prompt_for_the_encoder()).headers["x-coe-cache"] == "miss"
        assert first.stats()["scope"].startswith("this process only")
        valkey.start()
        wait_until_kept(first, valkey)
        first.chat("auto", BEFORE)
        first.stats()
    with run_gateway(config, folder, **environ) as second:
        yield second


def wait_until_kept(gateway: Gateway, valkey: Valkey) -> None:
    """Wait until choices go to Valkey, which takes `RETRY_AFTER_S` after a failure."""
    valkey.client.flushall()

    def kept() -> bool:
        assert gateway.chat("auto", prompt_for_the_encoder()).status_code == 200
        return bool(valkey.client.keys(f"{PREFIX}:*"))

    wait_for(kept)


def errors(gateway: Gateway, operation: str) -> float:
    """Return how many failures of the cache were counted."""
    pattern = rf'coe_cache_errors_total{{operation="{operation}"}} (\S+)'
    found = re.search(pattern, gateway.get("/metrics").text)
    return float(found.group(1)) if found else 0.0


def test_a_choice_outlives_the_gateway(gateway: Gateway) -> None:
    answer = gateway.chat("auto", BEFORE)
    assert answer.headers["x-coe-cache"] == "hit"
    assert gateway.get("/readyz").json()["cache"] == "ok"


def test_the_ledger_of_a_stopped_gateway_still_counts(gateway: Gateway) -> None:
    stats = gateway.stats()
    assert stats["scope"] == "all processes"
    assert stats["by_expert"]["good"]["requests"] > len(gateway.requests_logged())


def test_what_is_answered_at_once_is_kept_in_the_process_alone(
    gateway: Gateway, valkey: Valkey
) -> None:
    wait_until_kept(gateway, valkey)
    text = prompt_for_the_cheap_stage()
    found = [gateway.chat("auto", text, temperature=t).headers["x-coe-cache"] for t in (0, 1)]
    assert found == ["miss", "hit"]
    fetched = gateway.chat("auto", prompt_for_the_encoder())
    assert fetched.headers["x-coe-cache"] == "miss"
    wait_for(lambda: len(cast(list[bytes], valkey.client.keys(f"{PREFIX}:*"))) > 1)
    assert len(cast(list[bytes], valkey.client.keys(f"{PREFIX}:*"))) == 2


def test_choices_expire(gateway: Gateway, valkey: Valkey) -> None:
    wait_until_kept(gateway, valkey)
    (key,) = cast(list[bytes], valkey.client.keys(f"{PREFIX}:*"))
    assert 0 < cast(int, valkey.client.ttl(key)) <= 86_400


def test_without_the_cache_requests_go_on_and_it_is_used_again_when_back(
    gateway: Gateway, valkey: Valkey
) -> None:
    before = errors(gateway, "get")
    valkey.kill()
    try:
        for _ in range(3):
            answer = gateway.chat("auto", prompt_for_the_encoder())
            assert (answer.status_code, answer.headers["x-coe-cache"]) == (200, "miss")
        assert errors(gateway, "get") > before
        assert "requests go on without it" in gateway.get("/readyz").json()["cache"]
        assert gateway.get("/readyz").status_code == 200
    finally:
        valkey.start()
    wait_until_kept(gateway, valkey)


def test_a_choice_of_this_process_is_found_while_the_cache_is_gone(
    gateway: Gateway, valkey: Valkey
) -> None:
    prompt = prompt_for_the_encoder()
    gateway.chat("auto", prompt)
    valkey.kill()
    try:
        assert gateway.chat("auto", prompt).headers["x-coe-cache"] == "hit"
    finally:
        valkey.start()
    wait_until_kept(gateway, valkey)


def test_a_hung_cache_holds_nobody_up(gateway: Gateway, valkey: Valkey) -> None:
    before = errors(gateway, "get")
    with valkey.hung():
        started_s = time.monotonic()
        answers = [gateway.chat("auto", prompt_for_the_encoder()) for _ in range(20)]
        elapsed_s = time.monotonic() - started_s
        counted = errors(gateway, "get") - before
    assert all(answer.status_code == 200 for answer in answers)
    # it was asked once in `RETRY_AFTER_S`; the other requests did not wait at all
    assert 1 <= counted <= 1 + elapsed_s / RETRY_AFTER_S
    wait_until_kept(gateway, valkey)


def test_a_full_cache_is_counted_and_requests_go_on(gateway: Gateway, valkey: Valkey) -> None:
    wait_until_kept(gateway, valkey)
    before = errors(gateway, "set")
    valkey.client.config_set("maxmemory-policy", "noeviction")
    valkey.client.config_set("maxmemory", "1")
    try:
        assert gateway.chat("auto", prompt_for_the_encoder()).status_code == 200
        wait_for(lambda: errors(gateway, "set") == before + 1)
    finally:
        valkey.client.config_set("maxmemory", "0")
    wait_until_kept(gateway, valkey)


@pytest.mark.parametrize(
    "garbage", [b"", b"nonsense", b"\0" * 80, struct.pack("<10d", *[0.2] * 10), "a list"]
)
def test_garbage_in_the_cache_is_counted_and_ignored(
    gateway: Gateway, valkey: Valkey, garbage: bytes | str
) -> None:
    wait_until_kept(gateway, valkey)
    prompt = prompt_for_the_encoder()
    key = choice_key("default", load_router(REPO / "routers/default"), prompt)
    if isinstance(garbage, str):
        valkey.client.rpush(key, garbage)
    else:
        valkey.client.set(key, garbage)
    before = errors(gateway, "get")
    answer = gateway.chat("auto", prompt)
    assert (answer.status_code, answer.headers["x-coe-cache"]) == (200, "miss")
    assert errors(gateway, "get") == before + 1


def test_garbage_in_the_ledger_is_survived(gateway: Gateway, valkey: Valkey) -> None:
    for garbage in (b"nonsense", b"[]", b'{"at": 1}', b'{"at": 1, "totals": {"total": 7}}'):
        valkey.client.hset(LEDGER, "someone", cast(Any, garbage))
        assert gateway.stats()["scope"].startswith("this process only")
    valkey.client.hdel(LEDGER, "someone")
    assert gateway.stats()["scope"] == "all processes"


def test_a_failing_cache_is_logged_once(gateway: Gateway) -> None:
    log = gateway.settled_log()
    failed, back = log.count("cache failed, going on without"), log.count("cache is back")
    assert 1 <= back <= failed <= back + 1
    assert failed < errors(gateway, "get") + errors(gateway, "set")


def test_a_broken_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL must look like redis://host:6379/0") as caught:
        connect("http://:secret@host", 50)
    assert "secret" not in str(caught.value)


# keys and values


def router(name: str, version: str) -> Router:
    return cast(Router, SimpleNamespace(name=name, version=version))


NAMES = st.text("abc:%3A@/ é", max_size=6)
CHOICES = st.tuples(NAMES, NAMES, NAMES, st.text(max_size=6))


@given(CHOICES, CHOICES)
def test_only_equal_choices_share_a_key(
    one: tuple[str, str, str, str], two: tuple[str, str, str, str]
) -> None:
    keys = [choice_key(tenant, router(*rest), text) for tenant, *rest, text in (one, two)]
    assert (keys[0] == keys[1]) is (one == two)


@given(st.text("xyz", min_size=3))
def test_a_key_holds_nothing_of_the_text(text: str) -> None:
    key = choice_key("default", router("linear", "1f"), text)
    assert key.startswith(f"{PREFIX}:default:linear:1f:".encode())
    assert text.encode() not in key


def test_a_key_can_be_made_of_any_text() -> None:
    assert choice_key("t", router("r", "v"), "\ud800\0")


@given(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=60))
def test_probabilities_come_back_to_the_last_bit(weights: list[float]) -> None:
    row = np.array(weights) / np.sum(weights)
    back = decode_choice(encode_choice(Choice(row)), len(weights))
    assert back is not None
    assert back.probabilities.tobytes() == row.tobytes()
    assert back.expected is None


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=60))
def test_expected_scores_come_back_with_them(scores: list[float]) -> None:
    choice = Choice(np.array([0.25, 0.75]), np.array(scores))
    back = decode_choice(encode_choice(choice), 2, len(scores))
    assert back is not None
    assert back.expected is not None
    assert back.expected.tolist() == scores
    assert back.probabilities.tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="expected scores or none"):
        decode_choice(encode_choice(choice), 2, len(scores) + 1)


def test_no_value_is_no_choice() -> None:
    assert decode_choice(None, 3) is None


@given(st.binary(), st.integers(1, 4))
def test_any_other_value_is_refused(value: bytes, n_categories: int) -> None:
    with pytest.raises(ValueError):
        decode_choice(value, n_categories)


@example([1.7e308, 1.7e308, 0.0])
@given(st.lists(st.floats(), min_size=3, max_size=3))
def test_what_is_no_distribution_is_refused(row: list[float]) -> None:
    try:
        decoded = decode_choice(np.array(row).tobytes(), 3)
    except ValueError:
        return
    assert decoded is not None
    assert decoded.probabilities.sum() == pytest.approx(1)
