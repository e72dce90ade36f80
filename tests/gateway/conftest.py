"""One gateway over stand-in experts, shared by the tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from routers.artifact import read_card
from tests.servers import (
    NOBODY_URL,
    REPO,
    Gateway,
    UpstreamServer,
    Valkey,
    run_gateway,
    run_upstream,
    write_experts,
)

CLIENT_KEY = "client-key-7c1d"
EXPERT_KEY = "expert-key-93fa"

FAILING = ("s401", "s404", "s500", "s503", "s429", "resets", "refuses")
"""Experts that fail whole and streamed; those of every category but coding, tried in this order."""


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server that the tests of a file share; some have one of their own instead."""
    server = Valkey(tmp_path_factory.mktemp("v"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def upstream() -> Iterator[UpstreamServer]:
    with run_upstream() as running:
        yield running


@pytest.fixture(scope="session")
def categories() -> tuple[str, ...]:
    return read_card(REPO / "routers/default").categories


@pytest.fixture(scope="session")
def gateway(
    upstream: UpstreamServer,
    categories: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    mapping = {name: list(FAILING) for name in categories} | {"coding": ["good"]}
    config = write_experts(folder / "experts.yaml", stand_ins(upstream), mapping, min_confidence=0)
    with run_gateway(config, folder, STAND_IN_KEY=EXPERT_KEY, COE_LOG_LEVEL="DEBUG") as running:
        yield running


def stand_ins(upstream: UpstreamServer) -> list[dict[str, Any]]:
    """Return experts that behave in all the ways an upstream can."""
    good = {"model": "ok", "active_params_b": 7, "total_params_b": 8, "weights": "good"}
    experts: list[dict[str, Any]] = [
        {"name": "good", **good, "api_key_env": "STAND_IN_KEY", "capabilities": ["tools"]},
        {"name": "terse", **good, "system_prompt": "Be terse."},
        {"name": "unsized", "model": "ok"},
        {"name": "vectors", "model": "ok", "capabilities": ["embeddings"], "active_params_b": 0.1},
        {"name": "uncounted", "model": "nousage", "active_params_b": 2},
        {"name": "s400", "model": "status-400", "capabilities": ["vision"], "active_params_b": 2},
        {"name": "s401", "model": "status-401", "api_key_env": "STAND_IN_KEY"},
        {"name": "s404", "model": "status-404"},
        {"name": "s429", "model": "status-429"},
        {"name": "s500", "model": "status-500", "capabilities": ["json_schema", "embeddings"]},
        {"name": "s503", "model": "status-503", "capabilities": ["json_schema"]},
        {"name": "resets", "model": "reset"},
        {"name": "refuses", "base_url": NOBODY_URL},
        {"name": "redirects", "model": "status-307"},
        {"name": "empty"},
        {"name": "garbage"},
        {"name": "page"},
        {"name": "cut"},
        {"name": "unfinished"},
        {"name": "fails"},
        {"name": "endless"},
        {"name": "held", "model": "slow"},
        {"name": "slow", "timeout_s": {"first_token": 0.4, "total": 0.8}},
        {"name": "stalled", "timeout_s": {"idle": 0.4}},
        {"name": "overlong", "model": "endless", "timeout_s": {"total": 0.8}},
    ]
    patient = {"max_retries": 0, "open_after_failures": None}  # each test sees its own failure
    return [{"base_url": upstream.base_url, **patient, **expert} for expert in experts]
