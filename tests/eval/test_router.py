"""``coe eval router``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eval.cli import eval_group
from eval.robustness import CHANGES
from routers.artifact import save_router
from routers.bag import BagRouter
from routers.data import Row
from tests.prompts import toy_rows, write_lines

INTERVALS = ("accuracy", "macro_f1", "ece", "coverage", "covered_accuracy", "to_general")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(eval_group, ["router", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a router that knows a few toy prompts."""
    rows = toy_rows()[::14]
    router = BagRouter("toy").fit([row.prompt for row in rows], [row.category for row in rows])
    router.min_margin = 0.5
    folder = tmp_path_factory.mktemp("eval") / "toy"
    save_router(router, folder, {})
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [*toy_rows()[1::2], Row("How old is the universe?", "physics", "other")]
    return write_lines(tmp_path / "test.jsonl", [*rows, {"prompt": "?", "category": None}])


def test_every_metric_has_its_interval(folder: Path, data: Path) -> None:
    found = json.loads(run(folder, data, "--json").stdout)
    assert found["n"] == 91
    assert found["n_unlabelled"] == 1
    assert found["router"].startswith("toy@")
    for name in INTERVALS:
        low, high = found[f"{name}_ci95"]
        assert 0 <= low <= found[name] <= high <= 1
    low, high = found["accuracy_ci95"]
    assert low < high


def test_a_few_answers_that_are_all_right_are_no_certainty(folder: Path, tmp_path: Path) -> None:
    rows = [row for row in toy_rows()[::14] if row.category == "coding"]
    found = json.loads(run(folder, write_lines(tmp_path / "few.jsonl", rows), "--json").stdout)
    n, source = found["n"], found["per_source"]["toy_coding"]
    assert found["accuracy"] == source["accuracy"] == 1
    assert 1 < n < 12
    low = n / (n + 1.959964**2)
    for interval in (found["accuracy_ci95"], found["macro_f1_ci95"], source["accuracy_ci95"]):
        assert interval == pytest.approx([low, 1])
    wrong = [{"prompt": row.prompt, "category": "physics"} for row in rows]
    found = json.loads(run(folder, write_lines(tmp_path / "few.jsonl", wrong), "--json").stdout)
    assert found["accuracy"] == 0
    assert found["accuracy_ci95"] == pytest.approx([0, 1 - low])


def test_what_the_gateway_would_read_of_a_prompt_is_classified(
    folder: Path, tmp_path: Path
) -> None:
    coding = next(row for row in toy_rows() if row.category == "coding")
    cooking = " ".join(row.prompt for row in toy_rows() if row.category == "cooking")
    prompt = f"<system-reminder>{cooking}</system-reminder>\n{coding.prompt}"
    rows = [Row(prompt, "coding"), Row(coding.prompt, "coding")]
    found = json.loads(run(folder, write_lines(tmp_path / "test.jsonl", rows), "--json").stdout)
    assert found["accuracy"] == 1


def test_mistakes_are_written_the_surest_first(folder: Path, tmp_path: Path) -> None:
    rows = [Row(row.prompt, "cooking", "s") for row in toy_rows() if row.category == "coding"][:9]
    right = next(row for row in toy_rows() if row.category == "cooking")
    file = tmp_path / "mistakes.jsonl"
    run(folder, write_lines(tmp_path / "test.jsonl", [*rows, right]), "--mistakes", file)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert {one["prompt"] for one in found} == {row.prompt for row in rows}
    assert {(one["category"], one["answered"]) for one in found} == {("cooking", "coding")}
    confidence = [one["confidence"] for one in found]
    assert confidence == sorted(confidence, reverse=True)


def test_a_label_the_router_does_not_know_is_wrong(folder: Path, data: Path) -> None:
    found = json.loads(run(folder, data, "--json").stdout)
    assert found["unknown_categories"] == ["physics"]
    assert found["per_category"]["physics"] == {"n": 1, "precision": None, "recall": 0, "f1": 0}
    assert found["per_source"]["other"]["accuracy"] == 0
    assert found["accuracy"] < 1


def test_sources_and_categories_are_counted(folder: Path, data: Path) -> None:
    found = json.loads(run(folder, data, "--json").stdout)
    assert {name: one["n"] for name, one in found["per_category"].items()} == {
        "coding": 30,
        "cooking": 30,
        "general": 30,
        "physics": 1,
    }
    sources = found["per_source"]
    mean = sum(one["accuracy"] for one in sources.values()) / len(sources)
    assert found["source_mean_accuracy"] == pytest.approx(mean)
    assert set(sources) == {"toy_coding", "toy_cooking", "toy_general", "other"}


def test_latency_is_told_by_length(folder: Path, data: Path) -> None:
    spent_ms = json.loads(run(folder, data, "--json").stdout)["latency_ms"]
    assert list(spent_ms) == ["20", "100", "500"]
    assert 0 < spent_ms["20"] < spent_ms["500"] < 1_000


def test_the_seed_decides_the_intervals(folder: Path, data: Path) -> None:
    one, two, three = (
        json.loads(run(folder, data, "--json", "--seed", seed).stdout)["ece_ci95"]
        for seed in (1, 1, 2)
    )
    assert one == two != three


def test_stability_is_a_share_for_every_change(folder: Path, data: Path) -> None:
    found = json.loads(run(folder, data, "--stability", "--json").stdout)
    assert set(found["stability"]) == set(CHANGES)
    assert found["stability"]["lower case"] == 1
    assert all(0 <= share <= 1 for share in found["stability"].values())
    assert min(found["stability"].values()) < 1


def test_people_get_tables(folder: Path, data: Path) -> None:
    shown = run(folder, data).stdout
    for word in ("accuracy", "95% interval", "toy_coding", "physics", "ms at 20 words"):
        assert word in shown


def test_names_of_the_data_are_shown_as_they_are(folder: Path, tmp_path: Path) -> None:
    sources = ("squad[train]", "squad[test]", "a[/INST]", "a:fire:")
    rows = [Row(row.prompt, row.category, sources[i % 4]) for i, row in enumerate(toy_rows())]
    shown = run(folder, write_lines(tmp_path / "test.jsonl", rows))
    assert shown.exit_code == 0, shown.output
    assert all(source in shown.stdout for source in sources)


@pytest.mark.parametrize("text", ["", "{}\n", '{"prompt": "p", "category": null}\n'])
def test_bad_data_is_wrong_use(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    result = run(folder, tmp_path / "bad.jsonl")
    assert result.exit_code == 2
    assert "bad.jsonl" in result.stderr


def test_a_folder_without_a_router_is_wrong_use(data: Path) -> None:
    result = run(data.parent, data)
    assert result.exit_code == 2
    assert "router.json" in result.stderr


def test_help_has_an_example() -> None:
    assert "  coe eval router " in run("--help").stdout
