"""An expert without scores is tried out on a share of the prompts of its domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.explore import Exploration, explored
from tests.servers import Gateway, UpstreamServer, run_gateway, write_experts

CODING, STORY = "Write a Python function that reverses a string", "Tell me a story of a dragon."
DOMAIN = np.array([0.9, 0.1, 0.0])


def tried(share: float, n: int = 2000, probabilities: list[float] | None = None) -> list[bool]:
    row = DOMAIN if probabilities is None else np.array(probabilities)
    experts = {"new": Exploration(share, DOMAIN)}
    return [explored(experts, f"prompt {i}", row, ("new",)) == ("new",) for i in range(n)]


def test_the_share_is_kept_and_the_same_prompts_are_taken() -> None:
    some = tried(0.1)
    assert 0.07 < np.mean(some) < 0.13
    assert some == tried(0.1)
    more = tried(0.5)
    assert 0.46 < np.mean(more) < 0.54
    assert all(late for early, late in zip(some, more, strict=True) if early)


def test_prompts_of_other_domains_are_left_alone() -> None:
    assert not any(tried(1.0, 200, [0.0, 0.0, 1.0]))
    assert all(tried(1.0, 200))
    assert 0.05 < np.mean(tried(1.0, probabilities=[0.1, 0.9, 0.0])) < 0.4


def test_two_experts_are_tried_on_prompts_of_their_own_and_only_candidates_are() -> None:
    both = {name: Exploration(0.3, DOMAIN) for name in ("one", "two")}
    found = [explored(both, str(i), DOMAIN, ("one", "two")) for i in range(2000)]
    assert 0.26 < found.count(("one",)) / 2000 < 0.34
    assert 0.17 < found.count(("two",)) / 2000 < 0.25  # 0.3 of what the first one leaves
    assert all(explored(both, str(i), DOMAIN, ()) == () for i in range(50))


def expert(url: str, name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "model": "ok", "base_url": url, **keys}


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("explore")
    described = "programming, debugging and databases"
    experts = [
        expert(upstream.base_url, "general"),
        expert(upstream.base_url, "new", description=described, explore_share=1),
    ]
    with run_gateway(write_experts(folder / "experts.yaml", experts, {}), folder) as running:
        yield running


def test_an_expert_outside_the_mapping_is_tried_out(gateway: Gateway) -> None:
    answer = gateway.chat("auto", CODING)
    assert answer.headers["x-coe-expert"] == "new"
    assert answer.headers["x-coe-reason"] == "explore"
    shown = gateway.post("/v1/route", json={"prompt": CODING}).json()
    assert (shown["reason"], shown["ranked"]) == ("explore", ["new", "general"])
    assert gateway.chat("auto", STORY).headers["x-coe-expert"] == "general"


def test_what_is_explored_needs_a_description(tmp_path: Path) -> None:
    experts = [expert("http://127.0.0.1:1/v1", "new", explore_share=0.1)]
    path = write_experts(tmp_path / "experts.yaml", experts, {})
    with pytest.raises(ConfigError, match=r"must have a description: explore_share goes by it"):
        ExpertRegistry.load(path)
