"""``coe map`` with a registry: what it reads of it, writes into it, and a gateway then serves."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from click.testing import CliRunner

from gateway.cli import coe
from gateway.config import load_experts_file
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.mapping_run import write_mapping
from gateway.schema import MappingTable
from routers.artifact import read_card
from routers.base import decide
from routers.mapping import ScoredMapping
from tests.gateway.test_map_command import RATES, run, score_lines, solved, write_scores
from tests.servers import REPO, UpstreamServer, run_gateway, write_experts


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of the shipped registry, whose experts are virtual and share their weights."""
    path = tmp_path / "experts.yaml"
    path.write_text((REPO / "experts.yaml").read_text())
    return path


def registry_of(folder: Path, upstream: UpstreamServer, sizes: dict[str, float]) -> Path:
    """Write a registry of experts of these sizes, in 10^9 parameters."""
    experts = [
        {
            "name": name,
            "model": "ok",
            "base_url": upstream.base_url,
            "active_params_b": size,
            "total_params_b": size,
        }
        for name, size in sizes.items()
    ]
    return write_experts(folder / "experts.yaml", experts, {}, min_confidence=0)


def shipped_scores(folder: Path) -> Path:
    categories = read_card(REPO / "routers/default").categories
    rates = {
        category: {name: 0.9 if name == category else 0.3 for name in categories}
        for category in categories
    }
    return write_scores(folder / "scores.jsonl", score_lines(rates))


def test_write_keeps_the_comments(tmp_path: Path, shipped: Path) -> None:
    before = shipped.read_text().splitlines()
    scores = shipped_scores(tmp_path)
    arguments = ("--config", str(shipped), "--plain", "--write", "--preset", "small=0.01")
    found = solved(str(scores), *arguments)
    assert found["resident_params_b"] == pytest.approx(0.1345)
    after = shipped.read_text().splitlines()
    start = before.index("mapping:")
    assert after[:start] == before[:start]
    assert all(f"# {line}" in after for line in before[start:] if line)
    file = load_experts_file(shipped)
    assert file.mapping == MappingTable(
        table="mapping.json", presets={"default": 0.0, "small": 0.01}
    )
    assert file.experts == load_experts_file(REPO / "experts.yaml").experts
    once = shipped.read_text()
    solved(str(scores), *arguments)
    assert shipped.read_text() == once


def test_write_goes_through_a_link_and_keeps_permissions(tmp_path: Path, shipped: Path) -> None:
    shipped.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(shipped.name)
    arguments = ("--config", str(link), "--plain", "--write", "--preset", "small=0.01")
    solved(str(shipped_scores(tmp_path)), *arguments)
    assert link.is_symlink()
    assert isinstance(load_experts_file(shipped).mapping, MappingTable)
    assert shipped.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_map_of_experts_that_were_edited_meanwhile_is_not_written(
    tmp_path: Path, shipped: Path
) -> None:
    arguments = ("--config", str(shipped), "--plain", "--write")
    solved(str(shipped_scores(tmp_path)), *arguments)
    registry = ExpertRegistry.load(shipped)
    mapping = ScoredMapping.load(tmp_path / "mapping.json", {"default": 0.5})
    shipped.write_text("# as it was\n" + shipped.read_text())
    write_mapping(registry, mapping)
    assert "# as it was\n" in shipped.read_text()
    edited = shipped.read_text().replace("name: coding", "name: programming", 1)
    shipped.write_text(edited)
    with pytest.raises(ConfigError, match="its experts were edited in between"):
        write_mapping(registry, mapping)
    assert shipped.read_text() == edited


