"""A mapping by expected scores, and the presets that clients choose by `model: auto:<preset>`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gateway.cli import coe
from gateway.composition import check
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from routers.artifact import save_router
from routers.bag import BagRouter
from routers.mapping import ScoredMapping
from tests.servers import NOBODY_URL, Gateway, UpstreamServer, run_gateway, write_experts

NAMES, SIZES_B, SCORES = ("small", "large"), [1.0, 9.0], [0.5, 0.9]
MAPPING = {"table": "table.json", "presets": {"default": 0.1, "best": 0}}


def write(
    folder: Path,
    categories: tuple[str, ...],
    url: str,
    keys: Mapping[str, Any] | None = None,
    **mapping: Any,
) -> Path:
    """Write a table in which the large expert is better at everything, and the experts."""
    scores = np.tile(SCORES, (len(categories), 1))
    table = ScoredMapping(categories, NAMES, scores, np.array(SIZES_B), {"default": 0})
    table.save(folder / "table.json")
    experts = [
        {"name": name, "base_url": url, "model": "ok", "active_params_b": size_b}
        for name, size_b in zip(NAMES, SIZES_B, strict=True)
    ]
    return write_experts(folder / "experts.yaml", experts, {**MAPPING, **mapping}, **(keys or {}))


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer,
    categories: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("presets")
    with run_gateway(write(folder, categories, upstream.base_url), folder) as running:
        yield running


@pytest.mark.parametrize(("model", "expert"), [("auto", "small"), ("auto:best", "large")])
def test_a_preset_is_a_price_on_parameters(gateway: Gateway, model: str, expert: str) -> None:
    assert gateway.chat(model, "Hello").headers["x-coe-expert"] == expert


def test_what_presets_save_is_counted_against_the_best_expert_of_the_table(
    gateway: Gateway,
) -> None:
    for model in ("auto", "auto:best"):
        assert gateway.chat(model, "Hello, old friend").status_code == 200
    stats = gateway.stats()
    assert stats["best_single"] == {"expert": "large", "active_params_b": 9}
    saved = {
        name: group["saved_versus_best_single_b"] for name, group in stats["by_preset"].items()
    }
    assert saved["default"]["per_token"] == pytest.approx(8, abs=0.1)
    assert saved["best"]["per_token"] == pytest.approx(0, abs=0.1)


def test_the_presets_are_listed_and_others_refused(gateway: Gateway) -> None:
    listed = [model["id"] for model in gateway.get("/v1/models").json()["data"]]
    assert {"auto", "auto:best", "small", "large"} <= set(listed)
    answer = gateway.chat("auto:cheap")
    assert answer.status_code == 404
    assert "auto:best" in answer.json()["error"]["message"]


def test_an_unsure_router_without_general_sends_to_the_general_expert(tmp_path: Path) -> None:
    words = {"coding": "python bug loop", "cooking": "bake soup onion"}
    texts = [word for line in words.values() for word in line.split()]
    router = BagRouter("toy").fit(texts, [name for name in words for _ in range(3)])
    save_router(router, tmp_path / "router", {})
    for min_confidence, expert in ((0.9, "small"), (0.0, "large")):
        keys = {"router": "router", "min_confidence": min_confidence}
        path = write(tmp_path, tuple(words), NOBODY_URL, keys, presets={"default": 0})
        asked = ["route", "Tell me a joke", "--config", str(path), "--json"]
        shown = json.loads(CliRunner().invoke(coe, asked).stdout)
        assert shown["ranked"][0] == expert
        assert (shown["reason"] == "low_confidence") is (expert == "small")


def refused(path: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(ExpertRegistry.load(path))


def test_presets_without_a_default_are_refused(tmp_path: Path, categories: tuple[str, ...]) -> None:
    path = write(tmp_path, categories, NOBODY_URL, presets={"best": 0})
    refused(path, r"mapping\.presets must have the preset default")


def test_a_misspelt_key_of_the_mapping_is_refused(
    tmp_path: Path, categories: tuple[str, ...]
) -> None:
    path = write(tmp_path, categories, NOBODY_URL, tabel="x")
    refused(path, r"mapping\.tabel is not a key\. Did you mean 'table'\?")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path, categories: tuple[str, ...]) -> None:
    path = write(tmp_path, categories, NOBODY_URL, table="nowhere.json")
    refused(path, r"nowhere\.json must be a mapping that coe map wrote")


def test_a_table_of_other_categories_is_refused(
    tmp_path: Path, categories: tuple[str, ...]
) -> None:
    path = write(tmp_path, categories[::-1], NOBODY_URL)
    refused(path, "the table of mapping must have the router's categories")


def test_a_table_of_other_experts_is_refused(tmp_path: Path, categories: tuple[str, ...]) -> None:
    path = write(tmp_path, categories, NOBODY_URL)
    table = json.loads((tmp_path / "table.json").read_text())
    (tmp_path / "table.json").write_text(json.dumps({**table, "experts": ["small", "huge"]}))
    refused(path, r"must name experts; got 'huge'\. Allowed: small, large")
