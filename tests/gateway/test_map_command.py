"""``coe map`` from score tables and sizes to what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import coe
from tests.servers import write_experts

SIZES = "model,total_params_b,active_params_b\nsmall,1,1\nbig,70,70\nmaths,7,7\n"
RATES = {
    "chat": {"small": 0.6, "big": 0.8, "maths": 0.1},
    "math": {"small": 0.1, "big": 0.6, "maths": 0.9},
}


def score_lines(rates: dict[str, dict[str, float]], n_each: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{category}/{i}",
            "prompt": f"{category} {i}",
            "category": category,
            "scores": {name: float(i < rate * n_each) for name, rate in experts.items()},
        }
        for category, experts in rates.items()
        for i in range(n_each)
    ]


def write_scores(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    scores = write_scores(tmp_path / "scores.jsonl", score_lines(RATES))
    (tmp_path / "sizes.csv").write_text(SIZES)
    return str(scores), str(tmp_path / "sizes.csv")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(coe, ["map", *arguments])


def solved(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_without_limits_each_category_gets_its_best(files: tuple[str, str]) -> None:
    found = solved(files[0], "--sizes", files[1])
    assert found["presets"]["default"]["chat"][0] == "big"
    assert found["presets"]["default"]["math"] == ["maths", "big"]
    assert found["resident_params_b"] == 77
    assert found["expected"]["default"]["active_params_b"] == pytest.approx(38.5)
    low, high = found["expected"]["default"]["score_ci95"]
    assert low < found["expected"]["default"]["score"] < high
    assert found["objective"] == pytest.approx(found["expected"]["default"]["score"])
    assert any("earn nothing at these prices: small" in text for text in found["warnings"])


def test_experts_that_are_left_out_are_named(tmp_path: Path, files: tuple[str, str]) -> None:
    (tmp_path / "few.csv").write_text(SIZES.replace("maths,7,7\n", ""))
    found = solved(files[0], "--sizes", str(tmp_path / "few.csv"))
    assert "left out, no sizes: maths" in found["warnings"]
    address = {"model": "ok", "base_url": "http://127.0.0.1:9/v1"}
    size = {"active_params_b": 1.0, "total_params_b": 1.0}
    experts = [
        {"name": "small", **address, **size, "latency_s": 1.0},
        {"name": "big", **address, **size},
        {"name": "new", **address, **size, "latency_s": 1.0},
    ]
    config = str(write_experts(tmp_path / "experts.yaml", experts, {}, min_confidence=0))
    found = solved(files[0], "--config", config, "--plain", "--price-of", "latency")
    assert found["kept"] == ["small"]
    assert "left out, no sizes or no latency_s: big, maths" in found["warnings"]
    assert "left out, no scores: new" in found["warnings"]


def test_a_budget_keeps_small_experts_and_names_the_next_to_buy(files: tuple[str, str]) -> None:
    found = solved(files[0], "--sizes", files[1], "--total-params-b", "10")
    assert found["kept"] == ["small", "maths"]
    assert found["resident_params_b"] == 8
    assert any("should buy big" in text and "70 B more" in text for text in found["warnings"])


def test_presets_are_prices(files: tuple[str, str]) -> None:
    found = solved(files[0], "--sizes", files[1], "--price", "0.001", "--preset", "tiny=0.2")
    assert found["presets"]["tiny"]["math"][0] == "small"
    assert found["expected"]["tiny"]["active_params_b"] == 1
    assert found["presets"]["default"]["math"][0] == "maths"


def test_a_dominated_pool_is_called_so(tmp_path: Path, files: tuple[str, str]) -> None:
    rates = {name: {"small": 0.2, "big": 0.9} for name in RATES}
    path = write_scores(tmp_path / "one.jsonl", score_lines(rates))
    found = solved(str(path), "--sizes", files[1])
    assert any("big is the best expert in every category" in text for text in found["warnings"])


def test_the_traffic_to_expect_moves_the_budget(tmp_path: Path, files: tuple[str, str]) -> None:
    weights = tmp_path / "weights.json"
    weights.write_text('{"chat": 99, "math": 1}')
    limited = (files[0], "--sizes", files[1], "--n-experts", "1", "--weights", str(weights))
    assert solved(*limited)["kept"] == ["big"]
    by_category = {"chat": {"requests": 1}, "math": {"requests": 99}}
    weights.write_text(json.dumps({"requests": 100, "by_category": by_category}))
    assert solved(*limited)["kept"] == ["maths"]
    weights.write_text('{"chat": 99, "math": 1}')
    assert solved(*limited, "--active-params-b", "7")["kept"] == ["small"]


def test_traffic_of_categories_that_are_gone_is_left_out(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    weights = tmp_path / "stats.json"
    by_category = {name: {"requests": n} for name, n in (("math", 9), ("law", 70), ("general", 1))}
    weights.write_text(json.dumps({"by_category": by_category}))
    asked = (files[0], "--sizes", files[1], "--n-experts", "1", "--weights", str(weights))
    found = solved(*asked)
    assert found["kept"] == ["maths"]
    told = (
        "left out of stats.json, requests of categories that there are not: law (70), "
        "general (1, the router was unsure)"
    )
    assert told in found["warnings"]
    del by_category["math"]
    weights.write_text(json.dumps({"by_category": by_category}))
    done = run(*asked)
    assert done.exit_code == 2
    assert "got unknown categories law, general" in " ".join(done.output.split())


def test_a_table_that_is_too_small_says_so(tmp_path: Path, files: tuple[str, str]) -> None:
    one = write_scores(tmp_path / "one.jsonl", score_lines(RATES, n_each=1)[:1])
    found = solved(str(one), "--sizes", files[1])
    low, high = found["expected"]["default"]["score_ci95"]
    assert 0 <= low < found["expected"]["default"]["score"] <= high <= 1
    told = "too few prompts to say what default scores: 1 with a category"
    assert any(told in text for text in found["warnings"])
    plenty = solved(files[0], "--sizes", files[1])
    assert not any("too few prompts" in text for text in plenty["warnings"])


def test_an_expert_with_few_scores_is_named(tmp_path: Path, files: tuple[str, str]) -> None:
    rows = score_lines(RATES)
    for row in rows[20:]:
        del row["scores"]["small"]
    found = solved(str(write_scores(tmp_path / "few.jsonl", rows)), "--sizes", files[1])
    assert "compared on fewer prompts than there are: small (20 of 80)" in found["warnings"]


def test_people_get_a_table(files: tuple[str, str]) -> None:
    done = run(files[0], "--sizes", files[1], "--total-params-b", "10")
    assert done.exit_code == 0
    assert "on the prompts that it is made of, if the router never errs:" in done.stdout
    assert "kept: small, maths; 8 B resident" in done.stdout
    assert "note: the next parameters should buy big" in done.stdout


def test_names_are_shown_as_they_are(files: tuple[str, str]) -> None:
    for path in map(Path, files):
        path.write_text(path.read_text().replace("maths", "maths[7b]").replace("big", "big[/INST]"))
    shown = run(files[0], "--sizes", files[1], "--preset", "tiny=0.2")
    assert shown.exit_code == 0, shown.output
    assert "kept: small, big[/INST], maths[7b]" in " ".join(shown.stdout.split())
    assert "tiny: score" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--total-params-b", "0.5"), "no choice of experts keeps to the limits"),
        (("--preset", "small"), "--preset must be NAME=PRICE"),
        (("--preset", "small=-1"), "--preset must be NAME=PRICE"),
        (("--preset", "a b=1"), "NAME must be up to 64 of A-Z a-z 0-9 . _ -, the first a letter"),
        (("--write",), "--write needs --config"),
        (("--weights", "none.json"), "must be JSON {category: number}"),
    ],
)
def test_wrong_use_is_told(
    files: tuple[str, str], arguments: tuple[str, ...], message: str
) -> None:
    done = run(files[0], "--sizes", files[1], *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"law": 1}', '{"chat": -1, "math": 2}', '{"chat": []}', "{"]
)
def test_weights_that_are_none_are_refused(
    tmp_path: Path, files: tuple[str, str], text: str
) -> None:
    (tmp_path / "weights.json").write_text(text)
    done = run(files[0], "--sizes", files[1], "--weights", str(tmp_path / "weights.json"))
    assert done.exit_code == 2
    assert "must be JSON {category: number}" in " ".join(done.output.split())


def test_experts_called_otherwise_are_told(tmp_path: Path, files: tuple[str, str]) -> None:
    (tmp_path / "other.csv").write_text("model,total_params_b,active_params_b\nx,1,1\n")
    done = run(files[0], "--sizes", str(tmp_path / "other.csv"))
    assert done.exit_code == 2
    assert "no expert has both scores and sizes" in " ".join(done.output.split())


def test_without_any_category_there_is_nothing_to_map(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    rows = [{**row, "category": None} for row in score_lines(RATES)]
    path = write_scores(tmp_path / "none.jsonl", rows)
    done = run(str(path), "--sizes", files[1])
    assert done.exit_code == 2
    assert "no prompt of the score table has a category" in " ".join(done.output.split())


def test_a_cap_that_no_price_can_keep_is_told(tmp_path: Path, files: tuple[str, str]) -> None:
    sizes = tmp_path / "costs.csv"
    sizes.write_text("model,total_params_b,active_params_b,latency_s\nsmall,1,1,9\nbig,70,70,1\n")
    rates = {"chat": {"small": 0.6, "big": 0.8}, "math": {"small": 0.1, "big": 0.9}}
    scores = write_scores(tmp_path / "two.jsonl", score_lines(rates))
    cap = ("--price-of", "latency", "--active-params-b", "36")
    done = run(str(scores), "--sizes", str(sizes), *cap)
    assert done.exit_code == 2
    assert "no price of latency_s keeps default to active_params_b 36" in " ".join(
        done.output.split()
    )


def test_a_price_may_be_for_latency_or_money(tmp_path: Path, files: tuple[str, str]) -> None:
    sizes = tmp_path / "costs.csv"
    sizes.write_text(
        "model,total_params_b,active_params_b,latency_s,usd_per_million_tokens\n"
        "small,1,1,9,0.1\nbig,70,70,1,5\nmaths,7,7,2,\n"
    )
    asked = (files[0], "--sizes", str(sizes), "--price", "0.1", "--price-of")
    quick = solved(*asked, "latency")
    assert quick["price_of"] == "latency"
    assert quick["presets"]["default"]["chat"] == ["big", "maths"]
    assert quick["expected"]["default"]["cost"] == pytest.approx(1.5)
    assert "1.50 s" in run(*asked, "latency").stdout
    cheap = solved(*asked, "money")
    assert cheap["presets"]["default"]["chat"][0] == "small"
    assert "maths" not in cheap["kept"]
    assert "0.100 USD for 10^6 tokens" in " ".join(run(*asked, "money").stdout.split())
    done = run(files[0], "--sizes", files[1], "--price-of", "latency")
    assert done.exit_code == 2
    assert "latency_s is missing" in " ".join(done.output.split()).replace("'", "")
