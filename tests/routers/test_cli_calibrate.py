"""``coe calibrate``, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from routers.artifact import DEFAULT_FOLDER, load_router, read_card
from routers.base import decide
from routers.data import Row, digest
from routers.metrics import Answers
from routers.registry import StoredRouter
from tests.prompts import toy_rows, write_lines
from tests.routers.test_cli import run

OUT_OF_SCOPE = ["the the the", "42", "lorem ipsum dolor", "who knows", "tell me more"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "rows.jsonl", toy_rows())


def scores_of(router: StoredRouter) -> dict[str, float]:
    probabilities = router.predict_proba([row.prompt for row in toy_rows()])
    labels = [row.category for row in toy_rows()]
    return Answers.of(probabilities, labels, router.categories_, router.min_margin).scores()


def test_calibration_keeps_the_router_and_moves_the_threshold(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    run("train", data, "--out", out, "--type", "bag")
    before, scores = read_card(out), scores_of(load_router(out))
    outside = write_lines(tmp_path / "outside.jsonl", [{"prompt": one} for one in OUT_OF_SCOPE])
    result = run(
        "calibrate",
        *(out, data, "--out-of-scope", outside, "--json"),
        *("--min-coverage", 0.5, "--out-of-scope-share", 1),
    )
    assert result.exit_code == 0, result.output
    after = read_card(out)
    assert json.loads(result.stdout)["min_margin"] == after.min_margin > 0
    assert after.files == before.files
    assert after.training["data"] == before.training["data"]
    assert after.training["held_out"]["n"] == 180
    calibrated = after.training["calibrated"]
    assert calibrated.pop("before") == scores
    assert calibrated == {
        "rows": 180,
        "out_of_scope": 5,
        "sha256": digest(toy_rows()),
        "goal": {"min_coverage": 0.5, "out_of_scope": 1.0, "accuracy": 0.95},
    }
    assert after.training["out_of_scope"] == {"n": 5, "to_general": 1.0}
    readme = (out / "README.md").read_text()
    assert "## Scores on the prompts that it was calibrated on last" in readme
    assert f"SHA-256 of these prompts: `{digest(toy_rows())}`" in readme
    assert "which was not trained on" not in readme
    router = load_router(out)
    strangers = router.predict_proba(OUT_OF_SCOPE)
    decided = {decide(row, router.categories_, after.min_margin).category for row in strangers}
    assert decided == {"general"}


def test_calibration_can_be_tried_beside_the_router(data: Path, tmp_path: Path) -> None:
    out, tried = tmp_path / "router", tmp_path / "tried"
    run("train", data, "--out", out, "--type", "bag")
    before = read_card(out)
    result = run("calibrate", out, data, "--out", tried, "--min-coverage", 0.5)
    assert result.exit_code == 0, result.output
    assert "before, of the same prompts: calibration error 0." in " ".join(result.stdout.split())
    assert read_card(out) == before
    assert read_card(tried).training["data"] == before.training["data"]
    assert load_router(tried).categories_ == before.categories


def test_an_aim_that_is_missed_is_told(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    known = [{"prompt": row.prompt} for row in toy_rows()[:5]]  # no threshold tells these apart
    outside = write_lines(tmp_path / "outside.jsonl", known)
    options = ("--out-of-scope", outside, "--out-of-scope-share", 1, "--min-coverage", 1)
    said = run("train", data, "--out", out, "--type", "bag", *options).stdout
    share = read_card(out).training["out_of_scope"]["to_general"]
    assert share < 1
    assert f"of 5 out-of-scope prompts {share:.1%} go to the general expert; 100.0% was" in said
    assert "held back by --min-coverage 1" in " ".join(said.split())
    said = run("calibrate", out, data, "--min-coverage", 1, "--target-accuracy", 1).stdout
    assert "180 prompts of those that it was calibrated on" in said


def test_calibrating_on_other_categories_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    run("train", data, "--out", out, "--type", "bag")
    before = (out / "router.json").read_bytes()
    other = write_lines(tmp_path / "other.jsonl", [{"prompt": "p", "category": "physics"}])
    result = run("calibrate", out, other)
    assert result.exit_code == 2
    assert "got also physics" in result.stderr
    assert (out / "router.json").read_bytes() == before


def test_calibrating_on_some_categories_reports_those(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    run("train", data, "--out", out, "--type", "bag")
    some = [row for row in toy_rows() if row.category == "coding"]
    result = run("calibrate", out, write_lines(tmp_path / "some.jsonl", some))
    assert result.exit_code == 0, result.output
    assert "coding" in read_card(out).training["held_out"]["f1"]


def test_calibrating_a_router_of_english_on_other_languages_alone_is_refused(
    tmp_path: Path,
) -> None:
    out = shutil.copytree(DEFAULT_FOLDER, tmp_path / "router")
    prompt = "今日の東京の天気はどうですか。傘を持って行くべきでしょうか"
    rows = [Row(f"{prompt} {number}", "multilingual") for number in range(60)]
    before = (out / "router.json").read_bytes()
    result = run("calibrate", out, write_lines(tmp_path / "rows.jsonl", rows))
    assert result.exit_code == 2
    assert "some prompts must be English; got none" in result.stderr
    assert (out / "router.json").read_bytes() == before


def test_calibrating_on_a_few_prompts_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    run("train", data, "--out", out, "--type", "bag")
    before = (out / "router.json").read_bytes()
    result = run("calibrate", out, write_lines(tmp_path / "few.jsonl", toy_rows()[:3]))
    assert result.exit_code == 2
    assert "20 prompts or more; got 3" in result.stderr
    assert (out / "router.json").read_bytes() == before


def test_calibrating_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    result = run("calibrate", tmp_path, data)
    assert result.exit_code == 2
    assert "router.json" in result.stderr
