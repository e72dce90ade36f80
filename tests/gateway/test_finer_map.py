"""Finer categories from ``coe map`` to a running gateway that serves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import coe
from routers.artifact import DEFAULT_FOLDER, load_router
from routers.base import active_params_to_embed_b
from routers.mapping import ScoredMapping
from tests.gateway.test_map_command import solved, write_scores
from tests.servers import UpstreamServer, run_gateway, write_experts

RECALL = "Who was the physicist known for the law of {}?"
CALCULATE = "Compute the force in newtons: {} kg * 9.8 m/s^2 + {} N = ?"


@pytest.fixture(scope="module")
def physics(upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry of two experts, and scores in which only calculating tells them apart."""
    folder = tmp_path_factory.mktemp("physics")
    experts = [
        {
            "name": name,
            "model": "ok",
            "base_url": upstream.base_url,
            "active_params_b": 7.0,
            "total_params_b": 7.0,
        }
        for name in ("recalls", "calculates")
    ]
    write_experts(folder / "experts.yaml", experts, {}, min_confidence=0)
    rows = [
        {
            "id": str(i),
            "prompt": (CALCULATE if i % 2 else RECALL).format(i, i + 1),
            "category": "science",
            "scores": {"recalls": float(i % 2 == 0), "calculates": float(i % 2)},
        }
        for i in range(120)
    ]
    write_scores(folder / "scores.jsonl", rows)
    config = str(folder / "experts.yaml")
    found = solved(str(folder / "scores.jsonl"), "--config", config, "--write")
    assert found["finer"]
    assert found["kept"] == ["recalls", "calculates"]
    (told,) = [text for text in found["warnings"] if text.startswith("finer categories are served")]
    assert "on held-out prompts they gain +" in told
    assert "more than a standard error, which is the rule; there default 1.0000 at 7.00 B" in told
    assert ", by the table alone 0." in told
    return folder


def test_finer_categories_are_served(physics: Path, tmp_path: Path) -> None:
    config = physics / "experts.yaml"
    asked = {"recalls": RECALL.format("gravity"), "calculates": CALCULATE.format(500, 7)}
    all_of_router_b = active_params_to_embed_b(load_router(DEFAULT_FOLDER))
    with run_gateway(config, tmp_path) as gateway:
        for expert, prompt in asked.items():
            fresh, cached = (gateway.post("/v1/route", json={"prompt": prompt}) for _ in range(2))
            shown = fresh.json()
            assert (shown["expert"], shown["cache"]) == (expert, "miss")
            weighed = shown["experts"]
            assert weighed[expert]["utility"] == weighed[expert]["expected_score"]
            assert weighed[expert]["expected_score"] > 0.7
            assert shown["active_params_b"] == pytest.approx(7 + all_of_router_b, abs=1e-6)
            assert cached.json() == {**shown, "cache": "hit", "reason": "cached_choice"} | {
                "active_params_b": 7.0
            }
            assert gateway.chat("auto", prompt).headers["x-coe-expert"] == expert
    told = CliRunner().invoke(coe, ["route", asked["recalls"], "--config", str(config)])
    assert "recalls: expected score" in told.stdout


def test_without_an_embedding_the_table_decides(physics: Path) -> None:
    config = physics / "ruled.yaml"
    written = (physics / "experts.yaml").read_text().rstrip()
    config.write_text(written.removesuffix("}") + ", keywords: {science: [newtons]}}")
    done = CliRunner().invoke(
        coe, ["route", CALCULATE.format(1, 2), "--config", str(config), "--json"]
    )
    scores = json.loads(done.stdout)["experts"]
    assert scores["recalls"]["expected_score"] == pytest.approx(0.5, abs=0.01)
    assert scores["calculates"]["expected_score"] == pytest.approx(0.5, abs=0.01)


def test_finer_categories_of_another_encoder_are_left_out_and_that_is_logged(
    physics: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapping = ScoredMapping.load(physics / "mapping.json", {"default": 0.0})
    assert mapping.finer is not None
    other = replace(mapping, finer=replace(mapping.finer, encoder_digest="another"))
    other.save(tmp_path / "mapping.json")
    config = tmp_path / "experts.yaml"
    config.write_text((physics / "experts.yaml").read_text())
    done = CliRunner().invoke(coe, ["route", CALCULATE, "--config", str(config), "--json"])
    scores = json.loads(done.stdout)["experts"]
    assert scores["calculates"]["expected_score"] == pytest.approx(0.5, abs=0.01)
    assert "finer categories left out: they know another encoder" in caplog.text


def test_finer_categories_that_do_not_pay_are_left_out(physics: Path) -> None:
    rows = [json.loads(line) for line in (physics / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        row["scores"] = {"recalls": 1.0, "calculates": 0.0}
    scores = write_scores(physics / "flat.jsonl", rows)
    found = solved(str(scores), "--config", str(physics / "experts.yaml"))
    assert not found["finer"]
    (told,) = [text for text in found["warnings"] if "held-out" in text]
    assert told.startswith("finer categories are left out: on held-out prompts they gain +0.00 poi")
    assert told.endswith("over the table, not more than a standard error")


def test_finer_categories_above_the_cap_are_left_out(physics: Path) -> None:
    rows = [json.loads(line) for line in (physics / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        row["scores"]["calculates"] = 1.0
    scores = str(write_scores(physics / "capped.jsonl", rows))
    sizes = {"calculates": 10.0, "recalls": 1.0}
    address = {"model": "ok", "base_url": "http://127.0.0.1:9/v1"}
    experts = [
        {"name": name, **address, "active_params_b": size, "total_params_b": size}
        for name, size in sizes.items()
    ]
    config = write_experts(physics / "capped.yaml", experts, {}, min_confidence=0)
    for cap, kept in (("6", True), ("3", False)):
        found = solved(scores, "--config", str(config), "--active-params-b", cap)
        assert found["finer"] is kept
        assert found["expected"]["default"]["active_params_b"] == 1
    assert any("left out, as they would take more active" in text for text in found["warnings"])
