"""What requests cost: averages computed by hand, over two workers, in stats, log and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.accounting import Totals
from gateway.record import REJECTED, Record
from routers.artifact import load_router
from tests.servers import REPO, Gateway, UpstreamServer, run_gateway, wait_for, write_experts

CODING = "The zanzibar build fails at the link step. What is missing?"
"""The encoder reads it, so that its choice is shared by the workers."""
SECRETS = ("zanzibar", "counts answers", "One", "hidden system prompt")


class Script:
    """A few requests through a gateway of two workers, and what they must add up to."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.answers = [
            gateway.chat("big"),  # 7 B, 25 tokens
            gateway.chat("small", stream=True),  # 1.5 B, 10 tokens
            gateway.chat("auto", CODING),  # 7 B and the router, 25 tokens
            gateway.chat("auto", CODING),  # 7 B, the choice is cached, 25 tokens
            gateway.chat("unsized"),  # unknown size, 4 tokens
            gateway.chat("silent", stream=True),  # 2 B, 4 chunks with text, its prompt estimated
            gateway.chat("silent"),  # 2 B, 15 characters, 5 tokens estimated
            gateway.chat("broken"),  # no answer
            gateway.post("/v1/chat/completions", content=b"{"),  # no request
        ]
        self.lines = [gateway.logged(answer.headers["x-request-id"]) for answer in self.answers]
        self.stats: dict[str, Any] = wait_for(self.whole_stats)

    def whole_stats(self) -> dict[str, Any] | None:
        stats = self.gateway.stats()  # the other worker stores its part every 2 s
        return stats if stats["requests"] == len(self.answers) else None


