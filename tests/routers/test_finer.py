from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor

from routers.arrays import AnyArray, write_arrays
from routers.finer import FinerMap, Forest, Prompts
from routers.finer_fit import fit_finer, fit_soft_table, flat_nodes, out_of_fold
from routers.surface import NAMES, surface


def hidden_axis(n: int, seed: int, n_features: int = 3) -> tuple[Prompts, list[str], AnyArray]:
    """Return prompts whose form, not their category, says which of two experts is right."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((n, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    form = rng.standard_normal((n, n_features))
    calculates = form[:, 1] > 0
    right = rng.random((n, 2)) < np.where(calculates[:, None], [0.9, 0.3], [0.3, 0.9])
    return Prompts(embeddings, form), ["physics", "history"] * (n // 2), right.astype(float)


def test_finer_categories_find_what_the_names_hide() -> None:
    prompts, labels, scores = hidden_axis(600, seed=0)
    fresh, _, _ = hidden_axis(300, seed=1)
    chosen = fit_finer(prompts, labels, scores).expected(fresh).argmax(axis=1)
    wanted = np.where(fresh.surface[:, 1] > 0, 0, 1)
    assert (chosen == wanted).mean() > 0.9
    plain = fit_soft_table(prompts, labels, scores, sees_form=True).expected(fresh)
    assert abs(plain[:, 0] - plain[:, 1]).max() < 0.2


def test_the_same_prompts_teach_the_same() -> None:
    prompts, labels, scores = hidden_axis(80, seed=0)
    first, second = (fit_finer(prompts, labels, scores, seed=5) for _ in range(2))
    assert first.digest == second.digest


def test_trees_answer_as_scikit_learn_grew_them() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((200, 4)).astype(np.float32), rng.random((200, 2))
    grown = ExtraTreesRegressor(7, min_samples_leaf=3, random_state=0).fit(features, targets)
    nodes = flat_nodes([tree.tree_ for tree in grown.estimators_])
    forest = Forest(np.zeros(2), np.eye(2), **nodes)
    seen = features.astype(np.float64)
    found = forest.expected(Prompts(seen[:, :2], seen[:, 2:3]), seen[:, 3:])
    np.testing.assert_allclose(found, grown.predict(features), atol=1e-12)


def test_one_prompt_gets_what_it_gets_among_others() -> None:
    prompts, labels, scores = hidden_axis(120, seed=0, n_features=len(NAMES))
    finer = fit_finer(prompts, labels, scores)
    texts = ["Compute 3 + 4", "Which of the following is best?"]
    both = finer.expected(Prompts(prompts.embeddings[:2], surface(texts)))
    for embedding, text, expected in zip(prompts.embeddings, texts, both, strict=False):
        np.testing.assert_allclose(finer.expected_of(embedding, text), expected)


def test_a_saved_map_expects_the_same(tmp_path: Path) -> None:
    prompts, labels, scores = hidden_axis(120, seed=0, n_features=len(NAMES))
    finer = replace(fit_finer(prompts, labels, scores), encoder_digest="1f")
    finer.save(tmp_path / "map.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["map.npz"]
    loaded = FinerMap.load(tmp_path / "map.npz")
    assert (loaded.digest, loaded.encoder_digest) == (finer.digest, "1f")
    assert loaded.expected(prompts).tobytes() == finer.expected(prompts).tobytes()
    assert replace(finer, encoder_digest="2f").digest != finer.digest


def test_a_map_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"map\.npz is not a finer map"):
        FinerMap.load(path)
    write_arrays(path, {"coef": np.zeros(2)})
    with pytest.raises(ValueError, match="is not a finer map"):
        FinerMap.load(path)
    prompts, labels, scores = hidden_axis(40, seed=0)
    fit_finer(prompts, labels, scores).save(path)
    with pytest.raises(ValueError, match="another form of prompts"):
        FinerMap.load(path)


def test_a_damaged_map_is_refused_whatever_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "map.npz"
    prompts, labels, scores = hidden_axis(120, seed=0, n_features=len(NAMES))
    fit_finer(prompts, labels, scores).save(path)
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(2))
    flipped = bytearray(whole)
    flipped[200:260] = bytes(60)
    for content in (b"", (tmp_path / "one.npy").read_bytes(), bytes(flipped), whole[:500]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"map\.npz is not a finer map"):
            FinerMap.load(path)
    path.unlink()
    with pytest.raises(ValueError, match="No such file"):
        FinerMap.load(path)


def test_probabilities_sum_to_one_and_follow_the_labels() -> None:
    prompts, _, scores = hidden_axis(100, seed=0)
    labels = ["up" if x > 0 else "down" for x in prompts.embeddings[:, 0]]
    plain = fit_soft_table(prompts, labels, scores, sees_form=True)
    probabilities = plain.predict_proba(prompts)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    said = [("down", "up")[column] for column in probabilities.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(said, labels, strict=True)]) > 0.9


def test_one_category_is_enough() -> None:
    prompts, _, scores = hidden_axis(60, seed=0)
    expected = fit_finer(prompts, ["all"] * 60, scores).expected(prompts)
    assert expected.shape == (60, 2)


def test_a_category_that_a_fold_lacks_is_impossible_there() -> None:
    prompts, _, scores = hidden_axis(60, seed=0)
    labels = ["rare", *["a", "b"] * 29, "a"]
    plain = fit_soft_table(prompts, labels, scores, sees_form=True)
    columns = np.array([("a", "b", "rare").index(label) for label in labels])
    unseen = out_of_fold(plain, prompts, columns, seed=0)
    assert unseen[0, 2] == 0
    np.testing.assert_allclose(unseen.sum(axis=1), 1)


def test_what_is_out_of_fold_was_not_seen() -> None:
    prompts, labels, scores = hidden_axis(60, seed=0)
    plain = fit_soft_table(prompts, labels, scores, sees_form=True)
    columns = np.array([("history", "physics").index(label) for label in labels])
    unseen = out_of_fold(plain, prompts, columns, seed=0)
    np.testing.assert_allclose(unseen.sum(axis=1), 1)
    seen = plain.predict_proba(prompts)[np.arange(60), columns].mean()
    assert unseen[np.arange(60), columns].mean() < seen


@pytest.mark.parametrize(
    ("prompt", "name", "lowest"),
    [
        ("Compute 3 + 4", "calculates", 1),
        ("Which of the following is best?", "chooses", 1),
        ("A. red\nB. blue\n(C) green", "options", np.log(4)),
        ("def f(x): return x", "programs", 1),
        ("The capital of France is ____", "blanks", np.log(2)),
        ("$\\frac{1}{2}$", "latex", np.log(3)),
        ("привет", "foreign_share", 0.5),
    ],
)
def test_the_form_of_a_prompt_is_seen(prompt: str, name: str, lowest: float) -> None:
    column = NAMES.index(name)
    assert surface([prompt])[0, column] >= lowest - 1e-9
    assert surface(["a plain sentence"])[0, column] == 0


@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text_has_a_form(prompts: list[str]) -> None:
    found = surface(prompts)
    assert found.shape == (len(prompts), len(NAMES))
    assert np.isfinite(found).all()
