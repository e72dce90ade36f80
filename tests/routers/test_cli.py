"""``coe train``, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from routers import cli
from routers.artifact import load_router, read_card
from routers.data import Row
from tests.prompts import toy_rows, write_lines

COLOURS = ("red", "blue", "green", "yellow", "purple", "silver")
ANIMALS = (
    *("horse", "whale", "eagle", "spider", "tortoise"),
    *("goldfish", "panther", "rabbit", "crocodile", "bee"),
)
PATTERNS = tuple(
    f"{verb} the {{}} {when}"
    for verb in ("I saw", "Feed", "Draw", "Where is", "Tell me about")
    for when in ("today", "in the zoo", "please", "at night")
)


def run(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(getattr(cli, command), [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "rows.jsonl", toy_rows())


def test_training_writes_an_artifact_and_a_report(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    result = run("train", data, "--out", out, "--max-tokens", 16, "--name", "mine")
    assert result.exit_code == 0, result.output
    card = read_card(out)
    assert card.type == "linear"
    assert card.settings["max_tokens"] == 16
    assert f"mine@{card.version}" in result.stdout
    assert "180 prompts of 5 folds" in result.stdout
    facts = card.training["data"]
    assert (facts["rows_read"], facts["rows_trained"], facts["rows_held_out"]) == (180, 180, 0)
    assert (card.training["held_out"]["n"], card.training["held_out"]["folds"]) == (180, 5)
    assert sum(source["rows"] for source in facts["sources"]) == 180
    assert set(card.training["latency_ms"]) == {"20", "100", "500"}
    assert card.training["held_out"]["accuracy"] > 0.8
    assert "| toy_coding |  | coding | 60 |" in (out / "README.md").read_text()
    (row,) = load_router(out).predict_proba(["How do I roast a duck?"])
    assert card.categories[row.argmax()] == "cooking"


def test_a_hold_out_that_is_large_enough_is_held_out(tmp_path: Path) -> None:
    rows = [Row(f"{row.prompt} {n}", row.category) for row in toy_rows() for n in range(8)]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    result = run("train", data, "--out", tmp_path / "r", "--type", "bag")
    assert "144 prompts of the hold-out" in result.stdout
    facts = read_card(tmp_path / "r").training["data"]
    assert (facts["rows_trained"], facts["rows_held_out"]) == (1_296, 144)


def test_names_of_categories_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [Row(row.prompt, f"{row.category}[/x]") for row in toy_rows()]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    result = run("train", data, "--out", tmp_path / "[b]", "--type", "bag")
    assert result.exit_code == 0, result.output
    assert "cooking[/x]" in result.stdout
    assert "[b]" in result.stdout


def test_json_is_the_card_and_nothing_else(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    result = run("train", data, "--out", out, "--type", "bag", "--json")
    assert json.loads(result.stdout) == json.loads((out / "router.json").read_text())


@pytest.mark.parametrize("type_name", ["bag", "linear", "cascade"])
def test_the_same_data_and_seed_give_the_same_artifact(
    data: Path, tmp_path: Path, type_name: str
) -> None:
    def trained(name: str, seed: int) -> dict[str, Any]:
        options = ("--type", type_name, "--seed", seed, "--max-rows-per-category", 30)
        result = run("train", data, "--out", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        card = json.loads((tmp_path / name / "router.json").read_text())
        assert card["training"].pop("latency_ms")
        return card

    one = trained("one", 3)
    assert one == trained("two", 3)
    assert one["version"] != trained("three", 4)["version"]


def test_caps_and_duplicates_are_counted(tmp_path: Path) -> None:
    rows = [*toy_rows(), *toy_rows(), *(Row(f"fry {i}", "cooking", "b") for i in range(50))]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "router"
    run(
        "train",
        *(data, "--out", out, "--type", "bag", "--held-out", 0.2),
        *("--max-rows-per-source", 40, "--max-rows-per-category", 70),
    )
    facts = read_card(out).training["data"]
    assert facts["rows_read"] == 410
    assert facts["rows_trained"] + facts["rows_held_out"] == 40 + 40 + 70
    by_category = {"coding": 0, "cooking": 0, "general": 0}
    for source in facts["sources"]:
        by_category[source["category"]] += source["rows"]
    assert by_category == {"coding": 40, "cooking": 70, "general": 40}


def test_rows_that_are_left_out_and_labels_that_are_alike_are_told(tmp_path: Path) -> None:
    rows = [*toy_rows(), toy_rows()[0], Row("what", "coding"), Row("What ", "cooking")]
    rows += [Row(f"sort {n}", "Coding") for n in range(4)]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    result = run("train", data, "--out", tmp_path / "r", "--type", "bag")
    assert result.exit_code == 0, result.output
    assert f"2 rows are left out, since their prompts come with two categories: {data}:182, " in (
        result.stderr
    )
    assert "'Coding' and 'coding' differ in case or spacing only" in result.stderr
    assert "1 rows were left out as duplicates" in result.stdout
    facts = read_card(tmp_path / "r").training["data"]
    assert (facts["rows_read"], facts["rows_duplicate"], facts["rows_contradicting"]) == (187, 1, 2)


@pytest.mark.parametrize("n_categories", [3, 30])
def test_twenty_prompts_a_category_are_enough(tmp_path: Path, n_categories: int) -> None:
    topics = [f"{first} {second}" for first in COLOURS for second in ANIMALS][:n_categories]
    rows = [
        Row(pattern.format(topic), topic.replace(" ", "-"))
        for topic in topics
        for pattern in PATTERNS
    ]
    data = write_lines(tmp_path / "rows.jsonl", rows)
    result = run("train", data, "--out", tmp_path / "router", "--max-tokens", 16)
    assert result.exit_code == 0, result.output
    card = read_card(tmp_path / "router")
    assert len(card.categories) == n_categories
    assert card.training["held_out"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"prompt": "p"}], "rows.jsonl:1: "),
        ([{"prompt": "p", "category": "c"}] * 4, "two categories or more"),
        ([{"prompt": "p", "category": "c"}] * 4, "rows.jsonl:1\n"),
        ([{"prompt": "p", "category": "c"}, {"prompt": "q", "category": "d"}], "got one for c, d"),
        ([{"prompt": "p", "category": "c"}, {"prompt": "q", "category": "d"}], "rows.jsonl:2\n"),
    ],
)
def test_bad_data_writes_nothing(tmp_path: Path, lines: list[object], message: str) -> None:
    data = write_lines(tmp_path / "rows.jsonl", lines)
    result = run("train", data, "--out", tmp_path / "router")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "router").exists()


def test_a_folder_that_cannot_be_written_is_told_before_training(data: Path) -> None:
    result = run("train", data, "--out", data / "router", "--type", "bag")
    assert result.exit_code == 2
    told = (
        f"{data / 'router'} must stand in a folder that can be written; got {data}: Not a directory"
    )
    assert told in "".join(result.stderr.split("\n"))


def test_a_folder_with_something_else_is_refused(data: Path) -> None:
    result = run("train", data, "--out", data.parent)
    assert result.exit_code == 2
    assert "it holds something else" in result.stderr


def test_a_name_that_cannot_be_a_key_is_refused(data: Path, tmp_path: Path) -> None:
    result = run("train", data, "--out", tmp_path / "r", "--type", "bag", "--name", "No Spaces")
    assert result.exit_code == 2
    assert "got 'No Spaces'" in result.stderr
    assert not (tmp_path / "r").exists()


def test_the_encoder_of_another_artifact_can_be_used(data: Path, tmp_path: Path) -> None:
    small = write_lines(tmp_path / "small.jsonl", toy_rows()[::4])
    run("train", small, "--out", tmp_path / "one", "--max-tokens", 16)
    result = run(
        "train",
        *(small, "--out", tmp_path / "two", "--type", "knn"),
        *("--encoder", tmp_path / "one", "--max-tokens", 16, "--foreign-category", "general"),
    )
    assert result.exit_code == 0, result.output
    one, two = read_card(tmp_path / "one"), read_card(tmp_path / "two")
    assert two.type == "language_gate"
    assert two.settings["router"]["type"] == "knn"
    assert two.files["encoder.onnx"] == one.files["encoder.onnx"]


def test_the_foreign_category_must_be_learned(data: Path, tmp_path: Path) -> None:
    result = run(
        "train", data, "--out", tmp_path / "router", "--type", "bag", "--foreign-category", "zulu"
    )
    assert result.exit_code == 2
    assert "must hold the category 'zulu'" in result.stderr


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_report_can_be_drawn(data: Path, tmp_path: Path, suffix: str) -> None:
    figure = tmp_path / f"report.{suffix}"
    result = run("train", data, "--out", tmp_path / "r", "--type", "bag", "--figure", figure)
    assert result.exit_code == 0, result.output
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert figure.read_bytes().startswith(start)


def test_the_report_is_one_page(data: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "r", tmp_path / "report.html"
    result = run("train", data, "--out", out, "--type", "bag", "--figure", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "<svg" in text
    assert f"custom@{read_card(out).version}" in text
    assert "<th>recall</th>" in text
    assert "<td>coding</td>" in text
    for shown in (text, result.output):
        assert "milliseconds at 20 / 100 / 500 words" in shown
    assert "recall" in result.output


def test_a_figure_that_cannot_be_drawn_is_refused_before_training(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    result = run("train", data, "--out", out, "--type", "bag", "--figure", tmp_path / "a.xyz")
    assert result.exit_code == 2
    assert "must end in .html, .png, .svg, .pdf; got 'a.xyz'" in result.stderr
    assert not out.exists()


def test_a_figure_in_no_folder_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    out, figure = tmp_path / "r", tmp_path / "nowhere" / "x.png"
    result = run("train", data, "--out", out, "--type", "bag", "--figure", figure)
    assert result.exit_code == 2
    assert "nowhere must be a folder; it is not" in " ".join(result.stderr.split())
    assert not out.exists()


def test_a_figure_that_fails_takes_no_report_with_it(data: Path, tmp_path: Path) -> None:
    figure = tmp_path / "x.png"
    figure.mkdir()
    out = tmp_path / "r"
    result = run("train", data, "--out", out, "--type", "bag", "--figure", figure, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["version"] == read_card(out).version
    assert "x.png" in result.stderr


def test_a_cascade_says_how_often_its_encoder_is_asked(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", toy_rows()[::4])
    result = run("train", data, "--out", tmp_path / "r", "--type", "cascade", "--max-tokens", 16)
    shown = " ".join(result.stdout.split())
    assert "asked for 100% of the prompts: the cheap stage saves nothing" in shown
    assert "Its encoder is always asked" in (tmp_path / "r" / "README.md").read_text()


def test_help_has_examples() -> None:
    for command in ("train", "calibrate"):
        result = run(command, "--help")
        assert f"  coe {command} " in result.stdout


def test_a_missing_extra_names_the_command_that_installs_it(data: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['scipy'] = None\n"
        "from routers.cli import train\n"
        f"train([{str(data)!r}, '--out', {str(tmp_path / 'r')!r}, '--type', 'bag'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'coe-gateway[train]'" in done.stderr
    assert not (tmp_path / "r").exists()


def test_serving_imports_no_training(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from routers.artifact import DEFAULT_FOLDER, load_router\n"
        "load_router(DEFAULT_FOLDER).predict_proba(['Ciao, come stai? Tutto bene?'])\n"
        "print(sorted({'torch', 'sklearn', 'onnx', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