@pytest.fixture(scope="module")
def script(upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    folder = tmp_path_factory.mktemp("ledger")
    shared = {"base_url": upstream.base_url}
    big = {"model": "counts-25", "weights": "big", "total_params_b": 8, "active_params_b": 7}
    experts = [
        {**shared, "name": "big", **big, "system_prompt": "hidden system prompt"},
        {**shared, "name": "twin", **big},
        {**shared, "name": "small", "model": "counts-10", "active_params_b": 1.5},
        {**shared, "name": "unsized", "model": "ok"},
        {**shared, "name": "silent", "model": "nousage", "active_params_b": 2},
        {**shared, "name": "broken", "model": "status-500"},
    ]
    config = write_experts(folder / "experts.yaml", experts, {"coding": ["big"]}, min_confidence=0)
    with run_gateway(config, folder, "--workers", "2") as gateway:
        yield Script(gateway)


@pytest.fixture(scope="module")
def router_b() -> float:
    return load_router(REPO / "routers/default").active_params_b


def test_the_answers_were_as_planned(script: Script) -> None:
    assert [answer.status_code for answer in script.answers] == [200] * 7 + [502, 400]
    assert [line["cache"] for line in script.lines[2:4]] == ["miss", "hit"]


def test_requests_and_tokens_are_counted(script: Script) -> None:
    counted = {key: value for key, value in script.stats.items() if isinstance(value, int)}
    assert counted == {
        "requests": 9,
        "failed": 2,
        "unknown_size": 1,
        "unknown_usage": 0,
        "prompt_tokens": 5 * 11 + 2 * 5,  # estimated: "hello" in a chat template
        "completion_tokens": 25 + 10 + 25 + 25 + 4 + 4 + 5,
    }
    assert script.stats["scope"] == "all processes"


def test_averages_are_those_computed_by_hand(script: Script, router_b: float) -> None:
    assert 0 < router_b < 1
    sizes, tokens = [7, 1.5, 7, 7, 2, 2], [25, 10, 25, 25, 4, 5]
    by_token = sum(size * count for size, count in zip(sizes, tokens, strict=True))
    expected = {
        "per_request": (26.5 + router_b) / 6,
        "per_request_without_router": 26.5 / 6,
        "per_token": (by_token + router_b * 25) / 94,
        "per_token_without_router": 558 / 94,
    }
    assert script.stats["average_active_params_b"] == pytest.approx(expected, abs=1e-6)


def test_resident_parameters_count_shared_weights_once(script: Script) -> None:
    assert script.stats["resident_params_b"] == 8
    assert script.stats["unknown_weights"] == ["small", "unsized", "silent", "broken"]


def test_totals_are_kept_by_expert_and_by_category(script: Script, router_b: float) -> None:
    by_expert, by_category = script.stats["by_expert"], script.stats["by_category"]
    requests = {name: totals["requests"] for name, totals in by_expert.items()}
    assert requests == {"big": 3, "small": 1, "unsized": 1, "silent": 2}
    assert by_expert["big"]["completion_tokens"] == 75
    assert by_expert["unsized"]["average_active_params_b"]["per_request"] is None
    assert by_expert["small"]["average_active_params_b"]["per_token"] == 1.5
    assert list(by_category) == ["coding"]
    average = by_category["coding"]["average_active_params_b"]
    assert average["per_request"] == pytest.approx(7 + router_b / 2, abs=1e-6)
    assert average["per_request_without_router"] == 7


def test_totals_are_kept_by_tenant_and_by_preset(script: Script, router_b: float) -> None:
    assert script.stats["by_tenant"]["default"]["requests"] == 9
    assert list(script.stats["by_preset"]) == ["default"]  # pinned requests have none
    by_preset = script.stats["by_preset"]["default"]
    assert by_preset["requests"] == 2
    average = by_preset["average_active_params_b"]
    assert average["per_request"] == pytest.approx(7 + router_b / 2, abs=1e-6)
    assert average["per_token"] == pytest.approx(7 + router_b / 2, abs=1e-6)


def test_what_was_saved_is_counted_against_the_best_single_expert(script: Script) -> None:
    assert script.stats["best_single"] == {"expert": "big", "active_params_b": 7}
    for group in (script.stats, *script.stats["by_expert"].values()):
        average, saved = group["average_active_params_b"], group["saved_versus_best_single_b"]
        for unit in ("per_request", "per_token"):
            if average[unit] is None:
                assert saved[unit] is None
            else:
                assert saved[unit] == pytest.approx(7 - average[unit])
    assert script.stats["by_expert"]["small"]["saved_versus_best_single_b"]["per_token"] == 5.5


def test_each_request_has_one_line_in_the_log(script: Script) -> None:
    logged = [line["request_id"] for line in script.gateway.requests_logged()]
    assert sorted(logged) == sorted(answer.headers["x-request-id"] for answer in script.answers)


def test_a_line_holds_what_a_request_cost(script: Script, router_b: float) -> None:
    line = script.lines[2]
    expected = {
        "model": "auto",
        "expert": "big",
        "category": "coding",
        "reason": "routed",
        "cache": "miss",
        "attempts": ["big"],
        "prompt_tokens": 11,
        "completion_tokens": 25,
        "usage": "reported",
        "finish_reason": "stop",
        "expert_active_params_b": 7,
        "router_active_params_b": router_b,
        "status": 200,
        "outcome": "ok",
        "tenant": "default",
        "key_id": None,
        "preset": "default",
        "stream": False,
    }
    assert {key: line[key] for key in expected} == expected
    assert line["active_params_b"] == pytest.approx(7 + router_b)
    assert 0 < line["first_byte_s"] <= line["total_s"]
    assert 0 < line["confidence"] <= 1
    assert [script.lines[-1][key] for key in ("status", "outcome", "expert")] == [
        400,
        "invalid_request_error",
        None,
    ]


def test_nothing_that_was_said_is_logged(script: Script) -> None:
    log = script.gateway.log()
    assert not any(secret in log for secret in SECRETS)


def samples(answer: httpx.Response) -> dict[tuple[str, ...], float]:
    """Return the metrics: (name, label values ...) -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_metrics_agree(script: Script, router_b: float) -> None:
    found: dict[tuple[str, ...], float] = {}

    def total(name: str, *labels: str) -> float:
        return sum(
            value for key, value in found.items() if key[0] == name and set(labels) <= set(key)
        )

    def all_workers_show() -> bool:
        found.update(samples(script.gateway.get("/metrics")))
        return total("coe_group_requests_total", "total") == 6

    wait_for(all_workers_show)
    assert total("coe_requests_total") == 9
    assert total("coe_requests_total", "big", "coding", "routed", "ok") == 1
    assert total("coe_requests_total", "big", "coding", "cached_choice", "ok") == 1
    assert total("coe_requests_total", "expert_failed") == 1
    assert total("coe_tokens_total", "completion") == 98
    assert total("coe_tokens_total", "prompt", "big") == 33
    by_token = (7 * 75 + 1.5 * 10 + 2 * 9) + router_b * 25
    for kind in ("total", "expert", "tenant"):
        assert total("coe_group_requests_total", kind) == 6
        assert total("coe_group_completion_tokens_total", kind) == 94
        assert total("coe_group_active_params_b_total", kind) == pytest.approx(26.5 + router_b)
        assert total("coe_group_active_params_b_tokens_total", kind) == pytest.approx(by_token)
    for kind, name in (("category", "coding"), ("preset", "default")):
        assert total("coe_group_active_params_b_total", kind, name) == pytest.approx(14 + router_b)
    assert total("coe_best_single_active_params_b") == 7
    assert total("coe_resident_params_b") == 8
    assert total("coe_choices_total", "hit") == total("coe_choices_total", "miss") == 1
    assert total("coe_expert_failures_total", "broken") == 1
    assert total("coe_classify_seconds_count") == 1
    assert total("coe_request_seconds_count") == 9


def test_log_lines_are_json(script: Script) -> None:
    lines = script.gateway.log().splitlines()
    assert all(json.loads(line) for line in lines if not line.startswith("coe:"))


def test_a_request_that_its_expert_refused_took_no_parameters() -> None:
    record = Record("id", "t", expert="large", expert_active_params_b=70, outcome="ok")
    totals = Totals()
    totals.add(record)
    record.outcome = REJECTED
    totals.add(record)
    counted = totals.summary(None)
    assert (counted["requests"], counted["failed"]) == (2, 1)
    assert counted["average_active_params_b"]["per_request"] == 70