def test_write_leaves_the_keys_behind_the_mapping_alone(tmp_path: Path, shipped: Path) -> None:
    head, _, mapping = shipped.read_text().partition("\nmapping:")
    first, _, rest = head.partition("\nexperts:")
    shipped.write_text(f"{first}\nmapping:{mapping}\n# the experts\nexperts:{rest}\n")
    done = run(str(shipped_scores(tmp_path)), "--config", str(shipped), "--plain", "--write")
    assert done.exit_code == 0, done.output
    assert shipped.read_text().endswith(f"\n# the experts\nexperts:{rest}\n")
    assert load_experts_file(shipped).experts == load_experts_file(REPO / "experts.yaml").experts


def test_the_router_sorts_prompts_that_come_with_other_categories(
    tmp_path: Path, shipped: Path
) -> None:
    names = [expert.name for expert in load_experts_file(shipped).experts]
    rows = [
        {
            "id": str(i),
            "prompt": f"Write a Python function that sorts list number {i} and prints it",
            "category": None,
            "scores": {
                name: float(name == "coding" or (name == "general" and i % 2)) for name in names
            },
        }
        for i in range(30)
    ]
    found = solved(str(write_scores(tmp_path / "s.jsonl", rows)), "--config", str(shipped))
    assert not found["finer"]
    assert any("100 prompts or more must be embedded" in text for text in found["warnings"])
    assert found["presets"]["default"]["coding"][0] == "coding"
    assert found["expected"]["default"]["score"] > 0.8


def test_a_misspelt_category_is_told_as_the_router_then_sorts_all(
    tmp_path: Path, shipped: Path
) -> None:
    scores = shipped_scores(tmp_path)
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    categories = ["codign", None, *(row["category"] for row in rows[2:20])]
    for row, category in zip(rows[:20], categories, strict=True):
        row["category"] = category
    few = str(write_scores(tmp_path / "few.jsonl", rows[:20]))
    asked = ("--config", str(shipped), "--plain")
    told = solved(few, *asked)["warnings"]
    sorts = "the router sorts all prompts anew: 1 of 20 came with the category "
    hint = "which it does not have. Did you mean 'coding'? Allowed:"
    assert any(text.startswith(f'{sorts}"codign", {hint}') for text in told)
    assert any(text.startswith(f"{sorts}null, which it does not have. Allowed:") for text in told)
    assert not any("sorts all" in text for text in solved(str(scores), *asked)["warnings"])


def test_the_general_expert_must_be_scored(tmp_path: Path, shipped: Path) -> None:
    rows = shipped_scores(tmp_path).read_text().replace('"general":', '"stranger":')
    (tmp_path / "other.jsonl").write_text(rows)
    done = run(str(tmp_path / "other.jsonl"), "--config", str(shipped))
    assert done.exit_code == 2
    assert "the general expert 'general' is always kept" in " ".join(done.output.split())


def test_the_place_that_the_general_expert_takes_is_told(tmp_path: Path, shipped: Path) -> None:
    asked = (str(shipped_scores(tmp_path)), "--config", str(shipped), "--plain")
    found = solved(*asked, "--n-experts", "1")
    assert found["kept"] == ["general"]
    assert any("--n-experts 1 counts general, which" in text for text in found["warnings"])
    assert not any("--n-experts" in text for text in solved(*asked)["warnings"])


def test_the_general_expert_must_tell_what_is_paid_for(tmp_path: Path, shipped: Path) -> None:
    done = run(str(shipped_scores(tmp_path)), "--config", str(shipped), "--price-of", "latency")
    assert done.exit_code == 2
    told = " ".join(done.output.split())
    assert "its sizes and latency_s must be in experts.yaml; they are not" in told


def test_a_table_without_default_is_refused(shipped: Path) -> None:
    head = shipped.read_text().partition("\nmapping:")[0]
    shipped.write_text(f"{head}\nmapping:\n  table: mapping.json\n  presets: {{small: 1}}\n")
    with pytest.raises(ConfigError, match=r"mapping\.presets must have the preset default"):
        load_experts_file(shipped)


