"""The steps of requests: which of them are reported, and that the gateway's log has them all."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eval.bench.load import Load
from eval.bench.report import markdown
from eval.bench.steps import steps_ms, summarise_steps
from eval.bench.systems import Target, chat
from tests.servers import run_gateway, run_upstream, write_experts


def test_what_few_requests_have_is_told_with_its_share() -> None:
    quick = [{"parse": 1.0, "relay": 2.0}] * 3
    slow = [{"parse": 3.0, "encode": 9.0, "relay": 2.0}]
    cheap, encoded = summarise_steps([*quick, {"parse": 1.0, "classify": 5.0, "relay": 2.0}, *slow])
    assert (cheap["encoder"], cheap["share"], cheap["all_ms"]) == (False, 0.8, 3.0)
    assert cheap["steps"]["classify"] == {"ms": 5.0, "share": 0.25}
    assert cheap["steps"]["parse"] == {"ms": 1.0, "share": 1.0}
    assert (encoded["encoder"], encoded["share"], encoded["all_ms"]) == (True, 0.2, 14.0)
    table = markdown({"rows": [], "steps_ms": {"mixed-500": [cheap, encoded]}})
    assert "| case | requests | parse | classify | relay | encode | all |" in table
    assert "| mixed-500 | 80% | 1.000 | 5.000 (25.0%) | 2.000 |  | 3.000 |" in table
    assert "| mixed-500, encoder | 20% | 3.000 |  | 2.000 | 9.000 | 14.000 |" in table


def test_all_steps_of_a_request_are_reported_also_those_after_the_header(tmp_path: Path) -> None:
    with run_upstream() as upstream:
        experts = [{"name": "ok", "base_url": upstream.base_url}]
        config = write_experts(tmp_path / "experts.yaml", experts, {}, router="routers/default")
        with run_gateway(config, tmp_path) as gateway:
            target = Target(chat(urlsplit(gateway.url).port or 0), gateway.process.pid, "auto")
            found = steps_ms(target, gateway.log_path, Load(2_250, True, 1, mixed=True), 20)
    assert [group["encoder"] for group in found] == [False, True]
    assert sum(group["share"] for group in found) == pytest.approx(1)
    cheap, encoded = (group["steps"] for group in found)
    assert set(encoded) - set(cheap) == {"cache", "queue", "encode"}
    assert {"admit", "classify", "first_byte", "relay", "account"} <= set(cheap)
