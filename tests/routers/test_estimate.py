from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.estimate import estimate, one_hot

EXPERTS = ("a", "b")


def test_a_cell_is_computed_by_hand() -> None:
    scores = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    members = one_hot(["x", "x", "y", "y"], ("x", "y"))
    found = estimate(scores, members, ("x", "y"), EXPERTS, prior_prompts=2)
    # overall both 0.5; x is 0.25 easier and y 0.25 harder: priors 0.75 and 0.25
    # cells: x: a 1, b 0.5; y: a 0, b 0.5; each over 2 prompts and a prior of 2
    np.testing.assert_allclose(found.expected_score, [[0.875, 0.625], [0.125, 0.375]])
    np.testing.assert_allclose(found.share, [0.5, 0.5])


def test_a_category_without_prompts_gets_the_overall_scores() -> None:
    scores = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = estimate(scores, one_hot(["x", "x"], ("x", "y")), ("x", "y"), EXPERTS, prior_prompts=5)
    np.testing.assert_allclose(found.expected_score[1], [1.0, 0.5])
    assert found.share.tolist() == [1, 0]


def test_a_missing_score_is_left_out_and_not_counted_as_wrong() -> None:
    scores = np.array([[1.0, 1.0], [1.0, np.nan], [0.0, 0.0], [0.0, np.nan]])
    members = one_hot(["x", "x", "y", "y"], ("x", "y"))
    found = estimate(scores, members, ("x", "y"), EXPERTS, prior_prompts=0)
    np.testing.assert_allclose(found.expected_score, [[1, 1], [0, 0]])


def test_five_lucky_prompts_do_not_buy_a_category() -> None:
    rng = np.random.default_rng(0)
    big = rng.random((4_000, 2)) < [0.7, 0.6]
    lucky = np.array([[False, True]] * 5)
    scores = np.vstack([big, lucky]).astype(float)
    labels = [f"c{i % 10}" for i in range(4_000)] + ["rare"] * 5
    names = tuple(sorted(set(labels)))
    found = estimate(scores, one_hot(labels, names), names, EXPERTS)
    rare = found.expected_score[names.index("rare")]
    assert rare[0] > rare[1]
    assert found.prior_prompts > 50


def test_what_many_prompts_say_is_believed() -> None:
    rng = np.random.default_rng(0)
    rates = {"x": [0.9, 0.2], "y": [0.2, 0.9]}
    labels = ["x", "y"] * 500
    scores = np.array([rng.random(2) < rates[label] for label in labels], dtype=float)
    found = estimate(scores, one_hot(labels, ("x", "y")), ("x", "y"), EXPERTS)
    assert found.prior_prompts < 5
    np.testing.assert_allclose(found.expected_score, list(rates.values()), atol=0.05)


def test_memberships_may_be_probabilities() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    members = np.array([[0.75, 0.25], [0.25, 0.75]])
    found = estimate(scores, members, ("x", "y"), EXPERTS, prior_prompts=0)
    np.testing.assert_allclose(found.expected_score, [[0.75, 0.25], [0.25, 0.75]])


def test_few_prompts_that_went_one_way_are_not_certain() -> None:
    found = estimate(np.ones((2, 1)), np.ones((2, 1)), ("x",), ("a",), prior_prompts=0)
    centre = (2 + 2) / (2 + 4)
    np.testing.assert_allclose(found.std_error, [[(centre * (1 - centre) / 6) ** 0.5]])


@given(
    scores=st.lists(
        st.tuples(*[st.one_of(st.floats(0, 1), st.just(float("nan")))] * 3), min_size=1, max_size=12
    ),
    seed=st.integers(0, 5),
)
def test_expected_scores_are_scores(scores: list[tuple[float, float, float]], seed: int) -> None:
    labels = np.random.default_rng(seed).choice(["x", "y", "z"], len(scores)).tolist()
    members = one_hot(labels, ("x", "y", "z"))
    found = estimate(np.array(scores), members, ("x", "y", "z"), ("a", "b", "c"))
    assert np.all((found.expected_score >= 0) & (found.expected_score <= 1))
    assert np.isfinite(found.std_error).all()
    assert found.share.sum() == pytest.approx(1)