def test_a_misspelt_key_of_a_table_is_suggested(shipped: Path) -> None:
    head = shipped.read_text().partition("\nmapping:")[0]
    shipped.write_text(f"{head}\nmapping:\n  table: m.json\n  preset: {{default: 1}}\n")
    with pytest.raises(ConfigError, match=r"mapping\.preset is not a key\. Did you mean 'presets'"):
        load_experts_file(shipped)


def test_the_gateway_routes_by_the_solved_map(upstream: UpstreamServer, tmp_path: Path) -> None:
    categories = read_card(REPO / "routers/default").categories
    sizes = {"small": 1.0, "big": 70.0, "maths": 7.0}
    config = registry_of(tmp_path, upstream, sizes)
    rates = {name: RATES["math" if name == "coding" else "chat"] for name in categories}
    scores = write_scores(tmp_path / "scores.jsonl", score_lines(rates))
    solved(str(scores), "--config", str(config), "--plain", "--preset", "tiny=0.5", "--write")
    assert ExpertRegistry.load(config).file.mapping == MappingTable(
        table="mapping.json", presets={"default": 0.0, "tiny": 0.5}
    )
    question = "Write a Python function that reverses a string"
    with run_gateway(config, tmp_path) as gateway:
        models = [one["id"] for one in gateway.get("/v1/models").json()["data"]]
        assert models[:3] == ["auto", "auto:default", "auto:tiny"]
        best = gateway.chat("auto", question).headers
        assert (best["x-coe-category"], best["x-coe-expert"]) == ("coding", "maths")
        assert gateway.chat("auto:tiny", question).headers["x-coe-expert"] == "small"
        assert gateway.chat("auto", "Tell me a story about a dragon.").headers["x-coe-expert"] == (
            "big"
        )
        refused = gateway.chat("auto:huge", question)
        assert refused.status_code == 404
        assert "auto:tiny" in refused.json()["error"]["message"]
        assert gateway.stats()["by_expert"]["maths"]["requests"] == 1


def test_what_is_written_keeps_to_the_cap_and_is_what_is_reported(
    upstream: UpstreamServer, tmp_path: Path
) -> None:
    sizes = {"small": 1.0, "big": 10.0}
    config = registry_of(tmp_path, upstream, sizes)
    categories = read_card(REPO / "routers/default").categories
    rates = {
        category: {"small": (0.5, 0.85)[at % 2], "big": 0.9}
        for at, category in enumerate(categories)
    }
    scores = str(write_scores(tmp_path / "scores.jsonl", score_lines(rates)))
    found = solved(
        *(scores, "--config", str(config), "--plain", "--write", "--active-params-b", "6"),
        *("--preset", "tiny=0.5"),
    )
    written = ExpertRegistry.load(config).file.mapping
    assert isinstance(written, MappingTable)
    assert written.presets["tiny"] == 0.5
    mapping = ScoredMapping.load(tmp_path / "mapping.json", written.presets)
    for preset, expected_b in (("default", 5.5), ("tiny", 1.0)):
        served = [
            mapping.rank(decide(row, categories, 0), tuple(sizes), preset)[0]
            for row in np.eye(len(categories))
        ]
        assert fmean(sizes[name] for name in served) == pytest.approx(expected_b)
        assert served == [found["presets"][preset][category][0] for category in categories]
        assert found["expected"][preset]["active_params_b"] == pytest.approx(expected_b)
    (told,) = [text for text in found["warnings"] if "the price of" in text]
    assert f"the price of default is raised from 0 to {written.presets['default']:g}" in told


def test_a_table_for_other_categories_is_refused(tmp_path: Path, shipped: Path) -> None:
    solved(str(shipped_scores(tmp_path)), "--config", str(shipped), "--plain", "--write")
    table = json.loads((tmp_path / "mapping.json").read_text())
    table["categories"][0] = "astrology"
    (tmp_path / "mapping.json").write_text(json.dumps(table))
    done = CliRunner().invoke(coe, ["route", "hello", "--config", str(shipped)])
    assert isinstance(done.exception, ConfigError)
    assert "must have the router's categories" in str(done.exception)
