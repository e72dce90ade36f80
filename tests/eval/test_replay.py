from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from eval.baselines import METHODS
from eval.cli import eval_group
from eval.replay import halves, replay
from eval.samples import Samples, embedded, make_samples
from routers.artifact import DEFAULT_FOLDER, load_encoder
from routers.finer import Prompts
from routers.scores import Pool

POOL = Pool(
    ("small", "maths", "big"),
    np.array([1.0, 7.0, 70.0]),
    np.array([1.0, 7.0, 70.0]),
    ("small", "maths", "big"),
    np.array([1.0, 7.0, 70.0]),
)
RATES = {"chat": [0.6, 0.1, 0.8], "math": [0.1, 0.9, 0.5]}


def samples(n: int = 300, seed: int = 0) -> Samples:
    """Prompts of two topics that lie apart, with experts that are good at one of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(RATES), n)
    centre = {"chat": np.eye(8)[0], "math": np.eye(8)[1]}
    embeddings = np.array([centre[label] for label in labels]) + 0.2 * rng.standard_normal((n, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = (rng.random((n, 3)) < np.array([RATES[label] for label in labels])).astype(float)
    prompts = Prompts(embeddings, rng.standard_normal((n, 2)))
    routed = np.array([[0.9, 0.1] if label == "chat" else [0.1, 0.9] for label in labels])
    return Samples(prompts, tuple(labels.tolist()), scores, POOL, routed)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return replay(samples(), list(METHODS), n_splits=2, n_resamples=50)


def method(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["methods"] if one["name"] == name)


def test_halves_part_the_prompts_and_repeat() -> None:
    one, two = halves(samples(11), 2, seed=3)
    assert sorted([*one.fit, *one.serve]) == list(range(11))
    assert one.serve.tolist() != two.serve.tolist()
    assert halves(samples(11), 2, seed=3)[1].fit.tolist() == two.fit.tolist()


def test_single_experts_have_their_own_means(found: dict[str, Any]) -> None:
    truth = samples()
    for index, name in enumerate(POOL.names):
        point = method(found, f"single:{name}")["points"][0]
        served = [truth.scores[split.serve, index].mean() for split in halves(truth, 2, 0)]
        assert point["score"] == pytest.approx(np.mean(served))
        assert point["active_params_b"] == POOL.active_params_b[index]


def test_random_and_cheapest_are_what_they_say(found: dict[str, Any]) -> None:
    assert method(found, "random")["best"]["active_params_b"] == pytest.approx(26)
    assert method(found, "cheapest")["best"]["active_params_b"] == 1


def test_the_best_single_expert_is_the_baseline(found: dict[str, Any]) -> None:
    assert found["best_single"]["name"] == "big"
    assert found["best_single"]["active_params_b"] == 70
    flat = method(found, "best_single")
    assert flat["best"]["score"] == pytest.approx(found["best_single"]["score"])


def test_nothing_beats_the_oracle(found: dict[str, Any]) -> None:
    best = max(one["best"]["score"] for one in found["methods"])
    assert method(found, "oracle")["best"]["score"] == best
    assert method(found, "oracle")["vs_coe"]["verdict"] == "ahead"


@pytest.mark.parametrize("name", ["coe", "true_category", "predicted_category", "given_router"])
def test_maps_find_the_specialist(found: dict[str, Any], name: str) -> None:
    one = method(found, name)
    low, high = one["area_ci95"]
    assert 5 < low < one["area"] < high
    assert one["best"]["score"] > found["best_single"]["score"] + 0.05
    assert one["matches_best_single_at_b"] < 40


@pytest.mark.parametrize(
    "name",
    ["kmeans", "nearest_neighbours", "regression", "matrix_factorisation", "item_response"],
)
def test_known_methods_gain_where_topics_lie_apart(found: dict[str, Any], name: str) -> None:
    assert method(found, name)["area"] > 5


def test_a_curve_goes_from_the_best_to_the_cheapest(found: dict[str, Any]) -> None:
    points = method(found, "coe")["points"]
    assert points[0]["price"] == 0
    assert points[-1]["active_params_b"] == pytest.approx(1)
    sizes = [round(point["active_params_b"], 9) for point in points]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "oracle"])
def test_no_method_looks_at_the_scores_that_it_is_judged_by(name: str) -> None:
    truth = samples(120)
    fit, serve = truth.rows(np.arange(60)), truth.rows(np.arange(60, 120))
    hidden = Samples(serve.prompts, serve.labels, 1 - serve.scores, POOL, serve.routed)
    first = METHODS[name](fit, serve, 0)
    np.testing.assert_array_equal(first, METHODS[name](fit, hidden, 0))
    assert first.shape == (60, 3)


def test_a_tie_is_called_a_tie() -> None:
    noise = samples(200)
    rng = np.random.default_rng(1)
    same = (rng.random((200, 1)) < 0.5).astype(float) * np.ones((1, 3))
    level = Samples(noise.prompts, noise.labels, same, POOL)
    found = replay(level, ["coe", "kmeans"], n_splits=1, n_resamples=20)
    assert method(found, "kmeans")["vs_coe"]["verdict"] == "tie"
    assert method(found, "coe")["area"] == pytest.approx(0)


def test_embeddings_are_kept_in_a_file(tmp_path: Path) -> None:
    encoder = load_encoder(DEFAULT_FOLDER)
    first = embedded(["one", "two"], encoder, tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, first[::-1])
    np.testing.assert_array_equal(embedded(["one", "two"], encoder, tmp_path), first[::-1])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    embedded(["one", "three"], encoder, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def score_file(path: Path, n_each: int = 30) -> Path:
    rows = [
        {
            "id": f"{label}{i}",
            "prompt": f"{'What is' if label == 'math' else 'Tell me about'} {i}?",
            "category": label,
            "scores": {"small": float(i % 3 == 0), "maths": float(label == "math"), "unsized": 1},
        }
        for label in RATES
        for i in range(n_each)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "sizes.csv").write_text(
        "model,total_params_b,active_params_b\nsmall,1,1\nmaths,7,7\n"
    )
    sizes, cache = str(tmp_path / "sizes.csv"), str(tmp_path / "cache")
    return [str(score_file(tmp_path / "s.jsonl")), "--sizes", sizes, "--cache", cache]


def test_the_command_prints_one_object_and_draws(tmp_path: Path, files: list[str]) -> None:
    plot = tmp_path / "plot.png"
    chosen = ["--methods", "coe,true_category", "--splits", "1", "--plot", str(plot), "--json"]
    done = CliRunner().invoke(eval_group, ["replay", *files, *chosen])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert {"n", "splits", "best_single", "hull_area", "methods"} <= set(shown)
    assert shown["n"] == 60
    assert shown["left_out"] == ["unsized"]
    assert set(method(shown, "coe")["points"][0]) == {
        "price",
        "score",
        "score_se",
        "active_params_b",
    }
    assert plot.read_bytes().startswith(b"\x89PNG")
    chosen[-2] = str(plot.with_suffix(".svg"))
    assert CliRunner().invoke(eval_group, ["replay", *files, *chosen]).exit_code == 0
    drawn = plot.with_suffix(".svg").read_text()
    assert "Score against active parameters" in drawn
    assert "s: 60 prompts, 2 experts, 1 splits" in drawn
    assert "coe, 95% interval" in drawn


def test_the_router_reads_prompts_as_the_gateway_does(files: list[str]) -> None:
    topics = ("Solve the equation x + {} = 7.", "How do I treat a burn that is {} days old?")
    reminder = f"<system-reminder>{'Write a Python function. ' * 20}</system-reminder>"
    asked = ["--methods", "given_router", "--splits", "1", "--json", "--router"]

    def best(reminded: str) -> float:
        rows = [
            {
                "id": f"{of_maths}{i}",
                "prompt": topics[of_maths].format(i) + (reminded if i % 2 else ""),
                "category": None,
                "scores": {"small": 1 - of_maths, "maths": of_maths},
            }
            for of_maths in (0, 1)
            for i in range(30)
        ]
        Path(files[0]).write_text("\n".join(map(json.dumps, rows)))
        done = CliRunner().invoke(eval_group, ["replay", *files, *asked, str(DEFAULT_FOLDER)])
        assert done.exit_code == 0, done.output
        return float(method(json.loads(done.stdout), "given_router")["best"]["score"])

    assert best(reminder) == best("") == pytest.approx(1)


def test_the_command_prints_a_table(files: list[str]) -> None:
    chosen = ["--methods", "coe,matrix_factorisation", "--splits", "1"]
    done = CliRunner().invoke(eval_group, ["replay", *files, *chosen])
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.rstrip() for line in done.stdout.splitlines() if line.strip()}
    headings = "method points 95% against coe best score at B best at"
    assert " ".join(rows["method"].split()) == headings
    assert " ± " in rows["matrix_factorisation"]
    assert max(len(rows[name]) for name in ("coe", "matrix_factorisation", "random")) < 80
    assert "Best single expert" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "magic"], "--methods must be of coe"),
        (["--experts", "small,unsized"], "--sizes must hold the sizes of unsized"),
        (["--experts", "small"], "two experts or more must have sizes"),
        (["--router", "nowhere"], "nowhere"),
        (["--plot", "x.foo"], "must end in .png, .svg, .pdf; got 'x.foo'"),
        (["--plot", "nowhere/x.png"], "nowhere must be a folder"),
    ],
)
def test_wrong_use_is_told(files: list[str], options: list[str], message: str) -> None:
    done = CliRunner().invoke(eval_group, ["replay", *files, *options])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_prompts_without_all_scores_are_not_enough(tmp_path: Path, files: list[str]) -> None:
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    for row in rows[5:]:
        del row["scores"]["maths"]
    Path(files[0]).write_text("\n".join(map(json.dumps, rows)))
    named = ["--experts", "small,maths"]
    done = CliRunner().invoke(eval_group, ["replay", *files, *named])
    assert done.exit_code == 2
    assert "got 5. Missing, of 60: maths 55. Leave" in " ".join(done.output.split())
    Path(files[0]).write_text("\n".join(map(json.dumps, rows[:5])))
    done = CliRunner().invoke(eval_group, ["replay", *files, *named])
    assert "got 5. Score more prompts" in " ".join(done.output.split())


def test_unlabelled_prompts_have_a_category_of_their_own(tmp_path: Path) -> None:
    from routers.scores import ScoreTable

    table = ScoreTable(("a", "b"), (None, "x"), POOL.names, np.ones((2, 3)))
    made = make_samples(table, POOL, np.eye(2))
    assert made.labels == ("unlabelled", "x")


def test_an_expert_that_misses_most_scores_is_left_out(tmp_path: Path, files: list[str]) -> None:
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    for row in rows[:20]:
        row["scores"]["rare"] = 1
    Path(files[0]).write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "sizes.csv").open("a") as sizes:
        sizes.write("rare,2,2\n")
    asked = ["--methods", "true_category", "--splits", "1", "--json"]
    done = CliRunner().invoke(eval_group, ["replay", *files, *asked])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["n"], shown["left_out"]) == (60, ["unsized", "rare"])
    for path in map(Path, (files[0], *files[1:])):
        if path.is_file():
            path.write_text(path.read_text().replace("rare", "rare[/INST]"))
    table = CliRunner().invoke(eval_group, ["replay", *files, *asked[:-1]]).stdout
    assert "Left out, no sizes or few scores: unsized, rare[/INST]." in " ".join(table.split())
