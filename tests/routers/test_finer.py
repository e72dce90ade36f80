from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.finer import FinerCategories, Prompts, SoftCategories
from routers.surface import NAMES, surface


def hidden_axis(n: int, seed: int) -> tuple[Prompts, list[str], np.ndarray]:
    """One category, in which the form of a prompt says which of two experts is right."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((n, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    form = rng.standard_normal((n, 3))
    calculates = form[:, 1] > 0
    right = rng.random((n, 2)) < np.where(calculates[:, None], [0.9, 0.3], [0.3, 0.9])
    return Prompts(embeddings, form), ["physics", "history"] * (n // 2), right.astype(float)


def test_finer_categories_find_what_the_names_hide() -> None:
    prompts, labels, scores = hidden_axis(600, seed=0)
    fresh, _, _ = hidden_axis(300, seed=1)
    expected = FinerCategories().fit(prompts, labels, scores).expected(fresh)
    chosen = expected.argmax(axis=1)
    wanted = np.where(fresh.surface[:, 1] > 0, 0, 1)
    assert (chosen == wanted).mean() > 0.9
    plain = SoftCategories(sees_form=True).fit(prompts, labels, scores).expected(fresh)
    assert abs(plain[:, 0] - plain[:, 1]).max() < 0.2


def test_the_same_prompts_teach_the_same() -> None:
    prompts, labels, scores = hidden_axis(80, seed=0)
    first, second = (FinerCategories(5).fit(prompts, labels, scores) for _ in range(2))
    np.testing.assert_array_equal(first.expected(prompts), second.expected(prompts))


def test_probabilities_sum_to_one_and_follow_the_labels() -> None:
    prompts, _, scores = hidden_axis(100, seed=0)
    labels = ["up" if x > 0 else "down" for x in prompts.embeddings[:, 0]]
    plain = SoftCategories(sees_form=True).fit(prompts, labels, scores)
    probabilities = plain.predict_proba(prompts)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert plain.categories_ == ("down", "up")
    said = [plain.categories_[i] for i in probabilities.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(said, labels, strict=True)]) > 0.9


def test_one_category_is_enough() -> None:
    prompts, _, scores = hidden_axis(60, seed=0)
    expected = FinerCategories().fit(prompts, ["all"] * 60, scores).expected(prompts)
    assert expected.shape == (60, 2)


def test_what_is_out_of_fold_was_not_seen() -> None:
    prompts, labels, scores = hidden_axis(60, seed=0)
    plain = SoftCategories(sees_form=True).fit(prompts, labels, scores)
    unseen = plain.out_of_fold(prompts, labels, seed=0)
    np.testing.assert_allclose(unseen.sum(axis=1), 1)
    right = [plain.categories_.index(label) for label in labels]
    seen = plain.predict_proba(prompts)[np.arange(60), right].mean()
    assert unseen[np.arange(60), right].mean() < seen


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
